//! A component of a bundle to be: its configuration, and a source for every tensor of its files.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use radialog_schemas::Stage;
use serde_json::Value;

use crate::bundle::components::WeightsFile;
use crate::tensors::TensorHeader;

use super::error::ImportError;
use super::sources::{Source, take_all};
use super::tensor::PlannedTensor;

/// A component with the sources of its files.
pub(super) struct PlannedComponent {
    pub(super) stage: Stage,
    pub(super) config: Value,
    pub(super) files: Vec<PlannedFile>,
    /// Name and content of a tokenizer's file.
    pub(super) tokenizer: Option<(&'static str, String)>,
    /// Files that were read beside those that the tensors are read from.
    pub(super) settings: Vec<PathBuf>,
}

impl PlannedComponent {
    /// All published files that the component is made of, each once.
    pub(super) fn sources(&self) -> BTreeSet<&Path> {
        let tensors = self.files.iter().flat_map(|file| &file.tensors);
        let of_tensors = tensors.flat_map(PlannedTensor::files);
        let settings = self.settings.iter().map(PathBuf::as_path);
        of_tensors.chain(settings).collect()
    }
}

/// A weights file with the sources of its tensors.
pub(super) struct PlannedFile {
    pub(super) usage: String,
    pub(super) name: String,
    pub(super) tensors: Vec<PlannedTensor>,
}

impl PlannedFile {
    /// The files of a component whose tensors have the same names in one source.
    ///
    /// # Errors
    /// A tensor that the source does not have, or has in another shape.
    pub(super) fn of_source(
        files: Vec<WeightsFile>,
        source: &Source,
    ) -> Result<Vec<Self>, ImportError> {
        let find = |header: &TensorHeader| source.take(&header.name, header);
        let files = files.into_iter().map(|file| {
            Ok(Self {
                tensors: take_all(file.tensors, source.files(), find)?,
                usage: file.usage,
                name: file.name,
            })
        });
        files.collect()
    }
}
