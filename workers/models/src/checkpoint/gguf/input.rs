//! Bytes of a file one after the other, of which no length is believed before the rest of the file has room for it.

use std::fs::File;
use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};

use super::super::CheckpointError;

/// Bytes of metadata and table together; a vocabulary of 250,000 tokens with merges takes some 15 MB.
const MAX_HEADER: u64 = 1 << 26;
/// Bytes of a key or of a tensor's name, as the format says.
const MAX_NAME: u64 = (1 << 16) - 1;

/// The beginning of a file, up to the values of its tensors.
pub(super) struct Input {
    path: PathBuf,
    bytes: BufReader<File>,
    position: u64,
    /// The byte up to which may be read.
    end: u64,
    /// Whether the file ends there, and not what is read of it.
    whole: bool,
}

impl Input {
    pub(super) fn new(path: &Path, bytes: BufReader<File>, length: u64) -> Self {
        Self {
            path: path.to_owned(),
            bytes,
            position: 0,
            end: length.min(MAX_HEADER),
            whole: length <= MAX_HEADER,
        }
    }

    /// Bytes that were read.
    pub(super) fn position(&self) -> u64 {
        self.position
    }

    /// The error of what was read last.
    pub(super) fn fault(&self, reason: String) -> CheckpointError {
        CheckpointError::Content {
            file: self.path.clone(),
            reason,
        }
    }

    /// Checks that so many items of at least so many bytes can follow.
    pub(super) fn room(&self, count: u64, bytes: u64) -> Result<usize, CheckpointError> {
        let rest = self.end - self.position;
        match count.checked_mul(bytes) {
            Some(size) if size <= rest => Ok(count as usize),
            _ if self.whole => Err(CheckpointError::Cut {
                file: self.path.clone(),
                reason: format!(
                    "{count} items of {bytes} bytes should follow at byte {}, and {rest} bytes are left",
                    self.position
                ),
            }),
            _ => Err(self.fault(format!(
                "{count} items of {bytes} bytes should follow at byte {}, and metadata of more than {MAX_HEADER} bytes is \
                 not read",
                self.position
            ))),
        }
    }

    /// So many bytes.
    pub(super) fn bytes(&mut self, count: u64) -> Result<Vec<u8>, CheckpointError> {
        let mut bytes = vec![0; self.room(count, 1)?];
        self.fill(&mut bytes)?;
        Ok(bytes)
    }

    /// `N` bytes.
    pub(super) fn array<const N: usize>(&mut self) -> Result<[u8; N], CheckpointError> {
        self.room(1, N as u64)?;
        let mut bytes = [0; N];
        self.fill(&mut bytes)?;
        Ok(bytes)
    }

    fn fill(&mut self, bytes: &mut [u8]) -> Result<(), CheckpointError> {
        self.bytes
            .read_exact(bytes)
            .map_err(CheckpointError::io("read", &self.path))?;
        self.position += bytes.len() as u64;
        Ok(())
    }

    pub(super) fn u32(&mut self) -> Result<u32, CheckpointError> {
        self.array().map(u32::from_le_bytes)
    }

    pub(super) fn u64(&mut self) -> Result<u64, CheckpointError> {
        self.array().map(u64::from_le_bytes)
    }

    /// A text with its length before it.
    pub(super) fn text(&mut self) -> Result<String, CheckpointError> {
        let length = self.u64()?;
        let bytes = self.bytes(length)?;
        let at = self.position - length;
        String::from_utf8(bytes)
            .map_err(|_| self.fault(format!("the text at byte {at} is not UTF-8")))
    }

    /// A text that is not empty and of a name's length.
    pub(super) fn name(&mut self) -> Result<String, CheckpointError> {
        let at = self.position;
        let length = self.u64()?;
        if !(1..=MAX_NAME).contains(&length) {
            return Err(self.fault(format!(
                "the name at byte {at} has {length} bytes, and 1 to {MAX_NAME} are read: the file is damaged"
            )));
        }
        let bytes = self.bytes(length)?;
        String::from_utf8(bytes)
            .map_err(|_| self.fault(format!("the name at byte {at} is not UTF-8")))
    }
}
