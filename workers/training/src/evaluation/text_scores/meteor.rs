//! METEOR 1.5 for English with its default parameters (Denkowski and Lavie 2014), as `meteor-1.5.jar -l en -norm` scores a
//! hypothesis against one reference: words are aligned by exact form and stem, and, where METEOR's own data is there, by
//! WordNet synonyms and by paraphrases; matches count by stage and, with the data, by whether a word is a function word; broken
//! order costs. Without the data, no word is a function word and no abbreviation keeps its full stop: the score is near
//! METEOR's, but not METEOR's, and its name says so.

use std::sync::{Arc, LazyLock};

mod alignment;
mod data;
mod normalize;
mod paraphrases;
mod synonyms;

pub use data::{MeteorData, MeteorDataError};
use normalize::{Abbreviations, normalized};

/// Stages of matching: exact, stem, synonym, paraphrase.
const STAGES: usize = 4;
/// What a match of each stage counts.
const STAGE_WEIGHTS: [f64; STAGES] = [1.0, 0.6, 0.8, 0.6];
/// Weight of recall against precision.
const ALPHA: f64 = 0.85;
/// Exponent of the fragmentation penalty.
const BETA: f64 = 0.2;
/// Largest fragmentation penalty.
const GAMMA: f64 = 0.6;
/// Weight of content words against function words.
const DELTA: f64 = 0.75;

/// Stands for METEOR's list where there is no data.
static NO_ABBREVIATIONS: LazyLock<Abbreviations> = LazyLock::new(Abbreviations::default);

/// Scores texts; cheap to clone.
#[derive(Clone)]
pub struct Meteor {
    data: Option<Arc<MeteorData>>,
}

/// What METEOR is computed from, of one text or of many together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MeteorCounts {
    hypothesis: SideCounts,
    reference: SideCounts,
    chunks: u64,
}

/// Words and matched words of one side.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct SideCounts {
    words: u64,
    function_words: u64,
    content_matches: [u64; STAGES],
    function_matches: [u64; STAGES],
}

impl Meteor {
    /// A scorer that matches by exact form and by stem and weighs all words alike; with data also by synonyms and paraphrases,
    /// function words weighing less, as METEOR does.
    pub fn new(data: Option<Arc<MeteorData>>) -> Self {
        Self { data }
    }

    /// Whether it matches by synonyms and paraphrases, as papers report it.
    pub fn is_complete(&self) -> bool {
        self.data.is_some()
    }

    /// What of its data its counts depend on: other data has another identity, and none has an empty one.
    pub fn identity(&self) -> &str {
        self.data.as_deref().map_or("", |data| &data.identity)
    }

    /// The name to print beside the score: it says which stages ran.
    pub fn name(&self) -> &'static str {
        if self.data.is_some() {
            "METEOR 1.5"
        } else {
            "METEOR (exact, stem; no function words)"
        }
    }

    /// Aligns one text with its reference, both split by blanks after METEOR's own normalisation.
    pub fn counts(&self, hypothesis: &str, reference: &str) -> MeteorCounts {
        // The toolkit hands texts over in lines of fields.
        let hypothesis = hypothesis.replace("|||", "").replace("  ", " ");
        let data = self.data.as_deref();
        let abbreviations = data.map_or(&*NO_ABBREVIATIONS, |data| &data.abbreviations);
        let [hypothesis, reference] =
            [hypothesis.as_str(), reference].map(|text| normalized(text, abbreviations));
        let words = [split(&hypothesis), split(&reference)];
        let matches = alignment::aligned(&words[0], &words[1], data);
        let mut counts = MeteorCounts {
            chunks: matches.chunks,
            ..MeteorCounts::default()
        };
        let function = words.map(|words| {
            let flags = words
                .iter()
                .map(|word| data.is_some_and(|data| data.function_words.contains(*word)));
            flags.collect::<Vec<bool>>()
        });
        for (side, function) in [&mut counts.hypothesis, &mut counts.reference]
            .into_iter()
            .zip(&function)
        {
            side.words = function.len() as u64;
            side.function_words = function.iter().filter(|flag| **flag).count() as u64;
        }
        for matched in &matches.matches {
            let spans = [
                (&mut counts.hypothesis, &function[0], matched.hypothesis()),
                (&mut counts.reference, &function[1], matched.reference()),
            ];
            for (side, function, span) in spans {
                for is_function in &function[span] {
                    let counts = if *is_function {
                        &mut side.function_matches
                    } else {
                        &mut side.content_matches
                    };
                    counts[matched.stage] += 1;
                }
            }
        }
        counts
    }
}

fn split(text: &str) -> Vec<&str> {
    text.split_ascii_whitespace().collect()
}

impl SideCounts {
    fn add(&mut self, other: &Self) {
        self.words += other.words;
        self.function_words += other.function_words;
        for stage in 0..STAGES {
            self.content_matches[stage] += other.content_matches[stage];
            self.function_matches[stage] += other.function_matches[stage];
        }
    }

    fn numbers(self) -> impl Iterator<Item = u64> {
        let matches = self
            .content_matches
            .into_iter()
            .chain(self.function_matches);
        [self.words, self.function_words].into_iter().chain(matches)
    }

    fn of_numbers(numbers: &mut impl Iterator<Item = u64>) -> Self {
        let mut next = || numbers.next().unwrap_or_default();
        Self {
            words: next(),
            function_words: next(),
            content_matches: std::array::from_fn(|_| next()),
            function_matches: std::array::from_fn(|_| next()),
        }
    }

    fn matches(&self) -> u64 {
        self.content_matches.iter().sum::<u64>() + self.function_matches.iter().sum::<u64>()
    }

    /// Weighted matches over weighted words.
    fn share(&self) -> f64 {
        let weighted = |content: f64, function: f64| DELTA * content + (1.0 - DELTA) * function;
        let sum = |counts: &[u64; STAGES]| -> f64 {
            let parts = counts.iter().zip(STAGE_WEIGHTS);
            parts.map(|(count, weight)| *count as f64 * weight).sum()
        };
        let words = weighted(
            (self.words - self.function_words) as f64,
            self.function_words as f64,
        );
        weighted(sum(&self.content_matches), sum(&self.function_matches)) / words
    }
}

impl MeteorCounts {
    /// Adds the counts of another text. One that is whole in one chunk has no fragmentation, and its chunk does not count.
    pub fn add(&mut self, other: &Self) {
        self.hypothesis.add(&other.hypothesis);
        self.reference.add(&other.reference);
        if !other.is_whole() {
            self.chunks += other.chunks;
        }
    }

    /// The counts of one text as numbers, whose sums over texts are those of all of them.
    pub(super) fn numbers(&self) -> impl Iterator<Item = u64> {
        let mut added = Self::default();
        added.add(self);
        let sides = [added.hypothesis, added.reference].into_iter();
        sides.flat_map(SideCounts::numbers).chain([added.chunks])
    }

    /// The counts of these numbers.
    pub(super) fn of_numbers(numbers: &mut impl Iterator<Item = u64>) -> Self {
        Self {
            hypothesis: SideCounts::of_numbers(numbers),
            reference: SideCounts::of_numbers(numbers),
            chunks: numbers.next().unwrap_or_default(),
        }
    }

    /// Whether all words of both sides match in one chunk.
    fn is_whole(&self) -> bool {
        self.hypothesis.matches() == self.hypothesis.words
            && self.reference.matches() == self.reference.words
            && self.chunks == 1
    }

    /// Computes METEOR, 0 to 1, of all texts that were counted. A text without words scores 0.
    pub fn score(&self) -> f64 {
        let (precision, recall) = (self.hypothesis.share(), self.reference.share());
        let mean = 1.0 / ((1.0 - ALPHA) / precision + ALPHA / recall);
        let fragmentation = if self.is_whole() {
            0.0
        } else {
            let matches = self.hypothesis.matches() + self.reference.matches();
            self.chunks as f64 / (matches as f64 / 2.0)
        };
        let score = mean * (1.0 - GAMMA * fragmentation.powf(BETA));
        if score.is_nan() { 0.0 } else { score.max(0.0) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn score(hypothesis: &str, reference: &str) -> f64 {
        Meteor::new(None).counts(hypothesis, reference).score()
    }

    #[test]
    fn an_equal_text_scores_one_and_empty_or_foreign_ones_zero() {
        let text = "no focal consolidation is seen";
        assert_eq!(score(text, text), 1.0);
        assert_eq!(score("", text), 0.0);
        assert_eq!(score(text, ""), 0.0);
        assert_eq!(score("", ""), 0.0);
        assert_eq!(score("alpha beta", "gamma delta"), 0.0);
    }

    #[test]
    fn a_stem_counts_less_than_the_word_and_broken_order_costs() {
        let reference = "small pleural effusions";
        let stem = score("small pleural effusion", reference);
        assert!(stem > 0.5 && stem < 1.0, "{stem}");
        assert!(score("effusions pleural small", reference) < stem);
    }

    #[test]
    fn ties_between_alignments_are_broken_as_the_jar_breaks_them() {
        let function_words = ["the", "and", "have", "are", "in", "a"].map(str::to_owned);
        let data = MeteorData {
            function_words: function_words.into(),
            ..MeteorData::default()
        };
        let counts = Meteor::new(Some(Arc::new(data))).counts(
            "the normal and line lungs have xxxx the both lungs disease are clear a-nd expanded heart and mediastinum heart",
            "the heart and lungs have xxxx xxxx in the interval both lungs are clear and expanded heart and mediastinum normal",
        );
        let score = counts.score();
        // What meteor-1.5.jar prints.
        assert!((score - 0.3602598656526567).abs() < 1e-12, "{score}");
    }

    #[test]
    fn the_name_says_which_stages_ran() {
        let exact = "METEOR (exact, stem; no function words)";
        assert_eq!(Meteor::new(None).name(), exact);
    }
}
