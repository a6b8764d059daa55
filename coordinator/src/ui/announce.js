// Says things to screen readers. A streamed answer is said sentence by sentence: token by token it would be noise, and only
// at the end it would be late.

import { byId } from "/assets/dom.js";

// Shorter ones are joined with what follows, e.g. "1." of a list or "Dr.".
const SHORTEST = 25;

let said = { turn: null, length: 0 };

/** Says a text when the reader is free. */
export function announce(text) {
  // A node of its own: setting the same text again would not be said.
  const line = document.createElement("span");
  line.textContent = `${text} `;
  const region = byId("announce");
  region.append(line);
  while (region.childNodes.length > 4) region.firstChild.remove();
}

/** Says what is new of an answer that grows, up to its last full sentence; all of it when it is `over`. */
export function announceAnswer(key, text, over) {
  if (said.turn !== key) said = { turn: key, length: 0 };
  const rest = text.slice(said.length);
  const end = over ? rest.length : lastSentenceEnd(rest);
  if (end < (over ? 1 : SHORTEST)) return;
  announce(rest.slice(0, end).trim());
  said.length += end;
}

/** Takes an answer as said, e.g. one that was there when the page was opened. */
export function alreadySaid(key, text) {
  said = { turn: key, length: text.length };
}

function lastSentenceEnd(text) {
  let end = 0;
  for (const match of text.matchAll(/[.!?](?=\s)|\n/g)) end = match.index + 1;
  return end;
}
