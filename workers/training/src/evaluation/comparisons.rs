//! How many of some reports compare with an earlier image, which they cannot support without one. Lower is better. What compares
//! is found by [`comparison_marks`].

use radialog_models::comparisons::comparison_marks;
use radialog_models::sentences::sentence_ranges;
use serde::Serialize;

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
    fn reports_and_sentences_that_compare_are_counted() {
        let report = "Lungs are clear. Heart size is unchanged.\nEffusion has decreased since the prior study.";
        let mut counts = ComparisonCounts::of(report);
        assert_eq!((counts.sentences, counts.comparing_sentences), (3, 2));
        assert_eq!(counts.reports_share(), 1.0);
        counts.add(&ComparisonCounts::of("Lungs are clear."));
        assert_eq!(
            (counts.reports_share(), counts.sentences_share()),
            (0.5, 0.5)
        );
    }
}
