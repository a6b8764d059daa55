// Where questions are typed and tasks are chosen. Several may be sent: the server answers them in order.

import { button, byId, el, setText, show } from "/assets/dom.js";
import { confirmed } from "/assets/dialogs.js";
import { explain } from "/assets/errors.js";
import { newRequestKey } from "/assets/api.js";
import { menuButton } from "/assets/menu.js";
import { Findings } from "/assets/findings.js";
import { Dictation, canListen } from "/assets/speech.js";
import { isFinal, store } from "/assets/store.js";
import { FINDINGS, REGIONS, listed } from "/assets/tasks.js";

// Why a browser takes no dictation, by its own codes; others say nothing that helps.
const DEAF = {
  "not-allowed": "The browser may not use the microphone: allow it for this page, or type.",
  "service-not-allowed": "The browser has dictation switched off: type instead.",
  "audio-capture": "There is no microphone: connect one, or type.",
  network: "The browser's dictation service cannot be reached: type instead.",
};

export class Composer {
  /** The last request that failed, with its key: trying it again must not ask twice. */
  #failed = null;

  /** `correct()` leads to where findings are ticked; `knows(task)` tells whether the model was trained for one. */
  constructor({ correct, knows }) {
    this.correct = correct;
    this.knows = knows;
    const root = byId("composer");
    this.input = el("textarea", {
      id: "question", rows: 1, placeholder: "Ask a question", "aria-label": "Your question", autocomplete: "off",
      on: { input: () => this.#typed(), keydown: (event) => this.#key(event) },
    });
    this.send = button("Send", { icon: "send", quiet: true, on: () => this.#submit() });
    this.send.classList.add("send");
    this.stop = button("Stop", { icon: "stop", quiet: true, on: () => this.#stop() });
    this.stop.classList.add("send");
    this.dictate = button("Dictate (your browser may send your voice to its maker)", { icon: "microphone", quiet: true, "aria-pressed": "false", on: () => this.#dictate() });
    this.dictate.classList.add("dictate");
    this.dictation = new Dictation({ heard: (text) => this.#heard(text), ended: (fault) => this.#heardAll(fault) });
    this.long = el("div", { class: "notice plain", role: "status", id: "history", hidden: true });
    this.trouble = el("div", { class: "notice error", role: "alert", hidden: true });
    this.tasks = this.#tasks();
    root.replaceChildren(
      this.long, this.trouble, this.tasks,
      el("form", { class: canListen ? "ask hears" : "ask", on: { submit: (event) => { event.preventDefault(); this.#submit(); } } }, this.input, canListen && this.dictate, this.stop, this.send));
    for (const name of ["opened", "turns", "turn", "findings", "models"]) store.addEventListener(name, () => this.#sync());
    store.addEventListener("opened", () => this.#clear());
    this.#typed();
  }

  #tasks() {
    const task = (label, ask) => button(label, { kind: "chip", on: () => this.ask(ask()) });
    const menu = (label, items, choose) => menuButton(label, { kind: "chip", items, choose: (value) => this.ask(choose(value)) });
    // The likeliest first would tell what is folded.
    const findings = () => (store.view?.findings && !store.isFolded() ? Findings.choices() : FINDINGS.map((name) => ({ label: name, value: name })));
    this.report = task("Write the report", () => ({ task: "report" }));
    this.view = task("View", () => ({ task: "view" }));
    this.impression = task("Impression", () => ({ task: "impression" }));
    this.correction = button("Correct", { kind: "chip", on: () => this.correct() });
    return el("div", { class: "chips", role: "group", "aria-label": "Tasks" },
      this.report, this.correction,
      task("List findings", () => ({ task: "all_findings" })),
      menu("Is there any", findings, (finding) => ({ task: "presence", finding })),
      this.impression, this.view,
      task("Summary", () => ({ task: "summary" })),
      task("Plain language", () => ({ task: "plain_language" })),
      menu("Region", () => REGIONS, (region) => ({ task: "region", region })),
      menu("Reasons", () => reasons(findings()), (names) => ({ task: "reasons", findings: names })));
  }

  /** Asks, and tells what went wrong; true when it was taken. */
  async ask(ask, requestKey = newRequestKey()) {
    show(this.trouble, false);
    this.#failed = null;
    const { id } = store.view;
    try {
      await store.ask(ask, requestKey);
      return true;
    } catch (error) {
      if (store.view?.id === id) this.#complain(error, ask, requestKey);
      // Where the conversation was deleted there is no box to give it back to.
      if (ask.task === "question" && (error.status !== 404 || store.view?.id === id)) this.#giveBack(id, ask.text);
      return false;
    }
  }

  /** A question that was not taken need not be typed again. */
  #giveBack(id, text) {
    if (store.view?.id !== id) store.drafts.set(id, store.drafts.get(id) || text);
    else if (this.input.value.trim() === "") this.draft(text);
  }

  /** Puts a question into the box, to be asked otherwise; where something else is typed there, only if that may go. */
  async reword(text) {
    const [typed, id] = [this.input.value.trim(), store.view?.id];
    const action = { title: "Replace what you have typed?", text: `“${typed}” has not been sent.`, action: "Replace" };
    if (typed !== "" && typed !== text.trim() && !(await confirmed(action))) return this.input.focus();
    if (store.view?.id === id) this.draft(text);
  }

  /** Puts a question into the box. */
  draft(text) {
    this.input.value = text;
    this.#typed();
    this.input.focus();
    this.input.setSelectionRange(text.length, text.length);
  }

  #complain(error, ask, requestKey) {
    this.#failed = { ask, requestKey };
    const { title, advice } = explain(error);
    this.trouble.replaceChildren(el("strong", { text: title }), el("span", { text: advice }));
    if (error.passing) {
      this.trouble.append(button("Try again", { kind: "small", on: async () => {
        if (await this.ask(ask, requestKey)) this.#sent(ask);
      } }));
    }
    show(this.trouble, true);
  }

  async #submit() {
    const text = this.input.value.trim();
    if (text === "") return this.input.focus();
    const ask = { task: "question", text };
    // The same words again after a failure are the same request.
    const key = this.#failed?.ask.text === text ? this.#failed.requestKey : undefined;
    this.input.value = "";
    this.#typed();
    this.input.focus();
    await this.ask(ask, key);
  }

  /** Empties the box, unless something else was typed meanwhile. */
  #sent(ask) {
    if (ask.task === "question" && this.input.value.trim() === ask.text) this.input.value = "";
    this.#typed();
  }

  async #stop() {
    const running = store.view?.turns.find((turn) => !isFinal(turn));
    if (!running) return;
    try {
      await store.cancel(running.turn);
    } catch (error) {
      const { title, advice } = explain(error);
      this.trouble.replaceChildren(el("strong", { text: title }), el("span", { text: advice }));
      show(this.trouble, true);
    }
  }

  #dictate() {
    if (this.dictation.listening) return this.dictation.end();
    this.before = this.input.value === "" ? "" : `${this.input.value.trimEnd()} `;
    this.dictation.begin();
    this.dictate.setAttribute("aria-pressed", "true");
  }

  #heard(text) {
    this.input.value = this.before + text;
    this.#typed();
  }

  #heardAll(fault) {
    this.dictate.setAttribute("aria-pressed", "false");
    this.input.focus();
    if (!DEAF[fault]) return;
    this.trouble.replaceChildren(el("strong", { text: "No dictation" }), el("span", { text: DEAF[fault] }));
    show(this.trouble, true);
  }

  #key(event) {
    // While an input method composes, Enter belongs to it.
    if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
    event.preventDefault();
    this.#submit();
  }

  #typed() {
    this.input.style.blockSize = "auto";
    this.input.style.blockSize = `${Math.min(this.input.scrollHeight + 2, innerHeight / 3)}px`;
    if (store.view) store.drafts.set(store.view.id, this.input.value);
    this.#sync();
  }

  #sync() {
    const { view } = store;
    if (!view) return;
    const busy = view.turns.some((turn) => !isFinal(turn));
    // One place for both: what is typed can be sent also while an answer is written.
    show(this.stop, busy && this.input.value.trim() === "");
    show(this.send, !this.stop.isConnected || this.stop.hidden);
    show(this.report, view.image && !view.turns.some((turn) => turn.request.task === "report" && turn.status !== "failed" && turn.status !== "cancelled"));
    show(this.correction, Boolean(view.findings));
    show(this.view, Boolean(view.image) && this.knows("view"));
    show(this.impression, this.knows("impression"));
    this.#tellLength(view);
    setText(byId("work-title"), view.image ? "Conversation about a chest X-ray" : "Conversation in words");
  }

  /** The model reads so much at once: what it no longer reads it does not know. */
  #tellLength({ turns }) {
    const last = turns.findLast(isFinal);
    const dropped = last?.dropped_turns ?? [];
    const refused = last?.error?.code === "context_length";
    show(this.long, refused || dropped.length > 0);
    if (this.long.hidden) return;
    const what = refused
      ? "The last question does not fit beside the report any more."
      : `The model no longer reads ${dropped.length === 1 ? "turn" : "turns"} ${listed(dropped.map(String))}.`;
    const link = el("a", { href: "#/", text: "begin a new conversation" });
    this.long.replaceChildren(
      el("strong", { text: "The history is too long" }), el("span", {}, `${what} Ask something shorter, or `, link, "."));
  }

  #clear() {
    this.dictation.end();
    this.input.value = store.drafts.get(store.view?.id) ?? "";
    show(this.trouble, false);
    this.#failed = null;
    this.#typed();
    // Once it is on the page, and has a height.
    requestAnimationFrame(() => this.#typed());
  }
}

/** First all that is in the report, where that is shown, then each alone. */
function reasons(findings) {
  const wanted = store.isFolded() ? [] : [...(store.wanted() ?? [])].filter((name) => name !== "No Finding");
  const together = wanted.length > 1 ? [{ label: "All in the report", note: String(wanted.length), value: wanted }] : [];
  return [...together, ...findings.map((each) => ({ ...each, value: [each.value] }))];
}
