"""Archives of as many X-rays as are wanted, and the comparison of what two runs made of the same archive."""

import json
import os
from pathlib import Path

import images

SHIPPED = images.REPOSITORY / "tests/fixtures/xrays"
# What depends on when and where a study was computed. Everything else follows from its image and the bundle.
NOT_COMPARED = {"timings"}


def take(count, skip):
    """So many X-rays as (name, bytes), of the folder RADIALOG_DATA or of those that the repository ships.

    Where there are fewer files than wanted, they are taken again with another comment in their header: same pixels, other bytes, and so,
    for a system that knows images by the hash of their bytes, another study that is computed again.
    """
    folder = Path(os.environ.get("RADIALOG_DATA", SHIPPED))
    files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in (".jpg", ".jpeg"))
    if not files:
        raise SystemExit(f"{folder}: no JPEG files; RADIALOG_DATA names a folder that has some")
    for number in range(skip, skip + count):
        content = files[number % len(files)].read_bytes()
        comment = f"study {number}".encode()
        # After the two bytes that begin a JPEG file: a comment segment with its length.
        yield f"study{number:05}.jpg", content[:2] + b"\xff\xfe" + (len(comment) + 2).to_bytes(2, "big") + comment + content[2:]


def lines(text):
    """The lines of a `results.jsonl` by study. Raises ValueError where a study has two."""
    found = {}
    for line in text.splitlines():
        record = json.loads(line)
        if record["study_id"] in found:
            raise ValueError(f"study {record['study_id']} has two lines")
        found[record["study_id"]] = {field: value for field, value in record.items() if field not in NOT_COMPARED}
    return found


def differences(wanted, found):
    """What is wrong with the lines `found` of an archive whose undisturbed run gave `wanted`: a sentence for each."""
    wrong = [f"{study} has no line" for study in sorted(wanted.keys() - found.keys())]
    wrong += [f"{study} is not of the archive" for study in sorted(found.keys() - wanted.keys())]
    for study in sorted(wanted.keys() & found.keys()):
        if wanted[study] != found[study]:
            fields = [name for name in wanted[study].keys() | found[study].keys() if wanted[study].get(name) != found[study].get(name)]
            wrong.append(f"{study} differs in {', '.join(sorted(fields))}")
    return wrong
