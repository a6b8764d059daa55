//! Geometry of the decoder, in the field names of a Hugging Face `config.json`.

use serde::{Deserialize, Serialize};

/// A LLaMA-family decoder, and how images enter it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LlamaConfig {
    /// Rows of the embedding and of the output head.
    pub vocab_size: usize,
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Width inside the gated MLP.
    pub intermediate_size: usize,
    /// Number of decoder layers.
    pub num_hidden_layers: usize,
    /// Number of query heads.
    pub num_attention_heads: usize,
    /// Number of key and value heads; as many as query heads unless given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub num_key_value_heads: Option<usize>,
    /// Longest sequence, prompt and answer together.
    #[serde(default = "default_context")]
    pub max_position_embeddings: usize,
    /// Added to the mean square in RMSNorm.
    #[serde(default = "default_eps")]
    pub rms_norm_eps: f64,
    /// Base of the rotary frequencies.
    #[serde(default = "default_theta")]
    pub rope_theta: f32,
    /// Whether the output head is the embedding itself.
    #[serde(default)]
    pub tie_word_embeddings: bool,
    /// Activation of the MLP's gate; only `silu` exists in this family.
    #[serde(default = "default_activation")]
    pub hidden_act: String,
    /// Stretched rotary frequencies, as newer models have them. This decoder has none, so that they are refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rope_scaling: Option<serde_json::Value>,
    /// Biases in the attention's linear layers; refused likewise.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub attention_bias: bool,
    /// The token that ends an answer.
    #[serde(default = "default_eos")]
    pub eos_token_id: u32,
    /// The placeholder of image tokens; the first id after the vocabulary unless given. Never generated.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image_token_id: Option<u32>,
    /// Image tokens of one image.
    #[serde(default = "default_image_tokens")]
    pub num_image_tokens: usize,
    /// Width of an image token before the projection.
    #[serde(default = "default_image_dim")]
    pub image_dim: usize,
    /// What makes the decoder's input of an image token.
    #[serde(default, skip_serializing_if = "ImageProjectionKind::is_default")]
    pub image_projection: ImageProjectionKind,
}

/// Tables of rotary angles are made for every position; no model of the family has more.
const LONGEST_CONTEXT: usize = 1 << 20;

fn default_context() -> usize {
    2048
}
fn default_eps() -> f64 {
    1e-6
}
fn default_theta() -> f32 {
    10_000.0
}
fn default_activation() -> String {
    "silu".into()
}
fn default_eos() -> u32 {
    2
}
fn default_image_tokens() -> usize {
    32
}
fn default_image_dim() -> usize {
    768
}

/// The kind of layer between image tokens and the decoder, by LLaVA's names.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum ImageProjectionKind {
    /// One linear layer, `model.img_proj_layer`.
    #[default]
    #[serde(rename = "linear")]
    Linear,
    /// Two linear layers with the exact GELU between, `model.mm_projector.0` and `model.mm_projector.2`.
    #[serde(rename = "mlp2x_gelu")]
    Mlp2xGelu,
    /// None: a model of text alone, which a training may give one.
    #[serde(rename = "none")]
    None,
}

impl ImageProjectionKind {
    fn is_default(&self) -> bool {
        *self == Self::default()
    }

    /// The part that the names of all its tensors have, from `model.` on.
    pub fn prefix(self) -> &'static str {
        match self {
            Self::Linear | Self::None => "model.img_proj_layer",
            Self::Mlp2xGelu => "model.mm_projector",
        }
    }
}

/// A geometry that this decoder cannot have.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("language model configuration: {0}")]
pub struct LlamaConfigError(String);

impl LlamaConfig {
    /// Vicuna-7B v1.3, the published base.
    pub fn vicuna_7b() -> Self {
        Self {
            vocab_size: 32_000,
            hidden_size: 4096,
            intermediate_size: 11_008,
            num_hidden_layers: 32,
            num_attention_heads: 32,
            num_key_value_heads: None,
            max_position_embeddings: default_context(),
            rms_norm_eps: default_eps(),
            rope_theta: default_theta(),
            tie_word_embeddings: false,
            hidden_act: default_activation(),
            rope_scaling: None,
            attention_bias: false,
            eos_token_id: default_eos(),
            image_token_id: None,
            num_image_tokens: default_image_tokens(),
            image_dim: default_image_dim(),
            image_projection: ImageProjectionKind::Linear,
        }
    }

    /// LLaVA-1.5-7B with the projector of RaDialog v2: a LLaMA-2 that reads the 196 patches of an image.
    pub fn llava_7b() -> Self {
        Self {
            max_position_embeddings: 4096,
            rms_norm_eps: 1e-5,
            num_image_tokens: 196,
            image_dim: 512,
            image_projection: ImageProjectionKind::Mlp2xGelu,
            ..Self::vicuna_7b()
        }
    }

    /// Checks that the numbers fit together.
    ///
    /// # Errors
    /// Says which field is wrong.
    pub fn validate(&self) -> Result<(), LlamaConfigError> {
        let heads = self.num_attention_heads;
        let rules = [
            (
                heads > 0 && self.hidden_size.is_multiple_of(heads),
                "hidden_size is no multiple of num_attention_heads",
            ),
            (
                heads > 0 && self.head_dim().is_multiple_of(2),
                "the width of a head is odd",
            ),
            (
                self.kv_heads() > 0 && heads.is_multiple_of(self.kv_heads()),
                "num_attention_heads is no multiple of num_key_value_heads",
            ),
            (self.hidden_act == "silu", "hidden_act is not silu"),
            (self.rope_scaling.is_none(), "rope_scaling is not supported"),
            (!self.attention_bias, "attention_bias is not supported"),
            (self.num_image_tokens > 0, "num_image_tokens is 0"),
            (self.vocab_size > 0, "vocab_size is 0"),
            (self.rms_norm_eps > 0.0, "rms_norm_eps is not above 0"),
            (self.rope_theta > 0.0, "rope_theta is not above 0"),
            (
                (1..=LONGEST_CONTEXT).contains(&self.max_position_embeddings),
                "max_position_embeddings is 0 or over 1048576",
            ),
        ];
        match rules.into_iter().find(|(holds, _)| !holds) {
            Some((_, fault)) => Err(LlamaConfigError(fault.into())),
            None => Ok(()),
        }
    }

    /// Number of key and value heads.
    pub fn kv_heads(&self) -> usize {
        self.num_key_value_heads.unwrap_or(self.num_attention_heads)
    }

    /// Width of one head.
    pub fn head_dim(&self) -> usize {
        self.hidden_size / self.num_attention_heads.max(1)
    }

    /// The matrices of one decoder layer: their names in it, inputs and outputs.
    pub fn layer_matrices(&self) -> [(&'static str, usize, usize); 7] {
        let (width, inner) = (self.hidden_size, self.intermediate_size);
        let keys = self.kv_heads() * self.head_dim();
        [
            ("self_attn.q_proj", width, width),
            ("self_attn.k_proj", width, keys),
            ("self_attn.v_proj", width, keys),
            ("self_attn.o_proj", width, width),
            ("mlp.gate_proj", width, inner),
            ("mlp.up_proj", width, inner),
            ("mlp.down_proj", inner, width),
        ]
    }

    /// The linear layers between image tokens and the decoder, in order: their names, inputs and outputs.
    pub fn projection_layers(&self) -> Vec<(&'static str, usize, usize)> {
        let (image, hidden) = (self.image_dim, self.hidden_size);
        match self.image_projection {
            ImageProjectionKind::None => Vec::new(),
            ImageProjectionKind::Linear => vec![("model.img_proj_layer", image, hidden)],
            ImageProjectionKind::Mlp2xGelu => vec![
                ("model.mm_projector.0", image, hidden),
                ("model.mm_projector.2", hidden, hidden),
            ],
        }
    }

    /// The id of `<IMG>`.
    pub fn image_token(&self) -> u32 {
        self.image_token_id.unwrap_or(self.vocab_size as u32)
    }

    /// Bytes that the cache needs for one token of one sequence when computing in `f32`: keys and values of all layers.
    /// 1 MiB for Vicuna-7B, so 2 GiB for a sequence that fills its context.
    pub fn cache_bytes_per_token(&self) -> usize {
        2 * self.num_hidden_layers * self.kv_heads() * self.head_dim() * size_of::<f32>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hugging_face_config_needs_the_geometry_only() {
        let json = r#"{"architectures": ["LlamaForCausalLM"], "vocab_size": 512, "hidden_size": 64,
            "num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 172, "pad_token_id": 0}"#;
        let config: LlamaConfig = serde_json::from_str(json).unwrap();
        config.validate().unwrap();
        assert_eq!(
            (config.kv_heads(), config.head_dim(), config.image_token()),
            (4, 16, 512)
        );
        assert_eq!(config.max_position_embeddings, 2048);
    }

    #[test]
    fn a_faulty_geometry_is_named() {
        let faulty = LlamaConfig {
            num_key_value_heads: Some(5),
            ..LlamaConfig::vicuna_7b()
        };
        assert!(
            faulty
                .validate()
                .unwrap_err()
                .to_string()
                .contains("num_key_value_heads")
        );
        let newer = LlamaConfig {
            rope_scaling: Some("yarn".into()),
            ..LlamaConfig::vicuna_7b()
        };
        assert!(
            newer
                .validate()
                .unwrap_err()
                .to_string()
                .contains("rope_scaling")
        );
    }

    #[test]
    fn vicunas_cache_takes_a_mebibyte_a_token() {
        assert_eq!(LlamaConfig::vicuna_7b().cache_bytes_per_token(), 1 << 20);
    }
}
