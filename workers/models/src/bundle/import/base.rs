//! The configuration of a base language model.

use std::fs;
use std::path::Path;

use serde::Deserialize;

use super::error::ImportError;
use super::sources::Source;
use crate::language::LlamaConfig;

/// The configuration that the model has: v2's is in the folder of its other trained weights.
pub(super) fn read_config(
    base: &Path,
    non_lora: Option<&Source>,
) -> Result<LlamaConfig, ImportError> {
    let beside = non_lora.map(|source| source.path.with_file_name("config.json"));
    let path = beside
        .filter(|path| path.is_file())
        .unwrap_or_else(|| base.join("config.json"));
    let text = fs::read(&path).map_err(ImportError::unusable(&path))?;
    let settings: MultimodalSettings =
        serde_json::from_slice(&text).map_err(ImportError::unusable(&path))?;
    settings.check().map_err(ImportError::unusable(&path))?;
    let config: LlamaConfig =
        serde_json::from_slice(&text).map_err(ImportError::unusable(&path))?;
    config.validate().map_err(ImportError::unusable(&path))?;
    Ok(config)
}

/// Checks the configuration against the tensors: it is not believed, since a number in it would size a model.
pub(super) fn check_vocabulary(base: &Source, llama: &LlamaConfig) -> Result<(), ImportError> {
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
