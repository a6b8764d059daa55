//! Hashes of a bundle's files, each computed once: a cache in the user's own directory remembers what was hashed, by
//! path, size, time of change and inode. The bundle itself may be read-only and shared.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Once;

use radialog_schemas::ContentHash;
use radialog_schemas::bundle::FileEntry;
use serde::{Deserialize, Serialize};

use super::error::BundleError;
use radialog_files::durable;

/// Names a directory for what can be computed again; `$XDG_CACHE_HOME/radialog` or `~/.cache/radialog` without it.
pub const CACHE_VARIABLE: &str = "RADIALOG_CACHE";

/// The bytes read at a time while hashing: enough to keep a disk busy, and few enough to stay in a core's cache.
const READ_SIZE: usize = 1 << 20;

/// Whether it was said that hashes are not remembered.
static NOT_REMEMBERED: Once = Once::new();

/// A cache of the hashes of files that have not changed since.
#[derive(Clone, Debug)]
pub struct HashCache {
    file: Option<PathBuf>,
}

/// A file's hash, and what it looked like then.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct HashedFile {
    #[serde(flatten)]
    stamp: FileStamp,
    sha256: ContentHash,
    /// Whether it is a file of weights whose values were all found finite.
    #[serde(default)]
    finite: bool,
}

/// The properties of a file that change when its content does.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct FileStamp {
    pub(crate) size: u64,
    changed_ns: i64,
    inode: u64,
}

impl HashCache {
    /// The user's cache. Without a home directory nothing is remembered.
    pub fn user() -> Self {
        Self {
            file: user_cache_dir().map(|dir| dir.join("hashes.json")),
        }
    }

    /// A cache in this file.
    pub fn at(file: impl Into<PathBuf>) -> Self {
        Self {
            file: Some(file.into()),
        }
    }

    /// The file's hash: remembered, or computed and remembered.
    ///
    /// # Errors
    /// The file cannot be read. A cache that cannot be read or written is only slow, and is logged.
    pub fn hash(&self, path: &Path) -> Result<ContentHash, BundleError> {
        Ok(self.hash_stamped(path, &mut |_| {})?.1)
    }

    /// The same, with what the file looked like before it was read. `step` is told the bytes that were read or known.
    pub(crate) fn hash_stamped(
        &self,
        path: &Path,
        step: &mut dyn FnMut(u64),
    ) -> Result<(FileStamp, ContentHash), BundleError> {
        let stamp = FileStamp::of(path)?;
        if let Some(known) = self.read().remove(&key(path)?)
            && known.stamp == stamp
        {
            step(stamp.size);
            return Ok((stamp, known.sha256));
        }
        let sha256 = hash_pieces(path, step)?;
        self.insert(
            path,
            HashedFile {
                stamp: stamp.clone(),
                sha256: sha256.clone(),
                finite: false,
            },
        )?;
        Ok((stamp, sha256))
    }

    /// Checks once that the values of a file of weights are finite: what passed is remembered beside the file's hash.
    ///
    /// # Errors
    /// What `check` finds, or the file cannot be read.
    pub fn check_finite(
        &self,
        path: &Path,
        check: impl FnOnce() -> Result<(), BundleError>,
    ) -> Result<(), BundleError> {
        let stamp = FileStamp::of(path)?;
        let known = self.read().remove(&key(path)?);
        let known = known.filter(|known| known.stamp == stamp);
        if known.as_ref().is_some_and(|known| known.finite) {
            return Ok(());
        }
        check()?;
        match known {
            Some(known) => self.insert(
                path,
                HashedFile {
                    finite: true,
                    ..known
                },
            ),
            // Without a hash there is nothing to remember it by.
            None => Ok(()),
        }
    }

    /// Remembers a hash that was computed while the file was written.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn remember(&self, path: &Path, sha256: ContentHash) -> Result<(), BundleError> {
        self.insert(
            path,
            HashedFile {
                stamp: FileStamp::of(path)?,
                sha256,
                finite: false,
            },
        )
    }

    fn read(&self) -> BTreeMap<String, HashedFile> {
        let text = self.file.as_ref().and_then(|file| fs::read(file).ok());
        text.and_then(|text| serde_json::from_slice(&text).ok())
            .unwrap_or_default()
    }

    /// Reads again before writing, so that processes that hash different files at once lose at most each other's
    /// last entry, which costs one more hash and nothing else.
    fn insert(&self, path: &Path, entry: HashedFile) -> Result<(), BundleError> {
        let Some(file) = &self.file else {
            return Ok(());
        };
        let mut entries = self.read();
        entries.insert(key(path)?, entry);
        let write = || -> std::io::Result<()> {
            if let Some(dir) = file.parent() {
                fs::create_dir_all(dir)?;
            }
            durable::replace(file, &serde_json::to_vec(&entries)?)
        };
        if let Err(error) = write() {
            // Of each file that is hashed the same would be said.
            NOT_REMEMBERED.call_once(|| {
                tracing::warn!(file = %file.display(), %error, "file hashes are not remembered; set {CACHE_VARIABLE}");
            });
        }
        Ok(())
    }
}

impl FileStamp {
    pub(crate) fn of(path: &Path) -> Result<Self, BundleError> {
        let meta = fs::metadata(path).map_err(BundleError::io("read", path))?;
        let changed_ns = meta.mtime() * 1_000_000_000 + meta.mtime_nsec();
        Ok(Self {
            size: meta.len(),
            changed_ns,
            inode: meta.ino(),
        })
    }
}

/// One file has one entry, however it is reached.
fn key(path: &Path) -> Result<String, BundleError> {
    let path = path.canonicalize().map_err(BundleError::io("open", path))?;
    Ok(path.to_string_lossy().into_owned())
}

/// The directory of this user's caches.
pub fn user_cache_dir() -> Option<PathBuf> {
    let var = |name: &str| {
        std::env::var_os(name)
            .filter(|value| !value.is_empty())
            .map(PathBuf::from)
    };
    var(CACHE_VARIABLE)
        .or_else(|| Some(var("XDG_CACHE_HOME")?.join("radialog")))
        .or_else(|| Some(var("HOME")?.join(".cache").join("radialog")))
}

/// A file's line in a manifest.
///
/// # Errors
/// The file cannot be read.
pub fn file_entry(path: &Path) -> Result<FileEntry, BundleError> {
    let size = fs::metadata(path)
        .map_err(BundleError::io("read", path))?
        .len();
    Ok(FileEntry {
        size,
        sha256: hash_file(path)?,
    })
}

/// SHA-256 of a file's content, read piece by piece.
///
/// # Errors
/// The file cannot be read.
pub fn hash_file(path: &Path) -> Result<ContentHash, BundleError> {
    hash_pieces(path, &mut |_| {})
}

fn hash_pieces(path: &Path, step: &mut dyn FnMut(u64)) -> Result<ContentHash, BundleError> {
    let mut file = File::open(path).map_err(BundleError::io("open", path))?;
    let mut hasher = ContentHash::hasher();
    let mut buffer = vec![0; READ_SIZE];
    loop {
        match file
            .read(&mut buffer)
            .map_err(BundleError::io("read", path))?
        {
            0 => return Ok(hasher.finish()),
            count => {
                hasher.update(&buffer[..count]);
                step(count as u64);
            }
        }
    }
}
