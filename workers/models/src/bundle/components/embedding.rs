//! The embedding stage's component: image to image tokens, by the image encoder and a connector: the Q-Former of
//! `checkpoint_4.pth`, or the encoder's grid itself as RaDialog v2 has it.

use candle_core::{Device, Tensor};
use candle_nn::VarBuilder;
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
use crate::vision::{BatchNormStatistics, ImageEncoder, VisionConfig};

/// The prefix of the image encoder's names.
const ENCODER: &str = "visual_encoder";

/// The configuration of the component.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "StoredComponent", into = "StoredComponent")]
pub struct EmbeddingComponent {
    /// The BioViL-T image encoder.
    pub vision: VisionConfig,
    /// What makes image tokens of its patches.
    pub connector: Connector,
}

/// What makes an image's tokens of its patches.
#[derive(Clone, Debug, PartialEq)]
pub enum Connector {
    /// RaDialog v1's: learned queries over projected patches.
    QFormer {
        /// The queries' side.
        alignment: AlignmentConfig,
        /// The texts' side, where the weights have it; only training reads it.
        text: Option<AlignmentTextConfig>,
    },
    /// RaDialog v2's: each patch is a token, and the language model projects them.
    Grid {
        /// The statistics of the encoder's batch norms. With those of the batch, an image's tokens depend on the images
        /// that it happens to be computed with, so that a run cannot be repeated; for comparisons only.
        batch_norm: BatchNormStatistics,
    },
}

/// The configuration as a manifest has it.
#[derive(Clone, Serialize, Deserialize)]
struct StoredComponent {
    vision: VisionConfig,
    #[serde(default, skip_serializing_if = "ConnectorName::is_default")]
    connector: ConnectorName,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    alignment: Option<AlignmentConfig>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    text: Option<AlignmentTextConfig>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    batch_norm: Option<BatchNormStatistics>,
}

/// A connector's name in a manifest.
#[derive(Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum ConnectorName {
    #[default]
    QFormer,
    Grid,
}

impl ConnectorName {
    fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

impl TryFrom<StoredComponent> for EmbeddingComponent {
    type Error = &'static str;

    fn try_from(stored: StoredComponent) -> Result<Self, Self::Error> {
        let StoredComponent {
            vision,
            connector,
            alignment,
            text,
            batch_norm,
        } = stored;
        let connector = match (connector, alignment, text, batch_norm) {
            (ConnectorName::QFormer, Some(alignment), text, None) => {
                Connector::QFormer { alignment, text }
            }
            (ConnectorName::QFormer, None, ..) => {
                return Err("connector q_former: `alignment` is missing");
            }
            (ConnectorName::QFormer, ..) => {
                return Err("connector q_former: `batch_norm` is a setting of the grid connector");
            }
            (ConnectorName::Grid, None, None, batch_norm) => Connector::Grid {
                batch_norm: batch_norm.unwrap_or(BatchNormStatistics::Image),
            },
            (ConnectorName::Grid, ..) => {
                return Err(
                    "connector grid: remove `alignment` and `text`, which are the Q-Former's",
                );
            }
        };
        Ok(Self { vision, connector })
    }
}

impl From<EmbeddingComponent> for StoredComponent {
    fn from(component: EmbeddingComponent) -> Self {
        let (connector, alignment, text, batch_norm) = match component.connector {
            Connector::QFormer { alignment, text } => {
                (ConnectorName::QFormer, Some(alignment), text, None)
            }
            Connector::Grid { batch_norm } => (ConnectorName::Grid, None, None, Some(batch_norm)),
        };
        Self {
            vision: component.vision,
            connector,
            alignment,
            text,
            batch_norm,
        }
    }
}

impl EmbeddingComponent {
    /// The component of a geometry; the published one has the text side.
    pub fn of(geometry: Geometry) -> Self {
        match geometry {
            Geometry::Published => Self {
                vision: VisionConfig::published(),
                connector: Connector::QFormer {
                    alignment: AlignmentConfig::published(),
                    text: Some(AlignmentTextConfig {
                        vocab_size: 30_523,
                        max_position_embeddings: 512,
                        embed_dim: 256,
                    }),
                },
            },
            Geometry::Tiny => Self {
                vision: VisionConfig {
                    stem_width: 8,
                    vit_dim: TINY_WIDTH,
                    joint_feature_size: TINY_WIDTH,
                    ..VisionConfig::published()
                },
                connector: Connector::QFormer {
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
            },
        }
    }

    /// The component of a geometry of RaDialog v2.
    pub fn v2(geometry: Geometry) -> Self {
        let vision = match geometry {
            Geometry::Published => VisionConfig {
                joint_feature_size: 128,
                ..VisionConfig::published()
            },
            Geometry::Tiny => Self::of(geometry).vision,
        };
        Self {
            vision,
            connector: Connector::Grid {
                batch_norm: BatchNormStatistics::Image,
            },
        }
    }

    /// The shape `[tokens, width]` of an image's tokens.
    pub fn token_shape(&self) -> (usize, usize) {
        match &self.connector {
            Connector::QFormer { alignment, .. } => {
                (alignment.num_query_token, alignment.hidden_size)
            }
            Connector::Grid { .. } => (self.vision.trunk_grid().pow(2), 2 * self.vision.vit_dim),
        }
    }

    /// The tensors of the component, those of the text side among them where it has one.
    ///
    /// # Errors
    /// A geometry that the networks cannot have.
    pub fn tensors(&self) -> Result<Vec<TensorSpec>, ModelError> {
        let recorder = TensorRecorder::new(Dtype::F32);
        let vb = recorder.var_builder();
        match &self.connector {
            Connector::QFormer { alignment, text } => {
                ImageEncoder::single_image(&self.vision, vb.pp(ENCODER))?;
                match text {
                    Some(text) => AlignmentPretraining::record(alignment, text, &vb)?,
                    None => drop(Alignment::new(alignment, vb)?),
                }
            }
            Connector::Grid { batch_norm } => {
                ImageEncoder::patches_only(&self.vision, *batch_norm, vb.pp(ENCODER))?;
            }
        }
        Ok(recorder.into_specs())
    }
}

impl Component for EmbeddingComponent {
    fn config(&self) -> Value {
        json(self)
    }

    fn inference_config(&self) -> Value {
        let connector = match &self.connector {
            Connector::QFormer { alignment, .. } => Connector::QFormer {
                alignment: alignment.clone(),
                text: None,
            },
            grid @ Connector::Grid { .. } => grid.clone(),
        };
        json(&Self {
            vision: self.vision.clone(),
            connector,
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

/// The network of the component: image encoder and connector.
pub struct ImageEmbedder {
    encoder: ImageEncoder,
    /// The Q-Former; the tokens are the encoder's grid without one.
    alignment: Option<Alignment>,
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
            .var_builder(bundle.network_type(stage, device)?, device);
        Self::new(&config, weights).map_err(bundle.model_error(stage))
    }

    /// The network of a configuration, with the names of the published checkpoints, from `visual_encoder.` on.
    ///
    /// # Errors
    /// Tensors that are missing or have another shape than the configuration says.
    pub fn new(config: &EmbeddingComponent, weights: VarBuilder<'_>) -> Result<Self, ModelError> {
        let (vision, encoder) = (&config.vision, weights.pp(ENCODER));
        let (encoder, alignment) = match &config.connector {
            Connector::QFormer { alignment, .. } => (
                ImageEncoder::single_image(vision, encoder)?,
                Some(Alignment::new(alignment, weights)?),
            ),
            Connector::Grid { batch_norm } => (
                ImageEncoder::patches_only(vision, *batch_norm, encoder)?,
                None,
            ),
        };
        Ok(Self {
            encoder,
            alignment,
            input: vision.input(),
        })
    }

    /// Whether an image's tokens depend on the other images of its batch, see [`Connector::Grid`].
    pub fn sees_whole_batch(&self) -> bool {
        self.encoder.sees_whole_batch()
    }

    /// The crop that the network sees of an image.
    pub fn input(&self) -> InputSize {
        self.input
    }

    /// Image tokens of images `[B, 3, side, side]`: at published geometry `[B, 32, 768]` of a Q-Former, `[B, 196, 512]` of a
    /// grid.
    ///
    /// # Errors
    /// Images of another shape.
    pub fn embed(&self, images: &Tensor) -> Result<Tensor, ModelError> {
        match &self.alignment {
            Some(alignment) => Ok(alignment
                .forward_image(&self.encoder.project(images)?)?
                .tokens),
            None => self.encoder.grid_tokens(images),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_component_without_a_connector_is_v1s_and_is_written_as_it_always_was() {
        let config = EmbeddingComponent::of(Geometry::Tiny).config();
        assert_eq!(config.as_object().unwrap().len(), 2, "{config}");
        let read: EmbeddingComponent = serde_json::from_value(config).unwrap();
        assert_eq!(read, EmbeddingComponent::of(Geometry::Tiny));
        assert_eq!(read.token_shape(), (32, TINY_WIDTH));
    }

    #[test]
    fn a_grid_measures_each_image_unless_told_otherwise_and_takes_nothing_of_the_q_former() {
        let read = |extra: serde_json::Value| {
            let mut config = EmbeddingComponent::of(Geometry::Tiny).config();
            let config = config.as_object_mut().unwrap();
            config.remove("alignment");
            config.insert("connector".to_owned(), json!("grid"));
            config.extend(extra.as_object().unwrap().clone());
            serde_json::from_value::<EmbeddingComponent>(json!(config))
        };
        let grid = read(json!({})).unwrap();
        let batch_norm = BatchNormStatistics::Image;
        assert_eq!(grid.connector, Connector::Grid { batch_norm });
        assert_eq!(grid.token_shape(), (196, 2 * TINY_WIDTH));
        let running = read(json!({"batch_norm": "running"})).unwrap();
        let again: EmbeddingComponent = serde_json::from_value(running.config()).unwrap();
        assert_eq!(running, again);
        let alignment = serde_json::to_value(AlignmentConfig::published()).unwrap();
        let fault = read(json!({"alignment": alignment})).unwrap_err();
        assert!(fault.to_string().contains("connector grid"), "{fault}");
    }
}
