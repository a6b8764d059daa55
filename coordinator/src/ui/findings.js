// The 14 findings as bars. A tick says that the report should have the finding; changing ticks prepares a correction. Where
// the classifier and the report's words differ, or a report is not as it was asked for, the finding says so.

import { announce } from "/assets/announce.js";
import { button, el, setText, show } from "/assets/dom.js";
import { isFinal, isReport, shown, store } from "/assets/store.js";
import { listed, percent } from "/assets/tasks.js";

// Says that there is nothing else: it can be seen but not added to a report.
const NONE = "No Finding";

export class Findings {
  /** Finding by name: true is to be added, false to be removed; of each conversation, since it may be left and come back to. */
  #drafts = new Map();
  #changes = new Map();
  #rows = new Map();

  /** `correct({add, remove})` sends a correction and resolves to whether it was taken. */
  constructor(root, correct) {
    this.correct = correct;
    this.root = root;
    this.list = el("ul", { class: "bars" });
    this.summary = el("p", { class: "quiet small", id: "findings-summary", role: "status" });
    this.pending = el("div", { class: "pending" });
    this.pendingText = el("p", {});
    this.send = button("Correct the report", { kind: "primary small", icon: "check", on: () => this.#send() });
    this.pending.append(this.pendingText, el("div", { class: "row" }, button("Undo", { kind: "small", on: () => this.#forget() }), this.send));
    this.still = el("div", {},
      el("div", { class: "section-head" }, el("h2", { id: "findings-title", text: "Findings" }), this.summary),
      (this.hint = el("p", { class: "quiet small hint", text: "Tick what the report should have, untick what it should not." })));
    this.unfold = button("Show findings and report all the same", { kind: "small", on: () => this.#unfold() });
    this.doubt = el("div", { class: "notice plain doubt", id: "findings-doubt" },
      el("span", { text: "This does not look like a frontal chest X-ray: findings may mean nothing." }), this.unfold);
    show(this.doubt, false);
    root.replaceChildren(el("div", { class: "findings-head" }, this.still, this.pending), this.doubt, this.list);
    root.addEventListener("focusout", ({ relatedTarget }) => root.contains(relatedTarget) || root.classList.remove("led"));
    store.addEventListener("opened", () => this.#open());
    store.addEventListener("forgotten", ({ detail }) => this.#drafts.delete(detail));
    store.addEventListener("findings", () => this.render());
    store.addEventListener("unfolded", () => this.render());
    store.addEventListener("turns", () => this.render());
    // Words come by the dozen: what a report says counts once it is whole.
    store.addEventListener("turn", ({ detail }) => {
      const turn = store.turn(detail);
      if (turn && isReport(turn) && (isFinal(turn) || turn.request.task === "correction")) this.render();
    });
    this.render();
  }

  #open() {
    const id = store.view?.id;
    if (!this.#drafts.has(id)) this.#drafts.set(id, new Map());
    this.#changes = this.#drafts.get(id);
    this.root.classList.remove("led");
    this.render();
  }

  #forget() {
    this.#changes.clear();
    this.render();
  }

  async #send() {
    const [correction, changes] = [this.#correction(), this.#changes];
    this.send.disabled = true;
    // Kept where it was not taken, so that nothing has to be ticked again. Another conversation may be open by then.
    if (await this.correct(correction)) changes.clear();
    this.send.disabled = false;
    this.render();
  }

  #correction() {
    const names = (added) => [...this.#changes].filter(([, add]) => add === added).map(([name]) => name);
    return { add: names(true), remove: names(false) };
  }

  render() {
    const report = store.view?.findings;
    const folded = store.isFolded();
    show(this.hint, Boolean(report) && !folded);
    show(this.doubt, report?.input_gate?.passed === false);
    show(this.unfold, folded);
    show(this.list, !folded);
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
    const [wanted, stated] = [store.wanted(), store.stated()];
    const seen = new Set(shown(report.findings));
    this.list.classList.remove("waiting");
    if (this.#rows.size === 0) {
      this.#rows = new Map(report.findings.map((each) => [each.finding, this.#row(each, seen.has(each))]));
      this.list.replaceChildren(...[...this.#rows.values()].map((row) => row.item));
    }
    const assessed = report.findings.filter((each) => isAssessed(each) && each.finding !== NONE);
    const present = [...seen].filter((each) => each.finding !== NONE).length;
    const limit = report.findings.some((each) => (each.threshold ?? 0.5) !== 0.5) ? "over its threshold" : "over 50%";
    let disputed = 0;
    // While a correction is written, the report that there is cannot have it.
    const correcting = store.view.turns.some((turn) => turn.request.task === "correction" && !isFinal(turn));
    for (const each of report.findings) disputed += this.#mark(this.#rows.get(each.finding), each, seen.has(each), wanted, stated, correcting);
    const differ = disputed === 0 ? "" : `, ${disputed} ${disputed === 1 ? "differs" : "differ"} from the report`;
    const counted = present === 0 ? `None ${limit}` : `${present} of ${assessed.length} present (${limit})`;
    setText(this.summary, folded ? "Not shown" : counted + differ);
    this.#tellPending();
  }

  #unfold() {
    store.unfold();
    // The button is gone.
    this.list.querySelector("input:not(:disabled)")?.focus();
  }

  #row({ finding, probability, threshold }, present) {
    const name = el("span", { class: "bar-name", title: finding, text: finding });
    const tag = el("span", { class: "tag" });
    const known = isAssessed({ probability });
    const words = known ? percent(probability) : "not assessed";
    const fill = el("span", { class: "bar-fill" });
    fill.style.inlineSize = known ? `${Math.max(0.5, probability * 100)}%` : "0";
    const meter = el("span", { class: `bar${known ? "" : " unassessed"}`, "aria-hidden": "true" }, fill);
    if (known) meter.style.setProperty("--threshold", `${(threshold ?? 0.5) * 100}%`);
    const title = known ? `present over ${percent(threshold ?? 0.5)}` : words;
    const value = el("span", { class: `bar-value${known ? " number" : ""}`, text: words, title });
    const tickable = finding !== NONE;
    const box = el("input", { type: "checkbox", disabled: !tickable, on: { change: () => this.#tick(finding, box.checked) } });
    const label = `${finding}, ${words}${present ? ", present" : ""}`;
    box.setAttribute("aria-label", label);
    const item = el("li", { class: `finding${present ? " present" : ""}${tickable ? "" : " fixed"}` },
      el("label", { class: "bar-label" }, box, name, tag), meter, value);
    return { item, box, tag, label, tickable, assessed: typeof probability === "number" };
  }

  #tick(finding, on) {
    if (store.wanted()?.has(finding) === on) this.#changes.delete(finding);
    else this.#changes.set(finding, on);
    this.render();
    const { add, remove } = this.#correction();
    const parts = [add.length && `add ${listed(add)}`, remove.length && `remove ${listed(remove)}`].filter(Boolean);
    announce(parts.length > 0 ? `Correction: ${parts.join("; ")}.` : "No correction.");
  }

  /** Brings a row in line; gives whether the report's words differ from the classifier or from what was asked of them. */
  #mark(row, { finding }, present, wanted, stated, correcting) {
    // A correction that was sent meanwhile has made the change already.
    if (this.#changes.has(finding) && wanted.has(finding) === this.#changes.get(finding)) this.#changes.delete(finding);
    const change = this.#changes.get(finding);
    row.box.checked = change ?? wanted.has(finding);
    const asked = wanted.has(finding) !== present;
    // What the report denies or does not speak of, it does not have.
    const said = stated?.get(finding) ?? false;
    // What was asked is one thing, what the report says another: the model may not have done it.
    const missed = asked && stated !== null && !correcting && row.tickable && said !== wanted.has(finding);
    // Of what is not assessed the classifier says nothing.
    const disputed = !asked && stated !== null && row.assessed && row.tickable && said !== present;
    const made = correcting || stated === null ? (present ? "to be removed" : "to be added") : present ? "removed" : "added";
    const missing = present ? "still in the report" : "not in the report";
    const words = change === true ? "add" : change === false ? "remove"
      : missed ? missing : asked ? made : !disputed ? "" : present ? "report: no" : "report: yes";
    setText(row.tag, words);
    row.tag.dataset.kind = change !== undefined ? "change" : asked && !missed ? "corrected" : "dispute";
    show(row.tag, words !== "");
    // A tick is what the report should have; only where its words say so is it "in the report".
    const inReport = stated !== null && said === row.box.checked;
    const label = row.tickable ? `${row.label}. ${inReport ? "In the report" : "Wanted in the report"}` : row.label;
    row.box.setAttribute("aria-label", words === "" ? label : `${label}. ${words}`);
    return missed || disputed;
  }

  #tellPending() {
    const { add, remove } = this.#correction();
    const parts = [add.length && `${add.length} to add`, remove.length && `${remove.length} to remove`].filter(Boolean);
    show(this.pending, parts.length > 0);
    show(this.still, parts.length === 0);
    if (parts.length > 0) setText(this.pendingText, parts.join(", "));
  }

  /** Leads to where a correction begins: a ring around it and the focus in it, until something else is done. */
  focus() {
    if (this.list.hidden) this.#unfold();
    const box = this.list.querySelector("input:not(:disabled)");
    if (!box) return;
    this.root.classList.add("led");
    this.root.scrollIntoView({ block: "nearest" });
    box.focus();
    announce(`${this.hint.textContent} Then choose “Correct the report”.`);
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
