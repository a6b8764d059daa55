//! The zip format: `NAME/data.pkl`, the storages as `NAME/data/KEY`, `NAME/byteorder`; all stored as they are.

use std::fs::File;
use std::io::{BufReader, Seek, SeekFrom};
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use ::zip::result::ZipError;
use ::zip::{CompressionMethod, ZipArchive};

use super::{Pickle, Storages, pickle};
use crate::checkpoint::CheckpointError;
use crate::checkpoint::StorageChecksum;

/// The pickle's name in the folder that everything is in.
const PICKLE: &str = "data.pkl";

/// What the writer puts there for a machine with the highest byte first.
const BIG: &[u8] = b"big";

pub(super) fn read(path: &Path, file: &File) -> Result<(Pickle, Storages), CheckpointError> {
    let length = file.metadata().map_err(CheckpointError::io("read", path))?;
    let length = length.len();
    let damaged = |error: ZipError| match error {
        ZipError::Io(error) => CheckpointError::io("read", path)(error),
        error => CheckpointError::Cut {
            file: path.to_owned(),
            reason: format!("it begins as a zip file and is no whole one ({error})"),
        },
    };
    let mut archive = ZipArchive::new(BufReader::new(file)).map_err(damaged)?;
    let mut entries: Vec<(String, Range<u64>)> = Vec::new();
    let mut checksums: Vec<u32> = Vec::new();
    let program = archive
        .file_names()
        .any(|name| name.is_ok_and(|name| name.ends_with("constants.pkl")));
    if program {
        let reason = "it is a TorchScript program: save the model's state_dict() with torch, and import that";
        return Err(CheckpointError::content(path)(reason));
    }
    for index in 0..archive.len() {
        let entry = archive.by_index_raw(index).map_err(damaged)?;
        let name = String::from_utf8_lossy(entry.name_raw()).into_owned();
        if entry.compression() != CompressionMethod::Stored {
            let reason = format!(
                "'{name}' in it is compressed, which torch never does: unpack it and pack it with `zip -0 -r`"
            );
            return Err(CheckpointError::content(path)(reason));
        }
        let start = entry.data_start().unwrap_or(length);
        let end = start.checked_add(entry.size()).filter(|end| *end <= length);
        let end = end.ok_or_else(|| CheckpointError::Cut {
            file: path.to_owned(),
            reason: format!("'{name}' in it needs {} bytes", entry.size()),
        })?;
        entries.push((name, start..end));
        checksums.push(entry.crc32());
    }
    let root = root(&entries).ok_or_else(|| {
        let reason = "it is a zip file without a data.pkl: torch did not write it";
        CheckpointError::content(path)(reason)
    })?;
    let bytes_of = |name: &str| {
        let found = entries
            .iter()
            .find(|(entry, _)| entry.strip_prefix(root.as_str()) == Some(name));
        found.map(|(_, bytes)| bytes.clone())
    };
    let mut storages = Storages::default();
    if let Some(bytes) = bytes_of("byteorder") {
        let order = small(path, file, bytes)?;
        storages.big_endian = order.trim_ascii() == BIG;
    }
    let folder = format!("{root}data/");
    for ((name, bytes), checksum) in entries.iter().zip(checksums) {
        if let Some(key) = name.strip_prefix(&folder) {
            storages.bytes.insert(key.to_owned(), bytes.clone());
            // Writers may leave checksums out.
            if checksum != 0 {
                let checksum = StorageChecksum::new(bytes.clone(), checksum);
                storages
                    .checksums
                    .insert(key.to_owned(), Arc::new(checksum));
            }
        }
    }
    let bytes = bytes_of(PICKLE).unwrap_or_default();
    let mut reader = BufReader::new(file);
    reader
        .seek(SeekFrom::Start(bytes.start))
        .map_err(CheckpointError::io("read", path))?;
    let (pickle, _) = pickle(path, &mut reader, bytes.start, bytes.end)?;
    Ok((pickle, storages))
}

/// The folder that everything is in, with its `/`: that of the pickle that lies highest.
fn root(entries: &[(String, Range<u64>)]) -> Option<String> {
    let folders = entries.iter().filter_map(|(name, _)| {
        let folder = name.strip_suffix(PICKLE)?;
        (folder.is_empty() || folder.ends_with('/')).then_some(folder)
    });
    let root = folders.min_by_key(|folder| folder.matches('/').count())?;
    Some(root.to_owned())
}

/// The content of an entry that is a word.
fn small(path: &Path, mut file: &File, bytes: Range<u64>) -> Result<Vec<u8>, CheckpointError> {
    use std::io::Read;
    let mut content = Vec::new();
    let word = (bytes.end - bytes.start).min(16);
    file.seek(SeekFrom::Start(bytes.start))
        .and_then(|_| file.take(word).read_to_end(&mut content))
        .map_err(CheckpointError::io("read", path))?;
    Ok(content)
}
