// A button that opens a list of choices. The native popover closes with Escape or a click elsewhere and is over
// everything; the keys are those of the ARIA menu button pattern.

import { button, el } from "/assets/dom.js";
import { icon } from "/assets/icons.js";

let count = 0;

/** A menu button. `items()` gives `[{label, note, value}]` when it is opened; `choose(value)` gets the chosen one. */
export function menuButton(label, { items, choose, ...attributes }) {
  const id = `menu-${(count += 1)}`;
  const opener = button(label, { "aria-haspopup": "menu", "aria-expanded": "false", "aria-controls": id, ...attributes });
  opener.append(icon("more"));
  const menu = el("div", { id, class: "menu", role: "menu", popover: "auto", "aria-label": label });

  const open = () => {
    menu.replaceChildren(...items().map((item) => entry(item, () => {
      menu.hidePopover();
      opener.focus();
      choose(item.value);
    })));
    menu.showPopover();
    place(menu, opener);
    menu.firstElementChild?.focus();
  };
  // The click that closes an open popover would open it again.
  let wasOpen = false;
  opener.addEventListener("pointerdown", () => (wasOpen = menu.matches(":popover-open")));
  opener.addEventListener("click", () => {
    if (wasOpen) menu.hidePopover();
    else open();
    wasOpen = false;
  });
  opener.addEventListener("keydown", (event) => {
    if (event.key !== "ArrowDown" && event.key !== "ArrowUp") return;
    event.preventDefault();
    open();
  });
  // Before and not after it: "toggle" comes in a task of its own, and until then the button would lie.
  menu.addEventListener("beforetoggle", (event) => opener.setAttribute("aria-expanded", String(event.newState === "open")));
  menu.addEventListener("keydown", (event) => move(event, menu, opener));
  return el("span", { class: "menu-holder" }, opener, menu);
}

function entry({ label, note }, on) {
  const item = el("button", { type: "button", role: "menuitem", tabindex: "-1", on: { click: on } }, el("span", { text: label }));
  if (note) item.append(el("span", { class: "quiet number", text: note }));
  return item;
}

function move(event, menu, opener) {
  const items = [...menu.children];
  const at = items.indexOf(document.activeElement);
  const to = { ArrowDown: at + 1, ArrowUp: at - 1, Home: 0, End: items.length - 1 }[event.key];
  if (to !== undefined) {
    event.preventDefault();
    items.at(to % items.length)?.focus();
  } else if (event.key === "Tab") {
    menu.hidePopover();
    opener.focus();
  } else if (event.key === "Escape") {
    // The browser closes it; the focus has to be put back.
    opener.focus();
  } else if (event.key.length === 1) {
    items.find((item, index) => index > at && item.textContent.toLowerCase().startsWith(event.key.toLowerCase()))?.focus();
  }
}

/** Above its button where there is room, since the buttons stand at the page's foot. */
function place(menu, opener) {
  const at = opener.getBoundingClientRect();
  const { width, height } = menu.getBoundingClientRect();
  const left = Math.max(8, Math.min(at.left, innerWidth - width - 8));
  const above = at.top - height - 6;
  menu.style.left = `${left}px`;
  menu.style.top = `${above >= 8 ? above : Math.min(at.bottom + 6, innerHeight - height - 8)}px`;
}
