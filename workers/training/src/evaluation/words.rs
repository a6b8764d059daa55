//! The words of a text as the original counts them: NLTK 3.8.1's `word_tokenize`, which cuts a text into sentences with Punkt
//! and each sentence into words with the rules of the Penn Treebank. Every rule is a replacement over the whole sentence, in
//! the order below; a full stop is a word of its own at the end of a sentence only.

use std::borrow::Cow;
use std::sync::LazyLock;

use radialog_models::sentences::{is_space, sentences};
use regex::Regex;

pub mod ptb;

/// Python's white space, which has the four ASCII separators on top of Unicode's.
const SPACE: &str = r"[\s\x1c-\x1f]";

/// A replacement.
struct Rule {
    pattern: Regex,
    replacement: &'static str,
    /// Whether a word must begin or end where the pattern does.
    begins_word: bool,
    ends_word: bool,
}

/// Replacements before the sentence is put between blanks.
static RULES: LazyLock<Vec<Rule>> = LazyLock::new(|| {
    let rules = [
        // Opening quotes.
        (r"([«“‘„]|`+)", " $1 "),
        (r#"^""#, "``"),
        (r"(``)", " $1 "),
        (r#"([ (\[{<])("|'{2})"#, "$1 `` "),
        // A quote before a single letter that is no ending.
        (r"(')([\p{L}\p{N}_--[MmTtSsDdNnſ]])\b", "$1 $2"),
        // Punctuation.
        (r#"([^.])(\.)([\])}>"'»”’ ]*)SPACE*$"#, "$1 $2 $3 "),
        (r"([:,])(\P{Nd})", " $1 $2"),
        (r"([:,])$", " $1 "),
        (r"(\.{2,})", " $1 "),
        (r"([;@#$%&])", " $1 "),
        (r#"([^.])(\.)([\])}>"']*)SPACE*$"#, "$1 $2$3 "),
        (r"([?!])", " $1 "),
        (r"([^'])' ", "$1 ' "),
        (r"([*])", " $1 "),
        (r"([\]\[(){}<>])", " $1 "),
        (r"(--)", " $1 "),
    ];
    rules.map(compiled).into()
});

/// Replacements after it.
static ENDINGS: LazyLock<Vec<Rule>> = LazyLock::new(|| {
    let rules = [
        // Closing quotes.
        (r"([»”’])", " $1 "),
        (r"('')", " $1 "),
        (r#"""#, " '' "),
        (r"([^' ])('[sS]|'[mM]|'[dD]|') ", "$1 $2 "),
        (r"([^' ])('ll|'LL|'re|'RE|'ve|'VE|n't|N'T) ", "$1 $2 "),
        // Words that have grown together (MacIntyre's list).
        (r"(?i)\b(can)(not)\b", " $1 $2 "),
        (r"(?i)\b(d)('ye)\b", " $1 $2 "),
        (r"(?i)\b(gim)(me)\b", " $1 $2 "),
        (r"(?i)\b(gon)(na)\b", " $1 $2 "),
        (r"(?i)\b(got)(ta)\b", " $1 $2 "),
        (r"(?i)\b(lem)(me)\b", " $1 $2 "),
        (r"(?i)\b(more)('n)\b", " $1 $2 "),
        (r"(?i)\b(wan)(na)(SPACE)", " $1 $2 $3"),
        (r"(?i) ('t)(is)\b", " $1 $2 "),
        (r"(?i) ('t)(was)\b", " $1 $2 "),
    ];
    rules.map(compiled).into()
});

/// The pattern without `\b`, which is looked at by [`is_word`]: for Rust, words have other characters than for Python.
fn compiled((pattern, replacement): (&str, &'static str)) -> Rule {
    let bounds = [pattern.contains(r"\b("), pattern.ends_with(r"\b")];
    let pattern = pattern.replace(r"\b", "").replace("SPACE", SPACE);
    Rule {
        pattern: Regex::new(&pattern).expect("the patterns are constants"),
        replacement,
        begins_word: bounds[0],
        ends_word: bounds[1],
    }
}

/// Whether Python counts a character to a word: letters, numbers of all kinds, and the underscore, but no combining marks.
fn is_word(character: char) -> bool {
    static WORD: LazyLock<Regex> =
        LazyLock::new(|| Regex::new(r"[\p{L}\p{N}_]").expect("the pattern is constant"));
    match character.is_ascii() {
        true => character.is_ascii_alphanumeric() || character == '_',
        false => WORD.is_match(character.encode_utf8(&mut [0; 4])),
    }
}

impl Rule {
    /// The text with all replacements; none where there are none.
    fn apply(&self, text: &str) -> Option<String> {
        if !self.begins_word && !self.ends_word {
            return match self.pattern.replace_all(text, self.replacement) {
                Cow::Owned(changed) => Some(changed),
                Cow::Borrowed(_) => None,
            };
        }
        let mut changed: Option<String> = None;
        let (mut at, mut copied) = (0, 0);
        while let Some(found) = self.pattern.captures_at(text, at) {
            let whole = found.get_match();
            let before = text[..whole.start()].chars().next_back();
            let after = text[whole.end()..].chars().next();
            // What matches begins and ends with characters of a word.
            let fits = !(self.begins_word && before.is_some_and(is_word)
                || self.ends_word && after.is_some_and(is_word));
            if fits {
                let changed = changed.get_or_insert_default();
                changed.push_str(&text[copied..whole.start()]);
                found.expand(self.replacement, changed);
                (at, copied) = (whole.end(), whole.end());
            } else {
                let first = text[whole.start()..].chars().next();
                at = whole.start() + first.map_or(1, char::len_utf8);
            }
        }
        changed.map(|changed| changed + &text[copied..])
    }
}

/// The words of a text in lower case, punctuation marks apart.
pub fn words(text: &str) -> Vec<String> {
    let sentences = sentences(text);
    sentences
        .iter()
        .flat_map(|text| sentence_words(text))
        .collect()
}

fn sentence_words(sentence: &str) -> Vec<String> {
    let spaced = replaced(sentence.to_owned(), &RULES);
    let whole = replaced(format!(" {spaced} "), &ENDINGS);
    whole
        .split(is_space)
        .filter(|word| !word.is_empty())
        .map(str::to_lowercase)
        .collect()
}

fn replaced(mut text: String, rules: &[Rule]) -> String {
    for rule in rules {
        // Most rules find nothing.
        if let Some(changed) = rule.apply(&text) {
            text = changed;
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_lower_case_and_numbers_stay_whole() {
        let expected = [
            "a", "3.5", "x", "2,000", "cm", "mid-svc", ",", "no", "effusion", ".",
        ];
        assert_eq!(words("A 3.5 x 2,000 cm mid-SVC, no effusion."), expected);
        assert!(words(" \n").is_empty());
    }

    #[test]
    fn a_full_stop_is_a_word_at_the_end_of_a_sentence_only() {
        assert_eq!(
            words("Dr. Smith isn't in at 4:15 p.m. on"),
            [
                "dr.", "smith", "is", "n't", "in", "at", "4:15", "p.m.", "on"
            ]
        );
        assert_eq!(words("cannot: no.Yes"), ["can", "not", ":", "no.yes"]);
        assert_eq!(words("Clear. Stable."), ["clear", ".", "stable", "."]);
        assert_eq!(words("No edema.. Heart"), ["no", "edema", "..", "heart"]);
    }

    #[test]
    fn words_begin_and_end_where_they_do_for_python() {
        // NLTK 3.8.1's words.
        for (text, expected) in [
            ("the 'b\u{301}", "the|'|b\u{301}"),
            ("the 'a²", "the|'a²"),
            ("the 'a b", "the|'|a|b"),
            ("the 'a_", "the|'a_"),
            ("cannot²", "cannot²"),
            ("cannot\u{301} go", "can|not|\u{301}|go"),
            ("cannot cannot.x gonna", "can|not|can|not|.x|gon|na"),
            ("scannot cannots", "scannot|cannots"),
            ("'tis 'twas²", "'t|is|'twas²"),
        ] {
            assert_eq!(words(text).join("|"), expected, "{text}");
        }
    }

    #[test]
    fn quotes_are_told_by_what_they_open_and_close() {
        assert_eq!(
            words("A \"fluffy\" mass (\"x\") the patient's 'a b"),
            [
                "a", "``", "fluffy", "''", "mass", "(", "``", "x", "''", ")", "the", "patient",
                "'s", "'", "a", "b"
            ]
        );
    }
}
