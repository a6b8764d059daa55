// Building elements. Text always goes in as text nodes: what the model or another person wrote must never become HTML.

import { icon } from "/assets/icons.js";

/**
 * A new element. `attributes` may have `class`, `text`, `on` (listeners by event name) and `icon`; true and false set
 * and leave out an attribute.
 */
export function el(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name === "on") {
      for (const [event, listener] of Object.entries(value)) element.addEventListener(event, listener);
    } else if (name === "icon") {
      element.append(icon(value));
    } else if (name === "text") {
      element.append(value);
    } else if (value === true) {
      element.setAttribute(name, "");
    } else if (value !== false && value != null) {
      element.setAttribute(name, value);
    }
  }
  element.append(...children.filter((child) => child != null && child !== false));
  return element;
}

/** The element with this id, which the page must have. */
export function byId(id) {
  const element = document.getElementById(id);
  if (!element) throw new Error(`the page has no element #${id}`);
  return element;
}

/** Shows or hides. */
export function show(element, visible) {
  element.hidden = !visible;
}

/** Sets text only when it differs: screen readers and selections mind needless changes. */
export function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

/** A button with an icon and a label; with `quiet` the label is only for screen readers and the tooltip. */
export function button(label, { icon: name, quiet = false, kind = "", on, ...attributes } = {}) {
  const classes = quiet ? "icon-button" : `button ${kind}`.trim();
  const named = quiet ? { "aria-label": label, title: label } : {};
  return el(
    "button",
    { type: "button", class: classes, ...named, ...attributes, ...(name ? { icon: name } : {}), on: on ? { click: on } : {} },
    ...(quiet ? [] : [el("span", { text: label })]),
  );
}
