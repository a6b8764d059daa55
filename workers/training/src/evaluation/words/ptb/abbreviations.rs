//! Abbreviations and first words of sentences, as the caption toolkit's tokenizer treats them.
//!
//! Measured, not taken from its source: candidates were the abbreviations that the United States Government's Style Manual names
//! (titles, ranks, months, days, states, companies, streets, scholarly words), words before a full stop in Indiana
//! University's reports, and English function words. Each was put before "The", "the", a number and the end of a text (a first
//! word behind "p.m."), the toolkit's program was run, and those are here that it does not split as it splits other words. With
//! them, all 6,768 different texts of those reports and of the recorded pairs are split as the toolkit splits them.

/// Abbreviations in any case whose full stop ends a sentence, too, if a capital follows: two tokens are made of it.
pub(super) const ENDING: &[&str] = &[
    "al", "ala", "apr", "ariz", "assn", "aug", "bldg", "blvd", "bros", "calif", "co", "colo",
    "conn", "corp", "cos", "ct", "dec", "ed.d", "esq", "est", "etc", "ext", "feb", "fla", "fri",
    "ga", "inc", "ind", "intl", "jan", "jr", "jul", "jun", "kan", "kans", "ky", "ltd", "mar", "md",
    "mich", "minn", "mo", "mon", "mont", "nev", "nov", "oct", "okla", "ph.d", "plc", "rd", "rt",
    "sep", "sept", "seq", "sq", "sr", "tenn", "thu", "thurs", "tue", "tues", "univ", "va", "vt",
    "wed", "wis", "wyo",
];
/// The same, but in lower case they are words.
pub(super) const ENDING_AS_NAMES: &[&str] = &[
    "Ark", "Del", "Ill", "La", "Mass", "Miss", "Ore", "Pa", "Tex", "Wash",
];
/// Abbreviations in any case that go on: titles, "vs." and the like.
pub(super) const GOING_ON: &[&str] = &[
    "adj", "adm", "alex", "asst", "atty", "attys", "ave", "brig", "capt", "cf", "cmdr", "col",
    "comdr", "cpl", "dept", "det", "dr", "drs", "ens", "ft", "gen", "gov", "govs", "hon", "insp",
    "jos", "lieut", "lt", "maj", "messrs", "mlle", "mme", "mr", "mrs", "ms", "mt", "natl", "pfc",
    "ph", "pres", "prof", "profs", "pvt", "rep", "reps", "rev", "sen", "sens", "sgt", "spc", "st",
    "ste", "supt", "supts", "treas", "vs", "wm",
];
/// Abbreviations in any case that are one before a number only.
pub(super) const BEFORE_NUMBERS: &[&str] = &["art", "ca", "fig", "figs", "no", "nos", "op", "pp"];
/// Words behind which, as the next one and with a capital, an initial or "p.m." has ended a sentence.
pub(super) const OPENING: &[&str] = &[
    "a",
    "about",
    "according",
    "additionally",
    "after",
    "an",
    "as",
    "at",
    "but",
    "earlier",
    "he",
    "her",
    "here",
    "however",
    "if",
    "in",
    "it",
    "last",
    "many",
    "more",
    "mr.",
    "ms.",
    "now",
    "once",
    "one",
    "other",
    "our",
    "she",
    "since",
    "so",
    "some",
    "such",
    "that",
    "the",
    "their",
    "then",
    "there",
    "these",
    "they",
    "this",
    "we",
    "what",
    "when",
    "while",
    "yet",
    "you",
];
