//! The published files that an import has read, with their hashes: whoever has the bundle can tell what it was made of, and an
//! import that goes on sees which of them have changed since.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use radialog_schemas::ContentHash;
use radialog_schemas::bundle::FileEntry;
use serde::{Deserialize, Serialize};

use super::error::ImportError;
use super::planned::PlannedComponent;
use crate::bundle::HashCache;
use crate::bundle::hashes::FileStamp;

/// A published file as it was read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceFile {
    /// Its path, as it was given or found.
    pub file: PathBuf,
    /// Size and SHA-256.
    #[serde(flatten)]
    pub entry: FileEntry,
}

/// The files of an import, by path.
pub(super) struct SourceFiles(BTreeMap<PathBuf, (FileStamp, FileEntry)>);

impl SourceFiles {
    /// Hashes all files that components are made of, piece by piece. A hash that the user's cache has is taken from there, so
    /// that an import that goes on does not read 14 GB again. `progress` is told the file, and the bytes that are done of all.
    pub(super) fn hash(
        components: &[PlannedComponent],
        progress: &mut dyn FnMut(&str, u64, u64),
    ) -> Result<Self, ImportError> {
        let paths: BTreeSet<&Path> = components
            .iter()
            .flat_map(PlannedComponent::sources)
            .collect();
        let sizes = paths.iter().map(|path| Ok(FileStamp::of(path)?.size));
        let total = sizes.sum::<Result<u64, ImportError>>()?;
        let cache = HashCache::user();
        let (mut done, mut files) = (0, BTreeMap::new());
        for path in paths {
            let name = path.to_string_lossy();
            let mut step = |bytes: u64| {
                done += bytes;
                progress(&name, done, total);
            };
            let (stamp, sha256) = cache.hash_stamped(path, &mut step)?;
            let size = stamp.size;
            files.insert(path.to_owned(), (stamp, FileEntry { size, sha256 }));
        }
        Ok(Self(files))
    }

    /// The hash of one of them.
    pub(super) fn sha256(&self, path: &Path) -> Option<&ContentHash> {
        self.0.get(path).map(|(_, entry)| &entry.sha256)
    }

    /// All of them, in the order of their paths.
    pub(super) fn list(&self) -> Vec<SourceFile> {
        let files = self.0.iter().map(|(file, (_, entry))| SourceFile {
            file: file.clone(),
            entry: entry.clone(),
        });
        files.collect()
    }

    /// Checks that no file was changed since it was hashed: its hash would be that of another file than was read.
    pub(super) fn check_unchanged(&self) -> Result<(), ImportError> {
        for (path, (stamp, _)) in &self.0 {
            if FileStamp::of(path)? != *stamp {
                let reason = "it was changed while it was imported: run the import again, which writes anew what is made of it";
                return Err(ImportError::unusable(path)(reason));
            }
        }
        Ok(())
    }
}
