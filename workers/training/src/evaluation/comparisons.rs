//! Comparisons that a report cannot support: one that was written from a single image, without a prior, and says "unchanged" or
//! "increased since". Generators learn this from reports that had a prior (Ramesh et al. 2022 call it hallucinated references to
//! priors). Found by phrases, sentence by sentence. Lower is better.
//!
//! The list of phrases is this project's own and not validated against readers: it is for English chest X-ray reports, misses
//! comparisons in other words, and takes a few sentences that only sound like one ("stable patient").

use std::ops::Range;
use std::sync::LazyLock;

use regex::Regex;
use serde::Serialize;

use super::words::sentence_ranges;

/// Phrases that compare with an earlier image, whatever is said about it.
const PHRASES: [&str; 13] = [
    r"unchanged|stable|unaltered|re-?demonstrated|re-?demonstration",
    r"interval(?:ly)?",
    r"(?:no|without|any|little|minimal|significant|substantial|relevant|appreciable|similar) change",
    r"changed? (?:from|since|compared)",
    r"(?:compared|comparison|similar|relative) (?:to|with)(?: the)? (?:prior|previous|earlier|preceding|last|study|exam\w*|film|radiograph\w*|x-?rays?|ct|chest|\d)",
    r"since(?: the| a)? (?:prior|previous|preceding|last|earlier)",
    r"(?:from|than|as|on|to|with)(?: the| a)? (?:prior|previous|preceding|last|earlier)(?: \w+){0,2} (?:study|exam\w*|film|radiograph\w*|x-?rays?|imaging|ct|image|day)",
    r"(?:prior|previous|preceding) (?:study|studies|exam\w*|film|films|radiograph\w*|imaging|image|images|x-?rays?|chest)",
    r"(?:again|previously|still) (?:seen|noted|demonstrated|visualized|identified|present|visible|described|mentioned)",
    r"(?:has|have|had) (?:\w+ly )?(?:improved|worsened|resolved|increased|decreased|progressed|developed|cleared|enlarged|changed|been (?:removed|placed|inserted|exchanged|extubated|replaced|advanced|repositioned|retracted))",
    r"(?:improved|improving|improvement|worsened|worsening|resolved|resolving|resolution|persist\w*|progress(?:ed|ing|ion))",
    r"(?:increased|decreased|increasing|decreasing)(?: \w+){0,3} (?:since|from|compared)",
    r"(?:new|newly|no longer|as before)",
];
/// Sentences that say that there is nothing to compare with, and what "prior" and "new" mean in other places.
const NOT_MEANT: &str = r"(?i)no (?:prior|previous|comparison)|(?:comparison|compared)[: ]+(?:is )?(?:none|not available|unavailable)|none available|not available for comparison|without (?:prior|previous|comparison)";

static COMPARISON: LazyLock<Regex> = LazyLock::new(|| {
    let pattern = format!(r"(?i)\b(?:{})\b", PHRASES.join("|"));
    // The pattern is a constant: the tests compile it.
    Regex::new(&pattern).unwrap_or_else(|error| unreachable!("{error}"))
});
static EXCUSE: LazyLock<Regex> =
    LazyLock::new(|| Regex::new(NOT_MEANT).unwrap_or_else(|error| unreachable!("{error}")));

/// A sentence that compares.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ComparisonMark {
    /// Which sentence of the report it is, from 0 on.
    pub sentence: usize,
    /// Where the sentence stands in the report, in bytes.
    pub range: Range<usize>,
    /// Where the words that compare stand in the report, in bytes.
    pub phrase: Range<usize>,
}

/// Finds the sentences of a report that compare with an earlier image. They are unsupported where the model had none.
pub fn comparison_marks(report: &str) -> Vec<ComparisonMark> {
    let sentences = sentence_ranges(report).into_iter().enumerate();
    let mark = |(sentence, range): (usize, Range<usize>)| {
        let text = report.get(range.clone())?;
        let found = COMPARISON.find(text)?;
        if EXCUSE.is_match(text) {
            return None;
        }
        let phrase = range.start + found.start()..range.start + found.end();
        Some(ComparisonMark {
            sentence,
            range,
            phrase,
        })
    };
    sentences.filter_map(mark).collect()
}

/// Comparisons of one report or of many together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ComparisonCounts {
    /// The number of reports.
    pub reports: u64,
    /// Reports with at least one comparison.
    pub comparing_reports: u64,
    /// The number of sentences.
    pub sentences: u64,
    /// Sentences with a comparison.
    pub comparing_sentences: u64,
}

impl ComparisonCounts {
    /// Counts one report, which was written without an earlier image.
    pub fn of(report: &str) -> Self {
        let marks = comparison_marks(report).len() as u64;
        Self {
            reports: 1,
            comparing_reports: u64::from(marks > 0),
            sentences: sentence_ranges(report).len() as u64,
            comparing_sentences: marks,
        }
    }

    /// Adds other reports.
    pub fn add(&mut self, other: &Self) {
        self.reports += other.reports;
        self.comparing_reports += other.comparing_reports;
        self.sentences += other.sentences;
        self.comparing_sentences += other.comparing_sentences;
    }

    /// The share of reports with a comparison, 0 to 1; lower is better where none had an earlier image.
    pub fn reports_share(&self) -> f64 {
        self.comparing_reports as f64 / self.reports.max(1) as f64
    }

    /// The share of sentences with a comparison, 0 to 1; lower is better where no report had an earlier image.
    pub fn sentences_share(&self) -> f64 {
        self.comparing_sentences as f64 / self.sentences.max(1) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sentences_that_compare_are_marked_where_they_stand() {
        let report = "Lungs are clear. Heart size is unchanged.\nEffusion has decreased since the prior study.";
        let marks = comparison_marks(report);
        let texts: Vec<(usize, &str, &str)> = marks
            .iter()
            .map(|m| {
                (
                    m.sentence,
                    &report[m.range.clone()],
                    &report[m.phrase.clone()],
                )
            })
            .collect();
        assert_eq!(
            texts,
            [
                (1, "Heart size is unchanged.", "unchanged"),
                (
                    2,
                    "Effusion has decreased since the prior study.",
                    "has decreased"
                ),
            ]
        );
        let counts = ComparisonCounts::of(report);
        assert_eq!((counts.sentences, counts.comparing_sentences), (3, 2));
        assert_eq!(counts.reports_share(), 1.0);
    }

    #[test]
    fn what_compares_and_what_does_not() {
        for sentence in [
            "No significant change.",
            "Stable cardiomegaly.",
            "Interval removal of the tube.",
            "The right PICC is again seen.",
            "Opacity is more prominent than on the previous exam.",
            "There is a new left effusion.",
            "Edema has slightly improved.",
            "As compared to the previous radiograph, nothing differs.",
            "Persistent atelectasis.",
            "Increased opacity since the prior study.",
        ] {
            assert_eq!(comparison_marks(sentence).len(), 1, "{sentence}");
        }
        for sentence in [
            "No pleural effusion.",
            "There is increased opacity in the left lower lobe.",
            "No prior study is available for comparison.",
            "Comparison: none.",
            "Status post prior median sternotomy.",
            "Deformity due to prior trauma.",
            "The vessels are more prominent on the left than on the right.",
            "The heart is enlarged.",
            "Evidence of prior granulomatous disease.",
            "",
        ] {
            assert!(comparison_marks(sentence).is_empty(), "{sentence}");
        }
    }
}
