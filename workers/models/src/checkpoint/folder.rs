//! Which of the readers a path needs: one file by its content, a folder by the names that Hugging Face gives.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::safetensors::SafetensorsFile;
use super::sharded::ShardedCheckpoint;
use super::torch::{LeftOut, TorchFile};
use super::{Checkpoint, CheckpointError};

/// Where a folder has its weights, the first one that is there.
const INDICES: [&str; 2] = [
    "model.safetensors.index.json",
    "pytorch_model.bin.index.json",
];
const SINGLE: [&str; 2] = ["model.safetensors", "pytorch_model.bin"];

/// A checkpoint with what is known about it.
#[derive(Clone)]
pub struct OpenedCheckpoint {
    /// The tensors.
    pub checkpoint: Arc<dyn Checkpoint + Send + Sync>,
    /// The files that hold them.
    pub files: Vec<PathBuf>,
    /// The name under which the file has its tensors, where it has them under one.
    pub section: Option<String>,
    /// What else the files hold.
    pub left_out: Vec<LeftOut>,
}

/// Opens one file, torch's or safetensors. For `sections` see [`TorchFile::open`].
///
/// # Errors
/// A file that cannot be read, is damaged or of another kind.
pub fn open_file(path: &Path, sections: &[&str]) -> Result<OpenedCheckpoint, CheckpointError> {
    let files = vec![path.to_owned()];
    if is_safetensors(path)? {
        return Ok(OpenedCheckpoint {
            checkpoint: Arc::new(SafetensorsFile::open(path)?),
            files,
            section: None,
            left_out: Vec::new(),
        });
    }
    let file = TorchFile::open(path, sections)?;
    Ok(OpenedCheckpoint {
        files,
        section: file.section().map(str::to_owned),
        left_out: file.left_out().to_vec(),
        checkpoint: Arc::new(file),
    })
}

/// Opens the weights of a folder: `model.safetensors`, `pytorch_model.bin`, or either in shards with an index.
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
            let sharded = ShardedCheckpoint::open(&index)?;
            Ok(OpenedCheckpoint {
                files: sharded.files().to_vec(),
                section: None,
                left_out: sharded.left_out().to_vec(),
                checkpoint: Arc::new(sharded),
            })
        }
        (_, Some(single)) => open_file(&single, &[]),
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

/// Whether a file begins as a safetensors file does: the length of a header, and the header's brace.
fn is_safetensors(path: &Path) -> Result<bool, CheckpointError> {
    let mut file = File::open(path).map_err(CheckpointError::io("open", path))?;
    let mut start = [0; 9];
    let named = path.extension().is_some_and(|end| end == "safetensors");
    match file.read_exact(&mut start) {
        Ok(()) => Ok(named || (start[8] == b'{' && start[4..8] == [0; 4])),
        Err(_) => Ok(named),
    }
}
