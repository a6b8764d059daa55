//! Writes a safetensors file front to back: first the header, which needs only names, shapes and types, then the data
//! in pieces of any size. A model larger than memory can be written this way, and is hashed on the way.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use candle_core::quantized::GgmlDType;
use radialog_schemas::bundle::FileEntry;
use radialog_schemas::{ContentHash, ContentHasher};
use serde_json::json;

use super::error::BundleError;
use crate::ggml;
use crate::tensors::TensorHeader;

/// A safetensors file in the making.
pub struct SafetensorsWriter {
    path: PathBuf,
    file: BufWriter<File>,
    hasher: ContentHasher,
    written: u64,
    announced: u64,
}

impl SafetensorsWriter {
    /// Creates the file and writes its header. The data has to follow in the order of `tensors`.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn create(path: &Path, tensors: &[TensorHeader]) -> Result<Self, BundleError> {
        Self::create_quantized(path, tensors, &BTreeMap::new())
    }

    /// Like [`SafetensorsWriter::create`], where some tensors are bytes `[rows, bytes a row]` that hold blocks of these
    /// GGML types, by name.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn create_quantized(
        path: &Path,
        tensors: &[TensorHeader],
        types: &BTreeMap<String, GgmlDType>,
    ) -> Result<Self, BundleError> {
        let header = header(tensors, types);
        let data: usize = tensors.iter().map(TensorHeader::size).sum();
        let mut writer = Self {
            path: path.to_path_buf(),
            file: BufWriter::new(File::create(path).map_err(BundleError::io("create", path))?),
            hasher: ContentHash::hasher(),
            written: 0,
            announced: (8 + header.len() + data) as u64,
        };
        writer.write(&(header.len() as u64).to_le_bytes())?;
        writer.write(&header)?;
        Ok(writer)
    }

    /// Bytes of the file that these tensors make, with its header.
    pub fn size(tensors: &[TensorHeader], types: &BTreeMap<String, GgmlDType>) -> u64 {
        let data: usize = tensors.iter().map(TensorHeader::size).sum();
        (8 + header(tensors, types).len() + data) as u64
    }

    /// The next piece of data, little-endian.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn write(&mut self, piece: &[u8]) -> Result<(), BundleError> {
        self.file
            .write_all(piece)
            .map_err(BundleError::io("write", &self.path))?;
        self.hasher.update(piece);
        self.written += piece.len() as u64;
        Ok(())
    }

    /// Makes the file durable and returns its manifest entry.
    ///
    /// # Errors
    /// The file cannot be written, or the data has another size than the header says.
    pub fn finish(self) -> Result<FileEntry, BundleError> {
        if self.written != self.announced {
            return Err(BundleError::Size {
                file: self.path,
                expected: self.announced,
                found: self.written,
            });
        }
        let file = self.file.into_inner().map_err(|error| error.into_error());
        file.and_then(|file| file.sync_all())
            .map_err(BundleError::io("write", &self.path))?;
        Ok(FileEntry {
            size: self.written,
            sha256: self.hasher.finish(),
        })
    }
}

/// The JSON header, padded with spaces so that the data starts at a multiple of 8 bytes.
fn header(tensors: &[TensorHeader], types: &BTreeMap<String, GgmlDType>) -> Vec<u8> {
    let mut entries = serde_json::Map::new();
    if !types.is_empty() {
        let metadata = json!({ ggml::METADATA_KEY: ggml::metadata(types) });
        entries.insert("__metadata__".to_owned(), metadata);
    }
    let mut start = 0;
    for tensor in tensors {
        let end = start + tensor.size();
        let entry = json!({ "dtype": tensor.dtype.to_string(), "shape": tensor.shape, "data_offsets": [start, end] });
        entries.insert(tensor.name.clone(), entry);
        start = end;
    }
    let mut header = serde_json::Value::Object(entries).to_string().into_bytes();
    header.resize(header.len().next_multiple_of(8), b' ');
    header
}
