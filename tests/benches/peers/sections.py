"""Cuts a tree of MIMIC-CXR reports into sections as the original does, written from a description of it: one process, a
file at a time, a regular-expression search a header. sections.py REPORTS IMAGES OUT.csv; reports are sorted here."""

import csv
import os
import re
import sys

HEADER = re.compile(r"\n ([A-Z ()/,-]+):\s")
COLUMNS = ["impression", "findings", "last_paragraph", "comparison", "dicom_id", "Img_Filename", "Img_Folder", "Note_file"]
NAMES = {
    "preamble": ["preamble"],
    "impression": [
        "impression", "conclusion", "findings and impression", "findings/impression", "findings/ impression", "ndication",
        "impresson", "imprression", "imoression", "impressoin", "imprssion", "impresion", "imperssion", "mpression",
        "impession",
    ],
    "findings": [
        "findings", "chest, two views", "finding", "findins", "findindgs", "findgings", "findngs", "findnings", "finidngs",
        "reference findings",
    ],
    "comparison": [
        "comparison", "comparisons", "reference exam", "comparison exam", "comparison film", "comparision", "comparsion",
        "comparrison", "comparisions",
    ],
    "indication": [
        "indication", "reason for examination", "reason for exam", "clinical indication", "idication",
    ],
    "examination": ["examination", "exam", "type of examination"],
    "technique": ["technique"],
    "history": ["history", "clinical history", "clinical information", "patient history", "pfi"],
    "notification": ["notification"],
    "recommendations": ["recommendation(s)", "recommendations", "recommendation"],
    "addendum": ["addendum"],
    "date": ["date"],
    "comment": ["comment"],
    "wet read": ["wet read", "wetread"],
}
EXACT = {name: section for section, names in NAMES.items() for name in names}
CONTAINED = ["impression", "findings", "history", "comparison", "addendum"]
VIEWS = [
    "chest", "portable", "pa and lateral", "lateral and pa", "ap and lateral", "lateral and ap", "frontal and", "two views",
    "frontal view", "pa view", "ap view", "one view", "lateral view", "bone window", "frontal upright",
    "frontal semi-upright", "ribs", "pa and lat",
]


def normal(name):
    name = name.lower().strip()
    if name in EXACT:
        return EXACT[name]
    for word in CONTAINED:
        if word in name:
            return word
    return "findings" if any(view in name for view in VIEWS) else name


def sections(text):
    found = HEADER.search(text, 0)
    cut = [["preamble", text[: found.start(1)]]] if found else [["full report", text]]
    while found:
        name, start = found.group(1), found.end()
        line = text[start:].find("\n")
        following = HEADER.search(text, start + (line if line >= 0 else 0))
        cut.append([name, text[start : following.start() if following else len(text)]])
        found = following
    cut = [[normal(name), text] for name, text in cut]
    for index in reversed(range(len(cut))):
        if cut[index][0] in ("impression", "findings") and not cut[index][1].strip():
            del cut[index]
    if not any(name in ("impression", "findings") for name, _ in cut):
        parts = cut[-1][1].split("\n \n")
        if len(parts) > 1:
            cut[-1][1] = parts[0]
            cut.append(["last_paragraph", "\n \n".join(parts[1:])])
    return cut


def main():
    reports, images, out = sys.argv[1:]
    with open(out, "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        for group in sorted(os.listdir(reports)):
            for patient in sorted(os.listdir(os.path.join(reports, group))):
                for note in sorted(os.listdir(os.path.join(reports, group, patient))):
                    study = note[: -len(".txt")]
                    folder = f"files/{group}/{patient}/{study}"
                    with open(os.path.join(reports, group, patient, note)) as report:
                        cut = dict(sections(report.read()))
                    cells = [cut.get(name, "").strip() for name in COLUMNS[:4]]
                    for image in sorted(os.listdir(os.path.join(images, group, patient, study))):
                        if image.endswith(".jpg"):
                            writer.writerow([study, *cells, image[: -len(".jpg")], image, folder, note])


main()
