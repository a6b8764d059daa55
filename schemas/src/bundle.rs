//! The manifest of a bundle, `bundle.json`: a directory of weights, tokenizers and prompts that belong together.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{ContentHash, PerStage, Stage};

/// The file that makes a directory a bundle.
pub const MANIFEST_FILE: &str = "bundle.json";

/// What a bundle is and holds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Manifest {
    /// Version of this format.
    pub format: u32,
    /// A name for people, e.g. `radialog-v1`.
    pub name: String,
    /// Version of the weights.
    pub version: String,
    /// True when the weights are random: the outputs then mean nothing.
    #[serde(default)]
    pub random_weights: bool,
    /// Licence and origin of the weights.
    pub license: String,
    /// The part that each stage loads.
    pub components: BTreeMap<Stage, Component>,
    /// Every file of the bundle, by its path in it.
    pub files: BTreeMap<String, FileEntry>,
}

/// What one stage loads.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Component {
    /// Files by their use, e.g. `weights`, `tokenizer`; paths in the bundle.
    pub files: BTreeMap<String, String>,
    /// Geometry, prompts and options; each stage has its own type in `radialog-models`.
    pub config: serde_json::Value,
}

/// Size and hash of a file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct FileEntry {
    /// The file's size in bytes.
    pub size: u64,
    /// The SHA-256 of the file's content.
    pub sha256: ContentHash,
}

impl Manifest {
    /// The hash of all that determines a stage's output: its configuration and the content of its files.
    /// A component that is not in the bundle has the hash of nothing.
    pub fn component_hash(&self, stage: Stage) -> ContentHash {
        let Some(component) = self.components.get(&stage) else {
            return ContentHash::of(b"");
        };
        let config = component.config.to_string();
        let mut parts = vec![config.into_bytes()];
        for (usage, path) in &component.files {
            parts.push(usage.clone().into_bytes());
            parts.push(
                self.files
                    .get(path)
                    .map_or_else(Vec::new, |file| file.sha256.as_str().into()),
            );
        }
        ContentHash::of_parts(parts.iter().map(Vec::as_slice))
    }

    /// The hashes of the components.
    pub fn component_hashes(&self) -> PerStage<ContentHash> {
        PerStage::from_fn(|stage| self.component_hash(stage))
    }

    /// The hash of the whole bundle.
    pub fn hash(&self) -> ContentHash {
        let hashes = self.component_hashes();
        ContentHash::of_parts(hashes.iter().map(|(_, hash)| hash.as_str().as_bytes()))
    }
}
