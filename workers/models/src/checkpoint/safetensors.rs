//! Safetensors files: a header in JSON, then the values.

use std::fs::File;
use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};

use ::safetensors::Dtype;
use radialog_schemas::json_members::members;
use serde::{Deserialize, Deserializer};
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

/// The entries of a header in their order, also those whose name stands twice.
struct Header(Vec<(String, Value)>);

impl<'de> Deserialize<'de> for Header {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        members(deserializer, "an object of tensors").map(Self)
    }
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
        let Header(header) = serde_json::from_slice(&content).map_err(|error| {
            CheckpointError::content(path)(format!("its header is no JSON ({error})"))
        })?;
        let mut end = start;
        let mut places = Vec::new();
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
            places.push((begins, ends));
            tensors.push(tensor);
        }
        if end > length {
            return Err(cut(format!(
                "its tensors end at byte {end} and it has {length}"
            )));
        }
        check_places(path, places, length - start)?;
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

/// Checks that the values lie one after the other without a byte between or behind, as the format demands. A file that is
/// otherwise was damaged, or put together by hand.
fn check_places(
    path: &Path,
    mut places: Vec<(u64, u64)>,
    length: u64,
) -> Result<(), CheckpointError> {
    let damaged = |reason: String| {
        CheckpointError::content(path)(format!(
            "{reason}: the file is damaged, download or copy it again"
        ))
    };
    places.sort_unstable();
    let mut at = 0;
    for (begins, ends) in places {
        if begins != at {
            let what = match begins < at {
                true => "two of its tensors have the same bytes",
                false => "there are bytes between its tensors",
            };
            return Err(damaged(format!("{what} (at byte {begins})")));
        }
        at = ends;
    }
    match at == length {
        true => Ok(()),
        false => Err(damaged(format!(
            "its tensors end {} bytes before it does",
            length.saturating_sub(at)
        ))),
    }
}

impl Checkpoint for SafetensorsFile {
    fn tensors(&self) -> &[StoredTensor] {
        &self.tensors
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    /// The words with which a file of this header and so many bytes of values is refused.
    fn refusal(header: &str, values: usize) -> Option<String> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("model.safetensors");
        let length = (header.len() as u64).to_le_bytes();
        let content = [&length, header.as_bytes(), &vec![0; values]].concat();
        fs::write(&path, content).unwrap();
        SafetensorsFile::open(&path)
            .err()
            .map(|error| error.to_string())
    }

    #[test]
    fn values_that_overlap_or_leave_bytes_over_and_names_that_stand_twice_are_refused() {
        let one = r#""a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]}"#;
        let tensor = |name: &str, begins: u32| {
            let ends = begins + 4;
            format!(
                r#"{{{one},"{name}":{{"dtype":"U8","shape":[4],"data_offsets":[{begins},{ends}]}}}}"#
            )
        };
        assert_eq!(refusal(&tensor("b", 4), 8), None);
        for (name, begins, values, words) in [
            ("b", 0, 4, "the same bytes"),
            ("b", 2, 6, "the same bytes"),
            ("b", 6, 10, "bytes between"),
            ("b", 4, 9, "end 1 bytes before"),
            ("a", 4, 8, "names it twice"),
        ] {
            let found = refusal(&tensor(name, begins), values).unwrap_or_default();
            assert!(found.contains(words), "{words}: {found}");
        }
    }
}
