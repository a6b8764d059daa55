//! The embedding stage's component: image to image tokens, from `checkpoint_4.pth`.

use candle_core::{DType, Device, Tensor};
use radialog_schemas::Stage;
use safetensors::tensor::Dtype;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Component, GeometryError, WEIGHTS, WeightsFile, json};
use crate::ModelError;
use crate::alignment::{Alignment, AlignmentConfig, AlignmentPretraining, AlignmentTextConfig};
use crate::bundle::geometry::{Geometry, TINY_WIDTH};
use crate::bundle::{Bundle, BundleError};
use crate::preprocess::InputSize;
use crate::tensors::{TensorRecorder, TensorSpec};
use crate::vision::{ImageEncoder, VisionConfig};

/// The prefix of the image encoder's names.
const ENCODER: &str = "visual_encoder";

/// The configuration of the component.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EmbeddingComponent {
    /// The BioViL-T image encoder.
    pub vision: VisionConfig,
    /// The Q-Former.
    pub alignment: AlignmentConfig,
    /// The Q-Former's text side, where the weights have it; only training reads it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text: Option<AlignmentTextConfig>,
}

impl EmbeddingComponent {
    /// The component of a geometry; the published one has the text side.
    pub fn of(geometry: Geometry) -> Self {
        match geometry {
            Geometry::Published => Self {
                vision: VisionConfig::published(),
                alignment: AlignmentConfig::published(),
                text: Some(AlignmentTextConfig {
                    vocab_size: 30_523,
                    max_position_embeddings: 512,
                    embed_dim: 256,
                }),
            },
            Geometry::Tiny => Self {
                vision: VisionConfig {
                    stem_width: 8,
                    vit_dim: TINY_WIDTH,
                    joint_feature_size: TINY_WIDTH,
                    ..VisionConfig::published()
                },
                alignment: AlignmentConfig {
                    hidden_size: TINY_WIDTH,
                    num_hidden_layers: 2,
                    num_attention_heads: 4,
                    intermediate_size: 2 * TINY_WIDTH,
                    encoder_width: TINY_WIDTH,
                    ..AlignmentConfig::published()
                },
                text: None,
            },
        }
    }

    /// The tensors of the component, those of the text side among them where it has one.
    ///
    /// # Errors
    /// A geometry that the networks cannot have.
    pub fn tensors(&self) -> Result<Vec<TensorSpec>, ModelError> {
        let recorder = TensorRecorder::new(Dtype::F32);
        let vb = recorder.var_builder();
        ImageEncoder::single_image(&self.vision, vb.pp(ENCODER))?;
        match &self.text {
            Some(text) => AlignmentPretraining::record(&self.alignment, text, &vb)?,
            None => drop(Alignment::new(&self.alignment, vb)?),
        }
        Ok(recorder.into_specs())
    }
}

impl Component for EmbeddingComponent {
    fn config(&self) -> Value {
        json(self)
    }

    fn inference_config(&self) -> Value {
        json(&Self {
            text: None,
            ..self.clone()
        })
    }

    fn weights(&self, _: Dtype) -> Result<Vec<WeightsFile>, GeometryError> {
        Ok(vec![WeightsFile {
            usage: WEIGHTS.into(),
            name: "embedding.safetensors".into(),
            tensors: self.tensors()?,
        }])
    }

    fn verify(&self, bundle: &Bundle) -> Result<(), BundleError> {
        ImageEmbedder::load(bundle, &Device::Cpu).map(drop)
    }
}

/// The network of the component: image encoder and Q-Former.
pub struct ImageEmbedder {
    encoder: ImageEncoder,
    alignment: Alignment,
    input: InputSize,
}

impl ImageEmbedder {
    /// Loads the component.
    ///
    /// # Errors
    /// A component that is missing or does not load.
    pub fn load(bundle: &Bundle, device: &Device) -> Result<Self, BundleError> {
        let stage = Stage::Embedding;
        let config: EmbeddingComponent = bundle.config(stage)?;
        let weights = bundle
            .weights(stage, WEIGHTS)?
            .var_builder(DType::F32, device);
        let encoder = ImageEncoder::single_image(&config.vision, weights.pp(ENCODER));
        Ok(Self {
            encoder: encoder.map_err(bundle.model_error(stage))?,
            alignment: Alignment::new(&config.alignment, weights)
                .map_err(bundle.model_error(stage))?,
            input: config.vision.input(),
        })
    }

    /// The crop that the network sees of an image.
    pub fn input(&self) -> InputSize {
        self.input
    }

    /// Image tokens `[B, 32, 768]` (at published geometry) of images `[B, 3, side, side]`.
    ///
    /// # Errors
    /// Images of another shape.
    pub fn embed(&self, images: &Tensor) -> Result<Tensor, ModelError> {
        Ok(self
            .alignment
            .forward_image(&self.encoder.project(images)?)?
            .tokens)
    }
}
