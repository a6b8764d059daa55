//! An adapter that PEFT wrote: a folder with `adapter_config.json` and its tensors, in either spelling of their names.

use std::fs;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::Value;

use super::error::ImportError;
use super::sources::Source;
use crate::checkpoint::open_file;
use crate::language::{LlamaConfig, LoraConfig};

/// What all names in an adapter begin with.
pub(super) const WRAPPER: &str = "base_model.model.";

/// Where a folder has the tensors, the first one that is there; the last name is a training checkpoint's.
const FILES: [&str; 3] = [
    "adapter_model.safetensors",
    "adapter_model.bin",
    "pytorch_model.bin",
];

/// An opened adapter.
pub(super) struct Adapter {
    pub(super) config: LoraConfig,
    pub(super) source: Source,
    /// The file of its settings.
    pub(super) settings: PathBuf,
}

/// What of `adapter_config.json` changes a result.
#[derive(Deserialize)]
struct PeftConfig {
    peft_type: Option<String>,
    r: usize,
    lora_alpha: f64,
    target_modules: Value,
    bias: Option<String>,
    #[serde(default)]
    fan_in_fan_out: bool,
    #[serde(default)]
    use_rslora: bool,
    #[serde(default)]
    use_dora: bool,
    rank_pattern: Option<Value>,
    alpha_pattern: Option<Value>,
    layers_to_transform: Option<Value>,
    target_parameters: Option<Value>,
    trainable_token_indices: Option<Value>,
    exclude_modules: Option<Value>,
    #[serde(default)]
    lora_bias: bool,
    #[serde(default)]
    use_qalora: bool,
    modules_to_save: Option<Vec<String>>,
}

impl Adapter {
    /// Opens the adapter in a folder, for this base.
    pub(super) fn open(dir: &Path, base: &LlamaConfig) -> Result<Self, ImportError> {
        let path = dir.join("adapter_config.json");
        let config = read_config(&path)?;
        config
            .validate(base)
            .map_err(ImportError::unusable(&path))?;
        let file = tensors_of(dir).ok_or_else(|| {
            let reason = format!("none of {} is in it", FILES.join(", "));
            ImportError::unusable(dir)(reason)
        })?;
        let opened = open_file(&file, &[])?;
        let source = Source::new(&file, opened, adapter_name)?;
        if let Some(tensor) = source.names().find(|name| !is_of_adapter(name)) {
            let reason = format!(
                "it has '{tensor}', which is neither a low-rank matrix nor the image projection: only these can be an adapter's own"
            );
            return Err(ImportError::unusable(&file)(reason));
        }
        Ok(Self {
            config,
            source,
            settings: path,
        })
    }
}

/// The file of a folder's adapter.
pub(super) fn tensors_of(dir: &Path) -> Option<PathBuf> {
    let mut files = FILES.iter().map(|name| dir.join(name));
    files.find(|file| file.is_file())
}

fn read_config(path: &Path) -> Result<LoraConfig, ImportError> {
    let fault = |reason: String| ImportError::unusable(path)(reason);
    let text = fs::read(path).map_err(|error| {
        fault(format!(
            "{error}; rank and scale of an adapter stand in it, so that it is needed"
        ))
    })?;
    let config: PeftConfig = serde_json::from_slice(&text).map_err(ImportError::unusable(path))?;
    let given = |value: &Option<Value>| match value {
        None | Some(Value::Null) => false,
        Some(Value::Object(map)) => !map.is_empty(),
        Some(Value::Array(list)) => !list.is_empty(),
        Some(_) => true,
    };
    let rules = [
        (
            config.peft_type.as_deref().unwrap_or("LORA") == "LORA",
            "peft_type is not LORA",
        ),
        (
            config.bias.as_deref().unwrap_or("none") == "none",
            "bias is not none",
        ),
        (!config.fan_in_fan_out, "fan_in_fan_out is true"),
        (!config.use_rslora, "use_rslora is true"),
        (!config.use_dora, "use_dora is true"),
        (!given(&config.rank_pattern), "rank_pattern is given"),
        (!given(&config.alpha_pattern), "alpha_pattern is given"),
        (
            !given(&config.layers_to_transform),
            "layers_to_transform is given",
        ),
        (
            !given(&config.target_parameters),
            "target_parameters is given",
        ),
        (
            !given(&config.trainable_token_indices),
            "trainable_token_indices is given",
        ),
        (!given(&config.exclude_modules), "exclude_modules is given"),
        (!config.lora_bias, "lora_bias is true"),
        (!config.use_qalora, "use_qalora is true"),
    ];
    if let Some((_, what)) = rules.into_iter().find(|(holds, _)| !holds) {
        return Err(fault(format!(
            "{what}, which this software does not compute"
        )));
    }
    let saved = config.modules_to_save.unwrap_or_default();
    let known = |module: &&String| ["img_proj_layer", "mm_projector"].contains(&module.as_str());
    if let Some(module) = saved.iter().find(|module| !known(module)) {
        return Err(fault(format!(
            "modules_to_save has '{module}', and only the image projection can be an adapter's own"
        )));
    }
    let targets: Vec<String> = serde_json::from_value(config.target_modules)
        .map_err(|_| fault("target_modules is no list of names".into()))?;
    Ok(LoraConfig {
        r: config.r,
        lora_alpha: config.lora_alpha,
        target_modules: targets,
    })
}

/// Whether a tensor is of a kind that an adapter is computed with.
fn is_of_adapter(name: &str) -> bool {
    let low_rank = [".lora_A.weight", ".lora_B.weight"];
    low_rank.iter().any(|end| name.ends_with(end))
        || [".img_proj_layer.", ".mm_projector."]
            .iter()
            .any(|part| name.contains(part))
}

/// The name that a bundle has for a tensor of an adapter. Newer PEFT puts the adapter's name into it, modules that are saved
/// whole stand beside the base's own.
fn adapter_name(name: &str) -> Option<String> {
    if name.contains(".original_module.") {
        return None;
    }
    let inner = name.strip_prefix(WRAPPER).unwrap_or(name);
    let mut parts: Vec<&str> = inner.split('.').collect();
    if let Some(at) = parts.iter().position(|part| *part == "modules_to_save") {
        parts.drain(at..(at + 2).min(parts.len()));
    }
    let low_rank = |part: &&str| ["lora_A", "lora_B"].contains(part);
    if let Some(at) = parts.iter().position(low_rank)
        && parts.len() == at + 3
    {
        parts.remove(at + 1);
    }
    Some(format!("{WRAPPER}{}", parts.join(".")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_spelling_of_a_name_becomes_the_older_one() {
        let layer = "model.layers.0.self_attn.q_proj";
        let older = format!("{WRAPPER}{layer}.lora_A.weight");
        for name in [
            older.clone(),
            format!("{WRAPPER}{layer}.lora_A.default.weight"),
            format!("{layer}.lora_A.rg.weight"),
        ] {
            assert_eq!(adapter_name(&name).unwrap(), older);
        }
        let saved = format!("{WRAPPER}model.img_proj_layer.modules_to_save.default.weight");
        let projection = format!("{WRAPPER}model.img_proj_layer.weight");
        assert_eq!(adapter_name(&saved).unwrap(), projection);
        assert_eq!(adapter_name(&projection).unwrap(), projection);
        assert!(
            adapter_name(&saved.replace("modules_to_save.default", "original_module")).is_none()
        );
    }

    #[test]
    fn settings_that_would_change_a_result_and_foreign_tensors_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("adapter_config.json");
        let refusal = |setting: &str, value: Value| {
            let mut config =
                serde_json::json!({"r": 8, "lora_alpha": 16, "target_modules": ["q_proj"]});
            config[setting] = value;
            fs::write(&path, config.to_string()).unwrap();
            read_config(&path)
                .map(drop)
                .map_err(|error| error.to_string())
        };
        assert_eq!(refusal("exclude_modules", Value::Null), Ok(()));
        for (setting, value) in [
            ("lora_bias", Value::Bool(true)),
            ("use_qalora", Value::Bool(true)),
            ("exclude_modules", serde_json::json!(["v_proj"])),
            ("target_parameters", serde_json::json!(["weight"])),
            ("trainable_token_indices", serde_json::json!([7])),
        ] {
            let reason = refusal(setting, value).unwrap_err();
            assert!(reason.contains(setting), "{reason}");
        }
        for (name, own) in [
            (
                "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight",
                true,
            ),
            ("base_model.model.model.img_proj_layer.bias", true),
            ("base_model.model.lm_head.weight", false),
            (
                "base_model.model.model.layers.0.self_attn.q_proj.lora_B.bias",
                false,
            ),
        ] {
            assert_eq!(is_of_adapter(name), own, "{name}");
        }
    }
}
