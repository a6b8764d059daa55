//! The weights of a folder, by the names that Hugging Face gives.

use std::path::Path;
use std::sync::Arc;

use super::CheckpointError;
use super::file::{OpenedCheckpoint, open_file};
use super::sharded::ShardedCheckpoint;

/// Where a folder has its weights, the first one that is there.
const INDICES: [&str; 2] = [
    "model.safetensors.index.json",
    "pytorch_model.bin.index.json",
];
const SINGLE: [&str; 2] = ["model.safetensors", "pytorch_model.bin"];

/// Under which names the weights of a whole model are found nested, as trainings save them.
const SECTIONS: [&str; 2] = ["state_dict", "model"];

/// Opens the weights of a folder: `model.safetensors`, `pytorch_model.bin`, or either in shards with an index. Files of torch
/// may have them under `state_dict` or `model`.
///
/// # Errors
/// No such files, or some that are missing or damaged.
pub fn open_folder(dir: &Path) -> Result<OpenedCheckpoint, CheckpointError> {
    let [index, single] = [&INDICES, &SINGLE].map(|names| {
        let mut paths = names.iter().map(|name| dir.join(name));
        paths.find(|path| path.is_file())
    });
    match (index, single) {
        // The newer format is taken where a folder has both.
        (Some(index), single) if !is_newer(single.as_deref(), &index) => {
            let sharded = ShardedCheckpoint::open(&index, &SECTIONS)?;
            Ok(OpenedCheckpoint {
                files: sharded.files().to_vec(),
                section: sharded.section().map(str::to_owned),
                index: Some(index),
                left_out: sharded.left_out().to_vec(),
                checkpoint: Arc::new(sharded),
            })
        }
        (_, Some(single)) => open_file(&single, &SECTIONS),
        _ => {
            let names = [INDICES, SINGLE].concat().join(", ");
            let reason = format!("the folder has no weights: none of {names} is in it");
            Err(CheckpointError::content(dir)(reason))
        }
    }
}

/// Whether a folder has weights that [`open_folder`] opens.
pub fn has_weights(dir: &Path) -> bool {
    let mut names = INDICES.iter().chain(&SINGLE);
    names.any(|name| dir.join(name).is_file())
}

fn is_newer(single: Option<&Path>, index: &Path) -> bool {
    let safetensors = |path: &Path| path.to_string_lossy().contains(".safetensors");
    single.is_some_and(|single| safetensors(single) && !safetensors(index))
}
