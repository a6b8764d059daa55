//! How much of a reference's wording a text has: BLEU-1 to 4 and ROUGE-L as the caption toolkit of the original computes
//! them (pycocoevalcap 1.2, one reference a text). METEOR is left out: it needs the synonyms and paraphrases of a Java
//! program, 62 MB of them.

use std::collections::HashMap;

/// Longest n-gram that counts.
const ORDERS: usize = 4;
/// Keeps a product of precisions from becoming 0, as the toolkit does.
const TINY: f64 = 1e-15;
/// Keeps a quotient from dividing by 0, as the toolkit does.
const SMALL: f64 = 1e-9;
/// How much more recall weighs than precision in ROUGE-L.
const BETA: f64 = 1.2;

/// Endings that are words of their own.
const ENDINGS: [&str; 7] = ["n't", "'s", "'m", "'d", "'ll", "'re", "'ve"];
/// Short forms that keep their full stop. The original knows many more from the Punkt model's data.
const SHORT_FORMS: [&str; 4] = ["dr", "mr", "mrs", "ms"];

/// The words of a text in lower case, punctuation marks apart, as the original splits them with NLTK: a full stop inside a
/// word or short form stays there ("p.m.", "3.5"), as do comma and colon between digits; "isn't" and "cannot" are two words.
pub fn words(text: &str) -> Vec<String> {
    let chars: Vec<char> = text.to_lowercase().chars().collect();
    let mut words = Vec::new();
    let mut word = String::new();
    for (index, &c) in chars.iter().enumerate() {
        let between = |kind: fn(&char) -> bool| {
            let is = |at: Option<usize>| at.and_then(|at| chars.get(at)).is_some_and(kind);
            is(index.checked_sub(1)) && is(Some(index + 1))
        };
        let stays = match c {
            '.' => between(|c| c.is_alphanumeric()) || is_short_form(&word),
            ',' | ':' => between(char::is_ascii_digit),
            '-' | '\'' | '_' | '/' => true,
            _ => c.is_alphanumeric(),
        };
        if stays {
            word.push(c);
            continue;
        }
        push_word(&mut words, &std::mem::take(&mut word));
        if !c.is_whitespace() {
            words.push(c.to_string());
        }
    }
    push_word(&mut words, &word);
    words
}

/// Whether a full stop behind this belongs to it: single letters with full stops between them, or a known form.
fn is_short_form(word: &str) -> bool {
    let letters = || word.split('.').all(|part| part.chars().count() == 1);
    SHORT_FORMS.contains(&word) || (word.contains('.') && letters())
}

fn push_word(words: &mut Vec<String>, word: &str) {
    let ending = ENDINGS
        .into_iter()
        .find(|ending| word.len() > ending.len() && word.ends_with(ending));
    match ending {
        _ if word.is_empty() => {}
        _ if word == "cannot" => words.extend(["can".to_owned(), "not".to_owned()]),
        Some(ending) => words.extend([
            word[..word.len() - ending.len()].to_owned(),
            ending.to_owned(),
        ]),
        None => words.push(word.to_owned()),
    }
}

/// The n-gram counts that BLEU is computed from, of one text or of many together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BleuCounts {
    /// n-grams that the reference has too, each at most as often as it does.
    matches: [u64; ORDERS],
    /// n-grams of the text.
    candidates: [u64; ORDERS],
    length: u64,
    reference_length: u64,
}

impl BleuCounts {
    /// Counts one text beside its reference.
    pub fn of<S: AsRef<str>>(candidate: &[S], reference: &[S]) -> Self {
        let mut counts = Self {
            length: candidate.len() as u64,
            reference_length: reference.len() as u64,
            ..Self::default()
        };
        for order in 0..ORDERS {
            let there = grams(reference, order + 1);
            for (gram, count) in grams(candidate, order + 1) {
                counts.candidates[order] += count;
                counts.matches[order] += count.min(there.get(&gram).copied().unwrap_or(0));
            }
        }
        counts
    }

    /// Adds the counts of another text.
    pub fn add(&mut self, other: &Self) {
        for order in 0..ORDERS {
            self.matches[order] += other.matches[order];
            self.candidates[order] += other.candidates[order];
        }
        self.length += other.length;
        self.reference_length += other.reference_length;
    }

    /// Computes BLEU-1 to BLEU-4, each 0 to 1, of all texts that were counted.
    pub fn scores(&self) -> [f64; ORDERS] {
        let ratio = (self.length as f64 + TINY) / (self.reference_length as f64 + SMALL);
        let brevity = if ratio < 1.0 {
            (1.0 - 1.0 / ratio).exp()
        } else {
            1.0
        };
        let mut product = 1.0;
        std::array::from_fn(|order| {
            product *=
                (self.matches[order] as f64 + TINY) / (self.candidates[order] as f64 + SMALL);
            product.powf(1.0 / (order + 1) as f64) * brevity
        })
    }
}

/// How often each run of `order` words occurs.
fn grams<S: AsRef<str>>(words: &[S], order: usize) -> HashMap<Vec<&str>, u64> {
    let mut grams = HashMap::new();
    for window in words.windows(order) {
        *grams
            .entry(window.iter().map(AsRef::as_ref).collect())
            .or_insert(0) += 1;
    }
    grams
}

/// Computes ROUGE-L of one text, 0 to 1: the weighted mean of precision and recall of the longest common subsequence of words.
pub fn rouge_l<S: AsRef<str>>(candidate: &[S], reference: &[S]) -> f64 {
    let common = longest_common(candidate, reference) as f64;
    if common == 0.0 {
        return 0.0;
    }
    let (precision, recall) = (
        common / candidate.len() as f64,
        common / reference.len() as f64,
    );
    (1.0 + BETA * BETA) * precision * recall / (recall + BETA * BETA * precision)
}

/// Length of the longest common subsequence.
fn longest_common<S: AsRef<str>>(a: &[S], b: &[S]) -> usize {
    let mut row = vec![0; b.len() + 1];
    for word in a {
        let mut diagonal = 0;
        for (at, other) in b.iter().enumerate() {
            let above = row[at + 1];
            row[at + 1] = if word.as_ref() == other.as_ref() {
                diagonal + 1
            } else {
                above.max(row[at])
            };
            diagonal = above;
        }
    }
    row.last().copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn split(text: &str) -> Vec<&str> {
        text.split_whitespace().collect()
    }

    #[test]
    fn words_are_lower_case_and_numbers_stay_whole() {
        let expected = [
            "a", "3.5", "x", "2,000", "cm", "mid-svc", ",", "no", "effusion", ".",
        ];
        assert_eq!(words("A 3.5 x 2,000 cm mid-SVC, no effusion."), expected);
        assert!(words(" \n").is_empty());
        assert_eq!(
            words("Dr. Smith isn't in at 4:15 p.m. on"),
            [
                "dr.", "smith", "is", "n't", "in", "at", "4:15", "p.m.", "on"
            ]
        );
        assert_eq!(words("cannot: no.Yes"), ["can", "not", ":", "no.yes"]);
    }

    #[test]
    fn repeated_words_match_only_as_often_as_the_reference_has_them() {
        let counts = BleuCounts::of(&split("the the the cat"), &split("the cat sat"));
        assert_eq!(
            (counts.matches, counts.candidates),
            ([2, 1, 0, 0], [4, 3, 2, 1])
        );
        assert!((counts.scores()[0] - 0.5).abs() < 1e-6);
    }

    #[test]
    fn a_short_text_is_punished_and_an_equal_one_is_perfect() {
        let reference = split("a b c d e f g h");
        assert!((BleuCounts::of(&reference, &reference).scores()[3] - 1.0).abs() < 1e-6);
        let half = BleuCounts::of(&reference[..4], &reference).scores();
        assert!((half[0] - (-1.0_f64).exp()).abs() < 1e-6, "{half:?}");
        assert!(BleuCounts::of(&[], &reference).scores()[3] < 1e-6);
    }

    #[test]
    fn rouge_weighs_recall_more() {
        assert_eq!(rouge_l(&split("a b"), &split("a b")), 1.0);
        assert_eq!(rouge_l(&split("x"), &split("a b")), 0.0);
        assert_eq!(rouge_l::<&str>(&[], &split("a b")), 0.0);
        let (long, short) = (
            rouge_l(&split("a b c d"), &split("a b")),
            rouge_l(&split("a b"), &split("a b c d")),
        );
        assert!(long > short, "{long} {short}");
        // P = 1, R = 1/2
        assert!((short - 2.44 * 0.5 / (0.5 + 1.44)).abs() < 1e-12);
    }
}
