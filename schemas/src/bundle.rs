//! The manifest of a bundle, `bundle.json`: a directory of weights, tokenizers and prompts that belong together.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::unique_keys::UniqueKeys;
use crate::{ContentHash, PerStage, RelativePath, Stage};

/// The file that makes a directory a bundle.
pub const MANIFEST_FILE: &str = "bundle.json";
/// The version of the format that this code reads and writes.
pub const FORMAT: u32 = 1;

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
    pub files: BTreeMap<RelativePath, FileEntry>,
}

/// What one stage loads.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Component {
    /// Files by their use, e.g. `weights`, `tokenizer`; paths in the bundle.
    pub files: BTreeMap<String, RelativePath>,
    /// Geometry, prompts and options; each stage has its own type in `radialog-models`.
    pub config: serde_json::Value,
    /// The hash of the component that this one was made of by an assembly, which may store the same numbers otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub origin: Option<ContentHash>,
    /// Of a language model: the origin of the embedding component whose image tokens it has learned from, where that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image_tokens_of: Option<ContentHash>,
}

impl Component {
    /// A component without files of this configuration.
    pub fn of(config: serde_json::Value) -> Self {
        Self {
            files: BTreeMap::new(),
            config,
            origin: None,
            image_tokens_of: None,
        }
    }
}

/// Size and hash of a file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct FileEntry {
    /// The file's size in bytes.
    pub size: u64,
    /// The SHA-256 of the file's content.
    pub sha256: ContentHash,
}

/// A text that is no manifest of a bundle.
#[derive(Debug, Error)]
pub enum ManifestError {
    /// It is not JSON of this shape, a name in it is not a [`RelativePath`], or one stands twice in an object.
    #[error(transparent)]
    Json(#[from] serde_json::Error),
    /// It is of another version.
    #[error("it has format {0} and this version reads {FORMAT}")]
    Format(u32),
    /// A component loads what the bundle does not list.
    #[error("'{path}' of {stage} is not in its list of files")]
    Unlisted {
        /// The component's stage.
        stage: Stage,
        /// The file.
        path: RelativePath,
    },
    /// The bundle lists its own manifest, which would take the place of this one.
    #[error("it lists {MANIFEST_FILE} as one of its files")]
    ListsItself,
}

/// A language model beside an embedding component that it has never seen image tokens of.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error(
    "the language model was trained on the image tokens of the embedding component {}, and this one is {}: its image tokens mean \
     something else. Take the embedding component that it was trained with, or train it on what `radialog prepare embeddings` makes \
     with this one", .learned.short(), .made.short()
)]
pub struct OtherImageTokens {
    /// What it has learned from.
    pub learned: ContentHash,
    /// What it is put beside.
    pub made: ContentHash,
}

impl Manifest {
    /// Reads a manifest and checks all of it, so that nothing of a bundle is opened or written before its names are known to
    /// be good.
    ///
    /// # Errors
    /// The first fault.
    pub fn parse(json: &[u8]) -> Result<Self, ManifestError> {
        serde_json::from_slice::<UniqueKeys>(json)?;
        let manifest: Self = serde_json::from_slice(json)?;
        if manifest.format != FORMAT {
            return Err(ManifestError::Format(manifest.format));
        }
        if manifest.files.contains_key(MANIFEST_FILE) {
            return Err(ManifestError::ListsItself);
        }
        for (&stage, component) in &manifest.components {
            for path in component.files.values() {
                if !manifest.files.contains_key(path) {
                    let path = path.clone();
                    return Err(ManifestError::Unlisted { stage, path });
                }
            }
        }
        Ok(manifest)
    }

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

    /// What a component was before assemblies: the hash that goes with its numbers, however they are stored and computed with.
    /// None where the bundle does not have it.
    pub fn origin(&self, stage: Stage) -> Option<ContentHash> {
        let component = self.components.get(&stage)?;
        if let Some(origin) = &component.origin {
            return Some(origin.clone());
        }
        let mut plain = self.clone();
        if let Some(config) = plain.components.get_mut(&stage)?.config.as_object_mut() {
            config.remove("precision");
        }
        Some(plain.component_hash(stage))
    }

    /// Says where the language model has learned from the image tokens of another embedding component than the one of `embedding`.
    ///
    /// # Errors
    /// The origins of both.
    pub fn check_image_tokens(&self, embedding: &Self) -> Result<(), OtherImageTokens> {
        let language = self.components.get(&Stage::Language);
        let learned = language.and_then(|language| language.image_tokens_of.clone());
        match (learned, embedding.origin(Stage::Embedding)) {
            (Some(learned), Some(made)) if learned != made => {
                Err(OtherImageTokens { learned, made })
            }
            _ => Ok(()),
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    fn manifest(format: u32, used: &str, listed: &str) -> Result<Manifest, String> {
        let entry = FileEntry {
            size: 0,
            sha256: ContentHash::of(b""),
        };
        let text = serde_json::json!({
            "format": format, "name": "n", "version": "1", "license": "none",
            "components": { "findings": { "files": { "weights": used }, "config": {} } },
            "files": { listed: entry },
        });
        Manifest::parse(text.to_string().as_bytes()).map_err(|error| error.to_string())
    }

    #[test]
    fn a_manifest_is_valid_as_a_whole_or_refused_with_the_name() {
        assert!(manifest(FORMAT, "a/w", "a/w").is_ok());
        for (format, used, listed, words) in [
            (FORMAT, "w", "/tmp/w", "'/tmp/w' cannot be used as a path"),
            (FORMAT, "w", "../w", "'../w' cannot be used as a path"),
            (FORMAT, "..\\w", "w", "backslash"),
            (FORMAT, "w", "v", "'w' of findings is not in its list"),
            (FORMAT, MANIFEST_FILE, MANIFEST_FILE, "lists bundle.json"),
            (FORMAT + 1, "w", "w", "format 2"),
        ] {
            let error = manifest(format, used, listed).unwrap_err();
            assert!(error.contains(words), "{error}");
        }
    }
}
