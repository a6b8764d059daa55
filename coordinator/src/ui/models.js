// Which model answers: the choice where there are several, and what is known of each (licence, weights, limits).

import { api } from "/assets/api.js";
import { byId, el, setText, show } from "/assets/dom.js";
import { store } from "/assets/store.js";

export class Models {
  #models = [];

  constructor() {
    this.select = byId("model");
    this.about = byId("about-model");
    this.select.addEventListener("change", () => this.#describe(this.chosen()));
    store.addEventListener("opened", () => this.#answering());
  }

  /** Reads what there is. */
  async load() {
    const { data } = await api.models();
    this.#models = data;
    this.select.replaceChildren(...data.map((model) => el("option", { value: model.id, text: model.id })));
    show(byId("model-field"), data.length > 1);
    this.#describe(this.chosen());
    this.#answering();
    store.dispatchEvent(new Event("models"));
    return data;
  }

  /** The name that a new conversation asks for; null where there is no choice. */
  chosen() {
    return this.#models.length > 1 ? this.select.value : null;
  }

  /** Whether the open conversation's model was trained for a task that others were not. */
  knows(task) {
    return Boolean(this.#models.find(({ id }) => id === store.view?.model)?.tasks.includes(task));
  }

  #describe(id) {
    const model = this.#models.find((each) => each.id === id) ?? this.#models[0];
    show(this.about, Boolean(model));
    if (!model) return;
    const { limits } = model;
    const lines = [
      ["Model", model.id],
      ["Bundle", `${model.bundle} ${model.version} (${model.hash.slice(0, 12)})`],
      ["Adapter", model.adapter ?? null],
      ["Licence", model.license || null],
      ["Context", model.context_tokens ? `${model.context_tokens} tokens for the whole dialog with its answer` : null],
      ["Limits", `answers of ${limits.max_new_tokens} tokens, ${limits.max_turns} turns, images of ${Math.round(limits.max_image_bytes / 2 ** 20)} MiB`],
    ];
    byId("about-model-lines").replaceChildren(
      ...lines.filter(([, text]) => text).flatMap(([name, text]) => [el("dt", { text: name }), el("dd", { text })]));
  }

  /** The open conversation's model stands above its turns. */
  #answering() {
    const name = store.view?.model;
    show(byId("answered-by"), Boolean(store.view) && this.#models.length > 0);
    setText(byId("answered-by"), name ? `Answered by ${name}` : "The model of this conversation is not served here any more.");
  }
}
