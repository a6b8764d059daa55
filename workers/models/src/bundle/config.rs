//! The configuration of each component, as it stands in `bundle.json`, and the two geometries that random bundles have.

use std::fmt;
use std::str::FromStr;

use radialog_schemas::Stage;
use serde::{Deserialize, Serialize};

use super::layout::{Init, TensorSpec};
use crate::alignment::{AlignmentConfig, AlignmentTextConfig};
use crate::chexbert::ChexbertConfig;
use crate::findings::{FindingsConfig, TextRule};
use crate::language::{LlamaConfig, LoraConfig};
use crate::prompt::Prompts;
use crate::tokenizers::toy::{self, ToyLlama};
use crate::vision::VisionConfig;

/// Image to image tokens.
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

/// Image to findings.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FindingsComponent {
    /// The image encoder and the layers behind it.
    #[serde(flatten)]
    pub classifier: FindingsConfig,
    /// How predictions become the prompt's text.
    #[serde(default)]
    pub text_rule: TextRule,
}

/// Image tokens and findings to a report.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LanguageComponent {
    /// The base model.
    pub llama: LlamaConfig,
    /// The adapter, where there is one; weights that were trained as a whole bring their image projection themselves.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lora: Option<LoraConfig>,
    /// What the model is told.
    #[serde(default)]
    pub prompts: Prompts,
}

/// Report to labels.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ScoringComponent {
    /// CheXbert.
    pub chexbert: ChexbertConfig,
}

/// A size of random bundle.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Geometry {
    /// Every part in miniature; some megabytes.
    Tiny,
    /// The published shapes; about 15 GB.
    Published,
}

impl Geometry {
    /// The one word for it.
    pub fn name(self) -> &'static str {
        match self {
            Geometry::Tiny => "tiny",
            Geometry::Published => "published",
        }
    }
}

impl fmt::Display for Geometry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Geometry {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        [Geometry::Tiny, Geometry::Published]
            .into_iter()
            .find(|geometry| geometry.name() == name)
            .ok_or_else(|| format!("'{name}' is not a geometry; use tiny or published"))
    }
}

/// The configurations of all four components.
#[derive(Clone, Debug, PartialEq)]
pub struct ComponentConfigs {
    /// Of the embedding stage.
    pub embedding: EmbeddingComponent,
    /// Of the findings stage.
    pub findings: FindingsComponent,
    /// Of the language stage.
    pub language: LanguageComponent,
    /// Of the scoring stage.
    pub scoring: ScoringComponent,
}

impl ComponentConfigs {
    /// The configurations of a geometry.
    pub fn of(geometry: Geometry) -> Self {
        match geometry {
            Geometry::Tiny => Self::tiny(),
            Geometry::Published => Self::published(),
        }
    }

    /// One component's configuration as it stands in the manifest.
    pub fn to_json(&self, stage: Stage) -> serde_json::Value {
        match stage {
            Stage::Embedding => serde_json::to_value(&self.embedding),
            Stage::Findings => serde_json::to_value(&self.findings),
            Stage::Language => serde_json::to_value(&self.language),
            Stage::Scoring => serde_json::to_value(&self.scoring),
        }
        .expect("configurations have only string keys and finite numbers")
    }

    /// The path and content of a component's tokenizer.
    pub fn tokenizer(&self, stage: Stage) -> Option<(&'static str, String)> {
        match stage {
            Stage::Embedding | Stage::Findings => None,
            Stage::Language => Some(("language.tokenizer.json", self.toy_llama().json)),
            Stage::Scoring => {
                let json = toy::bert(self.scoring.chexbert.vocab_size)
                    .expect("both geometries have room for every character");
                Some(("scoring.tokenizer.json", json))
            }
        }
    }

    /// Lets the language model's output head only say words: random bytes would not be text.
    pub(super) fn speak_words(&self, base: &mut [TensorSpec]) {
        let llama = &self.language.llama;
        let first = self.toy_llama().first_word as usize;
        let end = llama.eos_token_id as usize;
        for spec in base
            .iter_mut()
            .filter(|spec| spec.header.name == "lm_head.weight")
        {
            if let Init::Uniform { spread, .. } = spec.init {
                spec.init = Init::Words {
                    spread,
                    width: llama.hidden_size,
                    first,
                    end,
                };
            }
        }
    }

    fn toy_llama(&self) -> ToyLlama {
        toy::llama(self.language.llama.vocab_size)
            .expect("both geometries have room for every byte")
    }

    fn published() -> Self {
        let text = AlignmentTextConfig {
            vocab_size: 30_523,
            max_position_embeddings: 512,
            embed_dim: 256,
        };
        let lora = LoraConfig {
            r: 8,
            lora_alpha: 16.0,
            target_modules: ["q_proj", "v_proj"].map(String::from).into(),
        };
        Self {
            embedding: EmbeddingComponent {
                vision: VisionConfig::published(),
                alignment: AlignmentConfig::published(),
                text: Some(text),
            },
            findings: FindingsComponent {
                classifier: FindingsConfig::published(),
                text_rule: TextRule::default(),
            },
            language: LanguageComponent {
                llama: LlamaConfig::vicuna_7b(),
                lora: Some(lora),
                prompts: Prompts::default(),
            },
            scoring: ScoringComponent {
                chexbert: ChexbertConfig::published(),
            },
        }
    }

    /// Every part of the published geometry in miniature. Image, context and prompts keep their sizes, so that real
    /// inputs take the same path.
    fn tiny() -> Self {
        let width = 64;
        let Self {
            mut embedding,
            mut findings,
            mut language,
            mut scoring,
        } = Self::published();
        for vision in [&mut embedding.vision, &mut findings.classifier.vision] {
            vision.stem_width = 8;
            vision.vit_dim = width;
            vision.joint_feature_size = width;
        }
        findings.classifier.fc_hidden = width;
        embedding.alignment = AlignmentConfig {
            hidden_size: width,
            num_hidden_layers: 2,
            num_attention_heads: 4,
            intermediate_size: 2 * width,
            encoder_width: width,
            ..embedding.alignment
        };
        embedding.text = None;
        language.llama = LlamaConfig {
            vocab_size: 1000,
            hidden_size: width,
            intermediate_size: 3 * width,
            num_hidden_layers: 2,
            num_attention_heads: 4,
            image_dim: width,
            ..language.llama
        };
        scoring.chexbert = ChexbertConfig {
            vocab_size: 400,
            hidden_size: width,
            num_hidden_layers: 2,
            num_attention_heads: 4,
            intermediate_size: 2 * width,
            ..scoring.chexbert
        };
        Self {
            embedding,
            findings,
            language,
            scoring,
        }
    }
}
