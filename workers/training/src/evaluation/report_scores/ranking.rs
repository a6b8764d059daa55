//! How well the classifier's probabilities rank and state: area under the ROC curve, Brier score and calibration.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::ops::Range;
use std::os::unix::fs::FileExt;

use serde::{Deserialize, Serialize};

use super::stored_scores::StoredScores;
use super::{CLASSES, StudyScores, Totals};

/// Bins of a reliability diagram.
const BINS: usize = 10;
/// Bytes of an image of a ranking.
const IMAGE: usize = size_of::<u32>();
/// Images that are read at a time.
const READ: usize = 1 << 14;
/// Marks an image that has the finding, beside the number of its study.
const TRUE: u32 = 1 << 31;
/// Marks an image with the same probability as the one before.
const EQUAL: u32 = 1 << 30;

/// The images whose labels are known, by finding, those with the least probability first; sorted once for all resamples, and in a
/// file without a name, so that memory does not grow with them.
pub(super) struct Ranking {
    file: File,
    /// The images of each finding.
    findings: Vec<Range<usize>>,
}

/// The images of a ranking that were seen so far, each as often as its weight says.
#[derive(Clone, Copy, Default)]
struct Seen {
    /// Without the finding, with a lower probability.
    below: f64,
    /// Pairs of an image with the finding and one without that are in order; ties count half.
    pairs: f64,
    /// With the finding.
    positives: f64,
    /// Of the probability that is being read: with the finding, and without.
    equal: (f64, f64),
}

/// How often findings of a probability are there.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct ReliabilityBins {
    /// Tenths of the probability, from 0 on.
    pub bins: [ReliabilityBin; BINS],
    /// Mean distance between probability and share, weighted by the number of answers (expected calibration error); lower is
    /// better.
    pub expected_error: f64,
}

/// Answers of about one probability.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct ReliabilityBin {
    /// The number of answers.
    pub answers: u64,
    /// Their mean probability.
    pub probability: f64,
    /// The share of them that is true.
    pub share: f64,
}

impl Ranking {
    /// Ranks the images of these corpora, whose studies are numbered one after the other.
    pub(super) fn of(corpora: &[&StoredScores]) -> io::Result<Self> {
        let all: usize = corpora.iter().map(|studies| studies.len()).sum();
        if all >= EQUAL as usize {
            return Err(io::Error::other("more studies than can be ranked"));
        }
        let mut file = BufWriter::new(tempfile::tempfile()?);
        let (mut findings, mut begin) = (Vec::with_capacity(CLASSES), 0);
        for class in 0..CLASSES {
            let mut images: Vec<(f32, u32)> = Vec::new();
            let studies = corpora.iter().flat_map(|studies| studies.iter());
            for (study, scores) in studies.enumerate() {
                let scores = scores?;
                let truth = scores.findings.and_then(|(truth, _)| truth[class]);
                if let (Some(truth), Some(probabilities)) = (truth, scores.probabilities) {
                    let truth = if truth { TRUE } else { 0 };
                    images.push((probabilities[class], study as u32 | truth));
                }
            }
            images.sort_by(|a, b| a.0.total_cmp(&b.0));
            let mut before = None;
            for (probability, image) in &images {
                let equal = match before == Some(*probability) {
                    true => EQUAL,
                    false => 0,
                };
                before = Some(*probability);
                file.write_all(&(image | equal).to_le_bytes())?;
            }
            findings.push(begin..begin + images.len());
            begin += images.len();
        }
        let file = file.into_inner();
        Ok(Self {
            file: file.map_err(io::IntoInnerError::into_error)?,
            findings,
        })
    }

    /// For each of these weights, by which a study counts so many times: macro AUC, and the AUC of each finding; NaN where one is
    /// not defined.
    ///
    /// # Errors
    /// The file cannot be read.
    pub(super) fn aucs(&self, weights: &[Vec<u32>]) -> io::Result<Vec<(f64, [f64; CLASSES])>> {
        let mut aucs = vec![[f64::NAN; CLASSES]; weights.len()];
        let mut bytes = vec![0; READ * IMAGE];
        for (class, images) in self.findings.iter().enumerate() {
            let mut seen = vec![Seen::default(); weights.len()];
            for begin in images.clone().step_by(READ) {
                let bytes = &mut bytes[..(images.end - begin).min(READ) * IMAGE];
                self.file.read_exact_at(bytes, (begin * IMAGE) as u64)?;
                for image in bytes.as_chunks::<IMAGE>().0 {
                    let image = u32::from_le_bytes(*image);
                    let study = (image & !(TRUE | EQUAL)) as usize;
                    for (seen, weights) in seen.iter_mut().zip(weights) {
                        seen.see(image, f64::from(weights[study]));
                    }
                }
            }
            for (aucs, seen) in aucs.iter_mut().zip(seen) {
                aucs[class] = seen.auc();
            }
        }
        let with_mean = |aucs: [f64; CLASSES]| (mean_auc(&aucs, &aucs), aucs);
        Ok(aucs.into_iter().map(with_mean).collect())
    }
}

/// Mean of the AUCs of some images. For a finding whose AUC they do not define, that of all images stands in: means of
/// resamples are over the same findings. NaN where no finding has one.
pub(super) fn mean_auc(aucs: &[f64; CLASSES], of_all: &[f64; CLASSES]) -> f64 {
    let each = aucs.iter().zip(of_all);
    let each = each.map(|(auc, of_all)| if auc.is_nan() { of_all } else { auc });
    let defined = each.filter(|auc| !auc.is_nan());
    let (sum, count) = defined.fold((0.0, 0_u32), |(sum, count), auc| (sum + auc, count + 1));
    sum / f64::from(count)
}

impl Seen {
    fn see(&mut self, image: u32, weight: f64) {
        if image & EQUAL == 0 {
            self.end_equal();
        }
        match image & TRUE {
            0 => self.equal.1 += weight,
            _ => self.equal.0 += weight,
        }
    }

    fn end_equal(&mut self) {
        let (with, without) = std::mem::take(&mut self.equal);
        self.pairs += with * (self.below + without / 2.0);
        self.below += without;
        self.positives += with;
    }

    /// The share of pairs that are in order; 0 / 0 where one of the two sides is empty.
    fn auc(mut self) -> f64 {
        self.end_equal();
        self.pairs / (self.positives * self.below)
    }
}

/// The mean squared distance of the probabilities from what is true; NaN where there is no answer.
pub(super) fn brier(totals: &Totals) -> f64 {
    let (distances, answers) = totals.distances;
    distances / answers as f64
}

impl ReliabilityBins {
    /// Shares of the answers of each tenth of the probability.
    pub fn of(answers: impl Iterator<Item = (f64, bool)>) -> Self {
        let mut calibration = Self::default();
        answers.for_each(|(probability, truth)| calibration.count(probability, truth));
        calibration.finish()
    }

    fn count(&mut self, probability: f64, truth: bool) {
        let bin = ((probability * BINS as f64) as usize).min(BINS - 1);
        self.bins[bin].answers += 1;
        self.bins[bin].probability += probability;
        self.bins[bin].share += f64::from(u8::from(truth));
    }

    /// Adds the known answers of a study; [`ReliabilityBins::finish`] makes shares of their sums.
    pub(super) fn add(&mut self, scores: &StudyScores) {
        let (Some((truth, _)), Some(probabilities)) = (&scores.findings, &scores.probabilities)
        else {
            return;
        };
        for class in 0..CLASSES {
            let Some(truth) = truth[class] else {
                continue;
            };
            self.count(f64::from(probabilities[class]), truth);
        }
    }

    /// Makes means and shares of the sums; the expected error is NaN where there is no answer.
    pub(super) fn finish(mut self) -> Self {
        let all: u64 = self.bins.iter().map(|bin| bin.answers).sum();
        if all == 0 {
            self.expected_error = f64::NAN;
        }
        for bin in self.bins.iter_mut().filter(|bin| bin.answers > 0) {
            bin.probability /= bin.answers as f64;
            bin.share /= bin.answers as f64;
            let weight = bin.answers as f64 / all as f64;
            self.expected_error += weight * (bin.probability - bin.share).abs();
        }
        self
    }

    /// Whether there was an answer.
    pub fn is_empty(&self) -> bool {
        self.bins.iter().all(|bin| bin.answers == 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::evaluation::report_scores::stored_scores::stored;

    fn study(probability: f32, truth: Option<bool>) -> StudyScores {
        StudyScores {
            findings: Some(([truth; CLASSES], [probability > 0.5; CLASSES])),
            probabilities: Some([probability; CLASSES]),
            ..StudyScores::default()
        }
    }

    fn calibration(studies: &[StudyScores]) -> ReliabilityBins {
        let mut calibration = ReliabilityBins::default();
        studies.iter().for_each(|study| calibration.add(study));
        calibration.finish()
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
        let ranking = Ranking::of(&[&stored(&studies)]).unwrap();
        // Without the second, all pairs are in order.
        let weights = [[1, 1, 1, 1, 1], [1, 0, 1, 1, 0], [1, 1, 0, 0, 1]].map(Vec::from);
        let aucs = ranking.aucs(&weights).unwrap();
        assert_eq!([aucs[0].0, aucs[1].0], [0.75, 1.0]);
        assert!(aucs[2].0.is_nan());
        let ties = [study(0.5, Some(true)), study(0.5, Some(false))];
        let ties = Ranking::of(&[&stored(&ties)]).unwrap();
        assert_eq!(ties.aucs(&[vec![1, 3]]).unwrap(), [(0.5, [0.5; CLASSES])]);
    }

    #[test]
    fn a_finding_that_some_images_do_not_define_is_in_their_mean_as_in_that_of_all() {
        let mut aucs = [f64::NAN; CLASSES];
        aucs[0] = 0.9;
        let mut of_all = [f64::NAN; CLASSES];
        (of_all[0], of_all[1]) = (0.8, 0.5);
        assert!((mean_auc(&aucs, &of_all) - 0.7).abs() < 1e-12);
        assert!(mean_auc(&[f64::NAN; CLASSES], &[f64::NAN; CLASSES]).is_nan());
    }

    #[test]
    fn more_images_than_are_read_at_a_time_are_ranked_as_all_pairs_of_them() {
        let images = READ + 100;
        let of = |place: usize| {
            study(
                (place * 7 % 1000) as f32 / 1000.0,
                Some(place.is_multiple_of(3)),
            )
        };
        let studies: Vec<StudyScores> = (0..images).map(of).collect();
        let ranking = Ranking::of(&[&stored(&studies)]).unwrap();
        let aucs = ranking.aucs(&[vec![1; images]]).unwrap();
        // By the number of images of each probability.
        let mut counts = vec![(0.0, 0.0); 1000];
        for place in 0..images {
            match place % 3 {
                0 => counts[place * 7 % 1000].0 += 1.0,
                _ => counts[place * 7 % 1000].1 += 1.0,
            }
        }
        let (mut below, mut pairs, mut positives) = (0.0, 0.0, 0.0);
        for (with, without) in counts {
            pairs += with * (below + without / 2.0);
            below += without;
            positives += with;
        }
        assert!((aucs[0].0 - pairs / (positives * below)).abs() < 1e-12);
    }

    #[test]
    fn calibration_compares_probabilities_with_what_is_there() {
        let studies = [
            study(0.95, Some(true)),
            study(0.95, Some(false)),
            study(0.05, Some(false)),
        ];
        let calibrated = calibration(&studies);
        assert_eq!(calibrated.bins[9].answers, 2 * CLASSES as u64);
        assert!((calibrated.bins[9].share - 0.5).abs() < 1e-9);
        let expected = 2.0 / 3.0 * 0.45 + 1.0 / 3.0 * 0.05;
        assert!((calibrated.expected_error - expected).abs() < 1e-6);
        assert!(calibration(&[]).is_empty());
    }

    #[test]
    fn the_brier_score_is_the_mean_squared_distance() {
        let mut totals = Totals::default();
        assert!(brier(&totals).is_nan());
        totals.add(&study(0.2, Some(false)));
        totals.add(&study(0.6, Some(true)));
        totals.add(&study(0.9, None));
        assert!((brier(&totals) - (0.04 + 0.16) / 2.0).abs() < 1e-6);
    }
}
