// An image file as the models see it: unrotated, whatever EXIF says, and grey of 16 bits over the range that it uses, where a
// browser would show its upper 8 bits, and 12 bits of a detector as black.

const PNG = [0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a];
const [GREY, DEEP] = [0, 16];
// First row and column, and steps, of the seven passes of an interlaced file (PNG specification, 8.2).
const PASSES = [[0, 0, 8, 8], [0, 4, 8, 8], [4, 0, 8, 4], [0, 2, 4, 4], [2, 0, 4, 2], [0, 1, 2, 2], [1, 0, 2, 1]];

/** A promise of a file that the browser shows as the models see `file`; of the file itself where that is no different. */
export async function asSeen(file) {
  const bytes = new Uint8Array(await file.arrayBuffer());
  const view = new DataView(bytes.buffer);
  if (bytes[0] === 0xff && bytes[1] === 0xd8) return withoutExif(bytes, view) ?? file;
  if (!PNG.every((byte, at) => bytes[at] === byte)) return file;
  try {
    return await png(bytes, view) ?? file;
  } catch {
    // A damaged file is the browser's to show, and the models' to refuse.
    return file;
  }
}

/** A JPEG file without its EXIF segments, where it has some. */
function withoutExif(bytes, view) {
  const parts = [];
  let [from, at] = [0, 2];
  while (at + 4 <= bytes.length && bytes[at] === 0xff && bytes[at + 1] !== 0xda) {
    const end = at + 2 + view.getUint16(at + 2);
    if (bytes[at + 1] === 0xe1) {
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
  let rotated = false;
  for (let at = PNG.length; at + 12 <= bytes.length;) {
    const end = at + 12 + view.getUint32(at);
    const kind = String.fromCharCode(...bytes.subarray(at + 4, at + 8));
    if (kind === "IDAT") data.push(bytes.subarray(at + 8, end - 4));
    if (kind === "eXIf") rotated = true;
    else kept.push(bytes.subarray(at, end));
    at = end;
  }
  if (color === GREY && depth === DEEP) {
    const inflated = new Blob(data).stream().pipeThrough(new DecompressionStream("deflate"));
    const rows = new Uint8Array(await new Response(inflated).arrayBuffer());
    return drawn(greys(rows, width, height, interlaced ? PASSES : [[0, 0, 1, 1]]), width, height);
  }
  return rotated ? new Blob(kept, { type: "image/png" }) : null;
}

/** The samples of a file of 16-bit grey, whose lines are filtered (PNG specification, 9). */
function greys(data, width, height, passes) {
  const samples = new Uint16Array(width * height);
  let at = 0;
  for (const [top, left, down, across] of passes) {
    const columns = Math.ceil((width - left) / across);
    if (columns <= 0) continue;
    let above = new Uint8Array(2 * columns);
    for (let y = top; y < height; y += down) {
      const filter = data[at];
      const line = data.slice(at + 1, at + 1 + 2 * columns);
      at += 1 + 2 * columns;
      for (let i = 0; i < line.length; i += 1) {
        const [before, corner] = i < 2 ? [0, 0] : [line[i - 2], above[i - 2]];
        line[i] += predicted(filter, before, above[i], corner);
      }
      for (let column = 0; column < columns; column += 1) {
        samples[y * width + left + column * across] = (line[2 * column] << 8) | line[2 * column + 1];
      }
      above = line;
    }
  }
  return samples;
}

function predicted(filter, before, above, corner) {
  if (filter < 3) return [0, before, above][filter];
  if (filter === 3) return (before + above) >> 1;
  const sum = before + above - corner;
  const [a, b, c] = [before, above, corner].map((value) => Math.abs(sum - value));
  if (a <= b && a <= c) return before;
  return b <= c ? above : corner;
}

/** A picture of samples, remapped from the range that they use to 8 bits, as the models do. */
function drawn(samples, width, height) {
  let [least, most] = [0xffff, 0];
  for (const sample of samples) {
    if (sample < least) least = sample;
    if (sample > most) most = sample;
  }
  const image = new ImageData(width, height);
  const pixels = new Uint32Array(image.data.buffer);
  for (let at = 0; at < samples.length; at += 1) {
    const grey = Math.trunc(((samples[at] - least) / Math.max(1, most - least)) * 255);
    pixels[at] = 0xff000000 | (grey << 16) | (grey << 8) | grey;
  }
  const canvas = new OffscreenCanvas(width, height);
  canvas.getContext("2d").putImageData(image, 0, 0);
  return canvas.convertToBlob();
}
