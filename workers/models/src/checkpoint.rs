//! Readers of published weight files: which tensors a file or a set of shards holds, and their values one by one, so that
//! memory is bounded by the largest tensor. Nothing of a file is ever executed, and no number in it sizes an allocation
//! before it is held against the length of the file.

use std::path::PathBuf;
use std::sync::Arc;

use ::safetensors::Dtype;
use candle_core::quantized::GgmlDType;

mod checksum;
pub mod embeddings;
mod error;
mod file;
mod folder;
pub mod gguf;
pub mod pickle;
mod read;
pub mod safetensors;
pub mod sharded;
pub mod torch;

pub use checksum::StorageChecksum;
pub use error::CheckpointError;
pub use file::{OpenedCheckpoint, open_file, refuse_pointer};
pub use folder::{has_weights, open_folder};

/// Name, shape, stored type and place of one tensor of a checkpoint.
#[derive(Clone, Debug, PartialEq)]
pub struct StoredTensor {
    /// The name as it stands in the file.
    pub name: String,
    /// The shape, outermost dimension first; empty for a single value.
    pub shape: Vec<usize>,
    /// The type that the values are stored in.
    pub dtype: StoredType,
    /// The file that holds the values.
    pub file: PathBuf,
    /// Where the values lie in it.
    pub place: StoredPlace,
}

/// The type that a checkpoint stores a tensor's values in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StoredType {
    /// One number after the other.
    Dense(Dtype),
    /// Blocks of quantised numbers along the innermost dimension, as GGML lays them out.
    Ggml(GgmlDType),
}

/// The place of a tensor's values in its file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StoredPlace {
    /// The byte of the file at which the first value begins.
    pub offset: u64,
    /// How many elements further the next one lies in each dimension, for a view that is not row-major; nothing for values
    /// that lie one after the other. Quantised tensors have none.
    pub strides: Option<Vec<usize>>,
    /// Whether each number's first byte is its highest.
    pub big_endian: bool,
    /// The checksum of the storage that the values are a part of, where the file has one.
    pub checksum: Option<Arc<StorageChecksum>>,
}

/// Named tensors in files. Each is read when it is asked for, so that memory is bounded by the largest one.
pub trait Checkpoint {
    /// All tensors, sorted by name; no name stands twice.
    fn tensors(&self) -> &[StoredTensor];

    /// The values of one of [`Checkpoint::tensors`]: row-major, little-endian, [`StoredTensor::size`] bytes.
    ///
    /// # Errors
    /// A file that cannot be read or is shorter than when it was opened.
    fn read(&self, tensor: &StoredTensor) -> Result<Vec<u8>, CheckpointError> {
        read::values(tensor)
    }

    /// The tensor of this name.
    fn find(&self, name: &str) -> Option<&StoredTensor> {
        let tensors = self.tensors();
        let at = tensors.binary_search_by(|tensor| tensor.name.as_str().cmp(name));
        at.ok().map(|at| &tensors[at])
    }
}

impl StoredType {
    /// Elements and bytes of the smallest unit of the type: one number, or one block.
    pub fn block(self) -> (usize, usize) {
        match self {
            StoredType::Dense(dtype) => (1, dtype.bitsize() / 8),
            StoredType::Ggml(dtype) => (dtype.block_size(), dtype.type_size()),
        }
    }
}

impl StoredTensor {
    /// Number of values; nothing where it is more than a machine can count.
    pub fn elements(&self) -> Option<usize> {
        self.shape
            .iter()
            .try_fold(1_usize, |elements, side| elements.checked_mul(*side))
    }

    /// Bytes of the values as [`Checkpoint::read`] gives them; nothing where the shape is absurd or where rows are no whole
    /// number of blocks.
    pub fn size(&self) -> Option<usize> {
        let (elements, bytes) = self.dtype.block();
        let row = self.shape.last().copied().unwrap_or(1);
        if !row.is_multiple_of(elements) {
            return None;
        }
        (self.elements()? / elements).checked_mul(bytes)
    }

    /// Checks that all values lie before the byte `end` of the file, which is where its storage ends, and that there are no
    /// more of them than the storage has.
    ///
    /// # Errors
    /// A shape that does not fit, with the tensor, the file and both sizes.
    pub fn check(self, end: u64) -> Result<Self, CheckpointError> {
        read::check(&self, end)?;
        Ok(self)
    }

    /// The error of this tensor.
    pub fn fault(&self, reason: impl Into<String>) -> CheckpointError {
        CheckpointError::Tensor {
            file: self.file.clone(),
            tensor: self.name.clone(),
            shape: self.shape.clone(),
            reason: reason.into(),
        }
    }
}

/// Sorts tensors by name, as [`Checkpoint::tensors`] promises them.
///
/// # Errors
/// A name that stands twice.
pub fn sorted(mut tensors: Vec<StoredTensor>) -> Result<Vec<StoredTensor>, CheckpointError> {
    tensors.sort_by(|one, other| one.name.cmp(&other.name));
    if let Some([one, other]) = tensors
        .array_windows()
        .find(|[one, other]| one.name == other.name)
    {
        let reason = match one.file == other.file {
            true => "the file names it twice".to_owned(),
            false => format!("'{}' has it, too", one.file.display()),
        };
        return Err(other.fault(reason));
    }
    Ok(tensors)
}
