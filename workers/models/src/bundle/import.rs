//! Published weights to a bundle: the files of RaDialog v1 and v2 as their authors share them are read, named as the networks
//! name them, and written tensor by tensor, so that memory is bounded by the largest one.

use std::path::{Path, PathBuf};

use radialog_schemas::Stage;
use radialog_schemas::bundle::Manifest;

mod base;
mod embedding;
mod error;
mod findings;
mod geometry;
mod gguf;
mod language;
mod layout;
mod lora;
mod non_lora;
mod parts;
mod planned;
mod prompts;
mod quantized;
mod reasons;
mod report;
mod scoring;
mod selection;
mod source_files;
mod sources;
mod space;
mod staging;
mod tensor;
mod tokenizer;
mod write;

pub use error::ImportError;
pub use layout::find_parts;
pub use parts::{BaseType, ImportOptions, ImportParts};
pub use report::{ComponentReport, LeftOutPart};
pub use selection::{ImportPart, PartSelection};
pub use source_files::SourceFile;

use planned::PlannedComponent;

use crate::free_space::SpaceNeeded;

/// A bundle that can be made: every tensor is found and has its shape.
pub struct Import {
    options: ImportOptions,
    components: Vec<PlannedComponent>,
    reports: Vec<ComponentReport>,
}

/// How far a step of an import is, in bytes.
#[derive(Clone, Copy, Debug)]
pub struct ImportProgress<'a> {
    /// The step.
    pub step: ImportStep,
    /// The file that is being read or written.
    pub file: &'a str,
    /// Bytes that are done, or are known of an import that was interrupted.
    pub done: u64,
    /// Bytes of all files of the step.
    pub total: u64,
}

/// The two steps of an import, in their order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ImportStep {
    /// The published files are hashed.
    Hash,
    /// The bundle's files are written.
    Write,
}

/// A bundle that was written.
#[derive(Clone, Debug)]
pub struct Imported {
    /// Its manifest.
    pub manifest: Manifest,
    /// Published files that have changed since an import that was interrupted: what is made of them was written again.
    pub changed: Vec<PathBuf>,
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

    /// Checks that nothing stands where the bundle is to be, as [`Import::write`] does.
    ///
    /// # Errors
    /// Something is there.
    pub fn check_place(dir: &Path) -> Result<(), ImportError> {
        staging::check_free(dir)
    }

    /// The published files that the bundle in this folder was made of, as its `import.json` names them; nothing where no whole
    /// bundle is there, or none that an import made.
    pub fn sources(bundle: &Path) -> Option<Vec<SourceFile>> {
        write::sources(bundle)
    }

    /// The stages that the bundle will have.
    pub fn stages(&self) -> impl Iterator<Item = Stage> {
        self.components.iter().map(|component| component.stage)
    }

    /// What writing the bundle into `dir` needs, less what an import that was interrupted has finished, and what is free there.
    pub fn space(&self, dir: &Path) -> SpaceNeeded {
        space::look(self, dir)
    }

    /// Bytes of all tensors and tokenizers.
    pub fn bytes(&self) -> u64 {
        let files = self.components.iter().flat_map(|part| &part.files);
        let tensors = files.flat_map(|file| &file.tensors);
        let tensors: u64 = tensors.map(|tensor| tensor.header.size() as u64).sum();
        let tokenizers = self
            .components
            .iter()
            .filter_map(|part| part.tokenizer.as_ref());
        tensors + tokenizers.map(|(_, json)| json.len() as u64).sum::<u64>()
    }

    /// Hashes the published files, writes the bundle beside `dir` and renames it when it is whole; `import.json` in it names
    /// the files that it was made of. An import of the same files that was interrupted goes on: its finished files are
    /// verified and kept.
    ///
    /// # Errors
    /// `dir` is there already, its file system has not the room, another import into it is going on, a published file is
    /// changed meanwhile, or files cannot be read or written. What is finished stays for the next try.
    pub fn write(
        &self,
        dir: &Path,
        progress: &mut dyn FnMut(ImportProgress<'_>),
    ) -> Result<Imported, ImportError> {
        write::write(self, dir, progress)
    }
}
