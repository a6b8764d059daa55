// One turn on the page: what was asked, how far the answer is, the answer, and what can be done with it.

import { announce } from "/assets/announce.js";
import { copyText } from "/assets/clipboard.js";
import { button, el, setText, show } from "/assets/dom.js";
import { icon } from "/assets/icons.js";
import { explain, explainTurn } from "/assets/errors.js";
import { menuButton } from "/assets/menu.js";
import { downloadJson, downloadText } from "/assets/report.js";
import { canRead, readAloud, stopReading } from "/assets/speech.js";
import { answerOf, isFinal, isReport, store } from "/assets/store.js";
import { listed, timeOf, titleOf } from "/assets/tasks.js";

export class TurnCard {
  #editing = null;
  #original = false;
  #reading = false;

  /** `reword(text)` takes a question to be asked otherwise, `ask(ask, options)` asks once more. */
  constructor(turn, { reword, again }) {
    this.number = turn.turn;
    this.draft = `${store.view.id}/${turn.turn}`;
    const report = isReport(turn);
    this.text = document.createTextNode("");
    this.answer = el("div", { class: "answer-text" }, this.text);
    this.status = el("p", { class: "status" });
    this.stop = button("Stop", { kind: "small", icon: "stop", on: () => this.#stop() });
    this.unfold = button("Show findings and report all the same", { kind: "small unfold", on: () => this.#unfold() });
    this.notes = el("div", { class: "notes" });
    this.trouble = el("div", { class: "notice error", hidden: true });
    this.again = button("Ask again, for another answer", { icon: "reset", quiet: true, on: () => again(turn.request) });
    this.actions = this.#actions(report, turn.request.task === "correction");
    const asked = timeOf(turn.request.asked_ms ?? store.view.created_ms);
    this.element = el("article", { class: `turn${report ? " report" : ""}`, "aria-label": titleOf(turn.request), "data-turn": turn.turn },
      el("header", { class: "asked" }, el("p", { class: "asked-text", text: titleOf(turn.request) }), el("span", { class: "quiet small", text: asked }),
        turn.request.task === "question" && button("Ask it otherwise", { icon: "pencil", quiet: true, on: () => reword(turn.request.text) })),
      el("div", { class: "answer" },
        el("div", { class: "answer-head" }, el("h2", { class: "answer-title", text: report ? "Report" : "RaDialog" }), this.status, this.stop, this.unfold, this.actions),
        this.answer, this.trouble, this.notes));
    this.update(turn);
    if (store.drafts.get(this.draft)) this.#beginEdit(store.drafts.get(this.draft));
  }

  #actions(report, correction) {
    this.edit = button("Edit the report", { icon: "pencil", quiet: true, on: () => this.#beginEdit() });
    this.undo = button("Undo my changes", { icon: "undo", quiet: true, on: () => this.#save(null) });
    this.read = button("Read aloud", { icon: "speaker", quiet: true, on: () => this.#read() });
    const copy = button("Copy", { icon: "copy", quiet: true, on: () => this.#copy() });
    const actions = el("div", { class: "actions" });
    this.accept = button("Accept this correction", { icon: "check", quiet: true, on: () => this.#accept() });
    if (correction) actions.append(this.accept);
    if (report) actions.append(this.undo, this.edit);
    if (canRead) actions.append(this.read);
    actions.append(copy, this.again);
    this.thumbs = {
      good: button("Good answer", { icon: "good", quiet: true, "aria-pressed": "false", on: () => this.#rate("good") }),
      bad: button("Bad answer", { icon: "bad", quiet: true, "aria-pressed": "false", on: () => this.#rate("bad") }),
    };
    actions.append(this.thumbs.good, this.thumbs.bad);
    if (report) {
      actions.append(menuButton("Download", {
        icon: "download",
        quiet: true,
        items: () => [{ label: "As text", value: downloadText }, { label: "As JSON, with the conversation", value: downloadJson }],
        choose: (download) => download(store.turn(this.number)),
      }));
    }
    return actions;
  }

  /** Shows the turn as it stands. */
  update(turn) {
    const running = turn.status === "running" || (turn.status === "queued" && Boolean(turn.text));
    this.element.dataset.status = turn.status;
    const folded = store.folds(turn);
    // What is not in the page is neither printed nor copied nor found.
    this.#setAnswer(folded ? "" : (this.#original ? turn.text ?? "" : answerOf(turn)).trimStart());
    this.answer.classList.toggle("writing", running);
    show(this.answer, !folded && this.#editing === null && (this.text.length > 0 || running));
    setText(this.status, statusText(turn, folded));
    show(this.status, this.status.textContent !== "");
    show(this.stop, !isFinal(turn));
    show(this.unfold, folded && answerOf(turn) !== "");
    show(this.actions, !folded && isFinal(turn) && answerOf(turn) !== "" && this.#editing === null);
    for (const [rating, thumb] of Object.entries(this.thumbs)) {
      thumb.setAttribute("aria-pressed", String(turn.rating === rating));
      // What was cancelled has words and no answer, and is no data.
      show(thumb, turn.status === "done" && this.#isModels(turn));
    }
    show(this.undo, typeof turn.edited === "string");
    show(this.accept, typeof turn.edited !== "string" && turn.status === "done");
    this.#tellFailure(turn);
    this.#tellNotes(turn, folded);
  }

  /** Whether the model's own words are shown: only they are rated. */
  #isModels(turn) {
    return this.#original || typeof turn.edited !== "string" || turn.edited === turn.text;
  }

  /** Appends where the text has only grown, so that a selection in it stays. */
  #setAnswer(text) {
    if (text === this.text.data) return;
    if (text.startsWith(this.text.data)) this.text.appendData(text.slice(this.text.length));
    else this.text.data = text;
  }

  #tellFailure(turn) {
    if (turn.status !== "failed") return show(this.trouble, false);
    this.#complain(explainTurn(turn.error ?? {}));
  }

  #complain({ title, advice }) {
    this.trouble.replaceChildren(el("strong", { text: title }), el("span", { text: advice }));
    show(this.trouble, true);
  }

  #tellNotes(turn, folded) {
    let notes = [];
    const accepted = typeof turn.edited === "string" && turn.edited === turn.text;
    if (accepted) {
      notes.push(el("p", {}, el("span", { class: "tag", "data-kind": "corrected", text: "Accepted" }), " Kept as training data for corrections."));
    } else if (typeof turn.edited === "string") {
      const toggle = button(this.#original ? "Show the edited text" : "Show the model's text", {
        kind: "link",
        on: () => {
          this.#original = !this.#original;
          this.update(store.turn(this.number));
        },
      });
      notes.push(el("p", {}, el("span", { class: "tag", "data-kind": "corrected", text: this.#original ? "The model's text" : "Edited" }), " ", toggle));
    }
    // The marks are of the model's own text.
    if (turn.comparisons?.length && (accepted || this.#original || typeof turn.edited !== "string")) notes.push(compared(turn));
    if (turn.dropped_turns?.length) {
      const turns = listed(turn.dropped_turns.map(String));
      notes.push(el("p", { text: `The model did not see ${turn.dropped_turns.length === 1 ? "turn" : "turns"} ${turns}: the conversation is longer than it can read at once.` }));
    }
    if (turn.usage?.complete === false) notes.push(el("p", { text: "The answer ended at its length limit." }));
    if (turn.asked && isFinal(turn)) notes.push(this.#asked(turn));
    // They have words of the report, and of the findings that it was asked for.
    if (folded) notes = [];
    // Opened details must not close with every update.
    const key = JSON.stringify([turn.edited, turn.dropped_turns, turn.asked, turn.status, turn.usage, turn.comparisons, this.#original, folded]);
    if (key === this.notesKey) return;
    this.notesKey = key;
    this.notes.replaceChildren(...notes);
  }

  #asked({ asked, usage }) {
    const counts = usage ? `${usage.prompt_tokens} tokens read${usage.cached_tokens ? ` (${usage.cached_tokens} from the cache)` : ""}, ${usage.tokens} written` : "";
    return el("details", {}, el("summary", { text: "What the model read" }), el("p", { class: "asked-full", text: asked }), counts && el("p", { class: "number", text: counts }));
  }

  #unfold() {
    store.unfold();
    // The button is gone.
    (this.actions.hidden ? this.stop : this.edit).focus();
  }

  async #stop() {
    this.stop.disabled = true;
    try {
      await store.cancel(this.number);
    } catch (error) {
      this.#complain(explain(error));
    }
    this.stop.disabled = false;
  }

  async #copy() {
    const copied = await copyText(answerOf(store.turn(this.number)).trim());
    this.#say(copied ? "Copied" : "The browser did not allow it: select the text and copy it");
  }

  /** Reads what is shown, or stops. */
  #read() {
    if (this.#reading) return stopReading();
    readAloud(this.text.data, () => this.#showReading(false));
    this.#showReading(true);
  }

  #showReading(reading) {
    this.#reading = reading;
    const label = reading ? "Stop reading" : "Read aloud";
    Object.assign(this.read, { title: label, ariaLabel: label });
    this.read.replaceChildren(icon(reading ? "stop" : "speaker"));
  }

  /** A short word beside the title, that goes away. */
  #say(text) {
    announce(text);
    setText(this.status, text);
    show(this.status, true);
    clearTimeout(this.saying);
    this.saying = setTimeout(() => store.turn(this.number) && this.update(store.turn(this.number)), 2500);
  }

  /** Kept with the conversation, and data like a correction. The same again takes it back. */
  async #rate(rating) {
    const given = store.turn(this.number).rating === rating ? null : rating;
    try {
      await store.rate(this.number, given);
    } catch (error) {
      return this.#complain(explain(error));
    }
    this.update(store.turn(this.number));
    this.#say(given === null ? "Taken back" : given === "good" ? "Kept as a good answer" : "Kept as a bad answer");
  }

  #beginEdit(draft = null) {
    const id = `edit-${this.number}`;
    const area = el("textarea", {
      id, rows: 6, spellcheck: "true",
      on: {
        input: () => {
          fit(area);
          store.drafts.set(this.draft, area.value);
        },
        keydown: (event) => {
          if (event.key === "Escape") this.#endEdit();
          if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) this.#save(area.value);
        },
      },
    });
    area.value = draft ?? answerOf(store.turn(this.number)).trim();
    if (draft === null || !store.editedFrom.has(this.draft)) store.editedFrom.set(this.draft, store.turn(this.number).edit_tag);
    this.#editing = el("div", { class: "editor" },
      el("label", { for: id, class: "quiet small", text: "Your version. Later answers build on it; it is kept as training data for corrections." }), area,
      el("div", { class: "row" },
        button("Save", { kind: "primary small", icon: "check", on: () => this.#save(area.value) }),
        button("Cancel", { kind: "small", on: () => this.#endEdit() })));
    this.answer.after(this.#editing);
    this.update(store.turn(this.number));
    // Once it is on the page, and has a height.
    requestAnimationFrame(() => fit(area));
    // One that was left begun waits where it was left.
    if (draft === null) area.focus();
  }

  /** Somebody else has kept another version meanwhile: both are shown, and one is chosen. */
  #tellOther(turn) {
    const other = turn.edited ?? turn.text ?? "";
    // Yours takes the place of the one that is seen here, and of no later one.
    store.editedFrom.set(this.draft, turn.edit_tag);
    this.#editing.querySelector(".notice")?.remove();
    this.#editing.append(el("div", { class: "notice error", role: "alert" },
      el("strong", { text: "This report was changed elsewhere since you began" }),
      el("span", { text: "Yours is above, and not saved yet. The other one:" }),
      el("blockquote", { text: other.trim() }),
      el("div", { class: "row" },
        button("Save mine", { kind: "small", on: () => this.#save(this.#editing.querySelector("textarea").value) }),
        button("Keep the other", { kind: "small", on: () => this.#endEdit() }))));
  }

  /** The correction as it stands is what the person wants: keeping it as their version makes it data. */
  async #accept() {
    try {
      const turn = store.turn(this.number);
      await store.edit(this.number, turn.text, turn.edit_tag);
    } catch (error) {
      return this.#refused(error);
    }
    this.update(store.turn(this.number));
    this.#say("Accepted");
  }

  #endEdit() {
    this.#editing?.remove();
    this.#editing = null;
    store.drafts.delete(this.draft);
    store.editedFrom.delete(this.draft);
    this.update(store.turn(this.number));
    this.edit.focus();
  }

  /** Keeps the text, or asks where another tab or person has kept one since this edit began. */
  async #save(text) {
    const turn = store.turn(this.number);
    const same = text !== null && text.trim() === turn.text.trim();
    const seen = (this.#editing ? store.editedFrom.get(this.draft) : null) ?? turn.edit_tag;
    if (text?.trim() === "") return this.#complain({ title: "The report is empty", advice: "Write something, or cancel." });
    const editing = this.#editing;
    const focused = editing?.contains(document.activeElement) ? document.activeElement : null;
    // What would be typed while it is saved would be lost.
    if (editing) editing.inert = true;
    try {
      // Changed back is asked for, too: whether another version is there, this page may not know.
      await store.edit(this.number, same ? null : text, seen);
    } catch (error) {
      return this.#refused(error);
    } finally {
      if (editing) editing.inert = false;
      if (document.activeElement === document.body) focused?.focus();
    }
    if (store.drafts.get(this.draft) === text) {
      store.drafts.delete(this.draft);
      store.editedFrom.delete(this.draft);
    }
    // Another conversation was opened meanwhile.
    if (!this.#isShown()) return;
    this.#original = false;
    if (this.#editing) this.#endEdit();
    this.update(store.turn(this.number));
    this.#say(text === null ? "Your changes are undone" : "Saved");
  }

  /** Whether this is still a turn of the open conversation. */
  #isShown() {
    return this.draft === `${store.view?.id}/${this.number}` && store.turn(this.number) !== undefined;
  }

  /** What was written is not kept: another version is there, or it went wrong. */
  async #refused(error) {
    if (error.status !== 412 && error.status !== 404) return this.#complain(explain(error));
    try {
      await store.reload(store.view.id);
    } catch (trouble) {
      return this.#complain(explain(trouble));
    }
    // It was deleted meanwhile, or another conversation was opened.
    if (!this.#isShown()) return;
    if (this.#editing && error.status === 412) return this.#tellOther(store.turn(this.number));
    this.#complain(explain(error));
  }
}

function statusText(turn, folded) {
  switch (turn.status) {
    case "queued": {
      const first = store.view.turns.find((each) => !isFinal(each));
      if (first.turn !== turn.turn) return "Waits for the answer above";
      if (store.view.image && !store.view.findings) return "Reading the image…";
      if (!turn.position) return "Next in line";
      return turn.position === 1 ? "Queued, 1 other is before it" : `Queued, ${turn.position} others are before it`;
    }
    case "running":
      return "Writing…";
    case "cancelled":
      return "Stopped";
    case "done":
      return folded ? "Not shown" : "";
    default:
      return "";
  }
}

/** What a report says of an earlier image, sentence by sentence. Places count whole characters, not the halves of JavaScript's strings. */
function compared({ text, comparisons }) {
  const characters = [...text];
  const part = (from, to) => characters.slice(from, to).join("");
  const sentence = ({ range: [begin, end], words_range: [from, to] }) =>
    el("q", {}, part(begin, from), el("mark", { text: part(from, to) }), part(to, end));
  const sentences = comparisons.flatMap((mark) => [" ", sentence(mark)]);
  return el("p", { class: "comparisons" }, el("span", { class: "tag", "data-kind": "change", text: "Unsupported" }),
    " Compares with an earlier image, which the model has not seen:", ...sentences);
}

/** As high as its text. */
function fit(area) {
  area.style.blockSize = "auto";
  area.style.blockSize = `${area.scrollHeight + 2}px`;
}
