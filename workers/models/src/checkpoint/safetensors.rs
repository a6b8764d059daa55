//! Safetensors files: a header in JSON, then the values.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};

use ::safetensors::Dtype;
use serde::Deserialize;
use serde_json::Value;

use super::{Checkpoint, CheckpointError, StoredPlace, StoredTensor, StoredType, sorted};

/// The header's length stands before it.
const LENGTH_BYTES: u64 = 8;
/// Longer headers are refused by readers of the format.
const LONGEST_HEADER: u64 = 100_000_000;

/// The entry of a header that is no tensor.
const METADATA: &str = "__metadata__";

/// A tensor in the header.
#[derive(Deserialize)]
struct Entry {
    dtype: Dtype,
    shape: Vec<usize>,
    /// From the end of the header on.
    data_offsets: (u64, u64),
}

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
        let mut content = Vec::new();
        reader
            .take(header)
            .read_to_end(&mut content)
            .map_err(CheckpointError::io("read", path))?;
        let header: BTreeMap<String, Value> =
            serde_json::from_slice(&content).map_err(|error| {
                CheckpointError::content(path)(format!("its header is no JSON ({error})"))
            })?;
        let mut end = start;
        let mut tensors = Vec::new();
        for (name, entry) in header {
            if name == METADATA {
                continue;
            }
            let entry: Entry = serde_json::from_value(entry).map_err(|error| {
                CheckpointError::content(path)(format!(
                    "its entry of '{name}' cannot be read ({error})"
                ))
            })?;
            let (begins, ends) = entry.data_offsets;
            end = end.max(start.saturating_add(ends));
            let tensor = StoredTensor {
                name,
                shape: entry.shape,
                dtype: StoredType::Dense(entry.dtype),
                file: path.to_owned(),
                place: StoredPlace {
                    offset: start.saturating_add(begins),
                    ..StoredPlace::default()
                },
            };
            if entry.dtype.bitsize() < 8 {
                return Err(tensor.fault(
                    "its values are smaller than a byte, which this software does not read",
                ));
            }
            if ends.checked_sub(begins) != tensor.size().map(|size| size as u64) {
                return Err(tensor.fault(format!(
                    "it has the bytes {begins} to {ends}, which are not as many"
                )));
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
