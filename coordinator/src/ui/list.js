// The list of conversations: small image, title, state, and ways to rename and to delete each; words find those whose titles
// have them.

import { announce } from "/assets/announce.js";
import { button, byId, el, setText, show } from "/assets/dom.js";
import { confirmed, entered } from "/assets/dialogs.js";
import { explain } from "/assets/errors.js";
import { icon } from "/assets/icons.js";
import { forgetImage, smallImage } from "/assets/images.js";
import { isFinal, store } from "/assets/store.js";
import { conversationTitle, timeOf } from "/assets/tasks.js";

const WORDS = { queued: "Queued", running: "Writing…", failed: "Failed", cancelled: "Stopped" };

export class List {
  #items = new Map();

  #wanted = new WeakMap();
  #seen = new IntersectionObserver((entries) => {
    for (const { target, isIntersecting } of entries) if (isIntersecting) this.#picture(target);
  }, { threshold: 0.01 });

  /** `gone(id)` is told of a conversation that was deleted, `trouble(error words)` of one that could not be. */
  constructor({ gone, trouble }) {
    this.root = byId("conversations");
    this.empty = byId("no-conversations");
    this.search = byId("search");
    this.search.addEventListener("input", () => this.#filter(true));
    this.search.addEventListener("keydown", (event) => {
      if (event.key !== "Escape" || this.search.value === "") return;
      event.stopPropagation();
      this.search.value = "";
      this.#filter(true);
    });
    this.gone = gone;
    this.trouble = trouble;
    for (const name of ["list", "opened"]) store.addEventListener(name, () => this.render());
    // The open conversation is known better than the list was when it was read.
    store.addEventListener("turns", () => this.render());
    store.addEventListener("turn", ({ detail }) => this.#statusOfOpen(detail));
  }

  render() {
    const known = new Set(store.list.map((each) => each.id));
    for (const [id, item] of this.#items) {
      if (known.has(id)) continue;
      item.element.remove();
      this.#items.delete(id);
      if (store.view?.id !== id) forgetImage(id);
    }
    store.list.forEach((each, index) => {
      const item = this.#items.get(each.id) ?? this.#add(each);
      if (this.root.children[index] !== item.element) this.root.insertBefore(item.element, this.root.children[index] ?? null);
      this.#update(item, each);
    });
    this.#filter(false);
  }

  /** Shows the conversations that the search's words are in. */
  #filter(typed) {
    const words = this.search.value.toLowerCase().split(/\s+/).filter(Boolean);
    let found = 0;
    for (const each of store.list) {
      const item = this.#items.get(each.id);
      const text = `${item.title.textContent} ${item.state.textContent}`.toLowerCase();
      const fits = words.every((word) => text.includes(word));
      show(item.element, fits);
      found += fits;
    }
    show(this.search, store.list.length > 1 || words.length > 0);
    show(this.empty, found === 0);
    setText(this.empty, words.length > 0 ? "No title has these words." : "Your conversations will be listed here.");
    if (typed) announce(found === 1 ? "1 conversation." : `${found} conversations.`);
  }

  #add({ id, image, created_ms: created }) {
    const thumbnail = el("span", { class: "thumbnail", "aria-hidden": "true" });
    if (!image) thumbnail.append(icon("chat"));
    // An image is large, and a list long: what is not looked at is not fetched.
    if (image) {
      this.#wanted.set(thumbnail, id);
      this.#seen.observe(thumbnail);
    }
    const title = el("span", { class: "item-title" });
    const state = el("span", { class: "item-state quiet small" });
    const link = el("a", { href: `#/c/${encodeURIComponent(id)}`, class: "item-link" }, thumbnail,
      el("span", { class: "item-words" }, title, state));
    const rename = button("Rename", { icon: "pencil", quiet: true, on: () => this.#rename(id) });
    const remove = button("Delete", { icon: "trash", quiet: true, on: () => this.#remove(id) });
    const item = { element: el("li", { class: "item" }, link, el("span", { class: "item-tools" }, rename, remove)), link, title, state, rename, remove, created };
    this.#items.set(id, item);
    return item;
  }

  #picture(thumbnail) {
    this.#seen.unobserve(thumbnail);
    smallImage(this.#wanted.get(thumbnail)).then(
      (address) => thumbnail.replaceChildren(el("img", { src: address, alt: "" })),
      () => {
        thumbnail.title = "The image could not be fetched";
        thumbnail.replaceChildren(icon("image"));
      });
  }

  #update(item, each) {
    const open = store.view?.id === each.id;
    const turns = open ? store.view.turns : null;
    const status = turns ? (turns.find((turn) => !isFinal(turn)) ?? turns.at(-1))?.status : each.status;
    const count = turns ? turns.length : each.turns;
    const title = conversationTitle(each);
    setText(item.title, title);
    setText(item.state, [timeOf(item.created), WORDS[status] ?? (count === 1 ? "1 turn" : `${count} turns`)].join(" · "));
    item.element.dataset.status = status ?? "";
    item.rename.setAttribute("aria-label", `Rename “${title}”, ${timeOf(item.created)}`);
    item.remove.setAttribute("aria-label", `Delete “${title}”, ${timeOf(item.created)}`);
    if (open) item.link.setAttribute("aria-current", "page");
    else item.link.removeAttribute("aria-current");
  }

  #statusOfOpen(number) {
    const turn = store.turn(number);
    const listed = store.list.find((each) => each.id === store.view?.id);
    if (!turn || !listed || turn.status === this.lastStatus) return;
    this.lastStatus = turn.status;
    this.#update(this.#items.get(listed.id), listed);
  }

  async #rename(id) {
    const each = store.list.find((one) => one.id === id);
    const title = await entered({ title: "Rename this conversation", label: "Title", value: conversationTitle(each), longest: 200, action: "Rename" });
    if (title === null || title === each.title) return;
    try {
      await store.rename(id, title, each.title_tag);
    } catch (error) {
      if (error.status !== 412) return this.trouble(explain(error));
      await store.refresh().catch(() => {});
      const other = store.list.find((one) => one.id === id);
      const called = other ? ` It is called “${conversationTitle(other)}” now.` : "";
      this.trouble({ title: "It was renamed elsewhere meanwhile", advice: `Your title is not kept.${called} Rename it again if yours is better.` });
    }
  }

  async #remove(id) {
    const each = store.list.find((one) => one.id === id);
    const sure = await confirmed({
      title: "Delete this conversation?",
      text: `“${conversationTitle(each)}”, its answers and its image are removed from the server. This cannot be undone.`,
      action: "Delete",
    });
    if (!sure) return;
    try {
      await store.remove(id);
    } catch (error) {
      // Deleted elsewhere is deleted.
      if (error.status !== 404) return this.trouble(explain(error));
      await store.refresh().catch(() => {});
      store.forget(id);
    }
    this.gone(id);
  }
}
