// Questions that need an answer before anything goes on: the native <dialog>, which keeps the focus inside and gives it
// back, closes with Escape, and hides the rest from screen readers.

import { button, el, show } from "/assets/dom.js";

/** Asks for confirmation; true when it was given. */
export function confirmed({ title, text, action }) {
  const { dialog, answer } = frame(title, "alertdialog");
  dialog.append(
    el("p", { text }),
    el("div", { class: "row end" },
      button("Keep it", { on: () => dialog.close("") , autofocus: true }),
      button(action, { kind: "danger", icon: "trash", on: () => dialog.close("yes") })),
  );
  dialog.showModal();
  return answer.then((value) => value === "yes");
}

/** Asks for a line of text; null when none was entered. */
export function entered({ title, label, value, longest, action }) {
  const { dialog, answer } = frame(title, "dialog");
  const input = el("input", { type: "text", id: "entered", autocomplete: "off", required: true, maxlength: longest });
  input.value = value;
  dialog.append(el("form", {
      on: {
        submit(event) {
          event.preventDefault();
          if (input.value.trim()) dialog.close(input.value.trim());
        },
      },
    },
    el("div", { class: "field" }, el("label", { for: "entered", text: label }), input),
    el("div", { class: "row end" },
      button("Cancel", { on: () => dialog.close("") }),
      el("button", { type: "submit", class: "button primary" }, el("span", { text: action })))));
  dialog.showModal();
  input.focus();
  input.select();
  return answer.then((text) => text || null);
}

/** Asks for the API key; null when none was entered. */
export function askKey(refused) {
  const { dialog, answer } = frame("API key", "dialog");
  const input = el("input", { type: "password", id: "key", autocomplete: "off", spellcheck: "false", required: true, "aria-describedby": "key-help" });
  const wrong = el("p", { class: "notice error", role: "alert", text: "This key was refused. Check it, or ask your administrator for a new one." });
  show(wrong, refused);
  const form = el("form", {
      on: {
        submit(event) {
          event.preventDefault();
          if (input.value.trim()) dialog.close(input.value.trim());
        },
      },
    },
    el("p", { id: "key-help", text: "This server wants a key. It is kept until you close this tab, and sent to this server only." }),
    wrong,
    el("div", { class: "field" }, el("label", { for: "key", text: "Key" }), input),
    el("div", { class: "row end" },
      button("Not now", { on: () => dialog.close("") }),
      el("button", { type: "submit", class: "button primary" }, el("span", { text: "Continue" }))),
  );
  dialog.append(form);
  dialog.showModal();
  input.focus();
  return answer.then((value) => value || null);
}

function frame(title, role) {
  const dialog = el("dialog", { role, "aria-labelledby": "dialog-title" }, el("h2", { id: "dialog-title", text: title }));
  document.body.append(dialog);
  const answer = new Promise((done) => {
    dialog.addEventListener("close", () => {
      dialog.remove();
      done(dialog.returnValue);
    });
  });
  return { dialog, answer };
}
