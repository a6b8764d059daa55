//! The findings stage's component: image to CheXpert findings, from `ChexpertClassifier-*.ckpt`.

use candle_core::{Device, Tensor};
use radialog_schemas::{Finding, FindingsReport, Stage};
use safetensors::tensor::Dtype;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Component, GeometryError, WEIGHTS, WeightsFile, json};
use crate::ModelError;
use crate::bundle::geometry::{Geometry, TINY_WIDTH};
use crate::bundle::{Bundle, BundleError};
use crate::findings::{Calibration, FindingsClassifier, FindingsConfig, TextRule};
use crate::preprocess::InputSize;
use crate::tensors::{TensorRecorder, TensorSpec};
use crate::vision::VisionConfig;

/// The configuration of the component.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FindingsComponent {
    /// The image encoder and the layers behind it.
    #[serde(flatten)]
    pub classifier: FindingsConfig,
    /// The rule by which predictions become the prompt's text.
    #[serde(default)]
    pub text_rule: TextRule,
    /// What its logits mean, where that was fitted; as published without it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub calibration: Option<Calibration>,
    /// The findings that the classifier has learned; nothing is said about others. Without it, all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub assessed: Option<Vec<Finding>>,
}

impl FindingsComponent {
    /// The component of a geometry.
    pub fn of(geometry: Geometry) -> Self {
        let published = FindingsConfig::published();
        let classifier = match geometry {
            Geometry::Published => published,
            Geometry::Tiny => FindingsConfig {
                vision: VisionConfig {
                    stem_width: 8,
                    vit_dim: TINY_WIDTH,
                    joint_feature_size: TINY_WIDTH,
                    ..published.vision
                },
                fc_hidden: TINY_WIDTH,
                ..published
            },
        };
        Self {
            classifier,
            text_rule: TextRule::default(),
            calibration: None,
            assessed: None,
        }
    }

    /// The tensors of the component.
    ///
    /// # Errors
    /// A geometry that the network cannot have.
    pub fn tensors(&self) -> Result<Vec<TensorSpec>, ModelError> {
        let recorder = TensorRecorder::new(Dtype::F32);
        FindingsClassifier::of_checkpoint(&self.classifier, recorder.var_builder())?;
        Ok(recorder.into_specs())
    }
}

impl Component for FindingsComponent {
    fn config(&self) -> Value {
        json(self)
    }

    fn weights(&self, _: Dtype) -> Result<Vec<WeightsFile>, GeometryError> {
        Ok(vec![WeightsFile {
            usage: WEIGHTS.into(),
            name: "findings.safetensors".into(),
            tensors: self.tensors()?,
        }])
    }

    fn verify(&self, bundle: &Bundle) -> Result<(), BundleError> {
        FindingsPredictor::load(bundle, &Device::Cpu).map(drop)
    }
}

/// The network of the component: the classifier, and the rule for the text of its findings.
pub struct FindingsPredictor {
    classifier: FindingsClassifier,
    rule: TextRule,
    calibration: Option<Calibration>,
    assessed: Option<Vec<Finding>>,
    input: InputSize,
}

impl FindingsPredictor {
    /// Loads the component.
    ///
    /// # Errors
    /// A component that is missing or does not load.
    pub fn load(bundle: &Bundle, device: &Device) -> Result<Self, BundleError> {
        let stage = Stage::Findings;
        let config: FindingsComponent = bundle.config(stage)?;
        let checked = config.calibration.as_ref().map(Calibration::check);
        checked.transpose().map_err(bundle.model_error(stage))?;
        let weights = bundle
            .weights(stage, WEIGHTS)?
            .var_builder(bundle.network_type(stage, device)?, device);
        let classifier = FindingsClassifier::of_checkpoint(&config.classifier, weights);
        Ok(Self {
            classifier: classifier.map_err(bundle.model_error(stage))?,
            rule: config.text_rule,
            calibration: config.calibration,
            assessed: config.assessed,
            input: config.classifier.vision.input(),
        })
    }

    /// The crop that the network sees of an image.
    pub fn input(&self) -> InputSize {
        self.input
    }

    /// Findings of images `[B, 3, side, side]`, one report an image.
    ///
    /// # Errors
    /// Images of another shape.
    pub fn predict(&self, images: &Tensor) -> Result<Vec<FindingsReport>, ModelError> {
        let output = self.classifier.forward(images)?;
        output.reports(
            self.rule,
            self.calibration.as_ref(),
            self.assessed.as_deref(),
        )
    }

    /// The logits of images `[B, 3, side, side]`, `[B, 14]` in the published order, before any calibration.
    ///
    /// # Errors
    /// Images of another shape.
    pub fn logits(&self, images: &Tensor) -> Result<Tensor, ModelError> {
        Ok(self.classifier.forward(images)?.logits)
    }
}
