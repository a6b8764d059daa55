//! Clinical scores of generated reports (the paper's "CE"): both sides are reduced to present or not, where *negative* and *not
//! mentioned* count as not present, and *uncertain* as the paper has it, too, unless told otherwise; undefined ratios count as
//! 0, as scikit-learn does.

use radialog_schemas::{Finding, Label};
use serde::Serialize;

const CLASSES: usize = Finding::ALL.len();
/// The five findings that CheXpert's competition scored, and papers report beside the 14.
pub const FIVE: [Finding; 5] = [
    Finding::Atelectasis,
    Finding::Cardiomegaly,
    Finding::Consolidation,
    Finding::Edema,
    Finding::PleuralEffusion,
];

/// What an uncertain label counts as, on both sides.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum UncertainAs {
    /// Not present, as in the paper's test program.
    #[default]
    Negative,
    /// Present.
    Positive,
}

/// Precision, recall and F1 of some classes, each between 0 and 1.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Rates {
    /// Share of the predicted labels that are true.
    pub precision: f64,
    /// Share of the true labels that were predicted.
    pub recall: f64,
    /// Harmonic mean of the two; of several classes, what the averaging gives.
    pub f1: f64,
}

/// The confusion counts of all reports so far. Its size does not depend on their number.
#[derive(Clone, Debug, Default)]
pub struct LabelCounts {
    reports: u64,
    true_positive: [u64; CLASSES],
    false_positive: [u64; CLASSES],
    false_negative: [u64; CLASSES],
    /// Cells whose truth is known.
    known: [u64; CLASSES],
    sample_f1: f64,
}

/// The scores of a set of reports, each between 0 and 1.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ClinicalScores {
    /// The number of reports that had a reference.
    pub reports: u64,
    /// Mean F1 of the 14 classes.
    pub macro_f1: f64,
    /// Mean precision of the 14 classes.
    pub macro_precision: f64,
    /// Mean recall of the 14 classes.
    pub macro_recall: f64,
    /// Mean F1 of the reports' label sets; a report without any label on both sides counts 0.
    pub sample_f1: f64,
    /// Share of the cells (14 a report) whose truth is known and that agree.
    pub accuracy: f64,
    /// F1 of each class, in the published order.
    pub f1: Vec<(Finding, f64)>,
    /// Rates of each class, in the published order.
    pub labels: Vec<(Finding, Rates)>,
    /// Rates over all cells of the 14 classes together.
    pub micro: Rates,
    /// Mean rates of [`FIVE`].
    pub five_macro: Rates,
    /// Rates over all cells of [`FIVE`] together.
    pub five_micro: Rates,
}

impl UncertainAs {
    /// Whether a finding with this label counts as present.
    pub fn is_present(self, label: Label) -> bool {
        match label {
            Label::Positive => true,
            Label::Uncertain => self == Self::Positive,
            Label::Negative | Label::Blank => false,
        }
    }
}

impl LabelCounts {
    /// Counts one report: what is true and what was predicted, in the published order.
    pub fn add(&mut self, truth: &[bool; CLASSES], predicted: &[bool; CLASSES]) {
        self.add_known(&truth.map(Some), predicted);
    }

    /// Counts one report of which not everything is known: a cell without truth does not count, and a class without any is left
    /// out of the means of classes.
    pub fn add_known(&mut self, truth: &[Option<bool>; CLASSES], predicted: &[bool; CLASSES]) {
        self.reports += 1;
        let mut agree = 0;
        let mut sizes = 0;
        for class in 0..CLASSES {
            let (Some(t), p) = (truth[class], predicted[class]) else {
                continue;
            };
            self.known[class] += 1;
            self.true_positive[class] += u64::from(t && p);
            self.false_positive[class] += u64::from(!t && p);
            self.false_negative[class] += u64::from(t && !p);
            agree += u64::from(t && p);
            sizes += u64::from(t) + u64::from(p);
        }
        self.sample_f1 += ratio(2 * agree, sizes);
    }

    /// Says of how many findings the means are, where that is not all of them; a finding without a label is in none.
    pub fn findings_words(&self) -> Option<String> {
        let known = self.known.iter().filter(|known| **known > 0);
        findings_words(known.count())
    }

    /// The number of reports that have this finding, as far as it is known.
    pub fn positives(&self, finding: Finding) -> u64 {
        self.true_positive[finding as usize] + self.false_negative[finding as usize]
    }

    /// The number of reports of which it is known whether they have this finding.
    pub fn known(&self, finding: Finding) -> u64 {
        self.known[finding as usize]
    }

    /// Mean F1 of the findings that some of the reports have and others have not; none where there is no such finding. Trainings
    /// and evaluations of bundles have no other macro F1. [`ClinicalScores::macro_f1`] is the published test program's, in
    /// whose data set all findings are.
    pub fn scored_macro_f1(&self) -> Option<f64> {
        let is_scored = |finding: &Finding| {
            let positives = self.positives(*finding);
            positives > 0 && positives < self.known(*finding)
        };
        let scored: Vec<usize> = Finding::ALL
            .into_iter()
            .filter(is_scored)
            .map(|finding| finding as usize)
            .collect();
        (!scored.is_empty()).then(|| self.macro_of(&scored).f1)
    }

    /// The share of the reports without this finding, as far as it is known, that do not say it; 0 where there is none.
    pub fn specificity(&self, finding: Finding) -> f64 {
        let negatives = self.known(finding) - self.positives(finding);
        ratio(negatives - self.false_positive[finding as usize], negatives)
    }

    /// Computes the scores of all reports that were counted.
    pub fn scores(&self) -> ClinicalScores {
        // Without any report, all of them.
        let counts = |class: &usize| self.reports == 0 || self.known[*class] > 0;
        let classes: Vec<usize> = (0..CLASSES).filter(counts).collect();
        let mean = |of: &dyn Fn(usize) -> f64| {
            classes.iter().copied().map(of).sum::<f64>() / classes.len().max(1) as f64
        };
        let (tp, fp, fne) = (
            &self.true_positive,
            &self.false_positive,
            &self.false_negative,
        );
        let f1 = |c: usize| ratio(2 * tp[c], 2 * tp[c] + fp[c] + fne[c]);
        let wrong: u64 = fp.iter().chain(fne).sum();
        let cells: u64 = self.known.iter().sum();
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
            labels: Finding::ALL
                .into_iter()
                .zip((0..CLASSES).map(|class| self.micro([class])))
                .collect(),
            micro: self.micro(0..CLASSES),
            five_macro: self.macro_of(&five().into_iter().filter(counts).collect::<Vec<_>>()),
            five_micro: self.micro(five()),
        }
    }

    /// Rates of the cells of some classes together.
    fn micro(&self, classes: impl IntoIterator<Item = usize>) -> Rates {
        let (mut tp, mut fp, mut fne) = (0, 0, 0);
        for class in classes {
            tp += self.true_positive[class];
            fp += self.false_positive[class];
            fne += self.false_negative[class];
        }
        Rates {
            precision: ratio(tp, tp + fp),
            recall: ratio(tp, tp + fne),
            f1: ratio(2 * tp, 2 * tp + fp + fne),
        }
    }

    /// Mean rates of some classes.
    fn macro_of(&self, classes: &[usize]) -> Rates {
        let each: Vec<Rates> = classes.iter().map(|class| self.micro([*class])).collect();
        let mean =
            |of: fn(&Rates) -> f64| each.iter().map(of).sum::<f64>() / each.len().max(1) as f64;
        Rates {
            precision: mean(|rates| rates.precision),
            recall: mean(|rates| rates.recall),
            f1: mean(|rates| rates.f1),
        }
    }
}

/// Places of [`FIVE`] in the published order.
fn five() -> Vec<usize> {
    let is_one = |class: &usize| FIVE.contains(&Finding::ALL[*class]);
    (0..CLASSES).filter(is_one).collect()
}

fn ratio(part: u64, whole: u64) -> f64 {
    if whole == 0 {
        0.0
    } else {
        part as f64 / whole as f64
    }
}

/// Says of how many findings means are, where that is not all of them, nor none: means of fewer findings are other means.
pub fn findings_words(findings: usize) -> Option<String> {
    let all = Finding::ALL.len();
    (findings > 0 && findings < all)
        .then(|| format!("of {findings} of {all} findings, the others have no label"))
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
    fn micro_rates_pool_cells_and_macro_rates_average_classes() {
        let of = |present: &[usize]| std::array::from_fn(|class| present.contains(&class));
        let places = five();
        let mut counts = LabelCounts::default();
        counts.add(&of(&[places[0]]), &of(&[places[0], places[1]]));
        let scores = counts.scores();
        assert_eq!(scores.five_micro, scores.micro);
        assert_eq!((scores.micro.precision, scores.micro.recall), (0.5, 1.0));
        assert!((scores.micro.f1 - 2.0 / 3.0).abs() < 1e-12);
        assert!((scores.five_macro.f1 - 0.2).abs() < 1e-12);
    }

    #[test]
    fn uncertain_and_negative_count_as_not_present_unless_told_otherwise() {
        let present = |uncertain: UncertainAs| {
            let labels = [
                Label::Positive,
                Label::Uncertain,
                Label::Negative,
                Label::Blank,
            ];
            labels.map(|label| uncertain.is_present(label))
        };
        assert_eq!(present(UncertainAs::Positive), [true, true, false, false]);
        assert_eq!(present(UncertainAs::Negative), [true, false, false, false]);
    }
}
