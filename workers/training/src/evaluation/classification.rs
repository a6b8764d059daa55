//! Scores of yes/no predictions of the 14 findings, where only known labels count.

use radialog_schemas::Finding;

/// Of fewer images than this with a finding, or without, users are told that what is learned of it is chance as much as
/// anything; of fewer patients, that what is measured is.
pub const FEW: usize = 10;
/// Number of findings.
const CLASSES: usize = Finding::ALL.len();

/// The logits and the labels of the images that have been classified.
#[derive(Clone, Debug, Default)]
pub struct Predictions {
    /// The logit and the label of each image whose label is known, by finding.
    cells: [Vec<(f32, bool)>; CLASSES],
}

/// The scores of a classifier over the findings that some images have and others have not, each between 0 and 1; none where
/// there is no such finding.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Scores {
    /// Mean F1 at a probability of one half.
    pub macro_f1: Option<f64>,
    /// Mean area under the ROC curve.
    pub macro_auc: Option<f64>,
}

impl Predictions {
    /// Adds one image: 14 logits, truths and whether each is known.
    pub fn add(&mut self, logits: &[f32], truths: &[f32], known: &[f32]) {
        for (cells, ((&logit, &truth), &known)) in self
            .cells
            .iter_mut()
            .zip(logits.iter().zip(truths).zip(known))
        {
            if known > 0.0 {
                cells.push((logit, truth > 0.5));
            }
        }
    }

    /// Computes the scores of all images.
    pub fn scores(&self) -> Scores {
        let scored = self
            .cells
            .iter()
            .filter_map(|cells| Some((f1(cells), auc(cells)?)));
        let scored: Vec<(f64, f64)> = scored.collect();
        let mean = |of: fn(&(f64, f64)) -> f64| {
            let sum: f64 = scored.iter().map(of).sum();
            (!scored.is_empty()).then(|| sum / scored.len() as f64)
        };
        Scores {
            macro_f1: mean(|(f1, _)| *f1),
            macro_auc: mean(|(_, auc)| *auc),
        }
    }

    /// Mean F1 of all 14 findings, 0 where it is not defined: what the original's training computes of a batch.
    pub fn macro_f1_of_all(&self) -> f64 {
        self.cells.iter().map(|cells| f1(cells)).sum::<f64>() / CLASSES as f64
    }

    /// The area under the ROC curve of each finding that has both answers.
    pub fn aucs(&self) -> Vec<(Finding, f64)> {
        Finding::ALL
            .into_iter()
            .zip(&self.cells)
            .filter_map(|(finding, cells)| Some((finding, auc(cells)?)))
            .collect()
    }
}

/// Names the findings of which there is too little for a figure that means much. Each comes with the number of patients who
/// have it, or of those who have it not, whichever are fewer and some: resamples draw patients.
pub(crate) fn few_words(findings: impl Iterator<Item = (Finding, usize)>) -> Option<String> {
    let few = findings.filter(|(_, patients)| *patients < FEW);
    let names: Vec<String> = few
        .map(|(finding, patients)| format!("{} ({patients})", finding.name()))
        .collect();
    (!names.is_empty()).then(|| {
        format!(
            "fewer than {FEW} patients with, or without, {}: their figures, and means that they are in, are chance as much as \
             quality, and intervals over so few are too narrow. A score that rests on one patient has none, and no spread in \
             means.",
            names.join(", ")
        )
    })
}

fn f1(cells: &[(f32, bool)]) -> f64 {
    let count = |of: &dyn Fn(bool, bool) -> bool| {
        cells
            .iter()
            .filter(|(logit, truth)| of(*logit > 0.0, *truth))
            .count()
    };
    let (right, wrong) = (
        count(&|said, truth| said && truth),
        count(&|said, truth| said != truth),
    );
    if right + wrong == 0 {
        0.0
    } else {
        2.0 * right as f64 / (2 * right + wrong) as f64
    }
}

/// The share of pairs of a positive and a negative that are in order; ties count half.
pub(crate) fn auc(cells: &[(f32, bool)]) -> Option<f64> {
    let positives = cells.iter().filter(|(_, truth)| *truth).count();
    let negatives = cells.len() - positives;
    if positives == 0 || negatives == 0 {
        return None;
    }
    let mut sorted = cells.to_vec();
    sorted.sort_by(|a, b| a.0.total_cmp(&b.0));
    let (mut below, mut pairs) = (0.0, 0.0);
    for equal in sorted.chunk_by(|a, b| a.0 == b.0) {
        let with = equal.iter().filter(|(_, truth)| *truth).count() as f64;
        let without = equal.len() as f64 - with;
        pairs += with * (below + without / 2.0);
        below += without;
    }
    Some(pairs / (positives as f64 * negatives as f64))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_area_counts_pairs_in_order_and_ties_half() {
        assert_eq!(
            auc(&[(0.1, false), (0.4, true), (0.35, false), (0.8, true)]),
            Some(1.0)
        );
        assert_eq!(auc(&[(0.5, false), (0.5, true)]), Some(0.5));
        assert_eq!(
            auc(&[(0.1, false), (0.4, false), (0.35, true), (0.8, true)]),
            Some(0.75)
        );
        assert_eq!(auc(&[(0.1, true)]), None);
    }

    #[test]
    fn unknown_labels_do_not_count() {
        let mut predictions = Predictions::default();
        let (mut truths, mut known) = ([0.0; 14], [1.0; 14]);
        truths[5] = 1.0;
        known[3] = 0.0;
        let mut logits = [-1.0; 14];
        logits[5] = 2.0;
        logits[3] = 9.0;
        predictions.add(&logits, &truths, &known);
        assert!((predictions.macro_f1_of_all() - 1.0 / 14.0).abs() < 1e-12);
    }

    #[test]
    fn scores_are_of_the_findings_that_have_both_answers_and_of_no_other() {
        let mut predictions = Predictions::default();
        assert_eq!(predictions.scores(), Scores::default());
        let (mut truths, known) = ([0.0; 14], [1.0; 14]);
        predictions.add(&[-1.0; 14], &truths, &known);
        assert_eq!(predictions.scores(), Scores::default(), "nobody has any");
        truths[5] = 1.0;
        let mut logits = [-1.0; 14];
        logits[5] = 2.0;
        predictions.add(&logits, &truths, &known);
        let scores = predictions.scores();
        assert_eq!((scores.macro_f1, scores.macro_auc), (Some(1.0), Some(1.0)));
    }
}
