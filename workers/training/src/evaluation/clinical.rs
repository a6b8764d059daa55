//! Clinical scores of generated reports (the paper's "CE"): both sides are reduced to present or not, where *uncertain*,
//! *negative* and *not mentioned* all count as not present; undefined ratios count as 0, as scikit-learn does.

use radialog_schemas::{Finding, Label, Labels, StudyRecord};
use serde::Serialize;

const CLASSES: usize = Finding::ALL.len();

/// The confusion counts of all reports so far. Its size does not depend on their number.
#[derive(Clone, Debug, Default)]
pub struct LabelCounts {
    reports: u64,
    true_positive: [u64; CLASSES],
    false_positive: [u64; CLASSES],
    false_negative: [u64; CLASSES],
    sample_f1: f64,
}

/// The scores of a set of reports, each between 0 and 1.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ClinicalScores {
    /// How many reports had a reference.
    pub reports: u64,
    /// Mean F1 of the 14 classes.
    pub macro_f1: f64,
    /// Mean precision of the 14 classes.
    pub macro_precision: f64,
    /// Mean recall of the 14 classes.
    pub macro_recall: f64,
    /// Mean F1 of the reports' label sets; a report without any label on both sides counts 0.
    pub sample_f1: f64,
    /// Share of the 14 x reports cells that agree.
    pub accuracy: f64,
    /// F1 of each class, in the published order.
    pub f1: Vec<(Finding, f64)>,
}

impl LabelCounts {
    /// Counts one finished study; false where it has no reference to compare with.
    pub fn add_record(&mut self, record: &StudyRecord) -> bool {
        let (Some(report), Some(reference)) = (&record.report_labels, &record.reference_labels)
        else {
            return false;
        };
        self.add(&present(reference), &present(report));
        true
    }

    /// Counts one report: what is true and what was predicted, in the published order.
    pub fn add(&mut self, truth: &[bool; CLASSES], predicted: &[bool; CLASSES]) {
        self.reports += 1;
        let mut agree = 0;
        let mut sizes = 0;
        for class in 0..CLASSES {
            let (t, p) = (truth[class], predicted[class]);
            self.true_positive[class] += u64::from(t && p);
            self.false_positive[class] += u64::from(!t && p);
            self.false_negative[class] += u64::from(t && !p);
            agree += u64::from(t && p);
            sizes += u64::from(t) + u64::from(p);
        }
        self.sample_f1 += ratio(2 * agree, sizes);
    }

    /// Computes the scores of all reports that were counted.
    pub fn scores(&self) -> ClinicalScores {
        let mean = |of: &dyn Fn(usize) -> f64| (0..CLASSES).map(of).sum::<f64>() / CLASSES as f64;
        let (tp, fp, fne) = (
            &self.true_positive,
            &self.false_positive,
            &self.false_negative,
        );
        let f1 = |c: usize| ratio(2 * tp[c], 2 * tp[c] + fp[c] + fne[c]);
        let wrong: u64 = fp.iter().chain(fne).sum();
        let cells = self.reports * CLASSES as u64;
        ClinicalScores {
            reports: self.reports,
            macro_f1: mean(&f1),
            macro_precision: mean(&|c| ratio(tp[c], tp[c] + fp[c])),
            macro_recall: mean(&|c| ratio(tp[c], tp[c] + fne[c])),
            sample_f1: if self.reports == 0 {
                0.0
            } else {
                self.sample_f1 / self.reports as f64
            },
            accuracy: ratio(cells - wrong, cells),
            f1: Finding::ALL.into_iter().zip((0..CLASSES).map(f1)).collect(),
        }
    }
}

fn present(labels: &Labels) -> [bool; CLASSES] {
    Finding::ALL.map(|finding| labels.get(&finding) == Some(&Label::Positive))
}

fn ratio(part: u64, whole: u64) -> f64 {
    if whole == 0 {
        0.0
    } else {
        part as f64 / whole as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_counted_scores_zero_instead_of_nan() {
        let scores = LabelCounts::default().scores();
        assert_eq!(
            (scores.macro_f1, scores.accuracy, scores.sample_f1),
            (0.0, 0.0, 0.0)
        );
    }

    #[test]
    fn uncertain_and_negative_count_as_not_present() {
        let labels = Labels::from([
            (Finding::Edema, Label::Uncertain),
            (Finding::Fracture, Label::Negative),
            (Finding::Cardiomegaly, Label::Positive),
        ]);
        let flags = present(&labels);
        assert_eq!(flags.iter().filter(|flag| **flag).count(), 1);
        assert!(flags[2]);
    }
}
