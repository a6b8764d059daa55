//! The text scores of a corpus by the name of the protocol that papers use, each with its direction. What a corpus' scores are
//! computed from is kept a text ([`TextCounts`]), so that the scores of any selection of texts, a resample, say, are a sum away.

use std::collections::HashMap;

use rayon::prelude::*;
use rust_stemmers::{Algorithm, Stemmer};
use serde::Serialize;

use super::cider::DocumentFrequencies;
use super::meteor::{Meteor, MeteorCounts};
use super::{BleuCounts, rouge_l};
use crate::evaluation::words::ptb::ptb_words;
use crate::evaluation::words::words;

/// Pairs of words of a text and its reference that are compared at most: METEOR and ROUGE-L compare each with each, and METEOR keeps
/// all that match. 2,048 words beside as many, many times a report.
const MOST_PAIRS: usize = 1 << 22;
/// Pairs of words that may match at most, many times those of a report: METEOR's time grows with them, as where a text repeats a
/// word for ever.
const MOST_MATCHES: usize = 1 << 16;
/// What is said of a text that has more.
pub const TOO_LONG: &str = "text and reference are too long to compare: over 4,194,304 pairs of words, as 2,048 beside 2,048, or \
                            over 65,536 pairs of words that may match, as one word 257 times beside 256";

/// What BERTScore needs, of which nothing is shipped.
pub const NEEDS_BERTSCORE: &str = "needs the weights of distilroberta-base";

/// How texts are split, and which scores are computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum TextProtocol {
    /// The original's test program: line breaks deleted, NLTK's words in lower case; BLEU, METEOR, ROUGE-L.
    #[serde(rename = "radialog-2023")]
    Radialog2023,
    /// The caption toolkit with its own tokenizer (Stanford's, punctuation dropped); CIDEr on top.
    CocoCaption,
    /// ReXrank's, which is that of CXR-Report-Metric (Yu et al. 2023): lower case, split at blanks, full stops apart; the mean
    /// of the texts' own BLEU-2.
    Rexrank,
}

/// Which values of a score are good.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Better {
    /// More is better.
    Higher,
    /// Less is better: the score is of errors.
    Lower,
}

impl Better {
    /// The word to print.
    pub fn word(self) -> &'static str {
        match self {
            Self::Higher => "higher",
            Self::Lower => "lower",
        }
    }
}

/// One score of a corpus.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct TextScore {
    /// The name to print, which says what was computed.
    pub name: &'static str,
    /// 0 to 1, CIDEr 0 to 10.
    pub value: f64,
    /// Which values are good.
    pub better: Better,
}

/// What scores are computed from, of one text or of many together. Its size does not depend on their number. [`TextScorer::scores`]
/// turns it into scores: of one text that of the text alone, of a sum that of the corpus.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct TextCounts {
    /// The number of texts.
    pub texts: u64,
    /// BLEU's counts.
    pub bleu: BleuCounts,
    /// METEOR's counts.
    pub meteor: MeteorCounts,
    /// The sum of the texts' ROUGE-L.
    pub rouge_l: f64,
    /// The sum of the texts' CIDEr, with the document frequencies of all references whatever texts are selected; 0 where the
    /// protocol has none.
    pub cider: f64,
    /// The sum of the texts' smoothed BLEU-2.
    pub smoothed_bleu_2: f64,
}

impl TextCounts {
    /// So many numbers are the counts of a text ([`TextCounts::row`]).
    pub const WIDTH: usize = 35;

    /// The counts of one text as numbers, whose sums over texts are those of all of them. Counts are whole, and exact up to 2^53.
    pub fn row(&self) -> Vec<f64> {
        let counts = std::iter::once(self.texts);
        let counts = counts
            .chain(self.bleu.numbers())
            .chain(self.meteor.numbers());
        let counts = counts.map(|count| count as f64);
        let sums = [self.rouge_l, self.cider, self.smoothed_bleu_2];
        counts.chain(sums).collect()
    }

    /// The counts of a row, or of the sum of several; what is behind [`TextCounts::WIDTH`] numbers is not looked at.
    pub fn of_row(row: &[f64]) -> Self {
        let mut counts = row.iter().map(|number| *number as u64);
        let texts = counts.next().unwrap_or_default();
        let (bleu, meteor) = (
            BleuCounts::of_numbers(&mut counts),
            MeteorCounts::of_numbers(&mut counts),
        );
        let sum = |from_end: usize| row.get(Self::WIDTH - from_end).copied().unwrap_or_default();
        Self {
            texts,
            bleu,
            meteor,
            rouge_l: sum(3),
            cider: sum(2),
            smoothed_bleu_2: sum(1),
        }
    }

    /// Adds the counts of another text, or of others.
    pub fn add(&mut self, other: &Self) {
        self.texts += other.texts;
        self.bleu.add(&other.bleu);
        self.meteor.add(&other.meteor);
        self.rouge_l += other.rouge_l;
        self.cider += other.cider;
        self.smoothed_bleu_2 += other.smoothed_bleu_2;
    }
}

/// Scores texts beside one reference each.
#[derive(Clone)]
pub struct TextScorer {
    protocol: TextProtocol,
    meteor: Meteor,
}

impl TextScorer {
    /// A scorer by a protocol. `meteor` is not used where the protocol has no METEOR.
    pub fn new(protocol: TextProtocol, meteor: Meteor) -> Self {
        Self { protocol, meteor }
    }

    /// How texts are split, and which scores are computed.
    pub fn protocol(&self) -> TextProtocol {
        self.protocol
    }

    /// METEOR, with its data or without.
    pub fn meteor(&self) -> &Meteor {
        &self.meteor
    }

    /// Counts one text beside its reference, which is among those of `frequencies`. An empty text counts with its score, which
    /// is 0.
    pub fn counts(
        &self,
        hypothesis: &str,
        reference: &str,
        frequencies: &DocumentFrequencies,
    ) -> TextCounts {
        let [hypothesis, reference] = [hypothesis, reference].map(|text| self.protocol.split(text));
        let mut counts = TextCounts {
            texts: 1,
            ..TextCounts::default()
        };
        if self.protocol.is_caption_toolkit() {
            // ROUGE-L of the toolkit splits at blanks only, so that an empty text is one empty word; the others split at all
            // white space.
            let [ours, theirs] =
                [&hypothesis, &reference].map(|text| text.split(' ').collect::<Vec<_>>());
            counts.rouge_l = rouge_l(&ours, &theirs);
            counts.meteor = self.meteor.counts(&hypothesis, &reference);
        }
        // ReXrank's words end at blanks only.
        let [hypothesis, reference] = [&hypothesis, &reference].map(|text| match self.protocol {
            TextProtocol::Rexrank => text.split(' ').collect(),
            _ => white(text),
        });
        counts.bleu = BleuCounts::of(&hypothesis, &reference);
        counts.smoothed_bleu_2 = counts.bleu.smoothed_2();
        if self.protocol.has_cider() {
            counts.cider = frequencies.score(&hypothesis, &reference);
        }
        counts
    }

    /// Counts texts beside their references, in their order and on all cores. The references are the whole corpus.
    pub fn counts_of_all<S: AsRef<str> + Sync>(&self, pairs: &[(S, S)]) -> Vec<TextCounts> {
        let mut frequencies = DocumentFrequencies::default();
        let references: Vec<&str> = pairs.iter().map(|(_, text)| text.as_ref()).collect();
        self.protocol.add_references(&references, &mut frequencies);
        self.counts_with(pairs, &frequencies)
    }

    /// Counts some texts of a corpus beside their references, in their order and on all cores.
    pub fn counts_with<S: AsRef<str> + Sync>(
        &self,
        pairs: &[(S, S)],
        frequencies: &DocumentFrequencies,
    ) -> Vec<TextCounts> {
        let count = |(hypothesis, reference): &(S, S)| {
            self.counts(hypothesis.as_ref(), reference.as_ref(), frequencies)
        };
        pairs.par_iter().map(count).collect()
    }

    /// Computes the scores of all texts that were counted; none where there is no text.
    pub fn scores(&self, counts: &TextCounts) -> Vec<TextScore> {
        if counts.texts == 0 {
            return Vec::new();
        }
        let mean = |sum: f64| sum / counts.texts as f64;
        let [bleu_1, bleu_2, bleu_3, bleu_4] = counts.bleu.scores();
        let mut values = match self.protocol {
            TextProtocol::Rexrank => vec![("BLEU-2 (mean of texts)", mean(counts.smoothed_bleu_2))],
            _ => vec![
                ("BLEU-1", bleu_1),
                ("BLEU-2", bleu_2),
                ("BLEU-3", bleu_3),
                ("BLEU-4", bleu_4),
                (self.meteor.name(), counts.meteor.score()),
                ("ROUGE-L", mean(counts.rouge_l)),
            ],
        };
        if self.protocol.has_cider() {
            values.push(("CIDEr", mean(counts.cider)));
        }
        let score = |(name, value)| TextScore {
            name,
            value,
            better: Better::Higher,
        };
        values.into_iter().map(score).collect()
    }
}

/// As many pairs of words as can match, about: those of one stem, or of the two most frequent stems, which might be synonyms. Marks
/// count as words.
fn most_matches(text: &str, reference: &str) -> usize {
    let stemmer = Stemmer::create(Algorithm::English);
    let counted = |text: &str| {
        let mut counts: HashMap<String, usize> = HashMap::new();
        let lower = text.to_lowercase();
        for part in lower.split_whitespace() {
            for word in part.split_inclusive(|c: char| !c.is_alphanumeric()) {
                let letters = word.trim_end_matches(|c: char| !c.is_alphanumeric());
                for of in [letters, &word[letters.len()..]] {
                    if !of.is_empty() {
                        *counts.entry(stemmer.stem(of).into_owned()).or_default() += 1;
                    }
                }
            }
        }
        counts
    };
    let [ours, theirs] = [text, reference].map(counted);
    let equal = |(stem, count): (&String, &usize)| count * theirs.get(stem).copied().unwrap_or(0);
    let equal: usize = ours.iter().map(equal).sum();
    let most = |counts: &HashMap<String, usize>| counts.values().copied().max().unwrap_or(0);
    equal.max(most(&ours) * most(&theirs))
}

/// As many words as a text can be split into: a punctuation mark is one, and ends one.
fn most_words(text: &str) -> usize {
    let marks = text.bytes().filter(u8::is_ascii_punctuation).count();
    text.split_whitespace().count() + 2 * marks
}

fn white(text: &str) -> Vec<&str> {
    text.split_whitespace().collect()
}

impl TextProtocol {
    /// The name by which the protocol is chosen and printed.
    pub fn name(self) -> &'static str {
        match self {
            Self::Radialog2023 => "radialog-2023",
            Self::CocoCaption => "coco-caption",
            Self::Rexrank => "rexrank",
        }
    }

    /// What papers that use the protocol show and nothing here computes, each with what it would need.
    pub fn not_computed(self) -> &'static [(&'static str, &'static str)] {
        match self {
            Self::Radialog2023 => &[("BERTScore", NEEDS_BERTSCORE)],
            Self::CocoCaption => &[],
            Self::Rexrank => &[
                ("BERTScore", NEEDS_BERTSCORE),
                ("SembScore", "needs the original CheXbert's embeddings"),
                ("RaTEScore", "needs the weights of RaTE-NER and RaTE-Eval"),
                ("GREEN", "needs the weights of GREEN-RadLlama2"),
                ("FineRadScore", "needs a commercial language model"),
            ],
        }
    }

    /// What tables of studies call the scores of one text, in the order of [`TextScorer::scores`].
    pub fn columns(self) -> &'static [&'static str] {
        const ALL: [&str; 7] = [
            "bleu_1", "bleu_2", "bleu_3", "bleu_4", "meteor", "rouge_l", "cider",
        ];
        match self {
            Self::Radialog2023 => &ALL[..6],
            Self::CocoCaption => &ALL,
            Self::Rexrank => &ALL[1..2],
        }
    }

    /// Whether CIDEr is among the scores, which needs all references before the first text is scored.
    pub fn has_cider(self) -> bool {
        self == Self::CocoCaption
    }

    /// Whether a text and its reference have more words than are compared, or more that may match.
    pub fn is_too_long(self, text: &str, reference: &str) -> bool {
        // No text of so few bytes has more words, which saves counting them.
        let most = text.len().max(1).saturating_mul(reference.len().max(1));
        if !self.is_caption_toolkit() || most <= MOST_MATCHES {
            return false;
        }
        let pairs = most_words(text).saturating_mul(most_words(reference));
        pairs > MOST_PAIRS || pairs > MOST_MATCHES && most_matches(text, reference) > MOST_MATCHES
    }

    /// Adds references to what CIDEr has to know before it scores, on all cores; nothing where the protocol has no CIDEr.
    pub fn add_references<S: AsRef<str> + Sync>(
        self,
        references: &[S],
        frequencies: &mut DocumentFrequencies,
    ) {
        if self.has_cider() {
            let split = |text: &S| self.split(text.as_ref());
            let references: Vec<String> = references.par_iter().map(split).collect();
            for reference in &references {
                frequencies.add(&white(reference));
            }
        }
    }

    /// Whether the scores are those of the caption toolkit: METEOR and ROUGE-L among them.
    pub fn is_caption_toolkit(self) -> bool {
        self != Self::Rexrank
    }

    /// A text's words with single blanks between them.
    pub fn split(self, text: &str) -> String {
        match self {
            Self::Radialog2023 => {
                // Deleted, not replaced: the words around a line break become one.
                let text = text
                    .replace('\n', "")
                    .replace("<s>", "")
                    .replace("</s>", "");
                words(&text).join(" ")
            }
            Self::CocoCaption => ptb_words(text).join(" "),
            Self::Rexrank => {
                let text = text.to_lowercase().replace('.', " .");
                let words: Vec<&str> = text.split(' ').filter(|word| !word.is_empty()).collect();
                words.join(" ")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAIRS: [(&str, &str); 3] = [
        ("No pleural effusion.", "There is no pleural effusion."),
        ("Heart size is normal", "The heart is normal in size."),
        ("", "Clear lungs."),
    ];

    #[test]
    fn a_selection_of_texts_scores_as_a_corpus_of_them_but_for_document_frequencies() {
        let scorer = TextScorer::new(TextProtocol::Radialog2023, Meteor::new(None));
        let each = scorer.counts_of_all(&PAIRS);
        let mut resample = TextCounts::default();
        for text in [2, 0, 0] {
            resample.add(&each[text]);
        }
        let drawn = scorer.counts_of_all(&[PAIRS[2], PAIRS[0], PAIRS[0]]);
        let mut together = TextCounts::default();
        drawn.iter().for_each(|text| together.add(text));
        assert_eq!(scorer.scores(&resample), scorer.scores(&together));
        assert_eq!(scorer.scores(&TextCounts::default()), []);
    }

    #[test]
    fn sums_of_rows_are_the_sums_of_counts() {
        let scorer = TextScorer::new(TextProtocol::CocoCaption, Meteor::new(None));
        let pairs = [
            PAIRS[0],
            PAIRS[1],
            PAIRS[2],
            ("Clear lungs.", "Clear lungs."),
        ];
        let mut sum = vec![0.0; TextCounts::WIDTH];
        let mut together = TextCounts::default();
        for text in scorer.counts_of_all(&pairs) {
            let row = text.row();
            assert_eq!(row.len(), TextCounts::WIDTH);
            sum.iter_mut()
                .zip(row)
                .for_each(|(sum, number)| *sum += number);
            together.add(&text);
        }
        assert_eq!(TextCounts::of_row(&sum), together);
    }

    #[test]
    fn texts_of_thousands_of_words_are_too_long_for_what_compares_each_with_each() {
        let protocol = TextProtocol::Radialog2023;
        let words = |count: usize| "effusion ".repeat(count);
        let different = |count: usize| -> String { (0..count).map(|n| format!("w{n} ")).collect() };
        assert!(!protocol.is_too_long(&different(2048), &different(2048)));
        assert!(protocol.is_too_long(&different(2049), &different(2048)));
        // A generator that repeats itself.
        assert!(!protocol.is_too_long(&words(256), &words(256)));
        assert!(protocol.is_too_long(&words(257), &words(256)));
        assert!(!protocol.is_too_long(&words(20_000), "Clear lungs."));
        assert!(protocol.is_too_long(&".".repeat(3000), &".".repeat(3000)));
        assert!(!TextProtocol::Rexrank.is_too_long(&words(20_000), &words(20_000)));
    }

    #[test]
    fn texts_that_repeat_a_word_are_too_long_with_far_fewer_words() {
        let protocol = TextProtocol::CocoCaption;
        let words = |word: &str, count: usize| format!("{word} ").repeat(count);
        assert!(!protocol.is_too_long(&words("effusion", 256), &words("effusion", 256)));
        assert!(protocol.is_too_long(&words("Effusions.", 300), &words("effusion", 300)));
        // They might be synonyms.
        assert!(protocol.is_too_long(&words("mild", 300), &words("small", 300)));
        let several = [words("a b c d e f g h", 120), words("h g f e d c b a", 120)];
        assert!(protocol.is_too_long(&several[0], &several[1]));
        assert!(!protocol.is_too_long(&words("effusion", 2000), &words("The heart is clear.", 10)));
    }

    #[test]
    fn rexrank_means_the_smoothed_bleu_2_of_each_text() {
        let scorer = TextScorer::new(TextProtocol::Rexrank, Meteor::new(None));
        let each = scorer.counts_of_all(&PAIRS);
        let scores: Vec<f64> = each
            .iter()
            .map(|text| scorer.scores(text)[0].value)
            .collect();
        // "no pleural effusion ." beside "there is no pleural effusion ."
        assert!((scores[0] - (-0.5_f64).exp()).abs() < 1e-12, "{scores:?}");
        // All 4 words, "is normal" of 3 pairs; 4 words beside 7.
        let expected = (1.0 / 3.0_f64).sqrt() * (1.0 - 7.0 / 4.0_f64).exp();
        assert!((scores[1] - expected).abs() < 1e-12, "{scores:?}");
        assert_eq!(scores[2], 0.0);
    }
}
