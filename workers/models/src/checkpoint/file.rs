//! Which of the readers a file needs, by its content.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::safetensors::SafetensorsFile;
use super::torch::{LeftOut, TorchFile};
use super::{Checkpoint, CheckpointError};

/// A checkpoint with what is known about it.
#[derive(Clone)]
pub struct OpenedCheckpoint {
    /// The tensors.
    pub checkpoint: Arc<dyn Checkpoint + Send + Sync>,
    /// The files that hold them.
    pub files: Vec<PathBuf>,
    /// The name under which the file has its tensors, where it has them under one.
    pub section: Option<String>,
    /// The file that says which shard has which tensor, where there are shards.
    pub index: Option<PathBuf>,
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
            index: None,
            left_out: Vec::new(),
        });
    }
    let file = TorchFile::open(path, sections)?;
    Ok(OpenedCheckpoint {
        files,
        section: file.section().map(str::to_owned),
        index: None,
        left_out: file.left_out().to_vec(),
        checkpoint: Arc::new(file),
    })
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
