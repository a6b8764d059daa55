//! The configuration of a base language model.

use std::fs;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::Value;

use super::error::ImportError;
use super::sources::Source;
use crate::language::LlamaConfig;

/// How a model that was generated with was configured, beside `config.json`.
const GENERATION: &str = "generation_config.json";

/// The configuration that the model has, and its file: v2's is in the folder of its other trained weights.
pub(super) fn read_config(
    base: &Path,
    non_lora: Option<&Source>,
) -> Result<(LlamaConfig, PathBuf), ImportError> {
    let beside = non_lora.map(|source| source.path.with_file_name("config.json"));
    let path = beside
        .filter(|path| path.is_file())
        .unwrap_or_else(|| base.join("config.json"));
    let fault = |reason: String| ImportError::unusable(&path)(reason);
    let text = fs::read(&path).map_err(|error| fault(error.to_string()))?;
    let mut content: Value =
        serde_json::from_slice(&text).map_err(|error| fault(error.to_string()))?;
    let beside = fs::read(path.with_file_name(GENERATION)).ok();
    let beside = beside.and_then(|text| serde_json::from_slice::<Value>(&text).ok());
    plain(&mut content, beside.as_ref()).map_err(fault)?;
    let settings: MultimodalSettings = parsed(&content).map_err(fault)?;
    settings.check().map_err(fault)?;
    let architecture: ArchitectureSettings = parsed(&content).map_err(fault)?;
    architecture.check().map_err(fault)?;
    let config: LlamaConfig = parsed(&content).map_err(fault)?;
    config
        .validate()
        .map_err(|error| fault(error.to_string()))?;
    if config.eos_token_id as usize >= config.vocab_size {
        return Err(fault(format!(
            "eos_token_id is {}, and vocab_size {}: no answer would ever end",
            config.eos_token_id, config.vocab_size
        )));
    }
    Ok((config, path))
}

pub(super) fn parsed<T: for<'de> Deserialize<'de>>(content: &Value) -> Result<T, String> {
    serde_path_to_error::deserialize(content).map_err(|error| {
        let key = error.path().to_string();
        let what = match key.as_str() {
            "." => String::new(),
            key => format!("'{key}' in it: "),
        };
        format!(
            "{what}{}; write the value that the model was published with, or copy the file from there again",
            error.inner()
        )
    })
}

/// Writes settings in the spelling of older versions of transformers: the rotary frequencies of `rope_parameters` under their
/// own name, nothing for frequencies that are not stretched, and one token that ends an answer.
fn plain(content: &mut Value, generation: Option<&Value>) -> Result<(), String> {
    let Some(settings) = content.as_object_mut() else {
        return Err("it is no object of settings".into());
    };
    if !settings.contains_key("hidden_size") && settings.get("text_config").is_some() {
        return Err(
            "its settings are below 'text_config', as in models that transformers has converted for images: such files have \
             other names; give the base as it was published, e.g. liuhaotian/llava-v1.5-7b for v2"
                .into(),
        );
    }
    let is_plain = |rope: &Value| {
        let kind = rope.get("rope_type").or_else(|| rope.get("type"));
        rope.is_object() && kind.is_none_or(|kind| kind.is_null() || kind == "default")
    };
    if let Some(rope) = settings
        .get("rope_parameters")
        .filter(|rope| is_plain(rope))
    {
        let rope = rope.clone();
        settings.remove("rope_parameters");
        for name in ["rope_theta", "partial_rotary_factor"] {
            if let Some(value) = rope.get(name) {
                settings.insert(name.into(), value.clone());
            }
        }
    }
    if settings.get("rope_scaling").is_some_and(is_plain) {
        settings.remove("rope_scaling");
    }
    if settings.get("rope_parameters").is_some_and(Value::is_null) {
        settings.remove("rope_parameters");
    }
    let end = match settings.get("eos_token_id") {
        None => return Ok(()),
        Some(Value::Null) => generation.and_then(|settings| settings.get("eos_token_id")),
        end => end,
    };
    // Of several the first one ends what a base writes; the others end the turns of other dialogs.
    let end = match end {
        Some(Value::Array(several)) => several.first(),
        end => end,
    };
    match end.filter(|end| end.as_u64().is_some_and(|end| u32::try_from(end).is_ok())) {
        Some(end) => {
            let end = end.clone();
            settings.insert("eos_token_id".into(), end);
            Ok(())
        }
        None => Err(format!(
            "eos_token_id is {}, and {GENERATION} beside it names none: write the id of the token that ends an answer",
            settings["eos_token_id"]
        )),
    }
}

/// Checks that the base is a folder.
pub(super) fn check_folder(base: &Path) -> Result<(), ImportError> {
    if base.is_dir() {
        return Ok(());
    }
    let reason = match base.exists() {
        true => {
            "it is one file and no GGUF file: name the folder that has it beside its config.json"
        }
        false => "there is no such file or folder",
    };
    Err(ImportError::unusable(base)(reason))
}

/// Checks the number of layers, the vocabulary and the width against the tensors: the configuration is not believed, since a
/// number in it would size a model. `config` is its file, where it is one.
pub(super) fn check_geometry(
    base: &Source,
    llama: &LlamaConfig,
    config: Option<&Path>,
) -> Result<(), ImportError> {
    let settings = match config {
        Some(config) => format!("'{}'", config.display()),
        None => "its own header".to_owned(),
    };
    let embedding = "model.embed_tokens.weight";
    let first = base.names().next().unwrap_or_default();
    if !base.has(embedding)
        && let Some(prefix) = base.names().find_map(|name| name.strip_suffix(embedding))
    {
        let reason = format!(
            "its tensors are called '{prefix}model...', and names that begin with 'model.' or 'module.model.' are read: save \
             them without '{prefix}'"
        );
        return Err(ImportError::unusable(&base.path)(reason));
    }
    if !base.has(embedding) && base.layers("model.layers") == 0 {
        let reason = format!(
            "it has no '{embedding}' and no 'model.layers.0...': its names, e.g. '{first}', are not those of a LLaMA of \
             transformers"
        );
        return Err(ImportError::unusable(&base.path)(reason));
    }
    let layers = base.layers("model.layers");
    if layers != llama.num_hidden_layers {
        let reason = format!(
            "it has {layers} layers, and {settings} says num_hidden_layers {}: they are of different models; give the base that \
             the other files were made for",
            llama.num_hidden_layers
        );
        return Err(ImportError::unusable(&base.path)(reason));
    }
    let [rows, width] = base.shape("model.embed_tokens.weight")?;
    if (rows, width) == (llama.vocab_size, llama.hidden_size) {
        return Ok(());
    }
    let reason = format!(
        "its embedding has the shape [{rows}, {width}], and {settings} says vocab_size {} and hidden_size {}: they are of \
         different models; give the base that the other files were made for",
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
                "rope_parameters has another rope_type than default",
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
    fn what_newer_versions_of_transformers_write_is_read_as_what_older_ones_do() {
        let written = |changed: Value, generation: Option<Value>| {
            let mut config = json!({"vocab_size": 512, "hidden_size": 64, "num_attention_heads": 4, "num_hidden_layers": 2,
                                    "intermediate_size": 96});
            for (key, value) in changed.as_object().unwrap() {
                config[key] = value.clone();
            }
            plain(&mut config, generation.as_ref())?;
            parsed::<ArchitectureSettings>(&config)?.check()?;
            let config: LlamaConfig = parsed(&config)?;
            config.validate().map_err(|error| error.to_string())?;
            Ok::<_, String>((config.rope_theta, config.eos_token_id))
        };
        let newer = json!({"rope_parameters": {"rope_theta": 500_000.0, "rope_type": "default"}, "eos_token_id": [9, 3]});
        assert_eq!(written(newer, None), Ok((500_000.0, 9)));
        let older = json!({"rope_scaling": {"type": "default"}, "rope_theta": 20_000.0});
        assert_eq!(written(older, None), Ok((20_000.0, 2)));
        let beside = Some(json!({"eos_token_id": 7}));
        assert_eq!(
            written(json!({"eos_token_id": null}), beside),
            Ok((10_000.0, 7))
        );
        for (changed, words) in [
            (
                json!({"rope_parameters": {"rope_type": "llama3"}}),
                "rope_parameters",
            ),
            (
                json!({"rope_parameters": {"partial_rotary_factor": 0.5}}),
                "partial_rotary_factor",
            ),
            (
                json!({"rope_scaling": {"rope_type": "yarn"}}),
                "rope_scaling",
            ),
            (json!({"eos_token_id": null}), "eos_token_id"),
            (json!({"eos_token_id": "</s>"}), "eos_token_id"),
            (json!({"rms_norm_eps": null}), "'rms_norm_eps' in it"),
            (
                json!({"num_hidden_layers": null}),
                "'num_hidden_layers' in it: invalid type: null",
            ),
            (json!({"hidden_size": "64"}), "'hidden_size' in it"),
        ] {
            let error = written(changed, None).unwrap_err();
            assert!(error.contains(words), "{words}: {error}");
        }
    }

    #[test]
    fn a_model_that_was_converted_for_images_is_named_as_such() {
        let mut config = json!({"model_type": "llava", "text_config": {"hidden_size": 4096}});
        let reason = plain(&mut config, None).unwrap_err();
        for words in ["text_config", "liuhaotian/llava-v1.5-7b"] {
            assert!(reason.contains(words), "{reason}");
        }
    }

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
