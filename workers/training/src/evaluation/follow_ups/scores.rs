//! Scores of what is said about findings, where not everything may be known.

use radialog_schemas::Finding;
use serde::Serialize;

use super::{CLASSES, Said, Truth};
use crate::evaluation::clinical::Rates;

/// Confusion counts of each finding over the cells whose truth is known. Their size does not depend on the number of studies.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct FindingCounts {
    studies: u64,
    true_positive: [u64; CLASSES],
    false_positive: [u64; CLASSES],
    false_negative: [u64; CLASSES],
    true_negative: [u64; CLASSES],
    sample_f1: f64,
}

/// Scores, each between 0 and 1 and better where it is higher. Undefined ratios count 0, as in the original.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct FindingScores {
    /// The number of studies that were counted.
    pub studies: u64,
    /// The number of findings of which anything is known; means are over these. 14, unless a table of labels has fewer.
    pub findings: usize,
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
    /// Rates of each finding of which anything is known.
    pub labels: Vec<(Finding, Rates)>,
}

impl FindingCounts {
    /// Counts one study.
    pub fn add(&mut self, truth: &Truth, said: &Said) {
        self.studies += 1;
        let (mut agree, mut sizes) = (0, 0);
        for class in 0..CLASSES {
            let Some(truth) = truth[class] else { continue };
            let cell = match (truth, said[class]) {
                (true, true) => &mut self.true_positive,
                (false, true) => &mut self.false_positive,
                (true, false) => &mut self.false_negative,
                (false, false) => &mut self.true_negative,
            };
            cell[class] += 1;
            agree += u64::from(truth && said[class]);
            sizes += u64::from(truth) + u64::from(said[class]);
        }
        self.sample_f1 += ratio(2 * agree, sizes);
    }

    /// Computes the scores of what was counted.
    pub fn scores(&self) -> FindingScores {
        let (tp, fp, fne, tn) = (
            &self.true_positive,
            &self.false_positive,
            &self.false_negative,
            &self.true_negative,
        );
        let known = |class: &usize| tp[*class] + fp[*class] + fne[*class] + tn[*class] > 0;
        let classes: Vec<usize> = (0..CLASSES).filter(known).collect();
        let mean = |of: &dyn Fn(usize) -> f64| match classes.len() {
            0 => 0.0,
            count => classes.iter().map(|class| of(*class)).sum::<f64>() / count as f64,
        };
        let sum = |of: &[u64; CLASSES]| of.iter().sum::<u64>();
        let (agreeing, all) = (sum(tp) + sum(tn), sum(tp) + sum(tn) + sum(fp) + sum(fne));
        let precision = |c: usize| ratio(tp[c], tp[c] + fp[c]);
        let recall = |c: usize| ratio(tp[c], tp[c] + fne[c]);
        let f1 = |c: usize| ratio(2 * tp[c], 2 * tp[c] + fp[c] + fne[c]);
        let has_both = |c: &usize| tp[*c] + fne[*c] > 0 && fp[*c] + tn[*c] > 0;
        // The curve of two values has one corner.
        let auc = |c: usize| (recall(c) + ratio(tn[c], tn[c] + fp[c])) / 2.0;
        FindingScores {
            studies: self.studies,
            findings: classes.len(),
            macro_f1: mean(&f1),
            macro_precision: mean(&precision),
            macro_recall: mean(&recall),
            sample_f1: match self.studies {
                0 => 0.0,
                studies => self.sample_f1 / studies as f64,
            },
            accuracy: ratio(agreeing, all),
            auc: match !classes.is_empty() && classes.iter().all(has_both) {
                true => mean(&auc),
                false => -1.0,
            },
            labels: classes
                .iter()
                .map(|&class| {
                    let rates = Rates {
                        precision: precision(class),
                        recall: recall(class),
                        f1: f1(class),
                    };
                    (Finding::ALL[class], rates)
                })
                .collect(),
        }
    }
}

fn ratio(part: u64, whole: u64) -> f64 {
    match whole {
        0 => 0.0,
        whole => part as f64 / whole as f64,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::evaluation::clinical::LabelCounts;

    /// Studies whose cells follow from their numbers.
    fn cells(study: usize) -> (Said, Said) {
        let cell = |class: usize, by: usize| (study * by + class * 7) % 5 < 2;
        (
            std::array::from_fn(|class| cell(class, 3)),
            std::array::from_fn(|class| cell(class, 4)),
        )
    }

    #[test]
    fn where_everything_is_known_the_scores_are_the_clinical_ones() {
        let (mut ours, mut clinical) = (FindingCounts::default(), LabelCounts::default());
        for study in 0..20 {
            let (truth, said) = cells(study);
            ours.add(&truth.map(Some), &said);
            clinical.add(&truth, &said);
        }
        let (ours, clinical) = (ours.scores(), clinical.scores());
        let of = |scores: [f64; 5]| scores.map(|score| (score * 1e12).round());
        assert_eq!(
            of([
                ours.macro_f1,
                ours.macro_precision,
                ours.macro_recall,
                ours.sample_f1,
                ours.accuracy
            ]),
            of([
                clinical.macro_f1,
                clinical.macro_precision,
                clinical.macro_recall,
                clinical.sample_f1,
                clinical.accuracy
            ])
        );
        assert_eq!(ours.findings, 14);
    }

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
