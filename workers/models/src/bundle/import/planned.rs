//! A component of a bundle to be: its configuration, and a source for every tensor of its files.

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
