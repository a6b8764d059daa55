//! Checkpoints: a folder that is a bundle with the trained component (of the input gate, its weights alone), so that it can be
//! served at once, and beside it all that a resume needs. A checkpoint is written under another name and then put in place, so
//! that a full disk or a crash leaves the one before whole.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::path::{Path, PathBuf};

use radialog_files::durable::{self, NewDirectory};
use radialog_models::bundle::{self, hashes};
use radialog_schemas::bundle::{Component, FORMAT, MANIFEST_FILE, Manifest};
use radialog_schemas::{ContentHash, RelativePath};
use serde::{Deserialize, Serialize};

use crate::error::TrainingError;
use crate::optimizer::Optimizer;
use crate::trainers::curves::EpochMetrics;
use crate::variables::Variables;

mod component;

pub use component::{ComponentDescription, ComponentFile};

/// Names of the files beside the bundle's.
const STATE_FILE: &str = "training.json";
const OPTIMIZER_FILE: &str = "optimizer.safetensors";

/// The licence of a checkpoint whose weights were drawn, and what goes with that of the bundle that it started from.
const LICENSE: &str = "Weights trained with `radialog train`: the terms of the training data and of the weights they started from apply.";

/// The progress of a training: all that a resume needs beside variables and moments.
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
    /// Epochs since it was reached.
    #[serde(default)]
    pub since_best: u64,
    /// What was measured after each complete epoch.
    pub rows: Vec<EpochMetrics>,
}

/// The content of [`STATE_FILE`].
#[derive(Serialize, Deserialize)]
struct CheckpointState {
    recipe: ContentHash,
    progress: TrainingProgress,
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
    let next = beside(dir, "next");
    // What killed processes have left of checkpoints that were not complete has the size of the weights.
    remove(&next)?;
    durable::remove_unfinished(&next).map_err(TrainingError::io("clear", &next))?;
    let pending = NewDirectory::create(&next).map_err(TrainingError::io("create", &next))?;
    let version = match resume {
        Some((optimizer, ..)) => format!("step-{}", optimizer.steps()),
        None => "best".to_owned(),
    };
    write_bundle(pending.partial(), component, variables, version)?;
    if let Some((optimizer, progress, recipe)) = resume {
        optimizer.save(&pending.partial().join(OPTIMIZER_FILE))?;
        let state = CheckpointState {
            recipe: recipe.clone(),
            progress: progress.clone(),
        };
        write_json(&pending.partial().join(STATE_FILE), &state)?;
    }
    pending
        .commit()
        .map_err(TrainingError::io("write", &next))?;
    put_in_place(&next, dir)
}

/// Renames a whole and durable checkpoint over the one in `dir`, which goes only when the new one stands there. Between the
/// two renames the one before is whole under its other name, where [`find`] looks for it.
fn put_in_place(next: &Path, dir: &Path) -> Result<(), TrainingError> {
    let previous = beside(dir, "previous");
    if dir.exists() {
        remove(&previous)?;
        durable::rename(dir, &previous).map_err(TrainingError::io("move", dir))?;
    }
    durable::rename(next, dir).map_err(TrainingError::io("put in place", dir))?;
    remove(&previous)
}

/// Writes the component as a bundle into a folder that is there; of a network that is none, its weights.
fn write_bundle(
    dir: &Path,
    component: &ComponentDescription,
    variables: &Variables,
    version: String,
) -> Result<(), TrainingError> {
    let (usage, name) = &component.weights;
    let weights = dir.join(name);
    let tensors = variables
        .snapshot()?
        .into_iter()
        .map(|(name, tensor)| (format!("{}{name}", component.prefix), tensor));
    let tensors: HashMap<_, _> = tensors.collect();
    durable::write_by(&weights, |path| {
        candle_core::safetensors::save(&tensors, path)
    })
    .map_err(TrainingError::content(&weights))?;
    let Some(stage) = component.stage else {
        return Ok(());
    };
    let path =
        |name: &str| RelativePath::parse(name).map_err(TrainingError::content(&dir.join(name)));
    let mut files = BTreeMap::from([(path(name)?, hashes::file_entry(&weights)?)]);
    let mut usages = BTreeMap::from([(usage.clone(), path(name)?)]);
    for file in &component.files {
        files.insert(path(&file.name)?, file.put(dir)?);
        usages.insert(file.usage.clone(), path(&file.name)?);
    }
    let config = component.config.clone();
    let manifest = Manifest {
        format: FORMAT,
        name: format!("trained-{}", stage.name()),
        version,
        random_weights: false,
        license: component.license.clone(),
        components: BTreeMap::from([(
            stage,
            Component {
                files: usages,
                config,
                origin: None,
                image_tokens_of: component.image_tokens_of.clone(),
            },
        )]),
        files,
    };
    write_json(&dir.join(MANIFEST_FILE), &manifest)
}

/// Returns the checkpoint in `dir`, or the one before where a save was interrupted.
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
    if component.stage.is_some() {
        bundle::read_manifest(dir)?;
    }
    variables.restore(&dir.join(&component.weights.1), component.prefix)?;
    optimizer.restore(&dir.join(OPTIMIZER_FILE), state.progress.step)?;
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
mod tests;
