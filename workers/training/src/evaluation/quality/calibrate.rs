//! What the logits of a bundle's classifier mean, fitted on a split of labelled images, and what that is worth on these images.

use candle_core::Device;
use radialog_models::bundle::Bundle;
use radialog_models::bundle::components::FindingsComponent;
use radialog_models::findings::{Calibration, ThresholdRule};
use radialog_schemas::{Finding, Stage, counted};

use super::networks::Networks;
use super::studies;
use super::{ProgressCallback, TRAIN};
use crate::error::TrainingError;
use crate::evaluation::calibration::{CalibrationData, brier};
use crate::evaluation::report_scores::ReliabilityBins;
use crate::recipe::ImageTable;

/// A calibration, beside the probabilities that it takes the place of.
#[derive(Clone, Debug)]
pub struct FittedCalibration {
    /// What was fitted.
    pub calibration: Calibration,
    /// The images that it was fitted on.
    pub images: usize,
    /// The patients of these images who have training images in any of the tables.
    pub also_trained: usize,
    /// Brier score of the probabilities that the bundle has stated before, over all answers; lower is better.
    pub before: f64,
    /// Brier score of the calibrated probabilities, on the images that they were fitted on.
    pub after: f64,
    /// Brier score of a constant: the share of these images that have each finding.
    pub constant: f64,
    /// How often findings of a probability are there, before.
    pub reliability_before: ReliabilityBins,
    /// The same, after.
    pub reliability_after: ReliabilityBins,
}

impl FittedCalibration {
    /// Fits on the images of a split; none where they are too few. Thresholds are chosen by `rule`, or else by that of the bundle's
    /// own calibration.
    ///
    /// # Errors
    /// A table that cannot be read or has no image of the split, an image that cannot be read, a bundle without a classifier.
    pub fn fit(
        bundle: &Bundle,
        tables: &[ImageTable],
        split: &str,
        rule: Option<ThresholdRule>,
        device: &Device,
        progress: ProgressCallback<'_>,
    ) -> Result<Option<Self>, TrainingError> {
        let images = studies::images(tables, split)?;
        let trained = studies::images_if_any(tables, TRAIN)?;
        let also_trained = studies::shared_patients(images.iter(), trained.iter());
        let paths: Vec<_> = images.iter().map(|image| &image.path).collect();
        let networks = Networks::load(bundle, &[Stage::Findings], device, progress)?;
        let config: FindingsComponent = bundle.config(Stage::Findings)?;
        let mut data = CalibrationData::default();
        for (image, logits) in images.iter().zip(networks.logits(&paths)?) {
            data.add(&logits, &image.truth());
        }
        // The outputs of what was not learned mean nothing.
        if let Some(assessed) = &config.assessed {
            data.keep(assessed);
        }
        let source = config.calibration.unwrap_or_default();
        let rule = rule.or(source.thresholds).unwrap_or_default();
        let Some(calibration) = data.fit(rule) else {
            return Ok(None);
        };
        let (mut before, mut after, mut constant) = (Vec::new(), Vec::new(), Vec::new());
        for (finding, answers) in Finding::ALL.into_iter().zip(&data.0) {
            let [was, of] = [&source, &calibration].map(|of| of.of(finding));
            let with = answers.iter().filter(|(_, truth)| *truth).count();
            let share = with as f64 / answers.len().max(1) as f64;
            for &(logit, truth) in answers {
                before.push((was.probability(f64::from(logit)), truth));
                after.push((of.probability(f64::from(logit)), truth));
                constant.push((share, truth));
            }
        }
        let score = |answers: &[(f64, bool)]| brier(answers.iter().copied()).unwrap_or(f64::NAN);
        Ok(Some(Self {
            images: images.len(),
            also_trained,
            before: score(&before),
            after: score(&after),
            constant: score(&constant),
            reliability_before: ReliabilityBins::of(before.into_iter()),
            reliability_after: ReliabilityBins::of(after.into_iter()),
            calibration,
        }))
    }

    /// Why it is worth less than it seems.
    pub fn caution(&self) -> Option<String> {
        (self.also_trained > 0).then(|| {
            format!(
                "{} training images in these tables, too: the probabilities will be too sure, and the \
                 scores are too good.",
                counted(
                    self.also_trained,
                    "patient of this split has",
                    "patients of this split have"
                )
            )
        })
    }

    /// What it is worth, in a line.
    pub fn words(&self) -> String {
        format!(
            "fitted on {}; Brier score over all their answers {:.4}, before {:.4}, of a constant, the share of these images \
             that have the finding, {:.4} (lower is better)",
            counted(self.images, "image", "images"),
            self.after,
            self.before,
            self.constant
        )
    }
}
