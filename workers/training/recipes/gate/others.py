"""Collects pictures that are no chest X-rays, from the sample data of Python packages, as 8-bit PNG files with a table.

    pip install numpy pillow pydicom pydicom-data pylibjpeg pylibjpeg-libjpeg pylibjpeg-openjpeg scikit-image scikit-learn matplotlib scipy
    python others.py OUT

OUT/images.csv has the columns image, split, view (always "other"), source and group. All pictures of a group (one subject) are on one side, which
is a function of the group's name. The packages' licences allow use and redistribution (MODEL_CARD.md); nothing of them is kept in this repository.
"""

import csv
import hashlib
import sys
from pathlib import Path

import numpy
from PIL import Image

# Chest X-rays.
LEFT_OUT = ("RG1_",)
# Two pictures whose 16 x 16 thumbnails correlate so much are one.
SAME = 0.97


def side(group):
    unit = int(hashlib.sha256(f"gate-v1:{group}".encode()).hexdigest()[:12], 16) / 16**12
    return "test" if unit < 0.25 else "validate" if unit < 0.37 else "train"


def grey(array):
    """Any picture as 8-bit grey: colours by luma, then the whole range."""
    array = numpy.asarray(array, dtype=numpy.float64)
    if array.ndim == 3:
        array = array[..., :3] @ [0.299, 0.587, 0.114]
    low, high = numpy.nanmin(array), numpy.nanmax(array)
    array = numpy.nan_to_num((array - low) / max(high - low, 1e-12))
    picture = Image.fromarray(numpy.round(255 * array).astype(numpy.uint8))
    picture.thumbnail((512, 512))
    return picture


def pydicom_files():
    import data_store
    import pydicom
    from pydicom.data import get_testdata_files

    folder = Path(data_store.__file__).parent / "data"
    files = {Path(path).name: Path(path) for path in get_testdata_files("*.dcm")}
    files |= {path.name: path for path in folder.glob("*.dcm")}
    for name, path in sorted(files.items()):
        if any(part in name for part in LEFT_OUT):
            continue
        try:
            data = pydicom.dcmread(path)
            pixels = data.pixel_array
        except Exception:
            continue
        frames = int(data.get("NumberOfFrames", 1))
        colour = int(data.get("SamplesPerPixel", 1)) == 3
        if frames > 1:
            pixels = pixels[:: max(1, frames // 3)]
        else:
            pixels = pixels[None]
        for index, frame in enumerate(pixels[:3]):
            if min(frame.shape[:2]) < 16 or (colour and frame.ndim != 3):
                continue
            if data.get("PhotometricInterpretation") == "MONOCHROME1":
                frame = frame.max() - frame.astype(numpy.float64)
            group = f"pydicom {data.get('PatientID', '')} {data.get('Modality', '')} {name.split('_')[0].split('.')[0]}"
            yield f"{Path(name).stem}-{index}", "pydicom, pydicom-data", group, frame


def skimage_files():
    import skimage.data

    folder = Path(skimage.data.__file__).parent
    for path in sorted(folder.glob("*")):
        if path.suffix.lower() not in (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".gif"):
            continue
        try:
            picture = numpy.asarray(Image.open(path).convert("RGB"))
        except Exception:
            continue
        yield path.stem, "scikit-image", f"skimage {path.stem}", picture


def other_files():
    import matplotlib
    import sklearn.datasets

    folder = Path(matplotlib.get_data_path()) / "sample_data"
    for name in ("grace_hopper.jpg", "logo2.png", "Minduka_Present_Blue_Pack.png"):
        path = folder / name
        if path.exists():
            yield path.stem, "matplotlib", f"matplotlib {path.stem}", numpy.asarray(Image.open(path).convert("RGB"))
    import gzip

    path = folder / "s1045.ima.gz"
    if path.exists():
        with gzip.open(path) as file:
            yield "s1045", "matplotlib", "matplotlib s1045", numpy.frombuffer(file.read(), numpy.uint16).reshape(256, 256)
    for name, picture in zip(("china", "flower"), sklearn.datasets.load_sample_images().images):
        yield name, "scikit-learn", f"sklearn {name}", picture
    digits = sklearn.datasets.load_digits().images
    for index in range(0, 200, 10):
        tiles = digits[index : index + 9].reshape(3, 3, 8, 8).swapaxes(1, 2).reshape(24, 24)
        yield f"digits-{index}", "scikit-learn", f"sklearn digits {index}", numpy.kron(tiles, numpy.ones((8, 8)))


def nilearn_files():
    try:
        from nilearn.datasets import load_mni152_template
    except ImportError:
        return
    brain = load_mni152_template(resolution=2).get_fdata()
    for axis in range(3):
        for share in (0.3, 0.4, 0.5, 0.6, 0.7):
            plane = numpy.take(brain, int(share * brain.shape[axis]), axis).T[::-1]
            yield f"mni152-{axis}-{int(100 * share)}", "nilearn", "nilearn mni152", plane


def main(out):
    out.mkdir(parents=True, exist_ok=True)
    rows, thumbnails = [], []
    for source in (pydicom_files, skimage_files, other_files, nilearn_files):
        for name, package, group, pixels in source():
            picture = grey(pixels)
            thumbnail = numpy.asarray(picture.resize((16, 16)), dtype=numpy.float64).ravel()
            thumbnail = (thumbnail - thumbnail.mean()) / max(numpy.linalg.norm(thumbnail - thumbnail.mean()), 1e-9)
            if any(thumbnail @ other > SAME for other in thumbnails):
                continue
            thumbnails.append(thumbnail)
            file = f"{name}.png".replace(" ", "_")
            picture.save(out / file)
            rows.append([file, side(group), "other", package, group])
    with open(out / "images.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["image", "split", "view", "source", "group"])
        writer.writerows(rows)
    print(f"{len(rows)} pictures in {out}")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(Path(sys.argv[1]))
