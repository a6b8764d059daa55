"""Image files of all kinds, and what Pillow makes of them.

    pillow.py FOLDER SEED COUNT

Writes COUNT PNG and COUNT JPEG files to FOLDER, beside the JPEG files that are there already, decodes all of them, and
writes `expected.jsonl`: for each file the grey picture that the original's networks see (remap of the colours to 8 bit,
then Pillow's mode L) as width, height and SHA-256, or null where Pillow does not read it.
"""
import hashlib, io, json, os, random, struct, sys, zlib

import numpy as np
from PIL import Image

folder, seed, count = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
draw = random.Random(seed)
noise = np.random.RandomState(seed)


def picture(height, width, channels, top):
    """Smooth structures with noise, in a part of the range: like a radiograph, and unlike."""
    y, x = np.mgrid[0:height, 0:width].astype(np.float64)
    layers = []
    for _ in range(channels):
        fx, fy, phase = noise.uniform(0.02, 0.4), noise.uniform(0.02, 0.4), noise.uniform(0, 6)
        layers.append(np.sin(x * fx + phase) * np.cos(y * fy - phase))
    values = np.stack(layers, -1) + noise.normal(0, draw.choice([0, 0.05, 0.5]), (height, width, channels))
    values -= values.min()
    values /= max(values.max(), 1e-9)
    low = draw.uniform(0, 0.4) * top
    high = low + draw.uniform(0.05, 1) * (top - low)
    return np.clip(low + values * (high - low), 0, top).astype(np.uint32)


def size():
    side = lambda: draw.choice([draw.randint(2, 20), draw.randint(2, 130)])
    height, width = side(), side()
    # What is more elongated than the resize can take is refused, and is another test's matter.
    return max(height, width // 100 + 2), max(width, height // 100 + 2)


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def packed(rows, depth):
    """Rows of samples as PNG bytes."""
    out = []
    for row in rows:
        row = row.reshape(-1)
        if depth == 16:
            out.append(row.astype(">u2").tobytes())
        elif depth == 8:
            out.append(row.astype(np.uint8).tobytes())
        else:
            bits = np.unpackbits(row.astype(np.uint8)[:, None], axis=1)[:, 8 - depth:].reshape(-1)
            out.append(np.packbits(bits).tobytes())
    return out


def paeth(a, b, c):
    p = a + b - c
    pa, pb, pc = abs(p - a), abs(p - b), abs(p - c)
    return a if pa <= pb and pa <= pc else b if pb <= pc else c


def filtered(rows, pixel_bytes):
    out, before = b"", b""
    for row in rows:
        kind, line = draw.randint(0, 4), bytearray()
        above = before or bytes(len(row))
        for i, value in enumerate(row):
            a = row[i - pixel_bytes] if i >= pixel_bytes else 0
            b = above[i]
            c = above[i - pixel_bytes] if i >= pixel_bytes else 0
            line.append((value - [0, a, b, (a + b) // 2, paeth(a, b, c)][kind]) & 255)
        out += bytes([kind]) + bytes(line)
        before = row
    return out


def orientation():
    exif = Image.Exif()
    exif[0x0112] = draw.randint(1, 8)
    return exif


def png():
    kind, depth = draw.choice(
        [(0, 1), (0, 2), (0, 4), (0, 8), (0, 16), (2, 8), (2, 16), (3, 1), (3, 2), (3, 4), (3, 8), (4, 8), (4, 16), (6, 8), (6, 16)]
    )
    channels = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[kind]
    height, width = size()
    data = picture(height, width, channels, 2**depth - 1)
    if kind in (4, 6):
        data[..., -1] = draw.choice([data[..., -1], np.full((height, width), 2**depth - 1), np.zeros((height, width))])
    extra = b""
    if kind == 3:
        grey = draw.random() < 0.4
        entries = 2**depth if draw.random() < 0.7 else int(data.max()) + 1
        palette = [[draw.randint(0, 255)] * 3 if grey else [draw.randint(0, 255) for _ in range(3)] for _ in range(entries)]
        extra += chunk(b"PLTE", bytes(sum(palette, [])))
        if draw.random() < 0.5:
            extra += chunk(b"tRNS", bytes(draw.choice([0, 255, draw.randint(0, 255)]) for _ in range(draw.randint(1, entries))))
    elif kind in (0, 2) and draw.random() < 0.4:
        sample = data[0, 0] if draw.random() < 0.7 else np.array([draw.randint(0, 2**depth - 1) for _ in range(channels)])
        extra += chunk(b"tRNS", b"".join(struct.pack(">H", int(value)) for value in sample))
    if draw.random() < 0.2:
        extra = chunk(b"gAMA", struct.pack(">I", draw.choice([45455, 100000]))) + extra
    if draw.random() < 0.1:
        extra = chunk(b"sBIT", bytes([min(depth, 8)] * (3 if kind == 3 else channels))) + extra
    # Neither has a part in the picture: the original turns and recolours nothing.
    if draw.random() < 0.2:
        extra = chunk(b"iCCP", b"profile\0\0" + zlib.compress(bytes(draw.randint(100, 70000)))) + extra
    if draw.random() < 0.2:
        extra += chunk(b"eXIf", orientation().tobytes().removeprefix(b"Exif\0\0"))
    interlaced = draw.random() < 0.3
    pixel_bytes = max(1, channels * depth // 8)
    if interlaced:
        passes = [(0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1)]
        parts = [data[y::dy, x::dx] for y, x, dy, dx in passes]
        raw = b"".join(filtered(packed(part, depth), pixel_bytes) for part in parts if part.size)
    else:
        raw = filtered(packed(data, depth), pixel_bytes)
    body = zlib.compress(raw, draw.randint(0, 9))
    cuts = sorted(draw.randint(0, len(body)) for _ in range(draw.randint(0, 3)))
    pieces = [body[a:b] for a, b in zip([0] + cuts, cuts + [len(body)])]
    header = struct.pack(">IIBBBBB", width, height, depth, kind, 0, 0, int(interlaced))
    idat = b"".join(chunk(b"IDAT", piece) for piece in pieces)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + extra + idat + chunk(b"IEND", b"")


def jpeg():
    height, width = size()
    channels = draw.choice([1, 3])
    data = picture(height, width, channels, 255).astype(np.uint8)
    image = Image.fromarray(data[..., 0] if channels == 1 else data)
    options = {"quality": draw.randint(1, 100), "progressive": draw.random() < 0.4, "optimize": draw.random() < 0.3}
    if channels == 3:
        options["keep_rgb"] = draw.random() < 0.1
        options["subsampling"] = 0 if options["keep_rgb"] else draw.choice([0, 1, 2])
    if draw.random() < 0.3:
        options[draw.choice(["restart_marker_rows", "restart_marker_blocks"])] = draw.randint(1, 5)
    if draw.random() < 0.2:
        options["icc_profile"] = bytes(draw.randint(100, 70000))
    if draw.random() < 0.2:
        options["exif"] = orientation()
    if draw.random() < 0.2:
        options["comment"] = b"a comment with \xff\xd9 in it"
    out = io.BytesIO()
    image.save(out, "JPEG", **options)
    return out.getvalue() + (b"trailing bytes" if draw.random() < 0.1 else b"")


def samples(image):
    """The array that imageio's reader, the original's, gives: [H, W], [H, W, 3] or [H, W, 4]."""
    if image.mode == "P":
        image = image.convert("RGBA" if "transparency" in image.info else "RGB")
    elif image.mode == "1":
        image = image.convert("L")
    elif "A" in image.mode:
        image = image.convert("RGBA")
    array = np.asarray(image)
    return array.astype(np.uint16) if image.mode.startswith("I") else array


def grey(array):
    colors = array[..., :3] if array.ndim == 3 else array
    values = colors.astype(np.float64)
    values = values - values.min()
    if values.max() > 0:
        values = values / values.max()
    return np.asarray(Image.fromarray((values * 255).astype(np.uint8)).convert("L"))


for index in range(count):
    for name, make in (("png", png), ("jpg", jpeg)):
        with open(os.path.join(folder, f"pillow{index:05}.{name}"), "wb") as file:
            file.write(make())

with open(os.path.join(folder, "expected.jsonl"), "w") as out:
    for name in sorted(os.listdir(folder)):
        if not name.endswith((".png", ".jpg")):
            continue
        try:
            with Image.open(os.path.join(folder, name)) as image:
                picture = grey(samples(image))
            result = {"width": picture.shape[1], "height": picture.shape[0], "sha256": hashlib.sha256(picture.tobytes()).hexdigest()}
        except Exception as error:
            result = {"error": str(error)}
        out.write(json.dumps({"file": name, **result}) + "\n")
