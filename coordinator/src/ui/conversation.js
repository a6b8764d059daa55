// The open conversation's turns, and where the page is scrolled while answers grow.

import { alreadySaid, announce, announceAnswer } from "/assets/announce.js";
import { byId, el, show } from "/assets/dom.js";
import { sentence } from "/assets/errors.js";
import { stopReading } from "/assets/speech.js";
import { answerOf, isFinal, isReport, store } from "/assets/store.js";
import { titleOf } from "/assets/tasks.js";
import { TurnCard } from "/assets/turn.js";

// Closer to the end than this, the reader wants to see what comes.
const NEAR = 90;

export class Conversation {
  #cards = new Map();
  #atEnd = true;
  #stale = new Set();

  /** `asking` is what a turn needs to be asked again or otherwise. */
  constructor(asking) {
    this.asking = asking;
    this.scroll = byId("scroll");
    this.turns = byId("turns");
    this.sending = el("div", { class: "sending" });
    this.jump = byId("jump");
    this.scroll.addEventListener("scroll", () => this.#notice(), { passive: true });
    this.jump.addEventListener("click", () => this.toEnd());
    new ResizeObserver(() => this.#atEnd && this.toEnd()).observe(this.scroll);
    store.addEventListener("opened", () => this.#open());
    store.addEventListener("turns", () => this.#sync(true));
    store.addEventListener("sending", () => this.#tellSending());
    store.addEventListener("findings", () => {
      this.#sync(false);
      this.#warn();
    });
    store.addEventListener("unfolded", () => this.#unfolded());
    store.addEventListener("turn", ({ detail }) => this.#changed(detail));
  }

  #open() {
    stopReading();
    this.#cards.clear();
    this.turns.replaceChildren(this.sending);
    this.#tellSending();
    this.#warn();
    if (!store.view) return;
    for (const turn of store.view.turns) if (!store.folds(turn)) alreadySaid(keyOf(turn), turn.text ?? "");
    if (store.view.indication) this.sending.before(el("p", { class: "indication" }, el("span", { class: "quiet", text: "Indication " }), store.view.indication));
    this.#sync(false);
    // An old conversation is read from its report on; a running one from where it is written.
    if (store.view.turns.every(isFinal)) this.scroll.scrollTop = 0;
    else this.toEnd();
    this.#notice();
  }

  /** Brings the cards in line with the view. */
  #sync(grown) {
    if (!store.view) return;
    for (const turn of store.view.turns) {
      const card = this.#cards.get(turn.turn);
      if (card) card.update(turn);
      else this.#add(turn);
    }
    if (grown && this.#atEnd) this.toEnd();
  }

  /** What was kept back is shown, and said. */
  #unfolded() {
    this.#sync(false);
    for (const turn of store.view.turns.filter(isReport)) announceAnswer(keyOf(turn), answerOf(turn), isFinal(turn));
  }

  /** What was found to be odd about the image stands above all that is said of it. */
  #warn() {
    const warnings = store.view?.findings?.warnings ?? [];
    const [place, text] = [byId("warnings"), warnings.map(sentence).join(" ")];
    if (place.dataset.text !== text) place.replaceChildren(el("strong", { text: "Mind the image" }), el("span", { text }));
    place.dataset.text = text;
    show(place, warnings.length > 0);
  }

  /** What is on its way stands where its answer will. */
  #tellSending() {
    const grown = store.sending.length > this.sending.children.length;
    this.sending.replaceChildren(...store.sending.map(({ ask, again }) =>
      el("article", { class: "turn", "aria-label": titleOf(ask), "data-sending": true },
        el("header", { class: "asked" }, el("p", { class: "asked-text", text: titleOf(ask) })),
        el("p", { class: "status", text: again || !navigator.onLine ? "No connection, trying again…" : "Sending…" }))));
    show(this.sending, store.sending.length > 0);
    if (grown) this.toEnd();
  }

  #add(turn) {
    const card = new TurnCard(turn, this.asking);
    this.#cards.set(turn.turn, card);
    this.sending.before(card.element);
  }

  /** Tokens come faster than frames. */
  #changed(number) {
    if (this.#stale.size === 0) requestAnimationFrame(() => this.#paint());
    this.#stale.add(number);
  }

  #paint() {
    const changed = [...this.#stale];
    this.#stale.clear();
    for (const number of changed) {
      const turn = store.turn(number);
      if (!turn) continue;
      this.#cards.get(number)?.update(turn);
      this.#say(turn);
    }
    // A turn that ended changes what the next one waits for.
    if (changed.some((number) => store.turn(number) && isFinal(store.turn(number)))) this.#sync(false);
    if (this.#atEnd) this.toEnd();
    else this.#notice();
  }

  #say(turn) {
    if (isFinal(turn) && typeof turn.edited === "string") return;
    if (!store.folds(turn)) announceAnswer(keyOf(turn), turn.text ?? "", turn.status === "done");
    else if (turn.status === "done") announce("There is a report. It is not shown.");
    if (turn.status === "failed") announce(`${titleOf(turn.request)}: there is no answer.`);
    if (turn.status === "cancelled") announce("Stopped.");
  }

  toEnd() {
    this.scroll.scrollTop = this.scroll.scrollHeight;
    this.#notice();
  }

  #notice() {
    const { scrollTop, scrollHeight, clientHeight } = this.scroll;
    this.#atEnd = scrollHeight - scrollTop - clientHeight < NEAR;
    show(this.jump, !this.#atEnd && (store.view?.turns ?? []).some((turn) => !isFinal(turn) && answerOf(turn)));
  }
}

function keyOf(turn) {
  return `${store.view.id}/${turn.turn}`;
}
