// An image's grey values, shown through a window: values below the window are black, above it white, between them grey.
// 0 to 255 is the range: a file's 16 bits are remapped to it as the models do.

// More than any screen shows; beyond it, every change of the window would lag.
const MOST_PIXELS = 12e6;

export const WHOLE = { window: 255, level: 127.5, inverted: false };

export class Pixels {
  /** Decodes an image address. */
  static async load(address) {
    const image = new Image();
    image.src = address;
    await image.decode();
    return new Pixels(image);
  }

  constructor(image) {
    /** The image's own size, in words: what is shown may be shrunk. */
    this.size = `${image.naturalWidth} × ${image.naturalHeight}`;
    const shrink = Math.min(1, Math.sqrt(MOST_PIXELS / (image.naturalWidth * image.naturalHeight)));
    this.width = Math.max(1, Math.round(image.naturalWidth * shrink));
    this.height = Math.max(1, Math.round(image.naturalHeight * shrink));
    this.shrunk = shrink < 1;
    this.canvas = document.createElement("canvas");
    this.canvas.width = this.width;
    this.canvas.height = this.height;
    this.context = this.canvas.getContext("2d", { willReadFrequently: true });
    this.context.drawImage(image, 0, 0, this.width, this.height);
    this.target = this.context.getImageData(0, 0, this.width, this.height);
    this.grey = greyOf(this.target.data);
    this.render(WHOLE);
  }

  /** Draws into `canvas` with this window. */
  render({ window, level, inverted }) {
    const table = new Uint32Array(256);
    const low = level - window / 2;
    for (let value = 0; value < 256; value += 1) {
      const shown = Math.round(Math.min(1, Math.max(0, (value - low) / window)) * 255);
      const grey = inverted ? 255 - shown : shown;
      table[value] = 0xff000000 | (grey << 16) | (grey << 8) | grey;
    }
    const pixels = new Uint32Array(this.target.data.buffer);
    for (let at = 0; at < pixels.length; at += 1) pixels[at] = table[this.grey[at]];
    this.context.putImageData(this.target, 0, 0);
  }
}

/** Luma as the model's own preprocessing weighs it (ITU-R 601-2). */
function greyOf(rgba) {
  const grey = new Uint8Array(rgba.length / 4);
  for (let at = 0; at < grey.length; at += 1) {
    const from = at * 4;
    grey[at] = (rgba[from] * 19595 + rgba[from + 1] * 38470 + rgba[from + 2] * 7471 + 0x8000) >> 16;
  }
  return grey;
}
