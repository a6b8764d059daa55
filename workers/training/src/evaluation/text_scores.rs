//! How much of a reference's wording a text has: BLEU-1 to 4 and ROUGE-L as the caption toolkit of the original computes
//! them (pycocoevalcap 1.2, one reference a text), and in files of their own CIDEr, METEOR 1.5 and all of them by the name of a
//! protocol.

use grams::{Grams, ORDERS, numbered, order};
use radialog_models::agreement::longest_common;

pub mod cider;
mod grams;
pub mod meteor;
pub mod protocol;

/// Keeps a product of precisions from becoming 0, as the toolkit does.
const TINY: f64 = 1e-15;
/// Keeps a quotient from dividing by 0, as the toolkit does.
const SMALL: f64 = 1e-9;
/// The matches that none count as in a smoothed precision.
const SMOOTHED: f64 = 0.1;
/// The weight of recall against precision in ROUGE-L.
const BETA: f64 = 1.2;

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
        let [candidate, reference] = numbered(candidate, reference).map(|words| Grams::of(&words));
        for (gram, count) in &candidate.0 {
            counts.candidates[order(*gram)] += u64::from(*count);
        }
        candidate.each_common(&reference, |own, their| {
            let (gram, count) = candidate.0[own];
            counts.matches[order(gram)] += u64::from(count.min(reference.0[their].1));
        });
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

    /// The counts as numbers, whose sums over texts are those of all of them.
    fn numbers(&self) -> impl Iterator<Item = u64> {
        let orders = self.matches.into_iter().chain(self.candidates);
        orders.chain([self.length, self.reference_length])
    }

    /// The counts of these numbers.
    fn of_numbers(numbers: &mut impl Iterator<Item = u64>) -> Self {
        let mut next = || numbers.next().unwrap_or_default();
        Self {
            matches: std::array::from_fn(|_| next()),
            candidates: std::array::from_fn(|_| next()),
            length: next(),
            reference_length: next(),
        }
    }

    /// The words of the texts, and of their references.
    pub fn lengths(&self) -> (u64, u64) {
        (self.length, self.reference_length)
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

    /// Computes BLEU-2 of one text, 0 to 1, as CXR-Report-Metric and ReXrank do (fast-bleu's, which is NLTK's sentence score with
    /// its first smoothing): a precision of nothing counts a tenth of a match, but no word in common is 0.
    pub fn smoothed_2(&self) -> f64 {
        if self.matches[0] == 0 {
            return 0.0;
        }
        let precision = |order: usize| {
            let matches = match self.matches[order] {
                0 => SMOOTHED,
                matches => matches as f64,
            };
            matches / self.candidates[order].max(1) as f64
        };
        let ratio = self.reference_length as f64 / self.length as f64;
        let brevity = (1.0 - ratio.max(1.0)).exp();
        (precision(0) * precision(1)).sqrt() * brevity
    }
}

/// Computes ROUGE-L of one text, 0 to 1, as the caption toolkit does: the weighted mean of precision and recall of the longest
/// common subsequence of words.
pub fn rouge_l<S: AsRef<str>>(candidate: &[S], reference: &[S]) -> f64 {
    rouge_l_with(BETA, candidate, reference)
}

/// Computes ROUGE-L with another weight of recall against precision; 1, with which both count alike, is Google's.
pub fn rouge_l_with<S: AsRef<str>>(beta: f64, candidate: &[S], reference: &[S]) -> f64 {
    let [ours, theirs] = numbered(candidate, reference);
    let common = longest_common(&ours, &theirs) as f64;
    if common == 0.0 {
        return 0.0;
    }
    let (precision, recall) = (
        common / candidate.len() as f64,
        common / reference.len() as f64,
    );
    (1.0 + beta * beta) * precision * recall / (recall + beta * beta * precision)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn split(text: &str) -> Vec<&str> {
        text.split_whitespace().collect()
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
