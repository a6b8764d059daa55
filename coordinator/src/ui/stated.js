// Which findings a report states, by its words. Nobody labels what a person has just typed, so the page looks for the words
// that reports use, and for what denies them before or behind. Of what it does not find it says nothing. The sentences that it
// must read rightly are in `tests/it/browser/stated_sentences.js`.

const WORDS = {
  "Enlarged Cardiomediastinum": /(?:enlarged|widened|wide|prominent|widening of the|enlargement of the) (?:superior )?(?:cardio)?mediastin\w*|mediastin\w*(?: \w+){0,3} (?:enlarged|widened|wide|prominent)/,
  Cardiomegaly: /cardiomegaly|(?:heart|cardiac|cardio)(?: \w+){0,5} (?:enlarged|enlargement|increased|large|abnormal in size)|(?:enlarged|enlargement of the) (?:heart|cardiac)/,
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
// Begins a denial of all that follows, over the commas of a list.
const DENIES = /\b(?:no|not|without|free of|clear of|absence of|negative for|neither|nor)\b/;
// Denies what follows in its own part only.
const BEFORE = new RegExp(`${DENIES.source}|\\b(?:resolution|removal|clearing) of\\b|(?<!\\b(?:has|have|had|is|are|was|were|been|now|partially|partly) )\\bresolved (?:\\w+ ){0,2}$`);
// Denies what stands before it.
const BEHIND = /\b(?:absent|none|resolved|cleared|unlikely|excluded|ruled out|no longer|not (?:seen|identified|present|visible|visuali[sz]ed|evident|noted|demonstrated|appreciated|detected)|(?:is|are|was|were) not)\b/;
const ANSWER = /^\s*(?:no|negative|nil)\s*$/;
// A device that was taken out is not in the image.
const REMOVED = /\b(?:removed|withdrawn|taken out|pulled)\b/;
const DEVICES = "Support Devices";
// What follows these says nothing of what stands before them.
const APART = /\b(?:after|since|with|which|remains?|persists?|(?:is|are|was|were) (?:seen|present|noted|again|stable|unchanged|visible))\b/;
// Words that only look like a denial, and what to read in their place.
const READ_AS = [
  [/\b(?:cannot|can not|not) be (?:fully |entirely |completely )?(?:excluded|ruled out)|\bnot excluded\b/g, " "],
  [/\b(?:no|not|without)(?: \w+){0,2} changed?(?: in| of| from)?\b/g, " "],
  [/\b(?:(?:is|are|has|have|was|were) )?(?:not (?:yet )?|incompletely |partially |partly |nearly |almost )(?:been )?(?:fully |completely |entirely )?(?:resolved|cleared|removed)\b/g, " "],
  [/\b(?:(?:is|are|was|were) )?not (?:present|seen|visible|noted|there|evident|identified)(?: \w+)? (?:before|previously|earlier|(?:on|in) (?:the )?(?:prior|previous|earlier|last))\b/g, " "],
  [/\bnot normal\b/g, "abnormal"],
  [/\b(heart|silhouette|mediastinum)\s*:\s*(?=enlarged|large|normal|wid|prominent)/g, "$1 is "],
];
// Where one statement ends and another begins. What a colon names, "none" behind it denies.
const ENDS = /[.;!?\n]|:(?!\s*(?:none|no|negative|nil|absent|not (?:seen|present|identified|visible|evident))\s*(?:[.;,!?\n]|$))|\b(?:but|however|although|though|while)\b|(?=\bthere (?:is|are|has|was|were)\b)/;
// Begins something of its own behind a denial: a size, a side, an age, a degree, an article.
const FRESH = "(?:a|an|the|there|this|trace|tiny|small|moderate|large|massive|mild|minimal|marked|severe|extensive|subtle|new|old|stable|persistent|unchanged|improved|improving|worsening|increased|increasing|decreased|left|right|bilateral|bibasilar|basilar|probable|possible|likely|status)";
const COMMA = /[,:]/;
const AND_FRESH = new RegExp(`(?=\\b(?:and|with) ${FRESH}\\b)`);
const IS_FRESH = new RegExp(`^(?:and |with )?${FRESH}\\b|\\b(?:is|are|was|were|has|have|had|shows?|remains?|persists?|demonstrates?)\\b`);
const NOTICED = /\b(?:is|are|was|were) (?:seen|identified|present|noted|visible|visuali[sz]ed|evident|demonstrated|appreciated|detected)\s*$/;
// A denial of what stands before it, not of what follows.
const UNSEEN = /\b(?:not|no longer) \w+\s*$/;
const JOINED = /\b(?:or|nor)\b/;

/** A statement's parts at its commas, each with whether a denial before it reaches over: as far as a bare list goes. */
function partsOf(statement) {
  const parts = statement.split(COMMA).flatMap((part) => (DENIES.test(part) ? part.split(AND_FRESH) : [part])).map((part) => part.trim()).filter(Boolean);
  let denied = false;
  return parts.map((part, index) => {
    // An "or" at its end makes a list of all that is between.
    const listed = parts.slice(index).some((later) => JOINED.test(later));
    denied = denied && (listed || !IS_FRESH.test(part.replace(NOTICED, "")));
    const reached = denied;
    denied ||= DENIES.test(part.replace(UNSEEN, ""));
    return { part, reached, next: parts[index + 1] ?? "" };
  });
}

/** A map of finding to true where the text states it, false where it denies it; nothing where it says neither. */
export function statedIn(text) {
  const stated = new Map();
  const read = READ_AS.reduce((words, [odd, plain]) => words.replace(odd, plain), (text ?? "").toLowerCase());
  for (const { part, reached, next } of read.split(ENDS).flatMap(partsOf)) {
    for (const [words, findings] of DENIALS) {
      if (!words.test(part)) continue;
      for (const finding of findings) if (!DENIES.test(part) && !stated.has(finding)) stated.set(finding, false);
    }
    for (const [finding, words] of Object.entries(WORDS)) {
      const found = part.match(new RegExp(`\\b(?:${words.source})\\b`));
      if (!found) continue;
      const [before, behind] = [part.slice(0, found.index), part.slice(found.index + found[0].length)];
      const tail = behind.split(APART)[0];
      // What is behind a name and its colon or comma ("Effusion: none").
      const answer = behind.trim() === "" && (ANSWER.test(next) || /^(?:none|absent|not \w+|(?:now |since )?resolved)$/.test(next));
      const gone = finding === DEVICES && REMOVED.test(tail);
      const denied = reached || BEFORE.test(before) || DENIES.test(found[0]) || BEHIND.test(tail) || answer || gone;
      // Said once is said.
      if (!denied || !stated.has(finding)) stated.set(finding, !denied);
    }
  }
  return stated;
}
