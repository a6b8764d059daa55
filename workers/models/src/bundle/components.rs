//! What a bundle is made of: a component for each stage. All that is particular to one (its configuration, files,
//! tensors, check and network) stands in its own file here; whatever reads or writes bundles knows the trait alone.
//!
//! The tensors of a component are those that its network asks for while it loads: see [`crate::tensors`].

use radialog_schemas::{AdapterName, Stage};
use safetensors::tensor::Dtype;
use serde_json::Value;

use super::{Bundle, BundleError};
use crate::ModelError;
use crate::language::LanguageError;
use crate::tensors::TensorSpec;

mod embedding;
mod findings;
mod language;
mod scoring;

pub use embedding::{Connector, EmbeddingComponent, ImageEmbedder};
pub use findings::{FindingsComponent, FindingsPredictor};
pub use language::{DefaultAdapters, LanguageComponent, LanguagePipeline, LanguageTask};
pub use scoring::{ReportLabeler, ScoringComponent};

/// Use of a weights file; further shards are `weights.2`, `weights.3`, …
pub(super) const WEIGHTS: &str = "weights";

/// Use of the file with LoRA and the image projection. Where there are several adapters, each has a file of its own:
/// see [`adapter_usage`].
pub(super) const ADAPTER: &str = "adapter";

/// Use of a `tokenizer.json`.
pub(super) const TOKENIZER: &str = "tokenizer";

/// Use of the file of one of several adapters.
pub fn adapter_usage(adapter: &AdapterName) -> String {
    format!("{ADAPTER}-{adapter}")
}

/// A file of weights that a component consists of.
#[derive(Clone, Debug)]
pub struct WeightsFile {
    /// The file's use, which is its key in the manifest.
    pub usage: String,
    /// Its name in the bundles that this crate writes.
    pub name: String,
    /// The tensors in it, in the order in which they are written.
    pub tensors: Vec<TensorSpec>,
}

/// The part of a bundle that one stage loads, as a configuration describes it.
pub trait Component {
    /// The configuration as it stands in the manifest.
    fn config(&self) -> Value;

    /// The configuration of a bundle that serves and is not trained further.
    fn inference_config(&self) -> Value {
        self.config()
    }

    /// The files of weights. The base of a language model is stored as `dtype`, all else in f32.
    ///
    /// # Errors
    /// A geometry that the network cannot have.
    fn weights(&self, dtype: Dtype) -> Result<Vec<WeightsFile>, GeometryError>;

    /// The same as [`Component::weights`], drawn so that random weights give outputs that can be worked with.
    ///
    /// # Errors
    /// A geometry that the network cannot have.
    fn random_weights(&self, dtype: Dtype) -> Result<Vec<WeightsFile>, GeometryError> {
        self.weights(dtype)
    }

    /// The name of the tokenizer's file in the bundles that this crate writes, where the component has one.
    fn tokenizer(&self) -> Option<&'static str> {
        None
    }

    /// The content of a tokenizer without meaning, for random weights.
    fn random_tokenizer(&self) -> Option<String> {
        None
    }

    /// Finds what would keep the stage from loading the component.
    ///
    /// # Errors
    /// The fault that loading would report.
    fn verify(&self, bundle: &Bundle) -> Result<(), BundleError>;
}

/// A geometry that a component's network cannot have.
#[derive(Debug, thiserror::Error)]
pub enum GeometryError {
    /// A network that reads images or reports refuses it.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// The language model refuses it.
    #[error(transparent)]
    Language(#[from] LanguageError),
}

/// The component of a stage with this configuration.
pub(super) fn parse(stage: Stage, config: Value) -> serde_json::Result<Box<dyn Component>> {
    use serde_json::from_value;
    Ok(match stage {
        Stage::Embedding => Box::new(from_value::<EmbeddingComponent>(config)?),
        Stage::Findings => Box::new(from_value::<FindingsComponent>(config)?),
        Stage::Language => Box::new(from_value::<LanguageComponent>(config)?),
        Stage::Scoring => Box::new(from_value::<ScoringComponent>(config)?),
    })
}

/// A configuration as it stands in the manifest.
fn json(config: &impl serde::Serialize) -> Value {
    serde_json::to_value(config).expect("configurations have only string keys and finite numbers")
}
