//! The checksum of a storage in a file, which several tensors may share: it is computed once, whatever part of the storage is
//! read first.

use std::fmt;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::ops::Range;
use std::sync::OnceLock;

/// Bytes that are read at a time.
const PIECE: usize = 1 << 20;

/// What the bytes of a storage must sum up to.
#[derive(Default)]
pub struct StorageChecksum {
    /// The bytes of the file.
    pub bytes: Range<u64>,
    /// Their CRC-32.
    pub crc: u32,
    /// Set when they were found to have it.
    verified: OnceLock<()>,
}

impl StorageChecksum {
    /// The checksum of these bytes of a file.
    pub fn new(bytes: Range<u64>, crc: u32) -> Self {
        Self {
            bytes,
            crc,
            verified: OnceLock::new(),
        }
    }

    /// Whether the storage is what the checksum says, of which `read`, from the byte `offset` on, is a part. What is not in
    /// `read` is read from the file, piece by piece.
    ///
    /// # Errors
    /// The file cannot be read.
    pub(super) fn holds(&self, file: &mut File, offset: u64, read: &[u8]) -> io::Result<bool> {
        if self.verified.get().is_some() {
            return Ok(true);
        }
        let length = self.bytes.end.saturating_sub(self.bytes.start);
        let found = match offset == self.bytes.start && read.len() as u64 == length {
            true => crc32fast::hash(read),
            false => sum(file, self.bytes.start, length)?,
        };
        if found == self.crc {
            self.verified.get_or_init(|| ());
        }
        Ok(found == self.crc)
    }
}

fn sum(file: &mut File, start: u64, length: u64) -> io::Result<u32> {
    file.seek(SeekFrom::Start(start))?;
    let mut hasher = crc32fast::Hasher::new();
    let mut piece = vec![0; PIECE];
    let mut rest = length;
    while rest > 0 {
        let part = rest.min(PIECE as u64) as usize;
        file.read_exact(&mut piece[..part])?;
        hasher.update(&piece[..part]);
        rest -= part as u64;
    }
    Ok(hasher.finalize())
}

/// Without what was found since: plans of an import are compared by these words.
impl fmt::Debug for StorageChecksum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08x} of {:?}", self.crc, self.bytes)
    }
}

impl PartialEq for StorageChecksum {
    fn eq(&self, other: &Self) -> bool {
        (&self.bytes, self.crc) == (&other.bytes, other.crc)
    }
}

impl Eq for StorageChecksum {}
