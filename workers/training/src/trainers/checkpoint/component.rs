//! What the bundle of a checkpoint holds: one component, its variables and the files that no training changes.

use std::fs;
use std::path::{Path, PathBuf};

use radialog_files::durable;
use radialog_models::bundle::{HashCache, hashes};
use radialog_schemas::bundle::{FileEntry, MANIFEST_FILE};
use radialog_schemas::{ContentHash, Stage};
use serde::Serialize;

use super::LICENSE;
use crate::error::TrainingError;

/// What a component is called and how it is described in the bundle of a checkpoint.
#[derive(Clone, Debug)]
pub struct ComponentDescription {
    /// The stage that loads it; none of a network that is no part of a bundle, whose checkpoint is its weights alone.
    pub stage: Option<Stage>,
    /// Its configuration, as the manifest holds it.
    pub config: serde_json::Value,
    /// Use and name of the file of its variables. Where files of one use have a tensor in common, the last use in
    /// alphabetical order counts, e.g. `weights.2` over `weights`.
    pub weights: (String, String),
    /// Put before the names of its tensors.
    pub prefix: &'static str,
    /// Its other files.
    pub files: Vec<ComponentFile>,
    /// The terms of the weights.
    pub license: String,
    /// Of a language model: the origin of the embedding component whose image tokens it learns from, where that is known.
    pub image_tokens_of: Option<ContentHash>,
}

impl ComponentDescription {
    /// A component whose only file is that of its variables, `STAGE.safetensors`.
    ///
    /// # Errors
    /// A configuration that is no JSON.
    pub fn new(
        stage: Stage,
        config: &impl Serialize,
        prefix: &'static str,
    ) -> Result<Self, TrainingError> {
        let name = format!("{}.safetensors", stage.name());
        let config = serde_json::to_value(config)
            .map_err(TrainingError::content(Path::new(MANIFEST_FILE)))?;
        Ok(Self {
            stage: Some(stage),
            config,
            weights: ("weights".to_owned(), name),
            prefix,
            files: Vec::new(),
            license: LICENSE.to_owned(),
            image_tokens_of: None,
        })
    }

    /// A network that is no component of a bundle: only its variables are written.
    pub fn outside_of_bundles(weights: &str) -> Self {
        Self {
            stage: None,
            config: serde_json::Value::Null,
            weights: ("weights".to_owned(), weights.to_owned()),
            prefix: "",
            files: Vec::new(),
            license: LICENSE.to_owned(),
            image_tokens_of: None,
        }
    }

    /// The same with the terms of a bundle that weights are taken from in front, which go on to apply.
    pub(in crate::trainers) fn with_terms_of(mut self, license: &str) -> Self {
        let terms = license.strip_suffix(LICENSE).unwrap_or(license).trim_end();
        if !self.license.contains(terms) {
            self.license = format!("{terms} {}", self.license);
        }
        self
    }

    /// Adds another file.
    pub fn with(mut self, file: ComponentFile) -> Self {
        self.files.push(file);
        self
    }
}

/// A file of a component that the training does not change.
#[derive(Clone, Debug)]
pub struct ComponentFile {
    /// What the component uses it as.
    pub(super) usage: String,
    /// Its name in the bundle.
    pub(super) name: String,
    source: FileSource,
}

/// The source of a file's content.
#[derive(Clone, Debug)]
enum FileSource {
    Copy(PathBuf),
    Link(PathBuf, FileEntry),
    Text(String),
}

impl ComponentFile {
    /// Names a small file, which each checkpoint copies from `path`.
    pub fn copied(usage: &str, name: &str, path: PathBuf) -> Self {
        Self {
            usage: usage.to_owned(),
            name: name.to_owned(),
            source: FileSource::Copy(path),
        }
    }

    /// Frozen weights: a checkpoint has a hard link to `path`, and a copy only where the file system knows none. The hash
    /// is computed once, since gigabytes of it at each checkpoint would take longer than the steps between.
    ///
    /// # Errors
    /// A file that cannot be read.
    pub fn linked(usage: &str, name: &str, path: &Path) -> Result<Self, TrainingError> {
        // A link to a symbolic link would not keep the file.
        let path = path
            .canonicalize()
            .map_err(TrainingError::io("open", path))?;
        let size = fs::metadata(&path)
            .map_err(TrainingError::io("read", &path))?
            .len();
        let entry = FileEntry {
            size,
            sha256: HashCache::user().hash(&path)?,
        };
        Ok(Self {
            usage: usage.to_owned(),
            name: name.to_owned(),
            source: FileSource::Link(path, entry),
        })
    }

    /// Names a text, which each checkpoint writes as it is.
    pub fn text(usage: &str, name: &str, text: String) -> Self {
        Self {
            usage: usage.to_owned(),
            name: name.to_owned(),
            source: FileSource::Text(text),
        }
    }

    /// Puts the file into a folder, and returns its entry in the manifest.
    pub(super) fn put(&self, dir: &Path) -> Result<FileEntry, TrainingError> {
        let to = dir.join(&self.name);
        match &self.source {
            FileSource::Copy(from) => {
                durable::copy(from, &to).map_err(TrainingError::io("copy", from))?;
                Ok(hashes::file_entry(&to)?)
            }
            FileSource::Link(from, entry) => {
                if fs::hard_link(from, &to).is_err() {
                    durable::copy(from, &to).map_err(TrainingError::io("copy", from))?;
                }
                Ok(entry.clone())
            }
            FileSource::Text(text) => {
                fs::write(&to, text).map_err(TrainingError::io("write", &to))?;
                Ok(hashes::file_entry(&to)?)
            }
        }
    }
}
