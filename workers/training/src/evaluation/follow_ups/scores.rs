//! Scores of what is said about findings, where not everything may be known.

use radialog_schemas::Finding;
use serde::Serialize;

use super::{Said, Truth};
use crate::evaluation::clinical::{LabelCounts, Rates};
use crate::evaluation::text_scores::protocol::Better;

/// Counts of each finding over the cells whose truth is known. Their size does not depend on the number of studies.
#[derive(Clone, Debug, Default)]
pub struct FindingCounts(LabelCounts);

/// Scores, each between 0 and 1 and better where it is higher. Undefined ratios count 0, as in the original.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct FindingScores {
    /// The number of studies that were counted.
    pub studies: u64,
    /// The number of findings of which anything is known; means are over these. 14, unless a table of labels has fewer.
    pub findings: usize,
    /// Which values of all scores are good.
    pub better: Better,
    /// Mean F1 of the findings.
    pub macro_f1: f64,
    /// Mean precision of the findings.
    pub macro_precision: f64,
    /// Mean recall of the findings.
    pub macro_recall: f64,
    /// Mean F1 of the studies' sets of findings; one without any on both sides counts 0.
    pub sample_f1: f64,
    /// Share of the known cells that agree.
    pub accuracy: f64,
    /// Mean area under the curve of the yes-or-no answers; -1 where a finding is there always or never, as in the original.
    pub auc: f64,
    /// Rates of each finding of which anything is known. Of one that no study has, they are 0 here as in the means, and say nothing.
    pub labels: Vec<(Finding, Rates)>,
    /// The number of studies that have each of these findings.
    pub positives: Vec<(Finding, u64)>,
}

impl FindingScores {
    /// The names of the scores of all findings together.
    pub const NAMES: [&str; 6] = [
        "macro F1",
        "macro precision",
        "macro recall",
        "sample F1",
        "accuracy",
        "AUC of yes and no",
    ];

    /// The scores of all findings together, in the order of [`FindingScores::NAMES`]; NaN where one is not defined.
    pub fn values(&self) -> [f64; Self::NAMES.len()] {
        [
            self.macro_f1,
            self.macro_precision,
            self.macro_recall,
            self.sample_f1,
            self.accuracy,
            match self.auc {
                // As the original says that it is not defined.
                -1.0 => f64::NAN,
                auc => auc,
            },
        ]
    }
}

impl FindingCounts {
    /// Counts one study.
    pub fn add(&mut self, truth: &Truth, said: &Said) {
        self.0.add_known(truth, said);
    }

    /// The number of studies that have a finding, as far as it is known.
    pub fn positives(&self, finding: Finding) -> u64 {
        self.0.positives(finding)
    }

    /// Computes the scores of what was counted.
    pub fn scores(&self) -> FindingScores {
        let (counts, scores) = (&self.0, self.0.scores());
        let labels: Vec<(Finding, Rates)> = scores
            .labels
            .into_iter()
            .filter(|(finding, _)| counts.known(*finding) > 0)
            .collect();
        // The curve of two values has one corner.
        let auc = |(finding, rates): &(Finding, Rates)| {
            let positives = counts.positives(*finding);
            let has_both = positives > 0 && positives < counts.known(*finding);
            has_both.then(|| (rates.recall + counts.specificity(*finding)) / 2.0)
        };
        let aucs: Option<Vec<f64>> = labels.iter().map(auc).collect();
        FindingScores {
            studies: scores.reports,
            findings: labels.len(),
            better: Better::Higher,
            macro_f1: scores.macro_f1,
            macro_precision: scores.macro_precision,
            macro_recall: scores.macro_recall,
            sample_f1: scores.sample_f1,
            accuracy: scores.accuracy,
            auc: match aucs {
                Some(aucs) if !aucs.is_empty() => aucs.iter().sum::<f64>() / aucs.len() as f64,
                _ => -1.0,
            },
            positives: labels
                .iter()
                .map(|(finding, _)| (*finding, counts.positives(*finding)))
                .collect(),
            labels,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::CLASSES;
    use super::*;

    #[test]
    fn unknown_cells_and_findings_do_not_count() {
        let mut counts = FindingCounts::default();
        let mut truth: Truth = [None; CLASSES];
        (truth[0], truth[1]) = (Some(true), Some(false));
        let mut said = [true; CLASSES];
        said[1] = false;
        counts.add(&truth, &said);
        (truth[0], truth[1]) = (Some(false), None);
        said[0] = true;
        counts.add(&truth, &said);
        let scores = counts.scores();
        assert_eq!((scores.studies, scores.findings), (2, 2));
        assert!((scores.macro_f1 - (2.0 / 3.0) / 2.0).abs() < 1e-12);
        assert!((scores.accuracy - 2.0 / 3.0).abs() < 1e-12);
        assert_eq!(scores.auc, -1.0, "the second finding is never there");
    }

    #[test]
    fn the_area_under_two_values_is_the_mean_of_both_recalls() {
        let mut counts = FindingCounts::default();
        let of = |value: bool| [value; CLASSES];
        for (truth, said) in [(true, true), (true, false), (false, false), (false, false)] {
            counts.add(&of(truth).map(Some), &of(said));
        }
        assert!((counts.scores().auc - 0.75).abs() < 1e-12);
        assert_eq!(FindingCounts::default().scores().auc, -1.0);
    }
}
