//! What is wrong with published files is said with file, tensor and shapes, before anything is written.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Result;
use radialog_models::bundle::import::{BaseType, ImportOptions, ImportParts};
use radialog_tests::fixtures;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::{copy_folder, options, refusal, vocabulary, write_refusal};
use radialog_tests::torch_file::{TorchFormat, TorchTensor, TorchType, write_torch};

/// A base in two shards and an adapter, made of the fixtures', in folders that a test may spoil.
struct Model {
    dir: TempDir,
    parts: ImportParts,
}

/// The shards of [`Model`].
const SHARDS: [&str; 2] = [
    "pytorch_model-00001-of-00002.bin",
    "pytorch_model-00002-of-00002.bin",
];

impl Model {
    fn new() -> Result<Self> {
        let dir = tempfile::tempdir()?;
        let golden = fixtures::golden().join("05_llm/tiny_checkpoint");
        let [base, adapter] = ["base", "adapter"].map(|name| dir.path().join(name));
        copy_folder(&golden.join("base_safetensors"), &base)?;
        copy_folder(&golden.join("adapter_safetensors"), &adapter)?;
        let weights = golden_tensors(&base.join("model.safetensors"))?;
        fs::remove_file(base.join("model.safetensors"))?;
        let (first, second) = weights.split_at(weights.len() / 2);
        let mut map = serde_json::Map::new();
        for (shard, tensors) in SHARDS.iter().zip([first, second]) {
            write(&base.join(shard), tensors)?;
            map.extend(
                tensors
                    .iter()
                    .map(|(tensor, _)| (tensor.name.clone(), json!(shard))),
            );
        }
        let model = Self {
            parts: ImportParts {
                base: Some(base),
                adapters: vec![("rg".parse()?, adapter)],
                tokenizer: Some(vocabulary(dir.path(), 512)?),
                ..ImportParts::default()
            },
            dir,
        };
        model.write_index(map)?;
        Ok(model)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn shard(&self, number: usize) -> PathBuf {
        self.path("base").join(SHARDS[number])
    }

    fn index(&self) -> Result<serde_json::Map<String, Value>> {
        let text = fs::read(self.path("base/pytorch_model.bin.index.json"))?;
        let index: Value = serde_json::from_slice(&text)?;
        Ok(index["weight_map"].as_object().cloned().unwrap_or_default())
    }

    fn write_index(&self, map: serde_json::Map<String, Value>) -> Result<()> {
        let index = json!({"metadata": {"total_size": 1}, "weight_map": map});
        let path = self.path("base/pytorch_model.bin.index.json");
        Ok(fs::write(path, index.to_string())?)
    }

    /// Changes a JSON file.
    fn change(&self, file: &str, key: &str, value: Value) -> Result<()> {
        let path = self.path(file);
        let mut content: Value = serde_json::from_slice(&fs::read(&path)?)?;
        content[key] = value;
        Ok(fs::write(path, content.to_string())?)
    }
}

type Tensors = Vec<(TorchTensor, Vec<u8>)>;

/// The tensors of a safetensors file of half-precision numbers.
fn golden_tensors(path: &Path) -> Result<Tensors> {
    let content = fs::read(path)?;
    let tensors = safetensors::SafeTensors::deserialize(&content)?;
    let mut all: Tensors = tensors
        .iter()
        .map(|(name, tensor)| {
            let header = TorchTensor {
                name: name.to_owned(),
                shape: tensor.shape().to_vec(),
                dtype: match tensor.dtype() {
                    safetensors::Dtype::F32 => TorchType::Float,
                    _ => TorchType::Half,
                },
            };
            (header, tensor.data().to_vec())
        })
        .collect();
    all.sort_by(|one, other| one.0.name.cmp(&other.0.name));
    Ok(all)
}

fn write(path: &Path, tensors: &[(TorchTensor, Vec<u8>)]) -> Result<()> {
    let headers: Vec<TorchTensor> = tensors.iter().map(|(tensor, _)| tensor.clone()).collect();
    write_torch(path, TorchFormat::Zip, None, &headers, &mut |index, out| {
        Ok(out.write_all(&tensors[index].1)?)
    })
}

#[track_caller]
fn assert_says(message: &str, words: &[&str]) {
    for word in words {
        assert!(message.contains(word), "'{word}' is not in: {message}");
    }
}

#[test]
fn whole_shards_are_imported() -> Result<()> {
    let model = Model::new()?;
    assert_eq!(refusal(&model.parts), "it can be imported");
    Ok(())
}

#[test]
fn shards_that_are_cut_missing_renamed_or_too_many_are_named() -> Result<()> {
    let model = Model::new()?;
    let whole = fs::read(model.shard(1))?;
    fs::write(model.shard(1), &whole[..whole.len() / 2])?;
    assert_says(
        &refusal(&model.parts),
        &[SHARDS[1], "download or copy it again"],
    );

    fs::remove_file(model.shard(1))?;
    assert_says(
        &refusal(&model.parts),
        &["of its 2 shards 1 are missing", SHARDS[1]],
    );

    fs::write(model.shard(1), &whole)?;
    let first = fs::read(model.shard(0))?;
    fs::write(model.shard(1), &first)?;
    assert_says(
        &refusal(&model.parts),
        &["a shard is there twice", SHARDS[0]],
    );

    fs::write(model.shard(0), &whole)?;
    assert_says(
        &refusal(&model.parts),
        &["shards were mixed up or renamed", "shape ["],
    );

    fs::write(model.shard(0), &first)?;
    fs::write(model.shard(1), &whole)?;
    fs::write(model.path("base/pytorch_model-00003-of-00003.bin"), &first)?;
    assert_says(
        &refusal(&model.parts),
        &["'pytorch_model-00003-of-00003.bin'", "two downloads"],
    );
    Ok(())
}

#[test]
fn an_index_that_names_what_is_not_there_or_not_in_its_folder_is_refused() -> Result<()> {
    let model = Model::new()?;
    let index = model.index()?;
    let changed = |name: &str, file: &str| {
        let mut map = index.clone();
        map.insert(name.into(), json!(file));
        model.write_index(map)
    };
    changed("model.more.weight", SHARDS[0])?;
    assert_says(
        &refusal(&model.parts),
        &["'model.more.weight'", "does not have it"],
    );
    for outside in ["../base/x.bin", "/etc/passwd", "a/b.bin", "..", ""] {
        changed("model.norm.weight", outside)?;
        assert_says(&refusal(&model.parts), &["no file of its folder"]);
    }
    fs::write(model.path("base/pytorch_model.bin.index.json"), "[]")?;
    assert_says(&refusal(&model.parts), &["no index of shards"]);
    Ok(())
}

#[test]
fn tensors_that_are_missing_or_of_another_shape_are_named_with_file_and_shapes() -> Result<()> {
    let model = Model::new()?;
    let path = fixtures::golden().join("05_llm/tiny_checkpoint/base_safetensors/model.safetensors");
    let whole = golden_tensors(&path)?;
    let spoil = |change: &dyn Fn(&mut Tensors)| -> Result<()> {
        let base = model.path("base");
        for shard in SHARDS.iter().chain(&["pytorch_model.bin.index.json"]) {
            drop(fs::remove_file(base.join(shard)));
        }
        let mut tensors = whole.clone();
        change(&mut tensors);
        write(&base.join("pytorch_model.bin"), &tensors)
    };
    spoil(&|tensors| tensors.retain(|(tensor, _)| tensor.name != "model.norm.weight"))?;
    let words = [
        "'model.norm.weight' (shape [64])",
        "pytorch_model.bin",
        "not whole",
    ];
    assert_says(&refusal(&model.parts), &words);
    spoil(&|tensors| {
        let norm = tensors
            .iter_mut()
            .find(|(tensor, _)| tensor.name == "model.norm.weight");
        norm.unwrap().0.shape = vec![8, 8];
    })?;
    assert_says(
        &refusal(&model.parts),
        &["'model.norm.weight'", "[8, 8]", "[64]", "pytorch_model.bin"],
    );
    spoil(&|tensors| {
        let norm = tensors
            .iter_mut()
            .find(|(tensor, _)| tensor.name == "model.norm.weight");
        norm.unwrap().1[..2].copy_from_slice(&[0, 0x7c]);
    })?;
    let error = write_refusal(&model.parts, options()).to_string();
    assert_says(
        &error,
        &["'model.norm.weight'", "not finite", "pytorch_model.bin"],
    );
    spoil(&|_| {})?;
    model.change("base/config.json", "vocab_size", json!(500))?;
    assert_says(&refusal(&model.parts), &["[512, 64]", "vocab_size 500"]);
    model.change("base/config.json", "vocab_size", json!(512))?;
    model.change(
        "base/config.json",
        "num_hidden_layers",
        json!(1_000_000_000),
    )?;
    assert_says(
        &refusal(&model.parts),
        &["4 layers", "num_hidden_layers 1000000000"],
    );
    model.change("base/config.json", "num_hidden_layers", json!(4))?;
    model.change(
        "base/config.json",
        "rope_scaling",
        json!({"type": "linear"}),
    )?;
    assert_says(&refusal(&model.parts), &["rope_scaling is not supported"]);
    Ok(())
}

#[test]
fn adapters_of_another_base_or_kind_are_refused() -> Result<()> {
    let model = Model::new()?;
    let config = "adapter/adapter_config.json";
    let cases = [
        ("target_modules", json!(["q_proj", "c_attn"]), "'c_attn'"),
        ("target_modules", json!("all-linear"), "no list of names"),
        (
            "target_modules",
            json!(["q_proj", "k_proj", "v_proj"]),
            "self_attn.k_proj.lora_A.weight",
        ),
        ("r", json!(4), "shape [8, 64]"),
        ("r", json!(0), "r is 0"),
        ("peft_type", json!("IA3"), "peft_type is not LORA"),
        ("bias", json!("all"), "bias is not none"),
        ("use_dora", json!(true), "use_dora"),
        ("rank_pattern", json!({"q_proj": 2}), "rank_pattern"),
        ("modules_to_save", json!(["lm_head"]), "'lm_head'"),
    ];
    let whole = fs::read(model.path(config))?;
    for (key, value, words) in cases {
        model.change(config, key, value)?;
        assert_says(&refusal(&model.parts), &[words]);
        fs::write(model.path(config), &whole)?;
    }
    fs::remove_file(model.path(config))?;
    assert_says(
        &refusal(&model.parts),
        &["adapter_config.json", "rank and scale"],
    );
    fs::write(model.path(config), &whole)?;
    fs::remove_file(model.path("adapter/adapter_model.safetensors"))?;
    assert_says(&refusal(&model.parts), &["adapter_model.bin", "is in it"]);
    Ok(())
}

#[test]
fn tensors_of_an_adapter_that_the_base_has_no_place_for_are_an_error_and_not_left_out() -> Result<()>
{
    let model = Model::new()?;
    let path = model.path("adapter/adapter_model.safetensors");
    let whole = golden_tensors(&path)?;
    fs::remove_file(path)?;
    let renamed = |from: &str, to: &str| {
        let mut tensors = whole.clone();
        let mut added = tensors
            .iter()
            .find(|(tensor, _)| tensor.name.contains(from))
            .unwrap()
            .clone();
        added.0.name = added.0.name.replace(from, to);
        tensors.push(added);
        write(&model.path("adapter/adapter_model.bin"), &tensors)
    };
    renamed(
        "layers.0.self_attn.q_proj.lora_A",
        "layers.7.self_attn.q_proj.lora_A",
    )?;
    assert_says(
        &refusal(&model.parts),
        &["'rg'", "layers.7", "another base"],
    );
    renamed("img_proj_layer.bias", "mm_projector.0.bias")?;
    assert_says(
        &refusal(&model.parts),
        &["mm_projector", "different models"],
    );
    Ok(())
}

#[test]
fn an_adapter_of_v1_is_refused_over_the_base_of_v2() -> Result<()> {
    let model = Model::new()?;
    let mut parts = model.parts.clone();
    let other = model.path("other");
    copy_folder(&model.path("adapter"), &other)?;
    let mut tensors = golden_tensors(&other.join("adapter_model.safetensors"))?;
    fs::remove_file(other.join("adapter_model.safetensors"))?;
    let bias = tensors
        .iter()
        .find(|(tensor, _)| tensor.name.ends_with("img_proj_layer.bias"))
        .unwrap()
        .clone();
    let width = bias.0.shape[0];
    tensors.retain(|(tensor, _)| !tensor.name.contains("img_proj_layer"));
    for (layer, inputs) in [(0, 24), (2, width)] {
        let name = format!("base_model.model.model.mm_projector.{layer}");
        let weight = TorchTensor {
            name: format!("{name}.weight"),
            shape: vec![width, inputs],
            dtype: bias.0.dtype,
        };
        let bytes = vec![0; weight.elements() * weight.dtype.width()];
        tensors.push((weight, bytes));
        let mut bias = bias.clone();
        bias.0.name = format!("{name}.bias");
        tensors.push(bias);
    }
    write(&other.join("adapter_model.bin"), &tensors)?;
    parts.adapters = vec![("a".parse()?, other), ("b".parse()?, model.path("adapter"))];
    let error = refusal(&parts);
    assert_says(&error, &["mm_projector", "another model"]);
    Ok(())
}

#[test]
fn an_end_token_outside_of_the_vocabulary_is_refused() -> Result<()> {
    let model = Model::new()?;
    model.change("base/config.json", "eos_token_id", json!(600))?;
    assert_says(
        &refusal(&model.parts),
        &["eos_token_id is 600", "vocab_size 512"],
    );
    Ok(())
}

#[test]
fn an_adapter_of_a_wider_base_names_both_shapes() -> Result<()> {
    let model = Model::new()?;
    let path = model.path("adapter/adapter_model.safetensors");
    let mut tensors = golden_tensors(&path)?;
    let wide = &mut tensors[0];
    wide.0.shape[0] *= 2;
    wide.1 = wide.1.repeat(2);
    let (name, found) = (wide.0.name.clone(), format!("{:?}", wide.0.shape));
    fs::remove_file(path)?;
    write(&model.path("adapter/adapter_model.bin"), &tensors)?;
    assert_says(
        &refusal(&model.parts),
        &[&name, &found, "adapter_model.bin", "different models"],
    );
    Ok(())
}

#[test]
fn a_tokenizer_of_another_vocabulary_is_refused() -> Result<()> {
    let model = Model::new()?;
    let mut parts = model.parts.clone();
    parts.tokenizer = Some(vocabulary(model.dir.path(), 600)?);
    assert_says(&refusal(&parts), &["600 tokens", "512"]);
    parts.tokenizer = None;
    assert_says(
        &refusal(&parts),
        &["neither tokenizer.model nor tokenizer.json"],
    );
    let broken = model.path("tokenizer.model");
    fs::write(&broken, b"<html>")?;
    parts.tokenizer = Some(broken);
    assert_says(&refusal(&parts), &["no SentencePiece model"]);
    let pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:abc\nsize 1\n";
    fs::write(model.path("tokenizer.model"), pointer)?;
    assert_says(&refusal(&parts), &["git lfs pull", "tokenizer.model"]);
    Ok(())
}

#[test]
fn values_that_a_type_cannot_hold_are_refused() -> Result<()> {
    let model = Model::new()?;
    let base = model.path("base");
    for shard in SHARDS.iter().chain(&["pytorch_model.bin.index.json"]) {
        fs::remove_file(base.join(shard))?;
    }
    let path = fixtures::golden().join("05_llm/tiny_checkpoint/base_safetensors/model.safetensors");
    let mut tensors = golden_tensors(&path)?;
    let norm = tensors
        .iter_mut()
        .find(|(tensor, _)| tensor.name == "model.norm.weight");
    let norm = norm.unwrap();
    norm.0.dtype = TorchType::Float;
    norm.1 = 1e30_f32.to_le_bytes().repeat(64);
    write(&base.join("pytorch_model.bin"), &tensors)?;
    let half = ImportOptions {
        dtype: Some(BaseType::F16),
        ..options()
    };
    let error = write_refusal(&model.parts, half).to_string();
    assert_says(
        &error,
        &[
            "'model.norm.weight'",
            "not finite when stored as F16",
            "--dtype",
        ],
    );
    Ok(())
}

#[test]
fn parts_without_their_other_half_say_what_is_missing() -> Result<()> {
    let model = Model::new()?;
    let parts = ImportParts {
        adapters: model.parts.adapters.clone(),
        ..ImportParts::default()
    };
    assert_says(&refusal(&parts), &["'rg'", "--base"]);
    assert_says(
        &refusal(&ImportParts::default()),
        &["no part makes a component"],
    );
    let missing = ImportParts {
        chexbert: Some(model.path("chexbert.pth")),
        ..ImportParts::default()
    };
    assert_says(&refusal(&missing), &["--bert-vocab"]);
    let options = ImportOptions {
        merge: Some("ins".parse()?),
        ..options()
    };
    let Err(error) = radialog_models::bundle::import::Import::plan(&model.parts, options) else {
        panic!("an adapter that is not there is merged");
    };
    assert_says(&error.to_string(), &["--merge ins", "rg"]);
    Ok(())
}
