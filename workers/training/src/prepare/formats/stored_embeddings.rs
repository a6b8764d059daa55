//! The original's stored embeddings, pickles of numpy arrays by image id, written as one safetensors file.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use radialog_models::checkpoint::embeddings::StoredEmbeddings;

use crate::error::TrainingError;
use crate::prepare::formats::tensor_file::TensorFileHeader;

/// Writes the arrays of all files, e.g. one a split, as one safetensors file, and returns their number.
///
/// # Errors
/// No such file, or one that is cut or holds anything but a dictionary of f32 arrays; an id that is in two files; arrays of different shapes; an output that cannot be written.
pub fn import_embeddings(files: &[PathBuf], output: &Path) -> Result<u64, TrainingError> {
    let stored = files
        .iter()
        .map(|path| StoredEmbeddings::open(path))
        .collect::<Result<Vec<_>, _>>()?;
    let first = stored.iter().flat_map(StoredEmbeddings::arrays).next();
    let first = first.ok_or_else(|| TrainingError::Empty("the files have no embedding".into()))?;
    let shape = first.shape.clone();
    let mut names = TensorFileHeader::create(output, &shape)?;
    let mut seen: HashMap<&str, &Path> = HashMap::new();
    for file in &stored {
        for array in file.arrays() {
            let name = array.image.as_str();
            if let Some(other) = seen.insert(name, file.path()) {
                let reason = format!(
                    "'{name}' is in '{}', too: leave one of the files out",
                    other.display()
                );
                return Err(TrainingError::content(file.path())(reason));
            }
            if array.shape != shape {
                let reason = format!(
                    "'{name}' has the shape {:?} and the first one {shape:?}",
                    array.shape
                );
                return Err(TrainingError::content(file.path())(reason));
            }
            names.add(name)?;
        }
    }
    let count = seen.len() as u64;
    let mut rows = names.rows()?;
    for file in &stored {
        for array in file.arrays() {
            rows.add(&file.read(array)?)?;
        }
    }
    rows.finish()?;
    Ok(count)
}

#[cfg(test)]
mod tests;
