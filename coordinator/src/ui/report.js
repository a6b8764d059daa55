// Taking a report away from the page as a file. Wherever it goes, it says what it is.

import { sentence } from "/assets/errors.js";
import { isFinal, answerOf, shown, store } from "/assets/store.js";
import { percent, titleOf } from "/assets/tasks.js";

const DISCLAIMER = "Research use only. Not a medical device. Written by a language model; not checked unless marked as edited.";

/** Saves a report as a text file, with what it rests on. Of a report that is folded nothing leads here. */
export function downloadText(turn) {
  const { view } = store;
  const present = shown(view.findings?.findings ?? []);
  const lines = [
    turn.edited === null || turn.edited === undefined ? "Chest X-ray report" : "Chest X-ray report (edited)",
    DISCLAIMER,
    "",
    ...(view.indication ? [`Indication: ${view.indication}`, ""] : []),
    answerOf(turn).trim(),
    "",
    ...(view.findings?.warnings?.length ? [`Mind the image: ${view.findings.warnings.map(sentence).join(" ")}`] : []),
    ...(view.findings ? [`Classifier: ${present.map((each) => `${each.finding} ${percent(each.probability)}`).join(", ") || "nothing present"}`] : []),
    `Conversation ${view.id}, turn ${turn.turn}, ${new Date(view.created_ms).toISOString()}`,
    "",
  ];
  save(lines.join("\n"), "text/plain", `${fileName(turn)}.txt`);
}

/** Saves the whole conversation as the API tells it, so that nothing is lost in between. */
export function downloadJson(turn) {
  const { view } = store;
  const document = {
    notice: DISCLAIMER,
    report_turn: turn.turn,
    report: answerOf(turn),
    ...view,
    turns: view.turns.filter(isFinal).map((each) => ({ ...each, title: titleOf(each.request) })),
  };
  save(JSON.stringify(document, null, 2), "application/json", `${fileName(turn)}.json`);
}

function fileName(turn) {
  return `radialog-${store.view.id.slice(0, 8)}-turn-${turn.turn}`;
}

function save(text, type, name) {
  const address = URL.createObjectURL(new Blob([text], { type: `${type};charset=utf-8` }));
  const link = document.createElement("a");
  link.href = address;
  link.download = name;
  document.body.append(link);
  link.click();
  link.remove();
  // The download has to have begun.
  setTimeout(() => URL.revokeObjectURL(address), 10000);
}
