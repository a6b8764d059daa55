// The 14 findings as bars. A tick says that the report should have the finding; changing ticks prepares a correction.

import { announce } from "/assets/announce.js";
import { button, el, setText, show } from "/assets/dom.js";
import { store } from "/assets/store.js";
import { listed, percent } from "/assets/tasks.js";

// Says that there is nothing else: it can be seen but not added to a report.
const NONE = "No Finding";

export class Findings {
  /** Finding by name: true is to be added, false to be removed. */
  #changes = new Map();
  #rows = new Map();

  /** `correct({add, remove})` sends a correction and resolves to whether it was taken. */
  constructor(root, correct) {
    this.correct = correct;
    this.list = el("ul", { class: "bars" });
    this.summary = el("p", { class: "quiet small", id: "findings-summary", role: "status" });
    this.pending = el("div", { class: "pending" });
    this.pendingText = el("p", {});
    this.send = button("Correct the report", { kind: "primary small", icon: "check", on: () => this.#send() });
    this.pending.append(this.pendingText, el("div", { class: "row" }, button("Undo", { kind: "small", on: () => this.#forget() }), this.send));
    this.still = el("div", {},
      el("div", { class: "section-head" }, el("h2", { id: "findings-title", text: "Findings" }), this.summary),
      (this.hint = el("p", { class: "quiet small", text: "Tick what the report should have, untick what it should not." })));
    // What was wrong with the image file and was tolerated.
    this.warnings = el("p", { class: "quiet small", id: "findings-warnings", role: "status" });
    root.replaceChildren(el("div", { class: "findings-head" }, this.still, this.pending), this.warnings, this.list);
    store.addEventListener("opened", () => this.#forget());
    store.addEventListener("findings", () => this.render());
    store.addEventListener("turns", () => this.render());
    store.addEventListener("turn", ({ detail }) => store.turn(detail)?.request.task === "correction" && this.render());
    this.render();
  }

  #forget() {
    this.#changes.clear();
    this.render();
  }

  async #send() {
    const correction = this.#correction();
    this.send.disabled = true;
    // Kept where it was not taken, so that nothing has to be ticked again.
    if (await this.correct(correction)) this.#forget();
    this.send.disabled = false;
  }

  #correction() {
    const names = (added) => [...this.#changes].filter(([, add]) => add === added).map(([name]) => name);
    return { add: names(true), remove: names(false) };
  }

  render() {
    const report = store.view?.findings;
    show(this.hint, Boolean(report));
    const warnings = report?.warnings ?? [];
    setText(this.warnings, warnings.length > 0 ? `About the image file: ${warnings.join("; ")}.` : "");
    show(this.warnings, warnings.length > 0);
    this.#rows = report ? this.#rows : new Map();
    if (!report) {
      this.list.replaceChildren();
      const failed = store.view?.turns.some((turn) => turn.status === "failed") ?? false;
      setText(this.summary, !store.view?.image ? "There is no image." : failed ? "Not available" : "Reading the image…");
      this.list.classList.toggle("waiting", Boolean(store.view?.image) && !failed);
      show(this.pending, false);
      show(this.still, true);
      return;
    }
    const wanted = store.wanted();
    this.list.classList.remove("waiting");
    if (this.#rows.size === 0) {
      this.#rows = new Map(report.findings.map((each) => [each.finding, this.#row(each)]));
      this.list.replaceChildren(...[...this.#rows.values()].map((row) => row.item));
    }
    const assessed = report.findings.filter((each) => isAssessed(each) && each.finding !== NONE);
    const present = assessed.filter((each) => each.present).length;
    setText(this.summary, present === 0 ? "None over 50%" : `${present} of ${assessed.length} present (over 50%)`);
    for (const each of report.findings) this.#mark(this.#rows.get(each.finding), each, wanted);
    this.#tellPending();
  }

  #row({ finding, probability, present }) {
    const name = el("span", { class: "bar-name", title: finding, text: finding });
    const tag = el("span", { class: "tag" });
    const known = isAssessed({ probability });
    const words = known ? percent(probability) : "not assessed";
    const fill = el("span", { class: "bar-fill" });
    fill.style.inlineSize = known ? `${Math.max(0.5, probability * 100)}%` : "0";
    const meter = el("span", { class: "bar", "aria-hidden": "true" }, fill);
    const value = el("span", { class: `bar-value${known ? " number" : ""}`, text: known ? words : "–", title: words });
    const tickable = finding !== NONE;
    const box = el("input", { type: "checkbox", disabled: !tickable, on: { change: () => this.#tick(finding, box.checked) } });
    const label = `${finding}, ${words}${present ? ", present" : ""}`;
    box.setAttribute("aria-label", tickable ? `${label}. In the report` : label);
    const item = el("li", { class: `finding${present ? " present" : ""}${tickable ? "" : " fixed"}` },
      el("label", { class: "bar-label" }, box, name, tag), meter, value);
    return { item, box, tag };
  }

  #tick(finding, on) {
    if (store.wanted()?.has(finding) === on) this.#changes.delete(finding);
    else this.#changes.set(finding, on);
    this.render();
    const { add, remove } = this.#correction();
    const parts = [add.length && `add ${listed(add)}`, remove.length && `remove ${listed(remove)}`].filter(Boolean);
    announce(parts.length > 0 ? `Correction: ${parts.join("; ")}.` : "No correction.");
  }

  #mark(row, { finding, present }, wanted) {
    // A correction that was sent meanwhile has made the change already.
    if (this.#changes.has(finding) && wanted.has(finding) === this.#changes.get(finding)) this.#changes.delete(finding);
    const change = this.#changes.get(finding);
    row.box.checked = change ?? wanted.has(finding);
    const corrected = wanted.has(finding) !== present;
    const words = change === true ? "add" : change === false ? "remove" : corrected ? (present ? "removed" : "added") : "";
    setText(row.tag, words);
    row.tag.dataset.kind = change !== undefined ? "change" : "corrected";
    show(row.tag, words !== "");
  }

  #tellPending() {
    const { add, remove } = this.#correction();
    const parts = [add.length && `${add.length} to add`, remove.length && `${remove.length} to remove`].filter(Boolean);
    show(this.pending, parts.length > 0);
    show(this.still, parts.length === 0);
    if (parts.length > 0) setText(this.pendingText, parts.join(", "));
  }

  /** Puts the focus where a correction begins. */
  focus() {
    this.list.querySelector("input:not(:disabled)")?.focus();
  }

  /** What can be chosen in a menu of findings, the likeliest first. */
  static choices() {
    const findings = store.view?.findings?.findings ?? [];
    return findings
      .filter((each) => each.finding !== NONE)
      .toSorted((one, other) => (other.probability ?? -1) - (one.probability ?? -1))
      .map((each) => ({
        label: each.finding,
        note: isAssessed(each) ? percent(each.probability) : "not assessed",
        value: each.finding,
      }));
  }
}

/** Whether the model has learned the finding: of others it says nothing. */
function isAssessed({ probability }) {
  return typeof probability === "number";
}
