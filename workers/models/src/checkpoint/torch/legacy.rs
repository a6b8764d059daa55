//! The format before torch 1.6: pickles one after the other (a number that marks the format, its version, the machine, the
//! tensors, the keys of the storages), then each storage as the number of its elements and their bytes.

use std::collections::HashMap;
use std::fs::File;
use std::io::{BufReader, Read, Seek, SeekFrom};
use std::path::Path;

use super::storages::width_of;
use super::{Pickle, Storages, pickle};
use crate::checkpoint::CheckpointError;
use crate::checkpoint::pickle::Value;

/// 0x1950a86a20f9469cfc6c as a pickle writes it, little-endian, after the operation and its length.
pub(super) const MAGIC_NUMBER: &[u8] = b"\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.";
/// The magic number's pickle begins with the protocol.
const PROTOCOL: u8 = 0x80;
/// Behind that, newer protocols say how long the pickle is: the operation and 8 bytes.
const FRAME: u8 = 0x95;
const FRAME_BYTES: usize = 9;
/// The only version that there has been.
const VERSION: i64 = 1001;

pub(super) fn read(path: &Path, file: &File) -> Result<(Pickle, Storages), CheckpointError> {
    let content = |reason: String| CheckpointError::content(path)(reason);
    let length = file.metadata().map_err(CheckpointError::io("read", path))?;
    let length = length.len();
    let mut reader = BufReader::new(file);
    // Every whole file is longer.
    let mut magic = [0; MAGIC_NUMBER.len() + 2 + FRAME_BYTES];
    let read = reader.read_exact(&mut magic);
    read.map_err(CheckpointError::io("read", path))?;
    let number = match magic[2] {
        FRAME => 2 + FRAME_BYTES,
        _ => 2,
    };
    if magic[0] != PROTOCOL || !magic[number..].starts_with(MAGIC_NUMBER) {
        let kind = match magic {
            [PROTOCOL, ..] => "it is a pickle that torch did not write",
            [b'{', ..] | [_, _, _, _, _, _, _, _, b'{', ..] => {
                "it looks like JSON or safetensors: name it so (`.safetensors`)"
            }
            _ => {
                "it is no weight file of torch: it is damaged, or a page that a download gave instead (look into it)"
            }
        };
        return Err(content(kind.into()));
    }
    let mut at = (number + MAGIC_NUMBER.len()) as u64;
    reader
        .seek(SeekFrom::Start(at))
        .map_err(CheckpointError::io("read", path))?;
    let mut next = |reader: &mut BufReader<&File>| -> Result<Pickle, CheckpointError> {
        let (pickle, end) = pickle(path, reader, at, length)?;
        at = end;
        Ok(pickle)
    };
    let version = next(&mut reader)?;
    if *version.root() != Value::Int(VERSION) {
        return Err(content(
            "it has a version of torch's format that is not known".into(),
        ));
    }
    // The machine. torch writes numbers with the lowest byte first on every one.
    next(&mut reader)?;
    let tensors = next(&mut reader)?;
    let keys = next(&mut reader)?;
    let mut storages = Storages::default();
    let mut widths: HashMap<&str, u64> = HashMap::new();
    for storage in tensors.storages() {
        let width = width_of(&storage.class).ok_or_else(|| {
            content(format!(
                "storages of the class {} are not known",
                storage.class
            ))
        })?;
        if widths.insert(&storage.key, width).unwrap_or(width) != width {
            let reason = format!("its storage '{}' is of two types", storage.key);
            return Err(content(reason));
        }
    }
    for key in keys.items(keys.root()).unwrap_or_default() {
        let key = match key {
            Value::Text(key) => key.to_string(),
            Value::Int(key) => key.to_string(),
            other => return Err(content(format!("{} as a storage's key", keys.kind(other)))),
        };
        let width = widths.get(key.as_str()).ok_or_else(|| {
            content(format!(
                "no tensor says what its storage '{key}' is made of"
            ))
        })?;
        let mut count = [0; 8];
        reader
            .read_exact(&mut count)
            .map_err(CheckpointError::io("read", path))?;
        at += count.len() as u64;
        let bytes = u64::from_le_bytes(count).checked_mul(*width);
        let end = bytes.and_then(|bytes| at.checked_add(bytes));
        let end = end
            .filter(|end| *end <= length)
            .ok_or_else(|| CheckpointError::Cut {
                file: path.to_owned(),
                reason: format!(
                    "its storage '{key}' has {} values",
                    u64::from_le_bytes(count)
                ),
            })?;
        // A file is far shorter than an i64 can tell.
        reader
            .seek_relative((end - at).cast_signed())
            .map_err(CheckpointError::io("read", path))?;
        storages.bytes.insert(key, at..end);
        at = end;
    }
    Ok((tensors, storages))
}
