// The X-ray on a canvas: window and level, zoom, pan, invert, reset; with mouse, wheel, touch and keys. It changes what is
// seen only: the model always reads the file as it was sent.

import { button, el, setText, show } from "/assets/dom.js";
import { menuButton } from "/assets/menu.js";
import { Pixels, WHOLE } from "/assets/pixels.js";

const ZOOM_STEP = 1.25;
const [LEAST_ZOOM, MOST_ZOOM] = [0.5, 16];
const PAN_STEP = 40;
// Grey values run from 0 to 255, so these say what part of them is looked at, not what tissue has them.
const PRESETS = [
  { name: "Whole range", window: WHOLE.window, level: WHOLE.level },
  { name: "Lungs (dark)", window: 140, level: 80 },
  { name: "Mediastinum (bright)", window: 120, level: 185 },
  { name: "Bones (steep)", window: 90, level: 150 },
];
const KEYS = "Arrow keys pan, plus and minus zoom, I inverts, R resets.";

export class Viewer {
  #pixels = null;
  #look = { ...WHOLE };
  #zoom = 1;
  #pan = { x: 0, y: 0 };
  #tool = "window";
  #pointers = new Map();
  #stale = false;
  #drawing = false;

  constructor(root) {
    this.canvas = el("canvas", {
      tabindex: "0", role: "application", "aria-label": "Chest X-ray", "aria-roledescription": "image viewer", "aria-describedby": "viewer-keys",
    });
    this.message = el("p", { class: "viewer-message", role: "status" });
    this.readout = el("p", { class: "viewer-readout number" });
    this.stage = el("div", { class: "viewer-stage" }, this.canvas, this.message,
      el("p", { id: "viewer-keys", class: "hidden", text: KEYS }));
    // The whole image with its window, for paper: the stage is as large as the screen has room.
    this.printed = el("div", { class: "printed" });
    root.replaceChildren(this.#toolbar(), this.stage, this.printed, this.#sliders());
    this.#listen();
    new ResizeObserver(() => this.#draw()).observe(this.stage);
    // The device's pixel ratio changes when the window moves to another screen.
    addEventListener("resize", () => this.#draw());
    this.#sync();
  }

  /** Shows the image at this address; null empties the stage. `missing` is said instead. */
  async show(address, missing = "") {
    this.#pixels = null;
    this.printed.replaceChildren();
    this.showing = address;
    setText(this.message, address ? "Loading the image…" : missing);
    this.reset();
    if (!address) return;
    try {
      const pixels = await Pixels.load(address);
      if (this.showing !== address) return;
      this.#pixels = pixels;
      pixels.canvas.setAttribute("aria-label", "Chest X-ray");
      this.printed.replaceChildren(pixels.canvas);
      setText(this.message, "");
      this.canvas.setAttribute("aria-label", `Chest X-ray, ${pixels.size.replace("×", "by")} pixels`);
    } catch {
      if (this.showing === address) setText(this.message, "This browser cannot show the image.");
    }
    this.#sync();
  }

  /** The whole image, as it was sent. */
  reset() {
    this.#look = { ...WHOLE };
    this.#zoom = 1;
    this.#pan = { x: 0, y: 0 };
    this.#stale = true;
    this.#sync();
  }

  #toolbar() {
    this.tools = {
      window: button("Drag changes window and level", { icon: "contrast", quiet: true, on: () => this.#choose("window") }),
      pan: button("Drag moves the image", { icon: "move", quiet: true, on: () => this.#choose("pan") }),
    };
    this.zoomText = el("output", { class: "number zoom", "aria-label": "Zoom" });
    this.inverter = button("Invert", { icon: "invert", quiet: true, on: () => this.#change({ inverted: !this.#look.inverted }) });
    const presets = menuButton("Presets", {
      kind: "small",
      items: () => PRESETS.map(({ name, window, level }) => ({ label: name, note: `${window} / ${level}`, value: { window, level } })),
      choose: (look) => this.#change(look),
    });
    return el("div", { class: "toolbar", role: "toolbar", "aria-label": "Image tools" },
      el("div", { class: "group" }, this.tools.window, this.tools.pan, presets),
      el("div", { class: "group" },
        button("Zoom out", { icon: "zoomout", quiet: true, on: () => this.#zoomBy(1 / ZOOM_STEP) }),
        this.zoomText,
        button("Zoom in", { icon: "zoomin", quiet: true, on: () => this.#zoomBy(ZOOM_STEP) })),
      el("div", { class: "group" }, this.inverter,
        button("Reset the view", { icon: "reset", quiet: true, on: () => this.reset() })),
      this.readout);
  }

  #sliders() {
    const slider = (label, min, max, change) => {
      const value = el("output", { class: "number" });
      const input = el("input", { type: "range", min, max, step: 1, "aria-label": label, on: { input: () => change(Number(input.value)) } });
      return { input, value, row: el("label", { class: "slider" }, el("span", { text: label }), input, value) };
    };
    this.windowSlider = slider("Window", 1, 510, (window) => this.#change({ window }));
    this.levelSlider = slider("Level", 0, 255, (level) => this.#change({ level }));
    return el("div", { class: "sliders" }, this.windowSlider.row, this.levelSlider.row);
  }

  #choose(tool) {
    this.#tool = tool;
    this.#sync();
  }

  #change(look) {
    Object.assign(this.#look, look);
    this.#look.window = Math.min(510, Math.max(1, this.#look.window));
    this.#look.level = Math.min(255, Math.max(0, this.#look.level));
    this.#stale = true;
    this.#sync();
  }

  /** Zooms and keeps the point (in CSS pixels from the stage's middle) where it is. */
  #zoomBy(factor, x = 0, y = 0) {
    const zoom = Math.min(MOST_ZOOM, Math.max(LEAST_ZOOM, this.#zoom * factor));
    const grown = zoom / this.#zoom;
    this.#pan = { x: x - (x - this.#pan.x) * grown, y: y - (y - this.#pan.y) * grown };
    this.#zoom = zoom;
    this.#sync();
  }

  #panBy(x, y) {
    this.#pan = { x: this.#pan.x + x, y: this.#pan.y + y };
    this.#sync();
  }

  #listen() {
    const { canvas } = this;
    canvas.addEventListener("wheel", (event) => {
      event.preventDefault();
      const lines = event.deltaMode === 1 ? 20 : 1;
      this.#zoomBy(Math.exp((-event.deltaY * lines) / 400), ...this.#fromMiddle(event));
    }, { passive: false });
    canvas.addEventListener("pointerdown", (event) => {
      // Capturing fails for a pointer that is gone already.
      try {
        canvas.setPointerCapture(event.pointerId);
      } catch {
        return;
      }
      this.#pointers.set(event.pointerId, event);
    });
    canvas.addEventListener("pointermove", (event) => this.#drag(event));
    for (const name of ["pointerup", "pointercancel"]) {
      canvas.addEventListener(name, (event) => this.#pointers.delete(event.pointerId));
    }
    canvas.addEventListener("contextmenu", (event) => event.preventDefault());
    canvas.addEventListener("dblclick", () => this.reset());
    canvas.addEventListener("keydown", (event) => this.#key(event));
  }

  #drag(event) {
    const before = this.#pointers.get(event.pointerId);
    if (!before) return;
    const [x, y] = [event.clientX - before.clientX, event.clientY - before.clientY];
    if (this.#pointers.size === 2) {
      this.#pinch(event, before);
    } else if (this.#tool === "pan" || event.shiftKey || (event.buttons & 6) !== 0) {
      this.#panBy(x, y);
    } else {
      // As in a reading room: to the right widens the window, down raises the level and so darkens.
      this.#change({ window: this.#look.window + x, level: this.#look.level + y / 2 });
    }
    this.#pointers.set(event.pointerId, event);
  }

  #pinch(event, before) {
    const other = [...this.#pointers.values()].find((each) => each.pointerId !== event.pointerId);
    const apart = (one) => Math.hypot(one.clientX - other.clientX, one.clientY - other.clientY);
    const [x, y] = this.#fromMiddle({ clientX: (event.clientX + other.clientX) / 2, clientY: (event.clientY + other.clientY) / 2 });
    this.#panBy((event.clientX - before.clientX) / 2, (event.clientY - before.clientY) / 2);
    if (apart(before) > 0) this.#zoomBy(apart(event) / apart(before), x, y);
  }

  #key(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const action = {
      ArrowLeft: () => this.#panBy(PAN_STEP, 0),
      ArrowRight: () => this.#panBy(-PAN_STEP, 0),
      ArrowUp: () => this.#panBy(0, PAN_STEP),
      ArrowDown: () => this.#panBy(0, -PAN_STEP),
      "+": () => this.#zoomBy(ZOOM_STEP),
      "=": () => this.#zoomBy(ZOOM_STEP),
      "-": () => this.#zoomBy(1 / ZOOM_STEP),
      i: () => this.#change({ inverted: !this.#look.inverted }),
      r: () => this.reset(),
    }[event.key.length === 1 ? event.key.toLowerCase() : event.key];
    if (!action) return;
    event.preventDefault();
    action();
  }

  #fromMiddle({ clientX, clientY }) {
    const box = this.canvas.getBoundingClientRect();
    return [clientX - box.left - box.width / 2, clientY - box.top - box.height / 2];
  }

  /** Brings the controls in line, and draws. */
  #sync() {
    const { window, level, inverted } = this.#look;
    for (const [tool, control] of Object.entries(this.tools)) control.setAttribute("aria-pressed", String(tool === this.#tool));
    this.inverter.setAttribute("aria-pressed", String(inverted));
    this.windowSlider.input.value = window;
    this.levelSlider.input.value = level;
    setText(this.windowSlider.value, String(Math.round(window)));
    setText(this.levelSlider.value, String(Math.round(level)));
    setText(this.zoomText, `${Math.round(this.#zoom * 100)}%`);
    setText(this.readout, this.#pixels ? sizeOf(this.#pixels) : "");
    show(this.message, this.message.textContent !== "");
    this.canvas.dataset.tool = this.#tool;
    this.#draw();
  }

  #draw() {
    // Once a frame, however many events there were.
    if (this.#drawing) return;
    this.#drawing = true;
    requestAnimationFrame(() => {
      this.#drawing = false;
      this.#paint();
    });
  }

  #paint() {
    const box = this.stage.getBoundingClientRect();
    const ratio = devicePixelRatio || 1;
    const [width, height] = [Math.round(box.width * ratio), Math.round(box.height * ratio)];
    if (this.canvas.width !== width || this.canvas.height !== height) Object.assign(this.canvas, { width, height });
    const context = this.canvas.getContext("2d");
    context.clearRect(0, 0, width, height);
    const pixels = this.#pixels;
    if (!pixels || width === 0 || height === 0) return;
    if (this.#stale) pixels.render(this.#look);
    this.#stale = false;
    const scale = Math.min(width / pixels.width, height / pixels.height) * this.#zoom;
    context.imageSmoothingEnabled = scale < 4;
    context.imageSmoothingQuality = "high";
    const [x, y] = [width / 2 + this.#pan.x * ratio, height / 2 + this.#pan.y * ratio];
    context.drawImage(pixels.canvas, x - (pixels.width * scale) / 2, y - (pixels.height * scale) / 2, pixels.width * scale, pixels.height * scale);
  }
}

function sizeOf({ size, shrunk, width, height }) {
  return `${size} pixels${shrunk ? `, shown at ${width} × ${height}` : ""}`;
}
