// What the page knows: the list of conversations and the open one, as the server last told. It changes only through the
// functions here, and says what changed as events: "list", "opened", "findings", "turns", "turn" (detail: number), "sending",
// "connection" (detail: {state, delay}), "trouble" (detail: an error), "unfolded", "forgotten" (detail: the id of a conversation
// that was deleted), and "gone" (detail: {id, error}) where that was the open one and another tab or machine has done it. Further tabs of this browser are told at once what
// one has changed; what was changed elsewhere is seen when the list is read.

import { api } from "/assets/api.js";
import { follow } from "/assets/events.js";
import { statedIn } from "/assets/stated.js";

const FINAL = new Set(["done", "failed", "cancelled"]);
// The list tells how other conversations stand; nothing pushes it.
const LIST_PERIOD = 8000;

/** Whether nothing more happens to a turn. */
export function isFinal(turn) {
  return FINAL.has(turn.status);
}

/** What a person should read as the turn's answer. */
export function answerOf(turn) {
  return turn.edited ?? turn.text ?? "";
}

/** Whether the answer is a whole report. */
export function isReport(turn) {
  return turn.request.task === "report" || turn.request.task === "correction";
}

// What says that there is nothing, and what may be beside it.
const NO_FINDING = "No Finding";
const DEVICES = "Support Devices";

/** The findings that a person is shown as present: "No Finding" is none of them where anything else but devices is. */
export function shown(findings) {
  const present = findings.filter((each) => each.present);
  const isOther = (each) => each.finding !== NO_FINDING && each.finding !== DEVICES;
  return present.some(isOther) ? present.filter((each) => each.finding !== NO_FINDING) : present;
}

/** Whether the image looks like no chest X-ray at all. */
function isNoXray(report) {
  const gate = report?.input_gate;
  return gate?.passed === false && gate.looks_like === "other";
}

class Store extends EventTarget {
  list = [];
  /** The open conversation's view; null at the start page. */
  view = null;
  /** What was asked of the open conversation and is on its way: `{ask, again}`; `again` once it is tried again. */
  sending = [];
  /** What was begun and not sent, by what it belongs to. It lasts as long as the page. */
  drafts = new Map();
  /** The tag of the version that each edit which was begun is of, by the same names: another may be saved meanwhile. */
  editedFrom = new Map();
  /** Conversations whose findings and reports are shown though the image is no X-ray. */
  #unfolded = new Set();
  #following = null;
  #opening = null;
  /** The conversations that this page deletes or has deleted. */
  #removing = new Set();
  /** Ends with what was asked last: one after the other, so that they stand in the order in which they were asked. */
  #asking = Promise.resolve();
  /** Counts what this page begins to change and has changed: what was read meanwhile may be older. */
  #changes = 0;
  #tabs = globalThis.BroadcastChannel ? new BroadcastChannel("radialog") : null;

  constructor() {
    super();
    this.#tabs?.addEventListener("message", ({ data }) => this.#hear(data));
  }

  /** Changes something on the server. */
  async #change(work) {
    this.#changes += 1;
    try {
      return await work();
    } finally {
      this.#changes += 1;
    }
  }

  /** Tells the browser's other tabs that a conversation has changed. */
  #share(id) {
    this.#tabs?.postMessage({ id });
  }

  #hear({ id }) {
    this.refresh().catch(() => {});
    if (this.view?.id === id) this.reload(id).catch(() => {});
  }

  #tell(name, detail) {
    this.dispatchEvent(new CustomEvent(name, { detail }));
  }

  /** Reads the list again. */
  async refresh() {
    const { conversations } = await api.list();
    this.list = conversations;
    this.#tell("list");
    // Another tab, or another machine, has gone on with the open one.
    if (!this.view || this.sending.length > 0) return;
    const listed = this.list.find((each) => each.id === this.view.id);
    // One that is not listed is older than all that are, or was deleted: only a look tells.
    if (listed && (listed.revision === this.view.revision || this.#following)) return;
    await this.reload(this.view.id);
  }

  /** Keeps the list fresh while the page is looked at. */
  keepFresh() {
    const quietly = () => document.visibilityState === "visible" && this.refresh().catch(() => {});
    setInterval(quietly, LIST_PERIOD);
    document.addEventListener("visibilitychange", quietly);
  }

  /** Opens a conversation by its id, or none. Throws where it is not there. */
  async open(id) {
    if (id !== null && this.view?.id === id) return;
    this.#leave();
    this.view = null;
    this.sending = [];
    this.#tell("opened");
    if (id === null) return;
    const opening = (this.#opening = new AbortController());
    const view = await api.conversation(id, opening.signal);
    if (!opening.signal.aborted) this.adopt(view);
  }

  /** Opens a conversation whose view is at hand. */
  adopt(view) {
    this.#leave();
    this.view = view;
    this.sending = [];
    this.#tell("opened");
    this.#follow();
  }

  #leave() {
    this.#opening?.abort();
    this.#following?.abort();
    this.#following = null;
  }

  turn(number) {
    return this.view?.turns.find((turn) => turn.turn === number);
  }

  /** The last answer that is a whole report. */
  latestReport() {
    return this.view?.turns.findLast((turn) => isReport(turn) && (turn.status === "done" || (isFinal(turn) && turn.text)));
  }

  /**
   * The findings that the report should have: what the classifier sees, changed by every correction that was asked for and by
   * what a person wrote into a report or left out of it. Null while the classifier is at work.
   */
  wanted() {
    if (!this.view?.findings) return null;
    const wanted = new Set(shown(this.view.findings.findings).map((each) => each.finding));
    for (const turn of this.view.turns) {
      if (!isReport(turn)) continue;
      if (turn.status !== "failed" && turn.status !== "cancelled") {
        for (const finding of turn.request.add ?? []) wanted.add(finding);
        for (const finding of turn.request.remove ?? []) wanted.delete(finding);
      }
      if (typeof turn.edited === "string" && turn.edited !== turn.text) rewritten(wanted, turn);
    }
    return wanted;
  }

  /** What the report as it stands says of each finding, by its words; null where there is none. */
  stated() {
    const report = this.latestReport();
    return report ? statedIn(answerOf(report)) : null;
  }

  /** Whether findings and reports of the open conversation are kept back: of what is no X-ray, a person asks for them first. */
  isFolded() {
    return isNoXray(this.view?.findings) && !this.#unfolded.has(this.view.id);
  }

  /** Whether a turn's answer is kept back: it is a report of such a picture. */
  folds(turn) {
    return isReport(turn) && this.isFolded();
  }

  /** Shows what was kept back, as long as the page is there. */
  unfold() {
    this.#unfolded.add(this.view?.id);
    this.#tell("unfolded");
  }

  /** Asks something of the open conversation. */
  async ask(ask, requestKey) {
    const { id } = this.view;
    // Seen at once, however long the way is.
    const sent = { ask, again: false };
    this.sending.push(sent);
    this.#tell("sending");
    const again = () => {
      sent.again = true;
      this.#tell("sending");
    };
    const asking = this.#asking.then(() => this.#change(() => api.ask(id, ask, requestKey, again)));
    this.#asking = asking.catch(() => {});
    try {
      const turn = await asking;
      this.#share(id);
      if (this.view?.id !== id) return;
      this.#unsend(sent);
      // A request that was repeated gives the turn that is there already, and so does a tab that was faster.
      if (!this.turn(turn.turn)) this.view.turns.push(turn);
      this.view.turns.sort((one, other) => one.turn - other.turn);
    } catch (error) {
      this.#unsend(sent);
      if (error.status === 404) await this.reload(id).catch(() => {});
      throw error;
    }
    this.#tell("turns");
    this.#follow();
  }

  #unsend(sent) {
    this.sending = this.sending.filter((each) => each !== sent);
    this.#tell("sending");
  }

  /** Stops a turn. Its end comes as an event, or is looked up where nobody follows it. */
  async cancel(number) {
    const { id } = this.view;
    await api.cancel(id, number);
    this.#share(id);
    if (this.#following?.turn !== number) await this.reload(id);
  }

  /** Keeps a person's version of an answer, null forgets it, in the place of the version with this tag. Throws 412 where another is there. */
  async edit(number, text, seen) {
    const { id } = this.view;
    const tag = await this.#change(() => (text === null ? api.forgetEdit(id, number, seen) : api.edit(id, number, text, seen)));
    this.#share(id);
    if (this.view?.id !== id) return;
    Object.assign(this.turn(number), { edited: text, edit_tag: tag });
    this.#tell("turn", number);
  }

  /** Says how good an answer is: "good", "bad", or null for neither. */
  async rate(number, rating) {
    const { id } = this.view;
    await this.#change(() => (rating === null ? api.forgetRating(id, number) : api.rate(id, number, rating)));
    this.#share(id);
    if (this.view?.id !== id) return;
    this.turn(number).rating = rating;
    this.#tell("turn", number);
  }

  /** Gives a conversation another title, in the place of that with this tag. Throws 412 where it has another one. */
  async rename(id, title, seen) {
    const tag = await api.rename(id, title, seen);
    this.#share(id);
    const listed = this.list.find((each) => each.id === id);
    if (listed) Object.assign(listed, { title, title_tag: tag });
    this.#tell("list");
  }

  /** Deletes a conversation. */
  async remove(id) {
    this.#removing.add(id);
    try {
      await api.remove(id);
    } catch (error) {
      this.#removing.delete(id);
      throw error;
    }
    this.#share(id);
    this.list = this.list.filter((each) => each.id !== id);
    this.#tell("list");
    this.forget(id);
  }

  /** Drops what this page holds of a conversation that was deleted. */
  forget(id) {
    for (const draft of this.drafts.keys()) if (draft === id || draft.startsWith(`${id}/`)) this.drafts.delete(draft);
    for (const draft of this.editedFrom.keys()) if (draft.startsWith(`${id}/`)) this.editedFrom.delete(draft);
    this.#unfolded.delete(id);
    this.#tell("forgotten", id);
  }

  /** Somebody else has deleted it: neither image nor words of it stay on the screen. */
  #close(id, error) {
    // Whoever has deleted it here leaves it, and need not be told.
    if (this.view?.id !== id || this.#removing.has(id)) return;
    this.#leave();
    this.view = null;
    this.sending = [];
    this.#tell("opened");
    this.forget(id);
    this.#tell("gone", { id, error });
  }

  /** Reads the open conversation again and goes on from there. */
  async reload(id) {
    const changes = this.#changes;
    let view;
    try {
      view = await api.conversation(id);
    } catch (error) {
      if (error.status === 404) return this.#close(id, error);
      throw error;
    }
    if (this.view?.id !== id) return;
    if (changes !== this.#changes) return this.reload(id);
    this.#leave();
    this.view = view;
    this.#tell("connection", { state: "open" });
    this.#tell("findings");
    this.#tell("turns");
    this.#follow();
  }

  /**
   * Follows the first turn that is not final. Only that one: a browser opens six connections to a server at most, and the
   * later turns wait for it anyway.
   */
  #follow() {
    const next = this.view.turns.find((turn) => !isFinal(turn));
    if (!next) return void this.refresh().catch(() => {});
    if (this.#following?.turn === next.turn && !this.#following.signal.aborted) return;
    this.#following?.abort();
    const following = (this.#following = new AbortController());
    following.turn = next.turn;
    const { id } = this.view;
    const options = {
      signal: following.signal,
      connection: (state, delay) => this.#tell("connection", { state, delay }),
      handle: (name, data, number) => this.#apply(next, name, data, number),
    };
    follow(id, next.turn, next.last_event ?? 0, options)
      .then(() => {
        if (following.signal.aborted) return;
        this.#following = null;
        // Where the stream ended without the turn's view (an error), the server has more to tell.
        if (isFinal(next)) this.#follow();
        else this.reload(id).catch((error) => this.#tell("trouble", error));
      })
      .catch((error) => {
        if (following.signal.aborted) return;
        if (error.status === 404) this.reload(id).catch(() => {});
        else this.#tell("trouble", error);
      });
  }

  #apply(turn, name, data, number) {
    turn.last_event = number;
    switch (name) {
      case "queued":
        turn.position = data.position;
        break;
      case "findings":
        this.view.findings = data;
        this.#tell("findings");
        break;
      case "started":
        Object.assign(turn, { status: "running", position: null, asked: data.asked });
        break;
      case "token":
        turn.status = "running";
        turn.text = (turn.text ?? "") + data.text;
        break;
      case "done":
        Object.assign(turn, data);
        break;
      case "error":
        // The conversation was deleted: no answer failed, and the look that follows tells.
        if (data.code === "not_found") break;
        turn.status = data.code === "cancelled" ? "cancelled" : "failed";
        turn.error = turn.status === "failed" ? data : null;
        // The image could not be read: nothing that waits for it can be answered either.
        if (turn.status === "failed") this.reload(this.view.id).catch(() => {});
        break;
    }
    this.#tell("turn", turn.turn);
  }
}

/**
 * Brings findings in line with a report that a person has rewritten: it has what its words say. Where all of the model's text
 * is still there, what none of its words names stays as it was, since they may say it otherwise.
 */
function rewritten(wanted, { text, edited }) {
  const stated = statedIn(edited);
  if (!edited.includes(text.trim())) wanted.clear();
  for (const [finding, present] of stated) {
    if (present) wanted.add(finding);
    else wanted.delete(finding);
  }
  if ([...stated.values()].includes(true)) wanted.delete("No Finding");
}

export const store = new Store();
