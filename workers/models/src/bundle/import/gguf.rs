//! A base language model in one GGUF file: geometry, tensors and tokenizer are all in it.

use std::path::Path;
use std::sync::Arc;

use super::error::ImportError;
use super::report::ComponentReport;
use super::sources::Source;
use crate::checkpoint::gguf::{Gguf, GgufLlama};
use crate::checkpoint::{Checkpoint, OpenedCheckpoint, StoredType};
use crate::ggml;
use crate::language::LlamaConfig;

/// The end of a file's name.
const EXTENSION: &str = "gguf";

/// An opened file.
pub(super) struct GgufBase {
    llama: Arc<GgufLlama>,
}

impl GgufBase {
    /// Whether this is such a file, by its name.
    pub(super) fn is_one(path: &Path) -> bool {
        path.is_file()
            && path
                .extension()
                .is_some_and(|extension| extension.eq_ignore_ascii_case(EXTENSION))
    }

    pub(super) fn open(path: &Path) -> Result<Self, ImportError> {
        let llama = GgufLlama::new(Gguf::open(path)?)?;
        Ok(Self {
            llama: Arc::new(llama),
        })
    }

    /// The geometry; the file says nothing about images.
    pub(super) fn config(&self) -> &LlamaConfig {
        self.llama.config()
    }

    /// The tensors under the names of Hugging Face.
    pub(super) fn source(&self) -> Result<Source, ImportError> {
        let path = self.llama.gguf().file();
        let checkpoint: Arc<dyn Checkpoint + Send + Sync> = self.llama.clone();
        let opened = OpenedCheckpoint {
            checkpoint,
            files: vec![path.to_owned()],
            section: None,
            left_out: Vec::new(),
        };
        Source::new(path, opened, |name| Some(name.to_owned()))
    }

    /// The content of a `tokenizer.json`.
    pub(super) fn tokenizer(&self) -> Result<String, ImportError> {
        Ok(self.llama.gguf().tokenizer()?)
    }

    /// Says what stays quantised, and what that saves.
    pub(super) fn note(&self, report: &mut ComponentReport) {
        let mut types = std::collections::BTreeMap::<String, usize>::new();
        let (mut stored, mut widened) = (0, 0);
        for tensor in self.llama.tensors() {
            if let StoredType::Ggml(dtype) = tensor.dtype {
                *types.entry(ggml::name(dtype)).or_default() += 1;
                stored += tensor.size().unwrap_or(0);
                widened += tensor.elements().unwrap_or(0) * size_of::<half::f16>();
            }
        }
        if types.is_empty() {
            return;
        }
        let types: Vec<String> = types
            .iter()
            .map(|(name, count)| format!("{count} in {name}"))
            .collect();
        let mib = |bytes: usize| bytes as f64 / f64::from(1 << 20);
        report.notes.push(format!(
            "matrices stay quantised ({}): {:.0} MiB on a CPU; a GPU widens them to f16, {:.0} MiB, and a training to f32, {:.0} MiB",
            types.join(", "),
            mib(stored),
            mib(widened),
            mib(2 * widened)
        ));
    }
}
