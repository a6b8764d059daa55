//! Weight files of torch: the zip format (since 1.6) and the one before it. Both are a pickle that says which tensors there
//! are, and storages outside of it that hold their values.

use std::fs::File;
use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};

use safetensors::Dtype;

use super::pickle::{Pickle, PickleError, PickleLimit, TensorView, Value};
use super::{Checkpoint, CheckpointError, StoredPlace, StoredTensor, StoredType, sorted};

mod legacy;
mod storages;
mod zip;

use storages::{Storages, dtype_of};

/// Values of a pickle of tensors, some hundred times what the largest published file has.
const LIMIT: PickleLimit = PickleLimit(5_000_000);

/// The first bytes of a zip file.
const ZIP_MAGIC: &[u8] = b"PK\x03\x04";

/// The tensors of one file that torch wrote.
#[derive(Debug)]
pub struct TorchFile {
    path: PathBuf,
    section: Option<String>,
    tensors: Vec<StoredTensor>,
    left_out: Vec<LeftOut>,
}

/// An entry of a weight file that is no tensor of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeftOut {
    /// Its name.
    pub name: String,
    /// What it is, e.g. `a list`.
    pub what: String,
    /// Whether it is a tensor that this software does not read.
    pub is_tensor: bool,
}

impl TorchFile {
    /// Reads which tensors a file has. It is a dictionary of tensors, or one that has such a dictionary under one of the names
    /// in `sections`, e.g. `state_dict`; the first that is there is taken, else the whole file.
    ///
    /// # Errors
    /// A file that cannot be read, is cut, is none of torch's or has no tensors; a tensor that does not fit its storage.
    pub fn open(path: &Path, sections: &[&str]) -> Result<Self, CheckpointError> {
        let file = File::open(path).map_err(CheckpointError::io("open", path))?;
        let (pickle, storages) = match is_zip(path) {
            true => zip::read(path, &file)?,
            false => legacy::read(path, &file)?,
        };
        Self::of(path, &pickle, &storages, sections)
    }

    /// The name under which the file has its tensors, where it has them under one.
    pub fn section(&self) -> Option<&str> {
        self.section.as_deref()
    }

    /// What else the file holds.
    pub fn left_out(&self) -> &[LeftOut] {
        &self.left_out
    }

    fn of(
        path: &Path,
        pickle: &Pickle,
        storages: &Storages,
        sections: &[&str],
    ) -> Result<Self, CheckpointError> {
        let root = pickle.root();
        let inner = sections.iter().find_map(|name| {
            let value = pickle.get(root, name)?;
            pickle.dictionary(value).map(|entries| (*name, entries))
        });
        let whole = pickle.dictionary(root).ok_or_else(|| {
            CheckpointError::content(path)(format!(
                "it holds {} instead of a dictionary of tensors: save the model's state_dict() with torch, and import that",
                pickle.kind(root)
            ))
        })?;
        let (section, entries) = match inner {
            Some((name, entries)) => (Some(name), entries),
            None => (None, whole),
        };
        let mut left_out = Vec::new();
        let mut leave_out = |name: &Value, value: &Value| {
            let name = match name {
                Value::Text(name) => name.to_string(),
                other => pickle.kind(other),
            };
            let what = pickle.kind(value);
            left_out.push(LeftOut {
                name,
                what,
                is_tensor: false,
            });
        };
        if section.is_some() {
            let others = whole
                .iter()
                .filter(|(name, _)| !matches!(name, Value::Text(name) if Some(&**name) == section));
            others.for_each(|(name, value)| leave_out(name, value));
        }
        let (mut tensors, mut unread) = (Vec::new(), Vec::new());
        for (name, value) in entries {
            match (name, pickle.tensor(value)) {
                (Value::Text(name), Some(view)) => match unreadable(view) {
                    None => tensors.push(stored(path, name, view, storages)?),
                    Some(what) => unread.push(LeftOut {
                        name: name.to_string(),
                        what,
                        is_tensor: true,
                    }),
                },
                _ => leave_out(name, value),
            }
        }
        left_out.extend(unread);
        if tensors.is_empty() {
            let described = |entry: &LeftOut| match entry.is_tensor {
                true => format!("{} ({})", entry.name, entry.what),
                false => entry.name.clone(),
            };
            let entries: Vec<_> = left_out.iter().take(10).map(described).collect();
            let reason = format!("it has no tensors; its entries are: {}", entries.join(", "));
            return Err(CheckpointError::content(path)(reason));
        }
        Ok(Self {
            path: path.to_owned(),
            section: section.map(str::to_owned),
            tensors: sorted(tensors)?,
            left_out,
        })
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Checkpoint for TorchFile {
    fn tensors(&self) -> &[StoredTensor] {
        &self.tensors
    }
}

/// Whether a file begins as a zip file does. False for one that cannot be read.
pub(super) fn is_zip(path: &Path) -> bool {
    let mut magic = [0; ZIP_MAGIC.len()];
    let read = File::open(path).and_then(|mut file| file.read_exact(&mut magic));
    read.is_ok() && magic == ZIP_MAGIC
}

/// What a tensor is, where it is of a kind that this software does not read. It may be one that nobody needs.
fn unreadable(view: &TensorView) -> Option<String> {
    let class = view.dtype.as_deref().unwrap_or(&view.storage.class);
    if dtype_of(class).is_none() {
        return Some(format!(
            "a tensor of the type {class}, which this software does not read: convert it, e.g. to float32, with torch"
        ));
    }
    view.lazy.then(|| {
        "a tensor whose signs torch turns when it is read (its negative bit), which this software does not do: save it with \
         resolve_neg()"
            .to_owned()
    })
}

/// A tensor with its place in the file.
fn stored(
    path: &Path,
    name: &str,
    view: &TensorView,
    storages: &Storages,
) -> Result<StoredTensor, CheckpointError> {
    let mut tensor = StoredTensor {
        name: name.to_owned(),
        shape: view.shape.clone(),
        dtype: StoredType::Dense(Dtype::U8),
        file: path.to_owned(),
        place: StoredPlace::default(),
    };
    let class = view.dtype.as_deref().unwrap_or(&view.storage.class);
    let dtype = dtype_of(class).ok_or_else(|| {
        tensor.fault(format!(
            "its type is {class}, which this software does not read: convert it, e.g. to float32, with torch"
        ))
    })?;
    tensor.dtype = StoredType::Dense(dtype);
    let bytes = storages.find(&view.storage).ok_or_else(|| {
        let key = &view.storage.key;
        tensor.fault(format!(
            "its storage '{key}' is not in the file: the file is cut or damaged"
        ))
    })?;
    let width = (dtype.bitsize() / 8) as u64;
    let first = view.storage.first.checked_add(view.offset);
    let offset = first
        .and_then(|first| first.checked_mul(width)?.checked_add(bytes.start))
        .ok_or_else(|| tensor.fault("it begins beyond any file"))?;
    tensor.place = StoredPlace {
        offset,
        strides: (!is_row_major(&view.shape, &view.strides)).then(|| view.strides.clone()),
        big_endian: storages.big_endian,
        checksum: storages.checksums.get(&*view.storage.key).cloned(),
    };
    tensor.check(bytes.end)
}

/// Whether elements lie one after the other. The stride of a side of 1 has no say.
fn is_row_major(shape: &[usize], strides: &[usize]) -> bool {
    let mut step = 1_usize;
    for (side, stride) in shape.iter().zip(strides).rev() {
        if *side != 1 && *stride != step {
            return false;
        }
        step = step.saturating_mul(*side);
    }
    true
}

/// The next pickle of a file.
fn pickle(
    path: &Path,
    reader: &mut BufReader<&File>,
    position: u64,
    end: u64,
) -> Result<(Pickle, u64), CheckpointError> {
    Pickle::read(reader, position, end, LIMIT).map_err(|error| match error {
        PickleError::Io(error) => CheckpointError::io("read", path)(error),
        PickleError::Content(reason) => CheckpointError::content(path)(reason),
    })
}

#[cfg(test)]
mod tests;
