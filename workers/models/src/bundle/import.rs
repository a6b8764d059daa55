//! Published weights to a bundle: the files of RaDialog v1 and v2 as their authors share them are read, named as the networks
//! name them, and written tensor by tensor, so that memory is bounded by the largest one.

use std::path::{Path, PathBuf};

use radialog_schemas::bundle::Manifest;
use radialog_schemas::{AdapterName, Stage};
use safetensors::Dtype;
use serde_json::Value;

mod embedding;
mod error;
mod findings;
mod gguf;
mod language;
mod layout;
mod lora;
mod prompts;
mod report;
mod scoring;
mod sources;
mod staging;
mod tensor;
mod write;

pub use error::ImportError;
pub use layout::find_parts;
pub use report::{ComponentReport, LeftOutPart};

use tensor::PlannedTensor;

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
    fn dtype(self) -> Dtype {
        match self {
            BaseType::F16 => Dtype::F16,
            BaseType::Bf16 => Dtype::BF16,
            BaseType::F32 => Dtype::F32,
        }
    }
}

/// A bundle that can be made: every tensor is found and has its shape.
pub struct Import {
    options: ImportOptions,
    components: Vec<PlannedComponent>,
    reports: Vec<ComponentReport>,
}

/// How far an import is, in bytes of the bundle's files.
#[derive(Clone, Copy, Debug)]
pub struct ImportProgress<'a> {
    /// The file that is being written.
    pub file: &'a str,
    /// Bytes that are written or were kept of an import that was interrupted.
    pub done: u64,
    /// Bytes of all files.
    pub total: u64,
}

/// A component with the sources of its files.
struct PlannedComponent {
    stage: Stage,
    config: Value,
    files: Vec<PlannedFile>,
    /// Name and content of a tokenizer's file.
    tokenizer: Option<(&'static str, String)>,
}

/// A weights file with the sources of its tensors.
struct PlannedFile {
    usage: String,
    name: String,
    tensors: Vec<PlannedTensor>,
}

impl Import {
    /// Opens the files, recognises their geometry and finds a source for every tensor. Writes nothing.
    ///
    /// # Errors
    /// A file that cannot be read; a part without the other that it needs; a tensor that is missing or has another shape;
    /// an adapter for another base; a tokenizer of another vocabulary.
    pub fn plan(parts: &ImportParts, options: ImportOptions) -> Result<Self, ImportError> {
        let mut import = Self {
            options,
            components: Vec::new(),
            reports: Vec::new(),
        };
        let embedding = embedding::plan(parts, &import.options)?;
        let image_tokens = embedding.as_ref().map(|(component, _)| component.tokens);
        let embedding = embedding.map(|(component, report)| (component.planned, report));
        let made = [
            embedding,
            findings::plan(parts)?,
            language::plan(parts, &import.options, image_tokens)?,
            scoring::plan(parts)?,
        ];
        for (component, report) in made.into_iter().flatten() {
            import.components.push(component);
            import.reports.push(report);
        }
        if import.components.is_empty() {
            let reason = "no part makes a component: name at least BioViL-T with --alignment (v1) or --non-lora (v2), \
                          --findings, --chexbert, or --base";
            return Err(ImportError::Parts(reason.into()));
        }
        Ok(import)
    }

    /// What was found for each component, used and left out.
    pub fn reports(&self) -> &[ComponentReport] {
        &self.reports
    }

    /// Bytes of all tensors.
    pub fn bytes(&self) -> u64 {
        let files = self.components.iter().flat_map(|part| &part.files);
        let tensors = files.flat_map(|file| &file.tensors);
        tensors.map(|tensor| tensor.header.size() as u64).sum()
    }

    /// Writes the bundle beside `dir` and renames it when it is whole. An import of the same files that was interrupted goes
    /// on: its finished files are verified and kept.
    ///
    /// # Errors
    /// `dir` is there already, another import into it is going on, or files cannot be read or written. What is finished
    /// stays for the next try.
    pub fn write(
        &self,
        dir: &Path,
        progress: &mut dyn FnMut(ImportProgress<'_>),
    ) -> Result<Manifest, ImportError> {
        write::write(self, dir, progress)
    }
}
