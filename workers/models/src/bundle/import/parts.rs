//! What an import is asked for: the published files, and how the bundle is called and stored.

use std::path::PathBuf;

use radialog_schemas::AdapterName;
use safetensors::Dtype;

/// Where the published files are; each part is optional, and components are made of what is there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ImportParts {
    /// `biovil_t_image_model_proj_size_128.pt`.
    pub biovil: Option<PathBuf>,
    /// v1's `checkpoint_4.pth`.
    pub alignment: Option<PathBuf>,
    /// `ChexpertClassifier*.ckpt`.
    pub findings: Option<PathBuf>,
    /// `chexbert.pth`.
    pub chexbert: Option<PathBuf>,
    /// The folder of the base language model, with its `config.json`, or one GGUF file.
    pub base: Option<PathBuf>,
    /// Folders of adapters that PEFT wrote, by the names that they get.
    pub adapters: Vec<(AdapterName, PathBuf)>,
    /// v2's `non_lora_trainables.bin`, or the folder that has it.
    pub non_lora: Option<PathBuf>,
    /// `tokenizer.model` or `tokenizer.json` of the base, or the folder that has one; a GGUF file carries its own.
    pub tokenizer: Option<PathBuf>,
    /// `vocab.txt` of bert-base-uncased, or its `tokenizer.json`.
    pub bert_vocab: Option<PathBuf>,
    /// `vicuna_prompts.json`.
    pub prompts: Option<PathBuf>,
}

/// What the bundle is called and how its weights are stored.
#[derive(Clone, Debug)]
pub struct ImportOptions {
    /// The bundle's name.
    pub name: String,
    /// The version of the weights.
    pub version: String,
    /// The terms under which the weights may be used.
    pub license: String,
    /// The type that the base language model is stored in; as its files have it unless given.
    pub dtype: Option<BaseType>,
    /// The adapter that is folded into the base's weights; others are then left out.
    pub merge: Option<AdapterName>,
    /// The seed of the alignment projector, where no file has it.
    pub projector_seed: u32,
}

/// The types that a base language model can be stored in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BaseType {
    /// Half precision.
    F16,
    /// Half precision with the range of f32.
    Bf16,
    /// Single precision.
    F32,
}

impl BaseType {
    pub(super) fn dtype(self) -> Dtype {
        match self {
            BaseType::F16 => Dtype::F16,
            BaseType::Bf16 => Dtype::BF16,
            BaseType::F32 => Dtype::F32,
        }
    }
}
