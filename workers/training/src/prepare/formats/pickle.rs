//! The original's stored embeddings: a Python pickle of a dictionary from image id to a numpy array. Only what such a file
//! needs is understood; nothing of it is ever executed, and everything else is refused by name. Arrays stay where they are in
//! the file until they are wanted, since a split has tens of gigabytes of them.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use crate::error::TrainingError;
use crate::prepare::formats::tensor_file::TensorFileHeader;

mod machine;

use machine::{Fault, Machine, Value};

/// Arrays of f32 in a file.
struct StoredArrays {
    path: PathBuf,
    file: File,
    arrays: Vec<(String, Place)>,
}

/// The place of an array in a file.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Place {
    shape: Vec<usize>,
    offset: u64,
}

impl StoredArrays {
    /// Finds the arrays of a file.
    fn open(path: &Path) -> Result<Self, TrainingError> {
        let file = File::open(path).map_err(TrainingError::io("open", path))?;
        let read = || -> Result<Vec<(String, Place)>, Fault> {
            let length = file.metadata()?.len();
            let entries =
                Machine::new(BufReader::with_capacity(1 << 16, &file), length).dictionary()?;
            entries
                .into_iter()
                .map(|(name, value)| Ok((name, place(&value)?)))
                .collect()
        };
        let arrays = read().map_err(|fault| match fault {
            Fault::Io(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                TrainingError::content(path)("the file is cut: copy it again")
            }
            Fault::Io(error) => TrainingError::io("read", path)(error),
            Fault::Unknown(what) => TrainingError::content(path)(format!(
                "it holds {what}; only a dictionary of numpy float32 arrays by image id can be read"
            )),
        })?;
        Ok(Self {
            path: path.to_owned(),
            file,
            arrays,
        })
    }

    fn read(&mut self, index: usize) -> Result<Vec<f32>, TrainingError> {
        let Place { shape, offset } = &self.arrays[index].1;
        let mut bytes = vec![0; 4 * shape.iter().product::<usize>()];
        let mut fill = || {
            self.file.seek(SeekFrom::Start(*offset))?;
            self.file.read_exact(&mut bytes)
        };
        fill().map_err(TrainingError::io("read", &self.path))?;
        let value = |bytes: &[u8]| f32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
        Ok(bytes.chunks_exact(4).map(value).collect())
    }
}

/// Writes the arrays of all files, e.g. one a split, as one safetensors file, and returns their number.
///
/// # Errors
/// No such file, or one that is cut or holds anything but a dictionary of f32 arrays; an id that is in two files; arrays of different shapes; an output that cannot be written.
pub fn import_embeddings(files: &[PathBuf], output: &Path) -> Result<u64, TrainingError> {
    let mut stored = files
        .iter()
        .map(|path| StoredArrays::open(path))
        .collect::<Result<Vec<_>, _>>()?;
    let first = stored
        .iter()
        .flat_map(|file| &file.arrays)
        .map(|(_, place)| place.shape.clone())
        .next();
    let shape = first.ok_or_else(|| TrainingError::Empty("the files have no embedding".into()))?;
    let mut names = TensorFileHeader::create(output, &shape)?;
    let mut seen: HashMap<&str, &Path> = HashMap::new();
    for file in &stored {
        for (name, place) in &file.arrays {
            if let Some(other) = seen.insert(name, &file.path) {
                let reason = format!(
                    "'{name}' is in '{}', too: leave one of the files out",
                    other.display()
                );
                return Err(TrainingError::content(&file.path)(reason));
            }
            if place.shape != shape {
                let reason = format!(
                    "'{name}' has the shape {:?} and the first one {shape:?}",
                    place.shape
                );
                return Err(TrainingError::content(&file.path)(reason));
            }
            names.add(name)?;
        }
    }
    let count = seen.len() as u64;
    let mut rows = names.rows()?;
    for file in &mut stored {
        for index in 0..file.arrays.len() {
            rows.add(&file.read(index)?)?;
        }
    }
    rows.finish()?;
    Ok(count)
}

fn place(value: &Value) -> Result<Place, Fault> {
    let Value::Array(array) = value else {
        return Err(Fault::Unknown(format!(
            "{} instead of an array",
            value.kind()
        )));
    };
    let array = array.borrow();
    let bytes = array
        .shape
        .iter()
        .try_fold(4_u64, |bytes, side| bytes.checked_mul(*side as u64));
    if bytes != Some(array.length) {
        return Err(Fault::Unknown(format!(
            "an array {:?} of {} bytes",
            array.shape, array.length
        )));
    }
    Ok(Place {
        shape: array.shape.clone(),
        offset: array.offset,
    })
}

#[cfg(test)]
mod tests;
