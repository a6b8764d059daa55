// An image file as the models see it: unrotated, whatever EXIF says, its samples as they stand, whatever a colour profile or
// a gamma says of them, opaque, whatever alpha says, and grey of 16 bits over the range that it uses, where a browser would
// show its upper 8 bits, and 12 bits of a detector as black.

const PNG = [0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a];
// Colour types of PNG: grey, grey with alpha, colour with alpha.
const [GREY, GREY_ALPHA, COLOR_ALPHA] = [0, 4, 6];
const DEEP = 16;
// EXIF's rotation and a colour profile.
const JPEG_LEFT_OUT = new Set([0xe1, 0xe2]);
const PNG_LEFT_OUT = new Set(["eXIf", "gAMA", "cHRM", "sRGB", "iCCP", "cICP", "tRNS"]);
// First row and column, and steps, of the seven passes of an interlaced file (PNG specification, 8.2).
const PASSES = [[0, 0, 8, 8], [0, 4, 8, 8], [4, 0, 8, 4], [0, 2, 4, 4], [2, 0, 4, 2], [0, 1, 2, 2], [1, 0, 2, 1]];

/** A promise of a file that the browser shows as the models see `file`; of the file itself where that is no different. */
export async function asSeen(file) {
  const bytes = new Uint8Array(await file.arrayBuffer());
  const view = new DataView(bytes.buffer);
  if (bytes[0] === 0xff && bytes[1] === 0xd8) return jpeg(bytes, view) ?? file;
  if (!PNG.every((byte, at) => bytes[at] === byte)) return file;
  try {
    return await png(bytes, view) ?? file;
  } catch {
    // A damaged file is the browser's to show, and the models' to refuse.
    return file;
  }
}

/** A JPEG file without the segments that change how it is shown, where it has some. */
function jpeg(bytes, view) {
  const parts = [];
  let [from, at] = [0, 2];
  while (at + 4 <= bytes.length && bytes[at] === 0xff && bytes[at + 1] !== 0xda) {
    // Any number of 0xff may stand before a marker.
    if (bytes[at + 1] === 0xff) {
      at += 1;
      continue;
    }
    const end = at + 2 + view.getUint16(at + 2);
    if (JPEG_LEFT_OUT.has(bytes[at + 1])) {
      parts.push(bytes.subarray(from, at));
      from = end;
    }
    at = end;
  }
  return from ? new Blob([...parts, bytes.subarray(from)], { type: "image/jpeg" }) : null;
}

async function png(bytes, view) {
  const [width, height, depth, color, interlaced] =
    [view.getUint32(16), view.getUint32(20), bytes[24], bytes[25], bytes[28]];
  const [data, kept] = [[], [bytes.subarray(0, PNG.length)]];
  let different = false;
  for (let at = PNG.length; at + 12 <= bytes.length;) {
    const end = at + 12 + view.getUint32(at);
    const kind = String.fromCharCode(...bytes.subarray(at + 4, at + 8));
    if (kind === "IDAT") data.push(bytes.subarray(at + 8, end - 4));
    if (PNG_LEFT_OUT.has(kind)) different = true;
    else kept.push(bytes.subarray(at, end));
    at = end;
  }
  const channels = { [GREY_ALPHA]: 2, [COLOR_ALPHA]: 4, [GREY]: depth === DEEP ? 1 : 0 }[color];
  if (!channels) return different ? new Blob(kept, { type: "image/png" }) : null;
  const inflated = new Blob(data).stream().pipeThrough(new DecompressionStream("deflate"));
  const rows = new Uint8Array(await new Response(inflated).arrayBuffer());
  const samples = decoded(rows, { width, height, size: channels * depth / 8, passes: interlaced ? PASSES : [[0, 0, 1, 1]] });
  return drawn(color === GREY ? greys(samples) : opaque(samples, channels, depth / 8), width, height);
}

/** The bytes of all pixels, `size` of each, of a file whose lines are filtered (PNG specification, 9). */
function decoded(data, { width, height, size, passes }) {
  const samples = new Uint8Array(size * width * height);
  let at = 0;
  for (const [top, left, down, across] of passes) {
    const columns = Math.ceil((width - left) / across);
    if (columns <= 0) continue;
    let above = new Uint8Array(size * columns);
    for (let y = top; y < height; y += down) {
      const filter = data[at];
      const line = data.slice(at + 1, at + 1 + size * columns);
      if (line.length < size * columns) throw new Error("the image ends early");
      at += 1 + size * columns;
      for (let i = 0; filter !== 0 && i < line.length; i += 1) {
        const [before, corner] = i < size ? [0, 0] : [line[i - size], above[i - size]];
        line[i] += predicted(filter, before, above[i], corner);
      }
      for (let column = 0; column < columns; column += 1) {
        const to = (y * width + left + column * across) * size;
        for (let i = 0; i < size; i += 1) samples[to + i] = line[column * size + i];
      }
      above = line;
    }
  }
  return samples;
}

function predicted(filter, before, above, corner) {
  if (filter === 1) return before;
  if (filter === 2) return above;
  if (filter === 3) return (before + above) >> 1;
  const sum = before + above - corner;
  const [a, b, c] = [Math.abs(sum - before), Math.abs(sum - above), Math.abs(sum - corner)];
  if (a <= b && a <= c) return before;
  return b <= c ? above : corner;
}

/** Pixels of grey of 16 bits, remapped from the range that they use to 8 bits, as the models do. */
function greys(bytes) {
  const pixels = new Uint32Array(bytes.length / 2);
  let [least, most] = [0xffff, 0];
  for (let at = 0; at < pixels.length; at += 1) {
    const sample = (bytes[2 * at] << 8) | bytes[2 * at + 1];
    pixels[at] = sample;
    if (sample < least) least = sample;
    if (sample > most) most = sample;
  }
  for (let at = 0; at < pixels.length; at += 1) {
    const grey = Math.trunc(((pixels[at] - least) / Math.max(1, most - least)) * 255);
    pixels[at] = 0xff000000 | (grey << 16) | (grey << 8) | grey;
  }
  return pixels;
}

/** Pixels of which alpha is not looked at; of 16 bits the models take the upper 8. */
function opaque(bytes, channels, size) {
  const pixels = new Uint32Array(bytes.length / (channels * size));
  const [green, blue] = channels === 4 ? [size, 2 * size] : [0, 0];
  for (let at = 0, from = 0; at < pixels.length; at += 1, from += channels * size) {
    pixels[at] = 0xff000000 | (bytes[from + blue] << 16) | (bytes[from + green] << 8) | bytes[from];
  }
  return pixels;
}

/** A picture of pixels. */
function drawn(pixels, width, height) {
  const image = new ImageData(new Uint8ClampedArray(pixels.buffer), width, height);
  const canvas = new OffscreenCanvas(width, height);
  canvas.getContext("2d").putImageData(image, 0, 0);
  return canvas.convertToBlob();
}
