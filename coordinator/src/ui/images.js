// The conversations' images as blob addresses. They are fetched with the API key, which an <img src> could not send.

import { api } from "/assets/api.js";
import { asSeen } from "/assets/image_file.js";

const addresses = new Map();

/** A promise of an address that <img> can show, for the conversation's image. */
export function imageAddress(id) {
  if (!addresses.has(id)) {
    const address = api.image(id).then(asSeen).then((blob) => URL.createObjectURL(blob));
    // So that a failure is tried again the next time.
    address.catch(() => addresses.delete(id));
    addresses.set(id, address);
  }
  return addresses.get(id);
}

/** Uses a file that is at hand, so that what was just sent need not be fetched again. */
export function rememberImage(id, file) {
  if (!addresses.has(id)) addresses.set(id, asSeen(file).then((seen) => URL.createObjectURL(seen)));
}

/** Frees the image of a conversation that is gone. */
export function forgetImage(id) {
  addresses.get(id)?.then(URL.revokeObjectURL, () => {});
  addresses.delete(id);
}
