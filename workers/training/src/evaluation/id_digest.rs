//! Ids in a fixed number of bytes: an index of a million names holds twelve bytes of each, and finds each by them.

use sha2::{Digest, Sha256};

/// The first 96 bits of an id's SHA-256. That any two of ten million ids have the same is as likely as 1 in 10^15.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct IdDigest([u32; 3]);

impl IdDigest {
    /// The digest of an id.
    pub(crate) fn of(id: &str) -> Self {
        let hash = Sha256::digest(id.as_bytes());
        let part = |part: usize| {
            let bytes = &hash[part * 4..part * 4 + 4];
            bytes
                .iter()
                .fold(0, |number, byte| number << 8 | u32::from(*byte))
        };
        Self(std::array::from_fn(part))
    }
}
