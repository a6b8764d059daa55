// What the page knows: the list of conversations and the open one, as the server last told. It changes only through the
// functions here, and says what changed as events: "list", "opened", "findings", "turns", "turn" (detail: number),
// "connection" (detail: {state, delay}) and "trouble" (detail: an error).

import { api } from "/assets/api.js";
import { follow } from "/assets/events.js";

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

class Store extends EventTarget {
  list = [];
  /** The open conversation's view; null at the start page. */
  view = null;
  #following = null;
  #opening = null;

  #tell(name, detail) {
    this.dispatchEvent(new CustomEvent(name, { detail }));
  }

  /** Reads the list again. */
  async refresh() {
    const { conversations } = await api.list();
    this.list = conversations;
    this.#tell("list");
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
   * The findings that the report should have: what the classifier sees, changed by every correction that was asked for.
   * Null while the classifier is at work.
   */
  wanted() {
    if (!this.view?.findings) return null;
    const wanted = new Set(shown(this.view.findings.findings).map((each) => each.finding));
    for (const turn of this.view.turns) {
      if (turn.request.task !== "correction" || turn.status === "failed" || turn.status === "cancelled") continue;
      for (const finding of turn.request.add ?? []) wanted.add(finding);
      for (const finding of turn.request.remove ?? []) wanted.delete(finding);
    }
    return wanted;
  }

  /** Asks something of the open conversation. */
  async ask(ask, requestKey) {
    const { id } = this.view;
    const turn = await api.ask(id, ask, requestKey);
    if (this.view?.id !== id) return;
    // A request that was repeated gives the turn that is there already.
    if (!this.turn(turn.turn)) this.view.turns.push(turn);
    this.#tell("turns");
    this.#follow();
  }

  /** Stops a turn. Its end comes as an event, or is looked up where nobody follows it. */
  async cancel(number) {
    const { id } = this.view;
    await api.cancel(id, number);
    if (this.#following?.turn !== number) await this.reload(id);
  }

  /** Keeps a person's version of an answer; null forgets it. */
  async edit(number, text) {
    const { id } = this.view;
    if (text === null) await api.forgetEdit(id, number);
    else await api.edit(id, number, text);
    if (this.view?.id !== id) return;
    this.turn(number).edited = text;
    this.#tell("turn", number);
  }

  /** Deletes a conversation. */
  async remove(id) {
    await api.remove(id);
    this.list = this.list.filter((each) => each.id !== id);
    this.#tell("list");
  }

  /** Reads the open conversation again and goes on from there. */
  async reload(id) {
    const view = await api.conversation(id);
    if (this.view?.id !== id) return;
    this.#leave();
    this.view = view;
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
      .catch((error) => !following.signal.aborted && this.#tell("trouble", error));
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
        turn.status = data.code === "cancelled" ? "cancelled" : "failed";
        turn.error = turn.status === "failed" ? data : null;
        // The image could not be read: nothing that waits for it can be answered either.
        if (turn.status === "failed") this.reload(this.view.id).catch(() => {});
        break;
    }
    this.#tell("turn", turn.turn);
  }
}

export const store = new Store();
