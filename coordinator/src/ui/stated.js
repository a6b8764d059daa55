// Which findings a report states, by its words. Nobody labels what a person has just typed, so the page looks for the words
// that reports use, and for what denies them before or behind. What it does not know it leaves as it was.

const WORDS = {
  "Enlarged Cardiomediastinum": /(?:enlarged|widened|wide|prominent|widening of the|enlargement of the) (?:superior )?(?:cardio)?mediastin\w*|mediastin\w*(?: \w+){0,3} (?:enlarged|widened|wide|prominent)/,
  Cardiomegaly: /cardiomegaly|(?:heart|cardiac|cardio)(?: \w+){0,5} (?:enlarged|enlargement|increased|large)|(?:enlarged|enlargement of the) (?:heart|cardiac)/,
  "Lung Opacity": /opacit(?:y|ies)|opacification|infiltrat\w+|airspace disease/,
  "Lung Lesion": /nodul(?:e|es|ar)|mass(?:es)?|lesions?|cavit(?:y|ies|ary)/,
  Edema: /o?edema|(?:vascular|pulmonary) congestion/,
  Consolidation: /consolidat\w+/,
  Pneumonia: /pneumonia\w*|infectio\w+/,
  Atelectasis: /atelecta\w+/,
  Pneumothorax: /(?:hydro)?pneumothora\w+/,
  "Pleural Effusion": /effusions?|pleural fluid/,
  "Pleural Other": /pleural(?: \w+){0,2} (?:thickening|plaques?|scar\w*|calcification\w*)|fibrothorax/,
  Fracture: /fractur\w+/,
  "Support Devices": /tubes?|catheters?|pacemaker|(?:picc|central|venous) lines?|sternotomy wires?|leads?|port|stent|drain|prosthes[ie]s|defibrillator/,
};
// What says that there are none of several.
const DENIALS = [
  [/(?:heart|cardiac|cardiomediastinal)(?: \w+){0,4} normal|normal (?:heart|cardiac|cardiomediastinal)/, ["Cardiomegaly"]],
  [/mediastin\w*(?: \w+){0,3} normal|normal (?:cardio)?mediastin/, ["Enlarged Cardiomediastinum"]],
  [/lungs?(?: \w+){0,3} clear|clear lungs?/, ["Lung Opacity", "Consolidation"]],
];
const BEFORE = /\b(?:no|not|without|free of|clear of|absence of|negative for|neither|nor|resolution of)\b/;
const BEHIND = /^[^,]*\b(?:absent|(?:has|have) (?:resolved|cleared)|unlikely|excluded|ruled out|no longer|(?:is|are|was|were) not)\b/;
// Words that only look like a denial.
const DOUBT = /\b(?:cannot|can not|not) be (?:fully |entirely |completely )?(?:excluded|ruled out)|\bnot excluded\b/g;
const UNCHANGED = /\b(?:no|not|without)(?: \w+){0,2} changed?(?: in| of| from)?\b/g;
// Where one statement ends and another begins.
const ENDS = /[.;:!?\n]|\b(?:but|however|although|though|while)\b|(?=\bthere (?:is|are|has|was|were)\b)/;

/** A map of finding to true where the text states it, false where it denies it; nothing where it says neither. */
export function statedIn(text) {
  const stated = new Map();
  for (const part of (text ?? "").toLowerCase().replace(DOUBT, " ").replace(UNCHANGED, " ").split(ENDS)) {
    for (const [words, findings] of DENIALS) {
      if (!words.test(part)) continue;
      for (const finding of findings) if (!BEFORE.test(part) && !stated.has(finding)) stated.set(finding, false);
    }
    for (const [finding, words] of Object.entries(WORDS)) {
      const found = part.match(new RegExp(`\\b(?:${words.source})\\b`));
      if (!found) continue;
      const denied = BEFORE.test(part.slice(0, found.index) + found[0]) || BEHIND.test(part.slice(found.index + found[0].length));
      // Said once is said.
      if (!denied || !stated.has(finding)) stated.set(finding, !denied);
    }
  }
  return stated;
}
