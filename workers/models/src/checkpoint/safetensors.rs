//! Safetensors files: a header in JSON, then the values.

use std::fs::File;
use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};

use ::safetensors::SafeTensors;

use super::{Checkpoint, CheckpointError, StoredPlace, StoredTensor, StoredType, sorted};

/// The header's length stands before it.
const LENGTH_BYTES: u64 = 8;
/// Longer headers are refused by readers of the format.
const LONGEST_HEADER: u64 = 100_000_000;

/// The tensors of one safetensors file.
#[derive(Debug)]
pub struct SafetensorsFile {
    path: PathBuf,
    tensors: Vec<StoredTensor>,
}

impl SafetensorsFile {
    /// Reads the header.
    ///
    /// # Errors
    /// A file that cannot be read, is cut or is no safetensors file.
    pub fn open(path: &Path) -> Result<Self, CheckpointError> {
        let file = File::open(path).map_err(CheckpointError::io("open", path))?;
        let length = file.metadata().map_err(CheckpointError::io("read", path))?;
        let length = length.len();
        let mut reader = BufReader::new(file);
        let mut bytes = [0; LENGTH_BYTES as usize];
        reader
            .read_exact(&mut bytes)
            .map_err(CheckpointError::io("read", path))?;
        let header = u64::from_le_bytes(bytes);
        if header > LONGEST_HEADER {
            let reason = format!("a safetensors header of {header} bytes: it is no such file");
            return Err(CheckpointError::content(path)(reason));
        }
        let cut = |reason: String| CheckpointError::Cut {
            file: path.to_owned(),
            reason,
        };
        let start = LENGTH_BYTES + header;
        if start > length {
            return Err(cut(format!("its header has {header} bytes")));
        }
        let mut content = bytes.to_vec();
        reader
            .take(header)
            .read_to_end(&mut content)
            .map_err(CheckpointError::io("read", path))?;
        let (_, metadata) =
            SafeTensors::read_metadata(&content).map_err(CheckpointError::content(path))?;
        let mut end = start;
        let mut tensors = Vec::new();
        for (name, info) in metadata.tensors() {
            let (begins, ends) = info.data_offsets;
            end = end.max(start.saturating_add(ends as u64));
            let tensor = StoredTensor {
                name,
                shape: info.shape.clone(),
                dtype: StoredType::Dense(info.dtype),
                file: path.to_owned(),
                place: StoredPlace {
                    offset: start.saturating_add(begins as u64),
                    ..StoredPlace::default()
                },
            };
            if info.dtype.bitsize() < 8 {
                return Err(tensor.fault(
                    "its values are smaller than a byte, which this software does not read",
                ));
            }
            tensors.push(tensor);
        }
        if end > length {
            return Err(cut(format!(
                "its tensors end at byte {end} and it has {length}"
            )));
        }
        let tensors = tensors.into_iter().map(|tensor| tensor.check(length));
        Ok(Self {
            path: path.to_owned(),
            tensors: sorted(tensors.collect::<Result<_, _>>()?)?,
        })
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Checkpoint for SafetensorsFile {
    fn tensors(&self) -> &[StoredTensor] {
        &self.tensors
    }
}
