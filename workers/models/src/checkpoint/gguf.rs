//! GGUF, the one-file format of llama.cpp (version 2 and 3, little-endian): metadata, a table of tensors, then their values.
//! Every count, length and offset is held against the size of the file before anything is allocated for it.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::BufReader;
use std::path::{Path, PathBuf};

use candle_core::quantized::GgmlDType;
use safetensors::Dtype;

use super::{Checkpoint, CheckpointError, StoredPlace, StoredTensor, StoredType, sorted};
use input::Input;

mod input;
mod llama;
mod metadata;
#[cfg(test)]
pub(crate) mod tests;
mod tokenizer;

pub use llama::GgufLlama;
pub use metadata::{GgufArray, GgufValue};

/// The first four bytes of a file.
const MAGIC: [u8; 4] = *b"GGUF";
/// Tensors of a file; the largest models have some thousands.
const MAX_TENSORS: u64 = 1 << 17;
/// Keys of a file; some hundreds are usual.
const MAX_KEYS: u64 = 1 << 16;
/// Dimensions of a tensor.
const MAX_DIMENSIONS: u32 = 4;
/// Bytes that the start of values is a multiple of, unless the file says otherwise.
const ALIGNMENT: u64 = 32;
/// The key of another alignment.
const ALIGNMENT_KEY: &str = "general.alignment";

/// An opened GGUF file. Its values are read when they are asked for.
#[derive(Debug)]
pub struct Gguf {
    file: PathBuf,
    metadata: BTreeMap<String, GgufValue>,
    tensors: Vec<StoredTensor>,
}

impl Gguf {
    /// Bytes of a file's start that tell whether it is one.
    pub const START: usize = MAGIC.len();

    /// Whether the file begins as a GGUF file does.
    pub fn recognises(start: &[u8]) -> bool {
        start.starts_with(&MAGIC)
    }

    /// Reads metadata and the table of tensors.
    ///
    /// # Errors
    /// Another format, version or byte order; metadata or a table that is cut, absurd or contradicts itself; a tensor of a
    /// type that is not read, that lies outside of the file or overlaps another. Names the file, and the tensor with its
    /// shape.
    pub fn open(path: &Path) -> Result<Self, CheckpointError> {
        let file = File::open(path).map_err(CheckpointError::io("open", path))?;
        let length = file
            .metadata()
            .map_err(CheckpointError::io("read", path))?
            .len();
        let mut input = Input::new(path, BufReader::new(file), length);
        let (keys, tensors) = header(&mut input)?;

        let mut metadata = BTreeMap::new();
        for _ in 0..keys {
            let (key, value) = metadata::entry(&mut input)?;
            if metadata.contains_key(&key) {
                return Err(input.fault(format!("the key '{key}' stands twice")));
            }
            metadata.insert(key, value);
        }
        let entries = (0..tensors)
            .map(|_| TableEntry::read(&mut input))
            .collect::<Result<Vec<_>, _>>()?;

        let alignment = match metadata.get(ALIGNMENT_KEY) {
            None => ALIGNMENT,
            Some(GgufValue::U32(value)) if value.is_power_of_two() => u64::from(*value),
            Some(value) => {
                let reason = format!("{ALIGNMENT_KEY} is {value:?}, which is no power of two");
                return Err(CheckpointError::Content {
                    file: path.to_owned(),
                    reason,
                });
            }
        };
        let start = input.position().next_multiple_of(alignment);
        let tensors = entries
            .into_iter()
            .map(|entry| entry.place(path, start, alignment, length))
            .collect::<Result<Vec<_>, _>>()?;
        check_overlaps(&tensors)?;
        Ok(Self {
            file: path.to_owned(),
            metadata,
            tensors: sorted(tensors)?,
        })
    }

    /// The file.
    pub fn file(&self) -> &Path {
        &self.file
    }

    /// All that the file says about itself.
    pub fn metadata(&self) -> &BTreeMap<String, GgufValue> {
        &self.metadata
    }
}

impl Checkpoint for Gguf {
    fn tensors(&self) -> &[StoredTensor] {
        &self.tensors
    }
}

/// Checks what the file begins with and gives the numbers of keys and tensors.
fn header(input: &mut Input) -> Result<(u64, u64), CheckpointError> {
    let magic = input.array::<4>()?;
    if magic != MAGIC {
        return Err(input.fault(format!(
            "it begins with {magic:02x?} and not with 'GGUF': it is another kind of file"
        )));
    }
    let version = input.u32()?;
    match version {
        2 | 3 => {}
        _ if matches!(version.swap_bytes(), 1..=3) => {
            return Err(input.fault(
                "its numbers are big-endian: convert it to little-endian (gguf_convert_endian.py of llama.cpp)".into(),
            ));
        }
        _ => {
            return Err(input.fault(format!(
                "it is GGUF version {version}, and 2 and 3 are read: convert it with a current llama.cpp"
            )));
        }
    }
    let (tensors, keys) = (input.u64()?, input.u64()?);
    if tensors > MAX_TENSORS || keys > MAX_KEYS {
        return Err(input.fault(format!(
            "it counts {tensors} tensors and {keys} keys, and at most {MAX_TENSORS} and {MAX_KEYS} are read: the file is \
             damaged"
        )));
    }
    Ok((keys, tensors))
}

/// A line of the table of tensors.
struct TableEntry {
    name: String,
    /// Outermost first, as everywhere but in the file.
    shape: Vec<u64>,
    dtype: u32,
    offset: u64,
}

impl TableEntry {
    fn read(input: &mut Input) -> Result<Self, CheckpointError> {
        let name = input.name()?;
        let dimensions = input.u32()?;
        if !(1..=MAX_DIMENSIONS).contains(&dimensions) {
            return Err(input.fault(format!(
                "tensor '{name}' has {dimensions} dimensions, and 1 to {MAX_DIMENSIONS} are read"
            )));
        }
        let mut shape = (0..dimensions)
            .map(|_| input.u64())
            .collect::<Result<Vec<_>, _>>()?;
        shape.reverse();
        Ok(Self {
            name,
            shape,
            dtype: input.u32()?,
            offset: input.u64()?,
        })
    }

    /// The tensor, of which all values lie in the file.
    fn place(
        self,
        file: &Path,
        start: u64,
        alignment: u64,
        length: u64,
    ) -> Result<StoredTensor, CheckpointError> {
        let sides = self.shape.iter();
        let mut tensor = StoredTensor {
            name: self.name,
            shape: sides
                .map(|&side| usize::try_from(side).unwrap_or(usize::MAX))
                .collect(),
            dtype: StoredType::Dense(Dtype::U8),
            file: file.to_owned(),
            place: StoredPlace::default(),
        };
        tensor.dtype = stored_type(self.dtype).map_err(|reason| tensor.fault(reason))?;
        if tensor.shape.contains(&0) {
            return Err(tensor.fault("it has a side of 0"));
        }
        let row = tensor.shape.last().copied().unwrap_or(1);
        let (block, _) = tensor.dtype.block();
        if !row.is_multiple_of(block) {
            let reason = format!("its rows of {row} are no whole number of blocks of {block}");
            return Err(tensor.fault(reason));
        }
        if !self.offset.is_multiple_of(alignment) {
            let reason = format!("its offset {} is no multiple of {alignment}", self.offset);
            return Err(tensor.fault(reason));
        }
        let Some(offset) = start.checked_add(self.offset) else {
            return Err(tensor.fault(format!("its offset {} is absurd", self.offset)));
        };
        tensor.place.offset = offset;
        tensor.check(length)
    }
}

/// The type of a number in the table.
fn stored_type(number: u32) -> Result<StoredType, String> {
    Ok(match number {
        0 => StoredType::Dense(Dtype::F32),
        1 => StoredType::Dense(Dtype::F16),
        30 => StoredType::Dense(Dtype::BF16),
        2 => StoredType::Ggml(GgmlDType::Q4_0),
        3 => StoredType::Ggml(GgmlDType::Q4_1),
        6 => StoredType::Ggml(GgmlDType::Q5_0),
        7 => StoredType::Ggml(GgmlDType::Q5_1),
        8 => StoredType::Ggml(GgmlDType::Q8_0),
        10 => StoredType::Ggml(GgmlDType::Q2K),
        11 => StoredType::Ggml(GgmlDType::Q3K),
        12 => StoredType::Ggml(GgmlDType::Q4K),
        13 => StoredType::Ggml(GgmlDType::Q5K),
        14 => StoredType::Ggml(GgmlDType::Q6K),
        other => {
            let name = unread_type(other);
            return Err(format!(
                "its type {name} is not read; F32, F16, BF16, Q8_0, Q4_0, Q4_1, Q5_0, Q5_1 and Q2_K to Q6_K are: convert \
                 the file with llama-quantize"
            ));
        }
    })
}

/// The name of a type that is not read.
fn unread_type(number: u32) -> String {
    let name = match number {
        9 => "Q8_1",
        15 => "Q8_K",
        16 => "IQ2_XXS",
        17 => "IQ2_XS",
        18 => "IQ3_XXS",
        19 => "IQ1_S",
        20 => "IQ4_NL",
        21 => "IQ3_S",
        22 => "IQ2_S",
        23 => "IQ4_XS",
        24 => "I8",
        25 => "I16",
        26 => "I32",
        27 => "I64",
        28 => "F64",
        29 => "IQ1_M",
        34 => "TQ1_0",
        35 => "TQ2_0",
        39 => "MXFP4",
        _ => return format!("{number}"),
    };
    format!("{name} ({number})")
}

/// Checks that no two tensors share a byte.
fn check_overlaps(tensors: &[StoredTensor]) -> Result<(), CheckpointError> {
    let mut order: Vec<&StoredTensor> = tensors.iter().collect();
    order.sort_by_key(|tensor| tensor.place.offset);
    for [one, next] in order.array_windows() {
        let end = one.place.offset + one.size().unwrap_or(usize::MAX) as u64;
        if next.place.offset < end {
            let reason = format!(
                "it begins at byte {} and '{}' ends at {end}: the file is damaged",
                next.place.offset, one.name
            );
            return Err(next.fault(reason));
        }
    }
    Ok(())
}
