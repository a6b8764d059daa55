//! An adapter that PEFT wrote: a folder with `adapter_config.json` and its tensors, in either spelling of their names.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::Value;

use super::base::parsed;
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
    init_lora_weights: Option<Value>,
    layer_replication: Option<Value>,
    alora_invocation_tokens: Option<Value>,
    /// The settings of newer versions, of which some switch another computation on.
    #[serde(skip)]
    others: BTreeMap<String, Value>,
}

/// Ways to begin a training that leave the base as it is; the others (pissa, olora, corda, loftq, ...) take a part of it away,
/// so that what is saved fits a base that nobody has.
const BEGINNINGS: [&str; 3] = ["gaussian", "eva", "orthogonal"];

/// Settings of a kind that [`PeftConfig::unknown_computation`] refuses, which say how a training began or went and change no
/// result.
const OF_TRAINING: [&str; 4] = [
    "eva_config",
    "corda_config",
    "loftq_config",
    "runtime_config",
];

/// Settings that [`PeftConfig`] names, and which [`PeftConfig::unknown_computation`] would take for new ones.
const SWITCHES: [&str; 3] = ["use_rslora", "use_dora", "use_qalora"];

impl PeftConfig {
    /// Whether the training began with the base's own weights.
    fn begins_with_base(&self) -> bool {
        match &self.init_lora_weights {
            None | Some(Value::Null | Value::Bool(_)) => true,
            Some(Value::String(name)) => BEGINNINGS.contains(&name.as_str()),
            Some(_) => false,
        }
    }

    /// A setting that this software does not know, and whose name and value say that it switches something on.
    fn unknown_computation(&self) -> Option<&str> {
        let mut others = self.others.iter();
        let found = others.find(|(name, value)| match value {
            Value::Null | Value::Bool(false) => false,
            value if name.ends_with("_config") => {
                value.as_object().is_none_or(|map| !map.is_empty())
                    && !OF_TRAINING.contains(&name.as_str())
            }
            _ => name.starts_with("use_"),
        });
        found.map(|(name, _)| name.as_str())
    }
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
    let mut content: BTreeMap<String, Value> =
        serde_json::from_slice(&text).map_err(ImportError::unusable(path))?;
    // PEFT writes what is not set as null, and reads it as if it were not there.
    content.retain(|_, value| !value.is_null());
    let map = content.clone().into_iter().collect();
    let config: PeftConfig = parsed(&Value::Object(map)).map_err(fault)?;
    let config = PeftConfig {
        others: others(content),
        ..config
    };
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
        (
            !given(&config.layer_replication),
            "layer_replication is given",
        ),
        (
            !given(&config.alora_invocation_tokens),
            "alora_invocation_tokens is given",
        ),
        (
            config.begins_with_base(),
            "init_lora_weights names a way to begin that changes the base",
        ),
    ];
    if let Some((_, what)) = rules.into_iter().find(|(holds, _)| !holds) {
        return Err(fault(format!(
            "{what}, which this software does not compute"
        )));
    }
    if let Some(name) = config.unknown_computation() {
        return Err(fault(format!(
            "{name} is given, which this software does not compute"
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
        target_modules: modules(targets),
    })
}

/// The settings that [`PeftConfig`] does not name.
fn others(mut settings: BTreeMap<String, Value>) -> BTreeMap<String, Value> {
    settings.retain(|name, _| !SWITCHES.contains(&name.as_str()));
    settings
}

/// The modules of a layer that targets name. Newer versions of PEFT write `all-linear` as the full path of every matrix; the
/// matrices that are missing in a layer are found missing as tensors.
fn modules(targets: Vec<String>) -> Vec<String> {
    let mut modules: Vec<String> = Vec::new();
    for target in targets {
        let module = target.rsplit('.').next().unwrap_or(&target);
        if !modules.iter().any(|known| known == module) {
            modules.push(module.to_owned());
        }
    }
    modules
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
    fn full_paths_of_all_linear_layers_are_their_modules() {
        let paths = [
            "model.layers.0.self_attn.q_proj",
            "model.layers.1.self_attn.q_proj",
            "model.layers.0.mlp.up_proj",
            "v_proj",
        ];
        let found = modules(paths.map(str::to_owned).to_vec());
        assert_eq!(found, ["q_proj", "up_proj", "v_proj"]);
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
        assert_eq!(refusal("use_rslora", Value::Null), Ok(()));
        for (setting, value, words) in [
            ("r", Value::Null, "missing field `r`"),
            ("lora_alpha", Value::Null, "missing field `lora_alpha`"),
            ("r", "8".into(), "'r' in it"),
            ("use_dora", "yes".into(), "'use_dora' in it"),
        ] {
            let reason = refusal(setting, value).unwrap_err();
            assert!(
                reason.contains(words) && reason.contains("adapter_config.json"),
                "{reason}"
            );
        }
        for (setting, value) in [
            ("lora_bias", Value::Bool(true)),
            ("use_qalora", Value::Bool(true)),
            ("exclude_modules", serde_json::json!(["v_proj"])),
            ("target_parameters", serde_json::json!(["weight"])),
            ("trainable_token_indices", serde_json::json!([7])),
            ("init_lora_weights", "pissa_niter_4".into()),
            ("init_lora_weights", "olora".into()),
            ("layer_replication", serde_json::json!([[0, 2], [1, 2]])),
            ("alora_invocation_tokens", serde_json::json!([5, 6])),
            ("use_bdlora", serde_json::json!({})),
            ("arrow_config", serde_json::json!({"top_k": 3})),
            ("kasa_config", serde_json::json!({"beta": 1})),
        ] {
            let reason = refusal(setting, value).unwrap_err();
            assert!(reason.contains(setting), "{reason}");
        }
        for (setting, value) in [
            ("init_lora_weights", Value::Bool(true)),
            ("init_lora_weights", "gaussian".into()),
            ("init_lora_weights", Value::Null),
            ("loftq_config", serde_json::json!({})),
            ("eva_config", serde_json::json!({"rho": 2})),
            ("use_something_new", Value::Bool(false)),
            ("peft_version", "0.21".into()),
        ] {
            assert_eq!(refusal(setting, value), Ok(()), "{setting}");
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
