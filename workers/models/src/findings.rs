//! The classifier of the 14 CheXpert findings, and the words in which its predictions go into the prompt.

use candle_core::Tensor;
use candle_nn::VarBuilder;
use candle_nn::ops::sigmoid;
use radialog_schemas::{Finding, FindingsReport, PredictedFinding};
use serde::{Deserialize, Serialize};

use crate::error::ModelError;
use crate::layers::{Linear, each_sample};
use crate::tensors::{constant, unread};
use crate::vision::{ImageEncoder, VisionConfig};

mod calibration;

pub use calibration::{Calibration, FindingCalibration, ThresholdRule};

/// The text of the prompt when no finding is predicted.
pub const NO_FINDINGS_TEXT: &str = "no common findings";

/// Geometry of the classifier.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FindingsConfig {
    /// The geometry of its image encoder.
    #[serde(flatten)]
    pub vision: VisionConfig,
    /// Side and stride of the average pool over the encoder's patches.
    pub pool: usize,
    /// Width of the hidden layer.
    pub fc_hidden: usize,
}

impl FindingsConfig {
    /// The published geometry: 488 pixels, for a grid of 16 x 16 patches.
    pub fn published() -> Self {
        let vision = VisionConfig {
            image_size: 488,
            joint_feature_size: 128,
            ..VisionConfig::published()
        };
        Self {
            vision,
            pool: 4,
            fc_hidden: 512,
        }
    }
}

/// All outputs of the classifier.
#[derive(Clone, Debug)]
pub struct FindingsOutput {
    /// `[B, P, g, g]`, the averaged patches.
    pub pooled_features: Tensor,
    /// `[B, 14]` in the published order.
    pub logits: Tensor,
    /// `[B, 14]`, their sigmoid.
    pub probs: Tensor,
}

/// The findings classifier. Weight names are those of the published checkpoint without its prefix `model.`
/// (`biovil_encoder.*`, `fc1`, `fc2`).
#[derive(Clone, Debug)]
pub struct FindingsClassifier {
    biovil_encoder: ImageEncoder,
    pool: usize,
    fc1: Linear,
    fc2: Linear,
}

impl FindingsClassifier {
    /// Reads the weights. `vb` is at the checkpoint's `model`.
    ///
    /// # Errors
    /// A pool that does not fit the encoder's grid, or weights of another geometry.
    pub fn new(config: &FindingsConfig, vb: VarBuilder<'_>) -> Result<Self, ModelError> {
        let grid = config.vision.trunk_grid();
        if config.pool == 0 || config.pool > grid {
            let message = format!(
                "a pool of {} over a grid of {grid} x {grid} patches",
                config.pool
            );
            return Err(ModelError::Geometry(message));
        }
        let pooled = grid / config.pool;
        let features = config.vision.joint_feature_size * pooled * pooled;
        Ok(Self {
            biovil_encoder: ImageEncoder::single_image(&config.vision, vb.pp("biovil_encoder"))?,
            pool: config.pool,
            fc1: Linear::new(features, config.fc_hidden, vb.pp("fc1"))?,
            fc2: Linear::new(config.fc_hidden, Finding::ALL.len(), vb.pp("fc2"))?,
        })
    }

    /// Reads the weights of a whole checkpoint, which has more than [`FindingsClassifier::new`] reads.
    pub(crate) fn of_checkpoint(
        config: &FindingsConfig,
        checkpoint: VarBuilder<'_>,
    ) -> Result<Self, ModelError> {
        let classifier = Self::new(config, checkpoint.pp("model"))?;
        if let Some(vb) = unread(&checkpoint.pp("criterion")) {
            vb.get_with_hints(Finding::ALL.len(), "pos_weight", constant(1.0))?;
        }
        Ok(classifier)
    }

    /// Classifies images `[B, 3, side, side]`.
    pub fn forward(&self, images: &Tensor) -> Result<FindingsOutput, ModelError> {
        let pooled_features = self.biovil_encoder.project(images)?.avg_pool2d(self.pool)?;
        let logits = each_sample(&pooled_features, |features| {
            let hidden = self.fc1.forward(&features.flatten_from(1)?)?.relu()?;
            self.fc2.forward(&hidden)
        })?;
        Ok(FindingsOutput {
            probs: sigmoid(&logits)?,
            logits,
            pooled_features,
        })
    }
}

impl FindingsOutput {
    /// The predictions of each image, with their text; calibrated where it is said how.
    ///
    /// `assessed` are the findings that the classifier has learned; without them, all. Nothing is said about others.
    ///
    /// # Errors
    /// None but the tensors' own.
    pub fn reports(
        &self,
        rule: TextRule,
        calibration: Option<&Calibration>,
        assessed: Option<&[Finding]>,
    ) -> Result<Vec<FindingsReport>, ModelError> {
        let (logits, probabilities): (Vec<Vec<f32>>, Vec<Vec<f32>>) =
            (self.logits.to_vec2()?, self.probs.to_vec2()?);
        let images = logits.iter().zip(&probabilities);
        Ok(images
            .map(|(logits, probabilities)| {
                let predicted = Finding::ALL.into_iter().zip(logits).zip(probabilities);
                let predicted = predicted.map(|((finding, &logit), &probability)| {
                    let of = calibration.and_then(|all| all.findings.get(&finding));
                    let is_assessed = assessed.is_none_or(|all| all.contains(&finding));
                    match is_assessed {
                        true => predict(finding, logit, probability, of),
                        false => PredictedFinding {
                            finding,
                            probability: None,
                            present: false,
                            threshold: None,
                        },
                    }
                });
                report(predicted.collect(), rule)
            })
            .collect())
    }
}

/// The rule by which predictions become the text behind "Predicted Findings:".
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TextRule {
    /// The published test program's rule: "No Finding" gives way to real findings, and an empty list is spelt out, which is
    /// what the report model was trained on.
    #[default]
    TestProgram,
    /// The published demo's rule: the names as they are; an empty list is an empty text.
    Demo,
}

impl TextRule {
    /// The text for findings in the published order.
    pub fn text(self, present: &[Finding]) -> String {
        let spares_no_finding =
            |finding: &Finding| matches!(finding, Finding::NoFinding | Finding::SupportDevices);
        let drop_no_finding =
            self == TextRule::TestProgram && !present.iter().all(spares_no_finding);
        if self == TextRule::TestProgram && present.is_empty() {
            return NO_FINDINGS_TEXT.to_owned();
        }
        let kept = present
            .iter()
            .filter(|&&finding| !(drop_no_finding && finding == Finding::NoFinding));
        kept.map(|finding| finding.name().to_lowercase())
            .collect::<Vec<_>>()
            .join(", ")
    }
}

/// What a logit says of a finding: its sigmoid, present over one half, or as it is calibrated.
fn predict(
    finding: Finding,
    logit: f32,
    probability: f32,
    calibration: Option<&FindingCalibration>,
) -> PredictedFinding {
    let Some(of) = calibration else {
        return PredictedFinding {
            finding,
            probability: Some(probability),
            present: probability > 0.5,
            threshold: None,
        };
    };
    let (probability, threshold) = (of.probability(f64::from(logit)), of.threshold);
    PredictedFinding {
        finding,
        probability: Some(probability as f32),
        present: probability > threshold,
        threshold: Some(threshold as f32),
    }
}

/// The report of 14 findings in the published order.
fn report(findings: Vec<PredictedFinding>, rule: TextRule) -> FindingsReport {
    let present: Vec<_> = findings
        .iter()
        .filter(|predicted| predicted.present)
        .map(|p| p.finding)
        .collect();
    FindingsReport {
        text: rule.text(&present),
        findings,
        warnings: Vec::new(),
        input_gate: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Finding::{Edema, NoFinding, SupportDevices};

    #[test]
    fn no_finding_gives_way_to_real_findings_only() {
        let text = |present: &[Finding]| TextRule::TestProgram.text(present);
        assert_eq!(text(&[NoFinding, Edema]), "edema");
        assert_eq!(
            text(&[NoFinding, Edema, SupportDevices]),
            "edema, support devices"
        );
        assert_eq!(
            text(&[NoFinding, SupportDevices]),
            "no finding, support devices"
        );
        assert_eq!(text(&[NoFinding]), "no finding");
        assert_eq!(text(&[]), "no common findings");
    }

    #[test]
    fn the_demo_takes_the_names_as_they_are() {
        assert_eq!(
            TextRule::Demo.text(&[NoFinding, Edema]),
            "no finding, edema"
        );
        assert_eq!(TextRule::Demo.text(&[]), "");
    }

    /// The report of logits, over the tensors of a network.
    fn of_logits(
        logits: [f32; 14],
        calibration: Option<&Calibration>,
        assessed: Option<&[Finding]>,
    ) -> FindingsReport {
        let logits = Tensor::new(&[logits], &candle_core::Device::Cpu).unwrap();
        let output = FindingsOutput {
            pooled_features: logits.clone(),
            probs: sigmoid(&logits).unwrap(),
            logits,
        };
        let mut reports = output
            .reports(TextRule::default(), calibration, assessed)
            .unwrap();
        reports.remove(0)
    }

    #[test]
    fn a_probability_of_one_half_is_not_present() {
        let mut logits = [-2.0; 14];
        logits[Edema as usize] = 0.0;
        logits[SupportDevices as usize] = 0.01;
        let report = of_logits(logits, None, None);
        assert_eq!(report.text, "support devices");
        assert!(report.findings.iter().all(|each| each.threshold.is_none()));
    }

    #[test]
    fn a_calibrated_finding_has_its_own_probability_and_threshold_and_others_stay_as_published() {
        let calibration = Calibration {
            findings: [(
                Edema,
                FindingCalibration {
                    slope: 0.5,
                    intercept: -1.0,
                    threshold: 0.25,
                },
            )]
            .into(),
            rule: "by hand".to_owned(),
            thresholds: None,
        };
        let mut logits = [-2.0; 14];
        logits[Edema as usize] = 1.0;
        let report = of_logits(logits, Some(&calibration), None);
        let edema = &report.findings[Edema as usize];
        // 1 / (1 + exp(0.5))
        assert!(
            (edema.probability.unwrap() - 0.377_540_67).abs() < 1e-6,
            "{edema:?}"
        );
        assert_eq!((edema.present, edema.threshold), (true, Some(0.25)));
        assert_eq!(
            report.text, "edema",
            "the prompt's text follows the thresholds"
        );
        assert_eq!(
            report.findings[0],
            of_logits(logits, None, None).findings[0]
        );
    }

    #[test]
    fn a_finding_that_is_not_assessed_has_no_probability_and_is_not_in_the_text() {
        let assessed = [NoFinding, Edema];
        let report = of_logits([2.0; 14], None, Some(&assessed));
        assert_eq!(report.text, "edema");
        for predicted in &report.findings {
            let is_assessed = assessed.contains(&predicted.finding);
            assert_eq!(predicted.is_assessed(), is_assessed);
            assert_eq!(predicted.present, is_assessed);
        }
        let text = serde_json::to_value(&report.findings[13]).unwrap();
        assert_eq!(
            text,
            serde_json::json!({"finding": "Support Devices", "probability": null, "present": false})
        );
    }
}
