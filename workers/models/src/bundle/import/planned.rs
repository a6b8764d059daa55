//! A component of a bundle to be: its configuration, and a source for every tensor of its files.

use radialog_schemas::Stage;
use serde_json::Value;

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
