//! Where the storages of a file lie, and the types that they are of.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

use safetensors::Dtype;

use crate::checkpoint::StorageChecksum;
use crate::checkpoint::pickle::Storage;

/// The bytes of each storage in the file, by its key.
#[derive(Debug, Default)]
pub(super) struct Storages {
    pub(super) bytes: HashMap<String, Range<u64>>,
    /// The checksum of each storage, where the format has one.
    pub(super) checksums: HashMap<String, Arc<StorageChecksum>>,
    /// Whether the machine that wrote the file puts each number's highest byte first.
    pub(super) big_endian: bool,
}

impl Storages {
    pub(super) fn find(&self, storage: &Storage) -> Option<Range<u64>> {
        self.bytes.get(&*storage.key).cloned()
    }
}

/// The type of a storage's class, or of a `dtype` by torch's name.
pub(super) fn dtype_of(name: &str) -> Option<Dtype> {
    Some(match name {
        "FloatStorage" | "float32" => Dtype::F32,
        "HalfStorage" | "float16" => Dtype::F16,
        "BFloat16Storage" | "bfloat16" => Dtype::BF16,
        "DoubleStorage" | "float64" => Dtype::F64,
        "LongStorage" | "int64" => Dtype::I64,
        "IntStorage" | "int32" => Dtype::I32,
        "ShortStorage" | "int16" => Dtype::I16,
        "CharStorage" | "int8" => Dtype::I8,
        "ByteStorage" | "uint8" => Dtype::U8,
        "BoolStorage" | "bool" => Dtype::BOOL,
        "uint16" => Dtype::U16,
        "uint32" => Dtype::U32,
        "uint64" => Dtype::U64,
        "float8_e4m3fn" => Dtype::F8_E4M3,
        "float8_e5m2" => Dtype::F8_E5M2,
        _ => return None,
    })
}

/// Bytes of an element of a storage's class, also of those whose tensors are not read.
pub(super) fn width_of(class: &str) -> Option<u64> {
    match class {
        "ComplexFloatStorage" => Some(8),
        "ComplexDoubleStorage" => Some(16),
        "QInt8Storage" | "QUInt8Storage" | "QUInt4x2Storage" | "QUInt2x4Storage"
        | "UntypedStorage" => Some(1),
        "QInt32Storage" => Some(4),
        class => dtype_of(class).map(|dtype| (dtype.bitsize() / 8) as u64),
    }
}
