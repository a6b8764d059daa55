//! A release of random weights, in the files and shapes in which RaDialog v1 and v2 were published, for the import: what a
//! researcher would have downloaded, at the published size or a tiny one.

use std::fs;
use std::io::Write;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use radialog_models::bundle::Geometry;
use radialog_models::bundle::components::{
    Component, EmbeddingComponent, FindingsComponent, LanguageComponent, ScoringComponent,
};
use radialog_models::language::LoraConfig;
use radialog_models::tensors::{Initialization, TensorSpec};
use radialog_models::tokenizers::synthetic;
use safetensors::Dtype;
use serde_json::{Value, json};

use crate::torch_file::{TorchFormat, TorchTensor, TorchType, write_torch};

/// Bytes of a shard, as Hugging Face cuts them.
const SHARD: usize = 10_000_000_000;

/// Which of the published systems.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Release {
    /// BioViL-T, alignment, two adapters over Vicuna, findings classifier, CheXbert, as v1's README has them.
    V1,
    /// A model folder over LLaVA, and the findings classifier in it.
    V2,
}

/// Writes the release below a folder, and returns its size in bytes.
///
/// # Errors
/// Files that cannot be written.
pub fn write_release(release: Release, geometry: Geometry, dir: &Path) -> Result<u64> {
    let mut bytes = 0;
    let embedding = match release {
        Release::V1 => EmbeddingComponent::of(geometry),
        Release::V2 => EmbeddingComponent::v2(geometry),
    };
    let encoder = tensors(&embedding, "weights", Dtype::F32)?;
    let of_encoder = |name: &str| name.strip_prefix("visual_encoder.").map(str::to_owned);
    // Its own projector, which v1 throws away and v2 does not read.
    let biovil = renamed(&encoder, |name| {
        of_encoder(name).filter(|name| !name.starts_with("projector."))
    });
    let path = dir.join("biovil_t_image_model_proj_size_128.pt");
    bytes += write_file(&path, None, &biovil)?;
    let folder = match release {
        Release::V1 => dir.to_owned(),
        Release::V2 => dir.join("radialog"),
    };
    let classifier = folder.join("findings_classifier/checkpoints/chexpert_train");
    let (name, section) = match release {
        Release::V1 => (
            "ChexpertClassifier-epoch=06-val_f1=0.36.ckpt",
            Some("state_dict"),
        ),
        Release::V2 => ("ChexpertClassifier.ckpt", Some("state_dict")),
    };
    let findings = tensors(&FindingsComponent::of(geometry), "weights", Dtype::F32)?;
    bytes += write_file(&classifier.join(name), section, &findings)?;
    match release {
        Release::V1 => {
            let path = dir
                .join("pretraining/outputs/stage1_pt_instruct_blip_origlr_img448/checkpoint_4.pth");
            // The published projector is in no file; one of another width cannot be made again.
            let alone = geometry == Geometry::Published;
            let alignment = renamed(&encoder, |name| {
                let statistics =
                    name.contains(".running_") || name.ends_with("num_batches_tracked");
                let kept = !name.starts_with("visual_encoder.")
                    || statistics
                    || (!alone && name.starts_with("visual_encoder.projector."));
                kept.then(|| name.to_owned())
            });
            bytes += write_file(&path, Some("model"), &alignment)?;
            let scoring = ScoringComponent::of(geometry);
            let chexbert = dir.join("chexbert/src/checkpoint");
            bytes += write_file(
                &chexbert.join("chexbert.pth"),
                Some("model_state_dict"),
                &tensors(&scoring, "weights", Dtype::F32)?,
            )?;
            let vocabulary = synthetic::bert(scoring.chexbert.vocab_size)?;
            fs::write(chexbert.join("vocab.txt"), bert_words(&vocabulary)?)?;
            heads(&chexbert, scoring.chexbert.num_attention_heads)?;
            if let radialog_models::bundle::components::Connector::QFormer { alignment, .. } =
                &embedding.connector
            {
                heads(path.parent().unwrap_or(dir), alignment.num_attention_heads)?;
            }
            bytes += write_language(&LanguageComponent::of(geometry), dir, release)?;
        }
        Release::V2 => {
            let others = renamed(&encoder, |name| {
                Some(format!(
                    "base_model.model.model.vision_tower.{}",
                    of_encoder(name)?
                ))
            });
            bytes += write_language(&LanguageComponent::v2(geometry), dir, release)?;
            let projector = tensors(&LanguageComponent::v2(geometry), "adapter", Dtype::BF16)?;
            let projector = projector
                .into_iter()
                .filter(|tensor| tensor.name.contains("mm_projector"));
            let others: Vec<_> = others.into_iter().chain(projector).map(as_bf16).collect();
            bytes += write_file(&folder.join("non_lora_trainables.bin"), None, &others)?;
        }
    }
    Ok(bytes)
}

/// Base and adapters of a language model.
fn write_language(component: &LanguageComponent, dir: &Path, release: Release) -> Result<u64> {
    let base = dir.join(match release {
        Release::V1 => "vicuna-7b-v1.3",
        Release::V2 => "llava-v1.5-7b",
    });
    fs::create_dir_all(&base)?;
    let mut bytes = write_shards(&base, &tensors(component, "weights", Dtype::F16)?)?;
    let config = serde_json::to_value(&component.llama)?;
    fs::write(base.join("config.json"), config.to_string())?;
    fs::write(base.join("tokenizer_config.json"), r#"{"legacy": false}"#)?;
    let tokenizer = synthetic::llama(component.llama.vocab_size)?;
    fs::write(base.join("tokenizer.json"), tokenizer.json)?;
    let lora = component
        .lora
        .clone()
        .context("the geometries have an adapter")?;
    let adapter = tensors(component, "adapter", Dtype::F32)?;
    let folders: &[&str] = match release {
        Release::V1 => &[
            "checkpoints/vicuna-7b-img-report/checkpoint-11200",
            "checkpoints/vicuna-7b-img-instruct/checkpoint-4800",
        ],
        Release::V2 => &["radialog"],
    };
    for folder in folders {
        let folder = dir.join(folder);
        let tensors: Vec<TorchTensor> = match release {
            Release::V1 => adapter.clone(),
            Release::V2 => {
                let own = adapter
                    .iter()
                    .filter(|tensor| !tensor.name.contains("mm_projector"));
                own.cloned().map(as_bf16).collect()
            }
        };
        bytes += write_file(&folder.join("adapter_model.bin"), None, &tensors)?;
        fs::write(
            folder.join("adapter_config.json"),
            peft_config(&lora).to_string(),
        )?;
        if release == Release::V2 {
            fs::write(folder.join("config.json"), config.to_string())?;
        }
    }
    Ok(bytes)
}

fn peft_config(lora: &LoraConfig) -> Value {
    json!({"peft_type": "LORA", "task_type": "CAUSAL_LM", "bias": "none", "fan_in_fan_out": false, "modules_to_save": null,
           "lora_dropout": 0.05, "r": lora.r, "lora_alpha": lora.lora_alpha, "target_modules": lora.target_modules})
}

/// Widths of tiny networks do not tell their heads.
fn heads(dir: &Path, heads: usize) -> Result<()> {
    let config = json!({ "num_attention_heads": heads });
    Ok(fs::write(dir.join("config.json"), config.to_string())?)
}

/// The tensors of a component's file, those that inference does not read among them.
fn tensors(component: &dyn Component, usage: &str, dtype: Dtype) -> Result<Vec<TorchTensor>> {
    let files = component.weights(dtype)?;
    let file = files.into_iter().find(|file| file.usage == usage);
    let file = file.with_context(|| format!("no file '{usage}'"))?;
    Ok(file.tensors.into_iter().map(tensor).collect())
}

fn tensor(spec: TensorSpec) -> TorchTensor {
    let counting = matches!(spec.init, Initialization::Counting);
    TorchTensor {
        name: spec.header.name,
        shape: spec.header.shape,
        dtype: match spec.header.dtype {
            _ if counting => TorchType::Long,
            Dtype::F16 => TorchType::Half,
            Dtype::BF16 => TorchType::BFloat16,
            _ => TorchType::Float,
        },
    }
}

fn as_bf16(tensor: TorchTensor) -> TorchTensor {
    TorchTensor {
        dtype: match tensor.dtype {
            TorchType::Long => TorchType::Long,
            _ => TorchType::BFloat16,
        },
        ..tensor
    }
}

fn renamed(tensors: &[TorchTensor], name: impl Fn(&str) -> Option<String>) -> Vec<TorchTensor> {
    let renamed = tensors.iter().filter_map(|tensor| {
        Some(TorchTensor {
            name: name(&tensor.name)?,
            ..tensor.clone()
        })
    });
    renamed.collect()
}

/// A base in `.bin` shards with their index.
fn write_shards(dir: &Path, tensors: &[TorchTensor]) -> Result<u64> {
    let bytes = |tensor: &TorchTensor| tensor.elements() * tensor.dtype.width();
    let total: usize = tensors.iter().map(bytes).sum();
    // Also a small model is in two.
    let limit = SHARD.min(total / 2 + 1);
    let mut shards: Vec<Vec<TorchTensor>> = vec![Vec::new()];
    let mut filled = 0;
    for tensor in tensors {
        if filled > 0 && filled + bytes(tensor) > limit {
            shards.push(Vec::new());
            filled = 0;
        }
        filled += bytes(tensor);
        shards
            .last_mut()
            .context("there is one")?
            .push(tensor.clone());
    }
    let count = shards.len();
    let mut map = serde_json::Map::new();
    let mut written = 0;
    for (number, tensors) in shards.iter().enumerate() {
        let name = format!("pytorch_model-{:05}-of-{count:05}.bin", number + 1);
        written += write_file(&dir.join(&name), None, tensors)?;
        map.extend(
            tensors
                .iter()
                .map(|tensor| (tensor.name.clone(), json!(name))),
        );
    }
    let index = json!({"metadata": {"total_size": total}, "weight_map": map});
    fs::write(dir.join("pytorch_model.bin.index.json"), index.to_string())?;
    Ok(written)
}

fn write_file(path: &Path, section: Option<&str>, tensors: &[TorchTensor]) -> Result<u64> {
    ensure!(
        !tensors.is_empty(),
        "nothing to write to '{}'",
        path.display()
    );
    fs::create_dir_all(path.parent().unwrap_or(Path::new(".")))?;
    write_torch(
        path,
        TorchFormat::Zip,
        section,
        tensors,
        &mut |index, out| fill(&tensors[index], index as u64, out),
    )?;
    Ok(fs::metadata(path)?.len())
}

/// Random values of a size that keeps activations in range: what is summed over has a spread of about one over its root.
fn fill(tensor: &TorchTensor, seed: u64, out: &mut dyn Write) -> Result<()> {
    let inputs: usize = tensor.shape.iter().skip(1).product();
    let norm = tensor.name.contains("running_var")
        || (tensor.shape.len() == 1 && tensor.name.ends_with("weight"));
    let spread = match norm {
        true => 0.25,
        false => (3.0 / inputs.max(1) as f32).sqrt().min(0.1),
    };
    let centre = if norm { 1.0 } else { 0.0 };
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut buffer = Vec::with_capacity(1 << 16);
    for index in 0..tensor.elements() {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        let unit = (state >> 40) as f32 / 8_388_608.0 - 1.0;
        let value = centre + spread * unit;
        match tensor.dtype {
            TorchType::Float => buffer.extend(value.to_le_bytes()),
            TorchType::Half => buffer.extend(half::f16::from_f32(value).to_le_bytes()),
            TorchType::BFloat16 => buffer.extend(half::bf16::from_f32(value).to_le_bytes()),
            TorchType::Long => buffer.extend((index as i64).to_le_bytes()),
        }
        if buffer.len() >= 1 << 16 {
            out.write_all(&buffer)?;
            buffer.clear();
        }
    }
    Ok(out.write_all(&buffer)?)
}

/// A vocabulary as `vocab.txt` has it, of a `tokenizer.json`.
fn bert_words(json: &str) -> Result<String> {
    let json: Value = serde_json::from_str(json)?;
    let words = json["model"]["vocab"]
        .as_object()
        .context("no vocabulary")?;
    let mut words: Vec<(u64, &String)> = words
        .iter()
        .map(|(word, id)| (id.as_u64().unwrap_or_default(), word))
        .collect();
    words.sort_unstable();
    let words: Vec<&str> = words.into_iter().map(|(_, word)| word.as_str()).collect();
    Ok(words.join("\n"))
}
