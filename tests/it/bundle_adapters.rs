//! Bundles whose language model has several adapters: what is loaded, and what is refused and why.

use std::collections::HashMap;
use std::fs;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, Result};
use candle_core::{Device, Tensor};
use radialog_models::bundle::components::{LanguagePipeline, LanguageTask};
use radialog_models::bundle::{Bundle, BundleAssembly, HashCache, RandomBundle};
use radialog_models::language::{Engine, EngineEvent, EngineLimits, GenerationRequest};
use radialog_schemas::bundle::{FileEntry, MANIFEST_FILE};
use radialog_schemas::{AdapterName, ContentHash, Stage};
use safetensors::tensor::Dtype;
use serde_json::{Value, json};
use tempfile::TempDir;

const LANGUAGE: [Stage; 1] = [Stage::Language];

struct AdapterBundle {
    dir: TempDir,
}

impl AdapterBundle {
    fn new(dtype: Dtype) -> Result<Self> {
        let dir = tempfile::tempdir()?;
        RandomBundle {
            dtype,
            adapters: vec!["rg".parse()?, "ins".parse()?],
            ..RandomBundle::tiny(7)
        }
        .write(&dir.path().join("bundle"))?;
        Ok(Self { dir })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join("bundle").join(name)
    }

    fn open(&self) -> Result<Bundle> {
        let cache = HashCache::at(self.dir.path().join("hashes.json"));
        Ok(Bundle::open_with(&self.path(""), &LANGUAGE, &cache)?)
    }

    /// The bundle with another manifest.
    fn manifest(&self, change: impl FnOnce(&mut Value)) -> Result<()> {
        let file = self.path(MANIFEST_FILE);
        let mut manifest = serde_json::from_slice(&fs::read(&file)?)?;
        change(&mut manifest);
        Ok(fs::write(file, serde_json::to_vec(&manifest)?)?)
    }

    /// The bundle with another configuration of the language model.
    fn config(&self, change: impl FnOnce(&mut Value)) -> Result<()> {
        self.manifest(|manifest| change(&mut manifest["components"]["language"]["config"]))
    }

    /// The bundle with another file of an adapter, of which the manifest knows.
    fn adapter(
        &self,
        name: &str,
        change: impl FnOnce(&mut HashMap<String, Tensor>) -> Result<()>,
    ) -> Result<()> {
        let file = format!("adapter-{name}.safetensors");
        let path = self.path(&file);
        let mut tensors = candle_core::safetensors::load(&path, &Device::Cpu)?;
        change(&mut tensors)?;
        candle_core::safetensors::save(&tensors, &path)?;
        let content = fs::read(&path)?;
        let entry = FileEntry {
            size: content.len() as u64,
            sha256: ContentHash::of(&content),
        };
        self.manifest(|manifest| manifest["files"][file] = json!(entry))
    }
}

/// What these adapters of a bundle say to one prompt, decoded together.
fn said(bundle: &Bundle, adapters: &[Option<&str>]) -> Result<Vec<Vec<u32>>> {
    let language = LanguagePipeline::load(bundle, &Device::Cpu)?;
    let limits = EngineLimits {
        sequences: adapters.len(),
        cache_tokens: 4096,
        ..EngineLimits::default()
    };
    let mut engine = Engine::new(Arc::clone(&language.model), limits);
    let mut order = Vec::new();
    for adapter in adapters {
        let named = adapter.map(str::parse::<AdapterName>).transpose()?;
        order.push(engine.admit(GenerationRequest {
            adapter: language.adapter(named.as_ref(), LanguageTask::Report)?,
            prompt: (1..40).collect(),
            max_new_tokens: 12,
            ..GenerationRequest::default()
        })?);
    }
    let mut answers = vec![Vec::new(); adapters.len()];
    while !engine.is_idle() {
        for event in engine.step()? {
            if let EngineEvent::Finished { sequence, result } = event {
                let place = order
                    .iter()
                    .position(|id| *id == sequence)
                    .context("whose")?;
                answers[place] = result?.tokens;
            }
        }
    }
    Ok(answers)
}

#[test]
fn an_adapter_beside_another_says_what_a_bundle_with_it_alone_says() -> Result<()> {
    for dtype in [Dtype::F16, Dtype::F32] {
        let both = AdapterBundle::new(dtype)?;
        let together = said(&both.open()?, &[Some("ins"), Some("rg"), None])?;
        assert_eq!(together[1], together[2], "reports are the first one's");
        for (name, expected) in [("rg", &together[1]), ("ins", &together[0])] {
            // The same file as the bundle's only adapter with a name.
            let only = AdapterBundle::new(dtype)?;
            only.config(|config| {
                let lora = config["adapters"][name].clone();
                config["adapters"] = json!({ name: lora });
                config["default_adapters"] = Value::Null;
            })?;
            assert_eq!(
                &said(&only.open()?, &[None])?[0],
                expected,
                "{name} {dtype:?}"
            );
            if dtype == Dtype::F32 {
                continue;
            }
            // And as the one adapter without a name: in half precision it is beside the base, too.
            let old = AdapterBundle::new(dtype)?;
            old.manifest(|manifest| {
                let component = &mut manifest["components"]["language"];
                let config = component["config"].as_object_mut().unwrap();
                let adapters = config.remove("adapters").unwrap();
                config.remove("default_adapters");
                config.insert("lora".into(), adapters[name].clone());
                component["files"]["adapter"] = json!(format!("adapter-{name}.safetensors"));
            })?;
            assert_eq!(&said(&old.open()?, &[None])?[0], expected, "{name} as lora");
        }
    }
    Ok(())
}

#[test]
fn every_adapter_and_its_task_is_part_of_the_components_hash_and_goes_with_an_assembly()
-> Result<()> {
    let bundle = AdapterBundle::new(Dtype::F32)?;
    let hash = |bundle: &AdapterBundle| -> Result<ContentHash> {
        Ok(bundle.open()?.manifest().component_hash(Stage::Language))
    };
    let original = hash(&bundle)?;
    let assembly = BundleAssembly {
        name: "assembled".into(),
        version: "1".into(),
        license: Some("none".into()),
        half: false,
        calibration: None,
        parts: [(Stage::Language, bundle.path(""))].into(),
    };
    let target = bundle.dir.path().join("assembled");
    assembly.write(&target)?;
    let cache = HashCache::at(bundle.dir.path().join("hashes.json"));
    let assembled = Bundle::open_with(&target, &LANGUAGE, &cache)?;
    let names = [Some("rg"), Some("ins"), None];
    assert_eq!(said(&assembled, &names)?, said(&bundle.open()?, &names)?);

    bundle.config(|config| config["default_adapters"]["report"] = json!("ins"))?;
    let other_task = hash(&bundle)?;
    bundle.config(|config| config["default_adapters"]["report"] = json!("rg"))?;
    assert_eq!(hash(&bundle)?, original);
    bundle.adapter("ins", |tensors| {
        let bias = tensors.iter_mut().find(|(name, _)| name.ends_with("bias"));
        let (_, bias) = bias.context("a bias")?;
        *bias = (bias.clone() + 1.0)?;
        Ok(())
    })?;
    let other_file = hash(&bundle)?;
    assert!(other_task != original && other_file != original && other_file != other_task);
    Ok(())
}

#[test]
fn adapters_that_do_not_fit_or_could_mean_two_things_are_refused_and_named() -> Result<()> {
    let refused = |change: &dyn Fn(&AdapterBundle) -> Result<()>, words: &[&str]| -> Result<()> {
        let bundle = AdapterBundle::new(Dtype::F32)?;
        change(&bundle)?;
        let error = bundle.open().map(|_| ()).unwrap_err();
        let error = format!("{error:#}");
        for words in words {
            assert!(error.contains(words), "'{words}' is not in: {error}");
        }
        Ok(())
    };
    let config = |change: fn(&mut Value)| move |bundle: &AdapterBundle| bundle.config(change);
    const LAYER: &str = "base_model.model.model.layers.0.self_attn";

    // Files: of another base, of another rank, cut, and with more or less than is asked for.
    refused(
        &|bundle| {
            bundle.adapter("rg", |tensors| {
                let down = tensors.get_mut(&format!("{LAYER}.q_proj.lora_A.weight"));
                let down = down.context("a layer")?;
                *down = Tensor::zeros((8, 4096), down.dtype(), &Device::Cpu)?;
                Ok(())
            })
        },
        &[
            "layers.0.self_attn.q_proj.lora_A.weight",
            "adapter-rg.safetensors",
            "[8, 4096]",
            "[8, 64]",
        ],
    )?;
    refused(
        &config(|config| config["adapters"]["rg"]["r"] = json!(4)),
        &[
            "lora_A.weight",
            "adapter-rg.safetensors",
            "[8, 64]",
            "[4, 64]",
        ],
    )?;
    refused(
        &|bundle| {
            bundle.adapter("ins", |tensors| {
                tensors
                    .remove(&format!("{LAYER}.v_proj.lora_B.weight"))
                    .context("a layer")?;
                Ok(())
            })
        },
        &[
            "layers.0.self_attn.v_proj.lora_B.weight",
            "adapter-ins.safetensors",
        ],
    )?;
    refused(
        &config(|config| config["adapters"]["ins"]["target_modules"] = json!(["q_proj"])),
        &[
            "layers.0.self_attn.v_proj.lora_A.weight",
            "adapter-ins.safetensors",
            "another adapter",
        ],
    )?;
    refused(
        &|bundle| {
            bundle.manifest(|manifest| {
                let files = &mut manifest["components"]["language"]["files"];
                files.as_object_mut().unwrap().remove("adapter-ins");
            })
        },
        &["adapter-ins"],
    )?;
    // Configurations.
    refused(
        &config(|config| config["adapters"]["rg"]["target_modules"] = json!(["c_attn"])),
        &["adapters.rg", "c_attn", "q_proj"],
    )?;
    refused(
        &config(|config| config["lora"] = config["adapters"]["rg"].clone()),
        &["both lora and adapters"],
    )?;
    refused(
        &config(|config| config["default_adapters"] = Value::Null),
        &["default_adapters is missing"],
    )?;
    refused(
        &config(|config| config["default_adapters"]["chat"] = json!("chat")),
        &["default_adapters.chat is 'chat'", "ins, rg"],
    )?;
    refused(
        &config(|config| config["default_adapters"]["repot"] = json!("rg")),
        &["repot"],
    )?;
    for name in ["../rg", "RG", "r.g", "rg\u{202e}", ""] {
        let change = |bundle: &AdapterBundle| {
            bundle.config(|config| {
                let lora = config["adapters"]["rg"].clone();
                config["adapters"][name] = lora;
            })
        };
        refused(&change, &["no name of an adapter"])?;
    }
    // Two of one name, which a parser would make one of.
    refused(
        &|bundle| {
            let file = bundle.path(MANIFEST_FILE);
            let text = fs::read_to_string(&file)?;
            let twice = text.replacen("\"adapters\": {", "\"adapters\": { \"rg\": null,", 1);
            assert_ne!(text, twice);
            Ok(fs::write(file, twice)?)
        },
        &["'rg' stands twice"],
    )
}
