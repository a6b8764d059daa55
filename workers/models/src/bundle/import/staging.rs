//! The folder in which an import is being made, beside the bundle's place: hidden, without a manifest, and kept when the
//! import is interrupted, so that it is never taken for a bundle and the next try goes on from it.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use radialog_schemas::ContentHash;
use radialog_schemas::bundle::{FileEntry, MANIFEST_FILE};
use serde::{Deserialize, Serialize};

use super::error::ImportError;
use crate::bundle::{BundleError, hashes};
use crate::durable;

/// What is finished, in the folder.
const PROGRESS: &str = "import.progress.json";

/// Held while an import is going on.
const LOCK: &str = "import.lock";

/// See the module.
pub(super) struct Staging {
    dir: PathBuf,
    finished: BTreeMap<String, FinishedFile>,
    _lock: File,
}

/// A file that is written, hashed and durable.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct FinishedFile {
    /// The hash of all that determines its content.
    plan: ContentHash,
    entry: FileEntry,
}

impl Staging {
    /// Makes the folder of a bundle's place, or takes up the one that an interrupted import has left.
    pub(super) fn open(place: &Path) -> Result<Self, ImportError> {
        let name = place
            .file_name()
            .map(OsStr::to_string_lossy)
            .ok_or_else(|| ImportError::unusable(place)("it names no folder: name the bundle's"))?;
        let dir = place.with_file_name(format!(".{name}.import"));
        fs::create_dir_all(&dir).map_err(BundleError::io("create", &dir))?;
        let path = dir.join(LOCK);
        let lock = File::create(&path).map_err(BundleError::io("create", &path))?;
        if let Err(error) = lock.try_lock() {
            let reason = match error {
                fs::TryLockError::WouldBlock => {
                    "another import writes it: wait for its end, or name another folder".to_owned()
                }
                fs::TryLockError::Error(error) => error.to_string(),
            };
            return Err(ImportError::unusable(place)(reason));
        }
        // A try that ended between its manifest and its rename has left one; files are about to change under it.
        let manifest = dir.join(MANIFEST_FILE);
        if manifest.exists() {
            fs::remove_file(&manifest).map_err(BundleError::io("remove", &manifest))?;
        }
        let read = fs::read(dir.join(PROGRESS)).ok();
        let finished = read.and_then(|text| serde_json::from_slice(&text).ok());
        Ok(Self {
            dir,
            finished: finished.unwrap_or_default(),
            _lock: lock,
        })
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// The entry of a file that an earlier try has finished by the same plan, if its content is still what it was.
    pub(super) fn kept(&self, name: &str, plan: &ContentHash) -> Option<FileEntry> {
        let finished = self.finished.get(name).filter(|file| file.plan == *plan)?;
        let found = hashes::file_entry(&self.path(name)).ok()?;
        (found == finished.entry).then_some(found)
    }

    /// Puts a file in its place in the folder, and writes down that it is finished.
    pub(super) fn finish(
        &mut self,
        partial: &Path,
        name: &str,
        plan: ContentHash,
        entry: FileEntry,
    ) -> Result<(), ImportError> {
        let path = self.path(name);
        durable::rename(partial, &path).map_err(BundleError::io("rename", &path))?;
        let file = FinishedFile { plan, entry };
        self.finished.insert(name.to_owned(), file);
        let progress = self.path(PROGRESS);
        let text = serde_json::to_vec(&self.finished).map_err(io::Error::from);
        text.and_then(|text| durable::replace(&progress, &text))
            .map_err(BundleError::io("write", &progress))?;
        Ok(())
    }

    /// Removes what belongs to no file of the bundle, writes the manifest, and gives the folder the bundle's name.
    pub(super) fn commit(
        self,
        place: &Path,
        manifest: &[u8],
        keep: &[String],
    ) -> Result<(), ImportError> {
        let entries = fs::read_dir(&self.dir).map_err(BundleError::io("list", &self.dir))?;
        for entry in entries {
            let entry = entry.map_err(BundleError::io("list", &self.dir))?;
            let name = entry.file_name().to_string_lossy().into_owned();
            // What is finished stays known until the folder has its name.
            if !keep.contains(&name) && name != PROGRESS {
                let path = entry.path();
                let removed = match path.is_dir() {
                    true => fs::remove_dir_all(&path),
                    false => fs::remove_file(&path),
                };
                removed.map_err(BundleError::io("remove", &path))?;
            }
        }
        let path = self.path(MANIFEST_FILE);
        durable::replace(&path, manifest).map_err(BundleError::io("write", &path))?;
        durable::rename(&self.dir, place).map_err(BundleError::io("put in place", place))?;
        // In a whole bundle it is one file too many, and harms nobody.
        drop(fs::remove_file(place.join(PROGRESS)));
        Ok(())
    }
}
