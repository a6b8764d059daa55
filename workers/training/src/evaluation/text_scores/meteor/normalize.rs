//! METEOR 1.5's own normalisation of English (`-norm`, punctuation kept), which runs over texts that were split before, too:
//! signs and clitics are split off, quotes and dashes unified, full stops split off but for abbreviations, all in lower case.

use std::borrow::Cow;
use std::collections::HashSet;
use std::sync::LazyLock;

use regex::{Captures, Regex};

/// Letters of the western languages.
const ALPHA: &str = r"A-Za-zŠŽšžŸÀ-ÖØ-öø-žЀ-ӿԀ-ԧꙀ-ꙮꙿ-ꚗᴀ-ᵿ";
/// Marks an abbreviation in the list that is one before a number only.
const BEFORE_NUMBERS: &str = "#NUMERIC_ONLY#";
/// Stands for a full stop of a run of them while single ones are looked at.
const DOT: char = '\u{1}';

/// Words that a full stop behind them belongs to: what follows "Dr" is no end of a sentence.
#[derive(Default)]
pub(super) struct Abbreviations {
    always: HashSet<String>,
    before_numbers: HashSet<String>,
}

impl Abbreviations {
    /// Reads METEOR's `english.prefixes`: one a line, comments behind `#`.
    pub(super) fn parse(list: &str) -> Self {
        let mut abbreviations = Self::default();
        for line in list.lines() {
            let Some(word) = line
                .split('#')
                .next()
                .map(str::trim)
                .filter(|w| !w.is_empty())
            else {
                continue;
            };
            let kind = if line.contains(BEFORE_NUMBERS) {
                &mut abbreviations.before_numbers
            } else {
                &mut abbreviations.always
            };
            kind.insert(word.to_owned());
        }
        abbreviations
    }
}

struct Rules {
    signs: Regex,
    dots: Regex,
    commas: [Regex; 3],
    quotes: Regex,
    double_quotes: Regex,
    dashes: Regex,
    apostrophes: [(Regex, &'static str); 5],
    letters: Regex,
    spaces: Regex,
}

static RULES: LazyLock<Rules> = LazyLock::new(|| {
    let alnum = format!("0-9{ALPHA}");
    // The patterns are constants: the test below compiles them.
    let of = |pattern: &str| Regex::new(pattern).unwrap_or_else(|error| unreachable!("{error}"));
    Rules {
        signs: of(&format!(r"([^{alnum}\x20\t\n\x0b\f\r.'`,\-‘’])")),
        dots: of(r"\.{2,}"),
        commas: [
            of(r"([^0-9])[,]([^0-9])"),
            of(r"([0-9])[,]([^0-9])"),
            of(r"([^0-9])[,]([0-9])"),
        ],
        quotes: of(r"[`‘’]"),
        double_quotes: of(r"[“”]|''"),
        dashes: of(&format!(r"([{alnum}.])[-]([{alnum}])")),
        apostrophes: [
            (of(&format!("([^{ALPHA}])[']([^{ALPHA}])")), "$1 ' $2"),
            (of(&format!("([^{ALPHA}0-9])[']([{ALPHA}])")), "$1 ' $2"),
            (of(&format!("([{ALPHA}])[']([^{ALPHA}])")), "$1 ' $2"),
            (of(&format!("([{ALPHA}])[']([{ALPHA}])")), "$1 '$2"),
            (of("([0-9])[']([s])"), "$1 '$2"),
        ],
        letters: of(&format!("[{ALPHA}]")),
        spaces: of("[ \u{a0}\u{2000}-\u{200a}\u{3000}]+"),
    }
});

/// Normalises a text: words with single blanks between them, in lower case.
pub(super) fn normalized(text: &str, abbreviations: &Abbreviations) -> String {
    let rules = &*RULES;
    let mut line = format!(" {text} ");
    // Most rules find nothing.
    let replace = |line: &mut String, rule: &Regex, with: &str| {
        if let Cow::Owned(replaced) = rule.replace_all(line, with) {
            *line = replaced;
        }
    };
    replace(&mut line, &rules.signs, " $1 ");
    let dots = |found: &Captures<'_>| format!("{} ", DOT.to_string().repeat(found[0].len()));
    if let Cow::Owned(replaced) = rules.dots.replace_all(&line, dots) {
        line = replaced;
    }
    for rule in &rules.commas {
        replace(&mut line, rule, "$1 , $2");
    }
    replace(&mut line, &rules.quotes, "'");
    replace(&mut line, &rules.double_quotes, "\"");
    line = line.replace('–', "-").replace("--", "-");
    replace(&mut line, &rules.dashes, "$1 $2");
    if line.contains('\'') {
        for (rule, with) in &rules.apostrophes {
            replace(&mut line, rule, with);
        }
    }
    let words: Vec<&str> = line.split_ascii_whitespace().collect();
    let mut split = String::with_capacity(line.len());
    for (at, word) in words.iter().enumerate() {
        push(&mut split, word, words.get(at + 1).copied(), abbreviations);
        split.push(' ');
    }
    let split = split.replace(DOT, ".");
    rules.spaces.replace_all(&split, " ").trim().to_lowercase()
}

/// Adds a word, its full stop split off unless it belongs to an abbreviation.
fn push(split: &mut String, word: &str, next: Option<&str>, abbreviations: &Abbreviations) {
    let Some(before) = word.strip_suffix('.').filter(|before| !before.is_empty()) else {
        split.push_str(word);
        return;
    };
    let next_begins = |test: fn(&char) -> bool| {
        next.and_then(|next| next.chars().next())
            .is_some_and(|first| test(&first))
    };
    if before.contains('.') && RULES.letters.is_match(before) {
        split.push_str(&word.replace('.', ""));
    } else if abbreviations.always.contains(before)
        || next_begins(char::is_ascii_lowercase)
        || (abbreviations.before_numbers.contains(before) && next_begins(char::is_ascii_digit))
    {
        split.push_str(word);
    } else {
        split.push_str(before);
        split.push_str(" .");
    }
}

#[cfg(test)]
mod tests {
    use super::{Abbreviations, normalized};

    #[test]
    fn signs_and_clitics_are_words_and_abbreviations_keep_their_stop() {
        let list = "# a comment\n\nDr\nNo #NUMERIC_ONLY#\n";
        let text = "Dr. Who's 2-cm nodule (left), e.g. p.m. End. No. 7. No. Dr.";
        assert_eq!(
            normalized(text, &Abbreviations::parse(list)),
            "dr. who 's 2 cm nodule ( left ) , eg pm end . no. 7 . no . dr."
        );
        assert_eq!(normalized("Dr. Who", &Abbreviations::default()), "dr . who");
    }
}
