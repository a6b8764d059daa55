//! How well the classifier's probabilities rank and state: area under the ROC curve, Brier score and calibration.

use serde::Serialize;

use super::{CLASSES, StudyScores};

/// Bins of a reliability diagram.
const BINS: usize = 10;

/// The probabilities of the images whose labels are known, by finding, the least first; sorted once for all resamples.
pub(super) struct Ranking {
    findings: Vec<Vec<RankedImage>>,
}

struct RankedImage {
    study: u32,
    probability: f32,
    truth: bool,
}

/// How often findings of a probability are there.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Calibration {
    /// Tenths of the probability, from 0 on.
    pub bins: Vec<CalibrationBin>,
    /// Mean distance between probability and share, weighted by the number of answers (expected calibration error); lower is
    /// better.
    pub expected_error: f64,
}

/// Answers of about one probability.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct CalibrationBin {
    /// The number of answers.
    pub answers: u64,
    /// Their mean probability.
    pub probability: f64,
    /// The share of them that is true.
    pub share: f64,
}

impl Ranking {
    pub(super) fn of(studies: &[StudyScores]) -> Self {
        let images = |class: usize| {
            let mut images: Vec<RankedImage> = studies
                .iter()
                .enumerate()
                .filter_map(|(study, scores)| {
                    let (truth, _) = scores.findings.as_ref()?;
                    Some(RankedImage {
                        study: study as u32,
                        probability: scores.probabilities?[class],
                        truth: truth[class]?,
                    })
                })
                .collect();
            images.sort_by(|a, b| a.probability.total_cmp(&b.probability));
            images
        };
        Self {
            findings: (0..CLASSES).map(images).collect(),
        }
    }

    /// Macro AUC, Brier score, and the AUC of each finding, where a study counts as often as its weight says; NaN where a score is
    /// not defined.
    pub(super) fn values(&self, weights: &[u32]) -> Vec<f64> {
        let aucs: Vec<f64> = self
            .findings
            .iter()
            .map(|images| auc(images, weights))
            .collect();
        let defined: Vec<f64> = aucs.iter().copied().filter(|auc| !auc.is_nan()).collect();
        let (mut error, mut answers) = (0.0, 0.0);
        for image in self.findings.iter().flatten() {
            let weight = f64::from(weights[image.study as usize]);
            let distance = f64::from(image.probability) - f64::from(u8::from(image.truth));
            error += weight * distance * distance;
            answers += weight;
        }
        let macro_auc = defined.iter().sum::<f64>() / defined.len() as f64;
        let mut values = vec![macro_auc, error / answers];
        values.extend(aucs);
        values
    }
}

/// The share of pairs of an image with the finding and one without that are in order; ties count half.
fn auc(images: &[RankedImage], weights: &[u32]) -> f64 {
    let (mut below, mut pairs, mut positives) = (0.0, 0.0, 0.0);
    for equal in images.chunk_by(|a, b| a.probability == b.probability) {
        let (mut with, mut without) = (0.0, 0.0);
        for image in equal {
            let weight = f64::from(weights[image.study as usize]);
            if image.truth {
                with += weight;
            } else {
                without += weight;
            }
        }
        pairs += with * (below + without / 2.0);
        below += without;
        positives += with;
    }
    // 0 / 0 where one of the two sides is empty.
    pairs / (positives * below)
}

impl Calibration {
    /// Counts all known answers of all findings.
    pub(super) fn of(studies: &[StudyScores]) -> Self {
        let mut bins = vec![CalibrationBin::default(); BINS];
        for scores in studies {
            let (Some((truth, _)), Some(probabilities)) = (&scores.findings, &scores.probabilities)
            else {
                continue;
            };
            for class in 0..CLASSES {
                let Some(truth) = truth[class] else {
                    continue;
                };
                let probability = f64::from(probabilities[class]);
                let bin = ((probability * BINS as f64) as usize).min(BINS - 1);
                bins[bin].answers += 1;
                bins[bin].probability += probability;
                bins[bin].share += f64::from(u8::from(truth));
            }
        }
        let all: u64 = bins.iter().map(|bin| bin.answers).sum();
        let mut expected_error = 0.0;
        for bin in bins.iter_mut().filter(|bin| bin.answers > 0) {
            bin.probability /= bin.answers as f64;
            bin.share /= bin.answers as f64;
            let weight = bin.answers as f64 / all as f64;
            expected_error += weight * (bin.probability - bin.share).abs();
        }
        Self {
            bins,
            expected_error,
        }
    }

    /// Whether there was an answer.
    pub fn is_empty(&self) -> bool {
        self.bins.iter().all(|bin| bin.answers == 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn study(probability: f32, truth: Option<bool>) -> StudyScores {
        StudyScores {
            findings: Some(([truth; CLASSES], [probability > 0.5; CLASSES])),
            probabilities: Some([probability; CLASSES]),
            ..StudyScores::default()
        }
    }

    #[test]
    fn pairs_in_order_count_ties_count_half_and_a_study_counts_as_often_as_it_is_drawn() {
        let studies = [
            study(0.1, Some(false)),
            study(0.4, Some(false)),
            study(0.35, Some(true)),
            study(0.8, Some(true)),
            study(0.9, None),
        ];
        let ranking = Ranking::of(&studies);
        let auc = |weights: &[u32]| ranking.values(weights)[0];
        assert_eq!(auc(&[1, 1, 1, 1, 1]), 0.75);
        // Without the second, all pairs are in order.
        assert_eq!(auc(&[1, 0, 1, 1, 0]), 1.0);
        assert!(auc(&[1, 1, 0, 0, 1]).is_nan());
        assert_eq!(
            Ranking::of(&[study(0.5, Some(true)), study(0.5, Some(false))]).values(&[1, 3])[0],
            0.5
        );
    }

    #[test]
    fn calibration_compares_probabilities_with_what_is_there() {
        let studies = [
            study(0.95, Some(true)),
            study(0.95, Some(false)),
            study(0.05, Some(false)),
        ];
        let calibration = Calibration::of(&studies);
        assert_eq!(calibration.bins[9].answers, 2 * CLASSES as u64);
        assert!((calibration.bins[9].share - 0.5).abs() < 1e-9);
        let expected = 2.0 / 3.0 * 0.45 + 1.0 / 3.0 * 0.05;
        assert!((calibration.expected_error - expected).abs() < 1e-6);
        assert!(Calibration::of(&[]).is_empty());
    }

    #[test]
    fn the_findings_of_a_ranking_stand_in_the_published_order() {
        let values =
            Ranking::of(&[study(0.2, Some(false)), study(0.6, Some(true))]).values(&[1, 1]);
        assert_eq!(values.len(), 2 + CLASSES);
        assert!((values[1] - (0.04 + 0.16) / 2.0).abs() < 1e-6);
    }
}
