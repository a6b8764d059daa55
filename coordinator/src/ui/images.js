// The conversations' images as blob addresses. They are fetched with the API key, which an <img src> could not send.

import { api } from "/assets/api.js";
import { el } from "/assets/dom.js";
import { asSeen } from "/assets/image_file.js";

// Whole images are large: the open one's and those looked at just before it.
const WHOLE_KEPT = 4;
// The shorter side of a small one, in pixels: a list's picture on a screen of two pixels for one.
const SMALL = 96;

const addresses = new Map();
const small = new Map();
let shrinking = Promise.resolve();

/** A promise of an address that <img> can show, for the conversation's image. */
export function imageAddress(id) {
  if (!addresses.has(id)) {
    const address = api.image(id).then(asSeen).then((blob) => URL.createObjectURL(blob));
    // So that a failure is tried again the next time.
    address.catch(() => addresses.delete(id));
    keep(id, address);
  }
  return addresses.get(id);
}

function keep(id, address) {
  addresses.set(id, address);
  for (const [oldest, each] of addresses) {
    if (addresses.size <= WHOLE_KEPT) return;
    each.then(URL.revokeObjectURL, () => {});
    addresses.delete(oldest);
  }
}

/** A promise of an address of the image, made small. One after the other is fetched and decoded, and not kept whole. */
export function smallImage(id) {
  if (!small.has(id)) {
    const address = shrinking.then(() => shrink(id));
    shrinking = address.catch(() => small.delete(id));
    small.set(id, address);
  }
  return small.get(id);
}

async function shrink(id) {
  const shared = addresses.get(id);
  const whole = shared ? await shared : URL.createObjectURL(await api.image(id).then(asSeen));
  try {
    const image = new Image();
    image.src = whole;
    await image.decode();
    const scale = Math.min(1, SMALL / Math.min(image.naturalWidth, image.naturalHeight));
    const canvas = el("canvas", { width: Math.ceil(image.naturalWidth * scale), height: Math.ceil(image.naturalHeight * scale) });
    const context = canvas.getContext("2d");
    context.imageSmoothingQuality = "high";
    context.drawImage(image, 0, 0, canvas.width, canvas.height);
    const blob = await new Promise((done) => canvas.toBlob(done));
    return URL.createObjectURL(blob);
  } finally {
    if (!shared) URL.revokeObjectURL(whole);
  }
}

/** Uses a file that is at hand, so that what was just sent need not be fetched again. */
export function rememberImage(id, file) {
  if (!addresses.has(id)) keep(id, asSeen(file).then((seen) => URL.createObjectURL(seen)));
}

/** Frees the image of a conversation that is gone. */
export function forgetImage(id) {
  for (const known of [addresses, small]) {
    known.get(id)?.then(URL.revokeObjectURL, () => {});
    known.delete(id);
  }
}
