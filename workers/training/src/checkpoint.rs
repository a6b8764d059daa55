//! Checkpoints: a folder that is a bundle with the trained component, so that it can be served at once, and beside it all
//! that a resume needs. A checkpoint is written under another name and then put in place, so that a full disk or a crash
//! leaves the one before whole.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use candle_core::Device;
use radialog_models::bundle::{self, FORMAT, verify};
use radialog_schemas::bundle::{Component, FileEntry, MANIFEST_FILE, Manifest};
use radialog_schemas::{ContentHash, Stage};
use serde::{Deserialize, Serialize};

use crate::curves::Row;
use crate::error::TrainingError;
use crate::optimizer::Optimizer;
use crate::variables::Variables;

/// Names of the files beside the bundle's.
const STATE_FILE: &str = "training.json";
const OPTIMIZER_FILE: &str = "optimizer.safetensors";

/// Where a training stands.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Progress {
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
    pub rows: Vec<Row>,
}

/// The content of [`STATE_FILE`].
#[derive(Serialize, Deserialize)]
struct State {
    recipe: ContentHash,
    progress: Progress,
}

/// What a component is called and how it is described in the bundle of a checkpoint.
#[derive(Clone, Debug)]
pub struct ComponentDescription {
    /// Which stage loads it.
    pub stage: Stage,
    /// Its configuration.
    pub config: serde_json::Value,
    /// Put before the names of its tensors.
    pub prefix: &'static str,
    /// Its other files: their use, their name in the bundle, and where they are copied from.
    pub files: Vec<(&'static str, &'static str, PathBuf)>,
}

/// Writes the component as a bundle of its own to `dir`, over what was there; with the optimizer it can be resumed.
///
/// # Errors
/// Files that cannot be written; what was there then stays.
pub fn save(
    dir: &Path,
    component: &ComponentDescription,
    variables: &Variables,
    resume: Option<(&Optimizer, &Progress, &ContentHash)>,
) -> Result<(), TrainingError> {
    let partial = beside(dir, "partial");
    remove(&partial)?;
    fs::create_dir_all(&partial).map_err(TrainingError::io("create", &partial))?;
    let name = format!("{}.safetensors", component.stage.name());
    let weights = partial.join(&name);
    let tensors =
        variables.snapshot()?.into_iter().map(|(name, tensor)| (format!("{}{name}", component.prefix), tensor));
    let tensors: std::collections::HashMap<_, _> = tensors.collect();
    candle_core::safetensors::save(&tensors, &weights).map_err(TrainingError::content(&weights))?;
    let mut files = BTreeMap::from([(name.clone(), entry(&weights)?)]);
    let mut usages = BTreeMap::from([("weights".to_owned(), name)]);
    for (usage, name, source) in &component.files {
        let copy = partial.join(name);
        fs::copy(source, &copy).map_err(TrainingError::io("copy", source))?;
        files.insert((*name).to_owned(), entry(&copy)?);
        usages.insert((*usage).to_owned(), (*name).to_owned());
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
        write_json(&partial.join(STATE_FILE), &State { recipe: recipe.clone(), progress: progress.clone() })?;
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
    [dir.to_owned(), beside(dir, "previous")].into_iter().find(|dir| dir.join(STATE_FILE).is_file())
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
) -> Result<Progress, TrainingError> {
    let path = dir.join(STATE_FILE);
    let text = fs::read(&path).map_err(TrainingError::io("read", &path))?;
    let state: State = serde_json::from_slice(&text).map_err(TrainingError::content(&path))?;
    if state.recipe != *recipe {
        let reason = "it was written with another recipe: resume with that one, or name another --out".to_owned();
        return Err(TrainingError::Checkpoint { path: dir.to_owned(), reason });
    }
    bundle::read_manifest(dir)?;
    let weights = dir.join(format!("{}.safetensors", component.stage.name()));
    variables.restore(&weights, component.prefix, &Device::Cpu)?;
    optimizer.restore(&dir.join(OPTIMIZER_FILE), state.progress.step, &Device::Cpu)?;
    Ok(state.progress)
}

fn entry(path: &Path) -> Result<FileEntry, TrainingError> {
    let size = fs::metadata(path).map_err(TrainingError::io("read", path))?.len();
    Ok(FileEntry { size, sha256: verify::hash_file(path)? })
}

fn write_json(path: &Path, value: &impl Serialize) -> Result<(), TrainingError> {
    let mut text = serde_json::to_vec_pretty(value).map_err(TrainingError::content(path))?;
    text.push(b'\n');
    fs::write(path, text).map_err(TrainingError::io("write", path))
}

fn remove(dir: &Path) -> Result<(), TrainingError> {
    match fs::remove_dir_all(dir) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(TrainingError::io("remove", dir)(error)),
        _ => Ok(()),
    }
}

fn beside(dir: &Path, what: &str) -> PathBuf {
    let name = dir.file_name().unwrap_or_default().to_string_lossy();
    dir.with_file_name(format!("{name}.{what}"))
}
