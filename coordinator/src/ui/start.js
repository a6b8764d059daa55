// The start page: an image that is dropped, pasted or chosen is seen at once, before anything is sent.

import { announce } from "/assets/announce.js";
import { api, newRequestKey } from "/assets/api.js";
import { byId, el, setText, show } from "/assets/dom.js";
import { ApiError, explain } from "/assets/errors.js";
import { asSeen } from "/assets/image_file.js";
import { rememberImage } from "/assets/images.js";

const TYPES = new Set(["image/png", "image/jpeg"]);

export class Start {
  #image = null;
  /** The request that is being sent or failed: sent again unchanged, it must not begin a second conversation. */
  #requestKey = null;

  /**
   * `begun(view)` gets the new conversation, `wanted()` is called when an image arrives from anywhere, `model()` gives the
   * name of who is to answer, or null.
   */
  constructor({ begun, wanted, model }) {
    this.begun = begun;
    this.wanted = wanted;
    this.model = model;
    this.file = byId("file");
    this.error = byId("start-error");
    this.submit = byId("begin");
    const choose = () => this.file.click();
    byId("choose").addEventListener("click", choose);
    byId("choose-other").addEventListener("click", choose);
    byId("remove-image").addEventListener("click", () => {
      this.#use(null);
      byId("choose").focus();
    });
    byId("drop").addEventListener("click", (event) => !this.#image && event.target.closest("button, input") === null && choose());
    this.file.addEventListener("change", () => this.take(this.file.files));
    for (const id of ["indication", "first-question", "model"]) byId(id).addEventListener("input", () => this.#changed());
    byId("start-form").addEventListener("submit", (event) => {
      event.preventDefault();
      this.#begin();
    });
    this.#listenToDrops();
    addEventListener("paste", (event) => {
      const files = event.clipboardData?.files ?? [];
      if (files.length === 0) return;
      event.preventDefault();
      this.take(files);
    });
    this.#use(null);
  }

  /** An image may be dropped anywhere. */
  #listenToDrops() {
    const veil = byId("veil");
    const carriesFile = (event) => event.dataTransfer?.types.includes("Files");
    let depth = 0;
    const mark = () => show(veil, depth > 0);
    addEventListener("dragenter", (event) => {
      if (!carriesFile(event)) return;
      depth += 1;
      mark();
    });
    addEventListener("dragleave", (event) => {
      if (!carriesFile(event)) return;
      depth -= 1;
      mark();
    });
    // Without this the browser opens the file instead.
    addEventListener("dragover", (event) => carriesFile(event) && event.preventDefault());
    addEventListener("drop", (event) => {
      if (!carriesFile(event)) return;
      event.preventDefault();
      depth = 0;
      mark();
      this.take(event.dataTransfer.files);
    });
  }

  /** Takes a file from wherever it came; of several none, since nobody could say which is meant. */
  take(files) {
    const [file, ...others] = files;
    if (!file) return;
    this.wanted();
    if (others.length > 0) {
      const advice = "Choose one frontal image. Each further image begins a conversation of its own; `radialog batch` reads many.";
      return this.#complain({ title: `These are ${1 + others.length} files: a conversation has one image`, advice });
    }
    if (!TYPES.has(file.type)) {
      this.#use(null);
      return this.#complain({ title: `“${file.name}” is not a PNG or JPEG image`, advice: "Choose a PNG or JPEG file. DICOM files have to be exported first." });
    }
    this.#use(file);
    announce(`${file.name} is chosen.`);
    this.submit.focus();
  }

  #use(file) {
    const preview = byId("preview");
    if (preview.src) URL.revokeObjectURL(preview.src);
    this.#image = file;
    this.file.value = "";
    show(this.error, false);
    show(byId("drop-empty"), !file);
    show(byId("drop-chosen"), Boolean(file));
    byId("drop").classList.toggle("filled", Boolean(file));
    if (file) {
      asSeen(file).then((seen) => {
        if (this.#image === file) preview.src = URL.createObjectURL(seen);
      });
      setText(byId("preview-name"), file.name || "Pasted image");
      const size = file.size < 1e6 ? `${Math.max(1, Math.round(file.size / 1e3))} kB` : `${(file.size / 1e6).toFixed(1)} MB`;
      setText(byId("preview-size"), size);
      preview.onload = () => setText(byId("preview-size"), `${preview.naturalWidth} × ${preview.naturalHeight} pixels, ${size}`);
      preview.onerror = () => {
        this.#use(null);
        this.#complain({ title: `“${file.name}” cannot be shown`, advice: "The file is damaged, or not what its name says. Choose another." });
      };
    } else {
      preview.onload = preview.onerror = null;
      preview.removeAttribute("src");
    }
    this.#changed();
  }

  #changed() {
    this.#requestKey = null;
    setText(byId("begin-label"), this.#image ? "Write the report" : "Ask without an image");
    this.submit.disabled = !this.#image && this.#question() === "";
    if (this.submit.disabled) setText(byId("begin-label"), "Write the report");
  }

  #question() {
    return byId("first-question").value.trim();
  }

  async #begin() {
    if (this.submit.disabled) return;
    const image = this.#image;
    this.#requestKey ??= newRequestKey();
    this.submit.disabled = true;
    this.submit.classList.add("busy");
    setText(byId("begin-label"), image ? "Sending the image…" : "Sending…");
    show(this.error, false);
    try {
      const request = { image, name: image?.name, title: titleFrom(image), question: this.#question(), indication: byId("indication").value.trim(), model: this.model() };
      const view = await api.begin(request, this.#requestKey);
      if (image) rememberImage(view.id, image);
      this.clear();
      this.begun(view);
    } catch (error) {
      const key = this.#requestKey;
      this.#changed();
      // Another conversation than this one only when the server has refused this one.
      if (error instanceof ApiError && error.passing) this.#requestKey = key;
      this.#complain(explain(error));
    } finally {
      this.submit.classList.remove("busy");
    }
  }

  #complain({ title, advice }) {
    this.error.replaceChildren(el("strong", { text: title }), el("span", { text: advice }));
    show(this.error, true);
  }

  /** Empties the form. Kept while another conversation is looked at. */
  clear() {
    byId("indication").value = byId("first-question").value = "";
    this.#use(null);
  }
}

// What browsers call an image that was pasted.
const PASTED = "image.png";
// As many characters as a title may have.
const LONGEST_TITLE = 200;

// What no title may have, as the gateway says: it hides a name, or turns it round.
const UNSEEN = /[\p{Cc}\u00ad\u034f\u115f\u1160\u180b-\u180e\u200b\u202a-\u202e\u2060-\u206f\u2800\u3164\ufeff\ufff9-\ufffb\u{e0000}-\u{e007f}]/gu;

/** A conversation is called as its image's file, which people know it by. */
function titleFrom(image) {
  if (!image?.name || image.name === PASTED) return "";
  const name = image.name.replace(/\.[^.]*$/, "").replace(UNSEEN, "").trim().slice(0, LONGEST_TITLE);
  return /^[\s\u200c-\u200f\ufe0e\ufe0f]*$/.test(name) ? "" : name;
}
