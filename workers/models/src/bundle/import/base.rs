//! The configuration of a base language model.

use std::fs;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::Value;

use super::error::ImportError;
use super::sources::Source;
use crate::language::LlamaConfig;

/// The configuration that the model has, and its file: v2's is in the folder of its other trained weights.
pub(super) fn read_config(
    base: &Path,
    non_lora: Option<&Source>,
) -> Result<(LlamaConfig, PathBuf), ImportError> {
    let beside = non_lora.map(|source| source.path.with_file_name("config.json"));
    let path = beside
        .filter(|path| path.is_file())
        .unwrap_or_else(|| base.join("config.json"));
    let text = fs::read(&path).map_err(ImportError::unusable(&path))?;
    let settings: MultimodalSettings =
        serde_json::from_slice(&text).map_err(ImportError::unusable(&path))?;
    settings.check().map_err(ImportError::unusable(&path))?;
    let architecture: ArchitectureSettings =
        serde_json::from_slice(&text).map_err(ImportError::unusable(&path))?;
    architecture.check().map_err(ImportError::unusable(&path))?;
    let config: LlamaConfig =
        serde_json::from_slice(&text).map_err(ImportError::unusable(&path))?;
    config.validate().map_err(ImportError::unusable(&path))?;
    Ok((config, path))
}

/// Checks the number of layers, the vocabulary and the width against the tensors: the configuration is not believed, since a number in it would size a model.
pub(super) fn check_geometry(base: &Source, llama: &LlamaConfig) -> Result<(), ImportError> {
    let layers = base.layers("model.layers");
    if layers != llama.num_hidden_layers {
        let reason = format!(
            "it has {layers} layers, and config.json says num_hidden_layers {}: they are of different models",
            llama.num_hidden_layers
        );
        return Err(ImportError::unusable(&base.path)(reason));
    }
    let [rows, width] = base.shape("model.embed_tokens.weight")?;
    if (rows, width) == (llama.vocab_size, llama.hidden_size) {
        return Ok(());
    }
    let reason = format!(
        "its embedding has the shape [{rows}, {width}], and config.json says vocab_size {} and hidden_size {}: they are of \
         different models",
        llama.vocab_size, llama.hidden_size
    );
    Err(ImportError::unusable(&base.path)(reason))
}

/// Settings of models that are not LLaMA's, or of LLaMA's relatives: left unread, they would give other outputs in silence.
#[derive(Deserialize)]
struct ArchitectureSettings {
    model_type: Option<String>,
    hidden_size: usize,
    num_attention_heads: usize,
    head_dim: Option<usize>,
    sliding_window: Option<Value>,
    rope_parameters: Option<Value>,
    partial_rotary_factor: Option<f64>,
    mlp_bias: Option<bool>,
    quantization_config: Option<Value>,
}

impl ArchitectureSettings {
    fn check(&self) -> Result<(), String> {
        let known = |name: &str| name == "llama" || name.starts_with("llava");
        if let Some(name) = self.model_type.as_deref().filter(|name| !known(name)) {
            return Err(format!(
                "model_type is '{name}', and only llama and llava can be read"
            ));
        }
        let width = self.hidden_size / self.num_attention_heads.max(1);
        let rules = [
            (
                self.head_dim.is_none_or(|head_dim| head_dim == width),
                "head_dim is not hidden_size / num_attention_heads",
            ),
            (self.sliding_window.is_none(), "sliding_window is set"),
            (
                self.rope_parameters.is_none(),
                "rope_parameters is set, as newer versions of transformers write rope_theta and rope_scaling",
            ),
            (
                self.partial_rotary_factor.is_none_or(|part| part == 1.0),
                "partial_rotary_factor is not 1",
            ),
            (self.mlp_bias != Some(true), "mlp_bias is true"),
            (
                self.quantization_config.is_none(),
                "quantization_config is set: give the weights unquantised, or as GGUF",
            ),
        ];
        match rules.into_iter().find(|(holds, _)| !holds) {
            Some((_, what)) => Err(format!("{what}, which this decoder does not have")),
            None => Ok(()),
        }
    }
}

/// What LLaVA's configuration says about images; other settings of it have no effect on RaDialog.
#[derive(Deserialize)]
struct MultimodalSettings {
    mm_vision_tower: Option<String>,
    mm_projector_type: Option<String>,
    mm_use_im_patch_token: Option<bool>,
    mm_use_im_start_end: Option<bool>,
}

impl MultimodalSettings {
    fn check(&self) -> Result<(), String> {
        if self.mm_vision_tower.as_deref() != Some("biovil") {
            return Ok(());
        }
        let rules = [
            (
                self.mm_projector_type.as_deref() == Some("mlp2x_gelu"),
                "mm_projector_type is not mlp2x_gelu",
            ),
            (
                self.mm_use_im_patch_token != Some(true),
                "mm_use_im_patch_token adds a token to the vocabulary",
            ),
            (
                self.mm_use_im_start_end != Some(true),
                "mm_use_im_start_end adds tokens to the vocabulary",
            ),
        ];
        match rules.into_iter().find(|(holds, _)| !holds) {
            Some((_, what)) => Err(format!("{what}, which RaDialog v2 does not have")),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_relative_of_llama_is_refused_by_what_makes_it_one() {
        let check = |changed: Value| {
            let mut config = json!({"model_type": "llama", "hidden_size": 64, "num_attention_heads": 4, "head_dim": 16,
                                    "sliding_window": null});
            for (key, value) in changed.as_object().unwrap() {
                config[key] = value.clone();
            }
            serde_json::from_value::<ArchitectureSettings>(config)
                .unwrap()
                .check()
        };
        assert_eq!(check(json!({})), Ok(()));
        assert_eq!(check(json!({"model_type": "llava"})), Ok(()));
        for (changed, word) in [
            (json!({"model_type": "mistral"}), "mistral"),
            (json!({"head_dim": 32}), "head_dim"),
            (json!({"sliding_window": 128}), "sliding_window"),
            (
                json!({"rope_parameters": {"rope_type": "llama3"}}),
                "rope_parameters",
            ),
            (
                json!({"partial_rotary_factor": 0.5}),
                "partial_rotary_factor",
            ),
            (json!({"mlp_bias": true}), "mlp_bias"),
            (json!({"quantization_config": {}}), "quantization_config"),
        ] {
            let reason = check(changed).unwrap_err();
            assert!(reason.contains(word), "{reason}");
        }
    }
}
