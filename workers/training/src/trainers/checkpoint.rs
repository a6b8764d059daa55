//! Checkpoints: a folder that is a bundle with the trained component, so that it can be served at once, and beside it all
//! that a resume needs. A checkpoint is written under another name and then put in place, so that a full disk or a crash
//! leaves the one before whole.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use candle_core::Device;
use radialog_models::bundle::{self, FORMAT, HashCache, hashes};
use radialog_schemas::bundle::{Component, FileEntry, MANIFEST_FILE, Manifest};
use radialog_schemas::{ContentHash, Stage};
use serde::{Deserialize, Serialize};

use crate::error::TrainingError;
use crate::optimizer::Optimizer;
use crate::trainers::curves::EpochMetrics;
use crate::variables::Variables;

/// Names of the files beside the bundle's.
const STATE_FILE: &str = "training.json";
const OPTIMIZER_FILE: &str = "optimizer.safetensors";

/// Where a training stands.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct TrainingProgress {
    /// Epochs that are complete.
    pub epoch: u64,
    /// Batches of the epoch after them that are done.
    pub in_epoch: u64,
    /// Optimizer steps in all.
    pub step: u64,
    /// Sum of the losses of those batches.
    pub loss_sum: f64,
    /// Dropout masks drawn.
    #[serde(default)]
    pub draws: u64,
    /// Best validation score so far.
    pub best: Option<f64>,
    /// What was measured after each complete epoch.
    pub rows: Vec<EpochMetrics>,
}

/// The content of [`STATE_FILE`].
#[derive(Serialize, Deserialize)]
struct CheckpointState {
    recipe: ContentHash,
    progress: TrainingProgress,
}

/// What a component is called and how it is described in the bundle of a checkpoint.
#[derive(Clone, Debug)]
pub struct ComponentDescription {
    /// Which stage loads it.
    pub stage: Stage,
    /// Its configuration.
    pub config: serde_json::Value,
    /// Use and name of the file of its variables. Where files of one use have a tensor in common, the last use in
    /// alphabetical order counts, e.g. `weights.2` over `weights`.
    pub weights: (String, String),
    /// Put before the names of its tensors.
    pub prefix: &'static str,
    /// Its other files.
    pub files: Vec<ComponentFile>,
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
            stage,
            config,
            weights: ("weights".to_owned(), name),
            prefix,
            files: Vec::new(),
        })
    }

    /// The same with another file.
    pub fn with(mut self, file: ComponentFile) -> Self {
        self.files.push(file);
        self
    }
}

/// A file of a component that the training does not change.
#[derive(Clone, Debug)]
pub struct ComponentFile {
    usage: String,
    name: String,
    source: FileSource,
}

#[derive(Clone, Debug)]
enum FileSource {
    Copy(PathBuf),
    Link(PathBuf, FileEntry),
    Text(String),
}

impl ComponentFile {
    /// A small file, copied from `path`.
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

    /// A text that is written as it is.
    pub fn text(usage: &str, name: &str, text: String) -> Self {
        Self {
            usage: usage.to_owned(),
            name: name.to_owned(),
            source: FileSource::Text(text),
        }
    }

    fn put(&self, dir: &Path) -> Result<FileEntry, TrainingError> {
        let to = dir.join(&self.name);
        match &self.source {
            FileSource::Copy(from) => {
                fs::copy(from, &to).map_err(TrainingError::io("copy", from))?;
                Ok(hashes::file_entry(&to)?)
            }
            FileSource::Link(from, entry) => {
                if fs::hard_link(from, &to).is_err() {
                    fs::copy(from, &to).map_err(TrainingError::io("copy", from))?;
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

/// Writes the component as a bundle of its own to `dir`, over what was there; with the optimizer it can be resumed.
///
/// # Errors
/// Files that cannot be written; what was there then stays.
pub fn save(
    dir: &Path,
    component: &ComponentDescription,
    variables: &Variables,
    resume: Option<(&Optimizer, &TrainingProgress, &ContentHash)>,
) -> Result<(), TrainingError> {
    let partial = beside(dir, "partial");
    remove(&partial)?;
    fs::create_dir_all(&partial).map_err(TrainingError::io("create", &partial))?;
    let (usage, name) = &component.weights;
    let weights = partial.join(name);
    let tensors = variables
        .snapshot()?
        .into_iter()
        .map(|(name, tensor)| (format!("{}{name}", component.prefix), tensor));
    let tensors: std::collections::HashMap<_, _> = tensors.collect();
    candle_core::safetensors::save(&tensors, &weights).map_err(TrainingError::content(&weights))?;
    let mut files = BTreeMap::from([(name.clone(), hashes::file_entry(&weights)?)]);
    let mut usages = BTreeMap::from([(usage.clone(), name.clone())]);
    for file in &component.files {
        files.insert(file.name.clone(), file.put(&partial)?);
        usages.insert(file.usage.clone(), file.name.clone());
    }
    let manifest = Manifest {
        format: FORMAT,
        name: format!("trained-{}", component.stage.name()),
        version: resume.map_or_else(|| "best".to_owned(), |(optimizer, ..)| format!("step-{}", optimizer.steps())),
        random_weights: false,
        license:
            "Weights trained with `radialog train`: the terms of the training data and of the weights they started \
                  from apply."
                .to_owned(),
        components: BTreeMap::from([(component.stage, Component { files: usages, config: component.config.clone() })]),
        files,
    };
    write_json(&partial.join(MANIFEST_FILE), &manifest)?;
    if let Some((optimizer, progress, recipe)) = resume {
        optimizer.save(&partial.join(OPTIMIZER_FILE))?;
        write_json(
            &partial.join(STATE_FILE),
            &CheckpointState {
                recipe: recipe.clone(),
                progress: progress.clone(),
            },
        )?;
    }
    // Two renames: between them the previous checkpoint is whole under its other name, where `find` looks for it.
    let previous = beside(dir, "previous");
    remove(&previous)?;
    if dir.exists() {
        fs::rename(dir, &previous).map_err(TrainingError::io("move", dir))?;
    }
    fs::rename(&partial, dir).map_err(TrainingError::io("put in place", dir))?;
    remove(&previous)
}

/// The checkpoint in `dir`, or the one before where a save was interrupted.
pub fn find(dir: &Path) -> Option<PathBuf> {
    [dir.to_owned(), beside(dir, "previous")]
        .into_iter()
        .find(|dir| dir.join(STATE_FILE).is_file())
}

/// Puts variables and optimizer back to where a checkpoint was written.
///
/// # Errors
/// A checkpoint of another recipe or geometry, or one that cannot be read.
pub fn restore(
    dir: &Path,
    component: &ComponentDescription,
    variables: &Variables,
    optimizer: &mut Optimizer,
    recipe: &ContentHash,
) -> Result<TrainingProgress, TrainingError> {
    let path = dir.join(STATE_FILE);
    let text = fs::read(&path).map_err(TrainingError::io("read", &path))?;
    let state: CheckpointState =
        serde_json::from_slice(&text).map_err(TrainingError::content(&path))?;
    if state.recipe != *recipe {
        let reason =
            "it was written with another recipe: resume with that one, or name another --out"
                .to_owned();
        return Err(TrainingError::Checkpoint {
            path: dir.to_owned(),
            reason,
        });
    }
    bundle::read_manifest(dir)?;
    variables.restore(
        &dir.join(&component.weights.1),
        component.prefix,
        &Device::Cpu,
    )?;
    optimizer.restore(&dir.join(OPTIMIZER_FILE), state.progress.step, &Device::Cpu)?;
    Ok(state.progress)
}

fn write_json(path: &Path, value: &impl Serialize) -> Result<(), TrainingError> {
    let mut text = serde_json::to_vec_pretty(value).map_err(TrainingError::content(path))?;
    text.push(b'\n');
    fs::write(path, text).map_err(TrainingError::io("write", path))
}

fn remove(dir: &Path) -> Result<(), TrainingError> {
    match fs::remove_dir_all(dir) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(TrainingError::io("remove", dir)(error))
        }
        _ => Ok(()),
    }
}

fn beside(dir: &Path, what: &str) -> PathBuf {
    let name = dir.file_name().unwrap_or_default().to_string_lossy();
    dir.with_file_name(format!("{name}.{what}"))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use candle_core::{DType, Tensor};
    use radialog_models::bundle::Bundle;

    use super::*;

    #[test]
    fn frozen_weights_are_the_same_file_in_every_checkpoint_and_outlive_their_source() {
        let dir = tempfile::tempdir().unwrap();
        let frozen = dir.path().join("frozen.safetensors");
        let tensor = Tensor::ones(2, DType::F32, &Device::Cpu).unwrap();
        candle_core::safetensors::save(&[("a", tensor.clone())].into(), &frozen).unwrap();
        let component = ComponentDescription::new(Stage::Findings, &(), "").unwrap();
        let component = ComponentDescription {
            weights: ("weights.2".into(), "moved.safetensors".into()),
            ..component
        }
        .with(ComponentFile::linked("weights", "kept.safetensors", &frozen).unwrap())
        .with(ComponentFile::text("note", "note.txt", "a note".into()));
        let variables = Variables::of([("b".to_owned(), tensor)]).unwrap();
        for _ in 0..2 {
            save(&dir.path().join("last"), &component, &variables, None).unwrap();
        }
        let kept = dir.path().join("last/kept.safetensors");
        assert_eq!(
            fs::metadata(&kept).unwrap().ino(),
            fs::metadata(&frozen).unwrap().ino()
        );
        fs::remove_file(&frozen).unwrap();
        let manifest = bundle::read_manifest(&dir.path().join("last")).unwrap();
        for (name, entry) in &manifest.files {
            assert_eq!(
                entry.sha256,
                hashes::hash_file(&dir.path().join("last").join(name)).unwrap(),
                "{name}"
            );
        }
        // Its configuration is none of a classifier: what fails is that, and not the files.
        let error = Bundle::open_with(
            &dir.path().join("last"),
            &[Stage::Findings],
            &HashCache::at(dir.path().join("h")),
        );
        assert!(error.err().unwrap().to_string().contains("configuration"));
    }
}
