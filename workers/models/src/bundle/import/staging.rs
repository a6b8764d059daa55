//! The folder in which an import is being made, beside the bundle's place: hidden, without a manifest, and kept when the
//! import is interrupted, so that it is never taken for a bundle and the next try goes on from it.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use radialog_schemas::ContentHash;
use radialog_schemas::bundle::{FileEntry, MANIFEST_FILE};
use serde::{Deserialize, Serialize};

use super::error::ImportError;
use super::source_files::SourceFile;
use crate::bundle::{BundleError, hashes};
use radialog_files::durable;
use radialog_files::folder_lock::{FolderLock, FolderLockError};

/// What is finished, in the folder.
const PROGRESS: &str = "import.progress.json";

/// The end of the name of a file that is being written.
pub(super) const PARTIAL: &str = ".partial";

/// Held while an import is going on.
const LOCK: &str = "import.lock";

/// See the module.
pub(super) struct Staging {
    dir: PathBuf,
    progress: Progress,
    _lock: FolderLock,
}

/// What is known of an import that is not whole.
#[derive(Default, Serialize, Deserialize)]
struct Progress {
    /// The published files as they were.
    sources: Vec<SourceFile>,
    /// The bundle's files that are finished, by name.
    finished: BTreeMap<String, FinishedFile>,
}

/// A file that is written, hashed and durable.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct FinishedFile {
    /// The hash of all that determines its content.
    plan: ContentHash,
    entry: FileEntry,
}

/// What an interrupted import has left beside a bundle's place, as it is without holding its lock.
pub(super) struct Leftover {
    dir: Option<PathBuf>,
    progress: Progress,
    /// Bytes of a file that was being written, whose place the next try takes.
    pub(super) unfinished: u64,
}

impl Leftover {
    pub(super) fn of(place: &Path) -> Self {
        let dir = folder_of(place).filter(|dir| dir.is_dir());
        let progress = dir.as_deref().map(read_progress).unwrap_or_default();
        let entries = dir.as_deref().and_then(|dir| fs::read_dir(dir).ok());
        let partial = entries.into_iter().flatten().flatten().filter(|entry| {
            let name = entry.file_name();
            name.to_string_lossy().ends_with(PARTIAL)
        });
        let unfinished = partial.filter_map(|entry| Some(entry.metadata().ok()?.len()));
        Self {
            unfinished: unfinished.sum(),
            dir,
            progress,
        }
    }

    /// Whether a file was finished with this size, and still has it.
    pub(super) fn is_finished(&self, name: &str, size: u64) -> bool {
        let finished = self.progress.finished.get(name);
        let dir = self
            .dir
            .as_deref()
            .filter(|_| finished.is_some_and(|file| file.entry.size == size));
        let found = dir.and_then(|dir| fs::metadata(dir.join(name)).ok());
        found.is_some_and(|meta| meta.len() == size)
    }
}

/// The folder of a bundle's place; nothing where that names none.
fn folder_of(place: &Path) -> Option<PathBuf> {
    let name = place.file_name().map(OsStr::to_string_lossy)?;
    Some(place.with_file_name(format!(".{name}.import")))
}

/// What is known to be finished in a folder; nothing where nobody can tell.
fn read_progress(dir: &Path) -> Progress {
    let read = fs::read(dir.join(PROGRESS)).ok();
    let progress = read.and_then(|text| serde_json::from_slice(&text).ok());
    progress.unwrap_or_default()
}

impl Staging {
    /// Makes the folder of a bundle's place, or takes up the one that an interrupted import has left.
    pub(super) fn open(place: &Path) -> Result<Self, ImportError> {
        let dir = folder_of(place)
            .ok_or_else(|| ImportError::unusable(place)("it names no folder: name the bundle's"))?;
        fs::create_dir_all(&dir).map_err(BundleError::io("create", &dir))?;
        let path = dir.join(LOCK);
        let lock = FolderLock::take(&path).map_err(|error| match error {
            FolderLockError::Held(holder) => ImportError::unusable(place)(format!(
                "another import writes it ({holder}): wait for its end, or name another folder"
            )),
            FolderLockError::Io(error) => BundleError::io("lock", &path)(error).into(),
        })?;
        // An import may have ended, and its folder have got the bundle's name, between a look before and the lock.
        check_free(place)?;
        // A try that ended between its manifest and its rename has left one; files are about to change under it.
        let manifest = dir.join(MANIFEST_FILE);
        if manifest.exists() {
            fs::remove_file(&manifest).map_err(BundleError::io("remove", &manifest))?;
        }
        Ok(Self {
            progress: read_progress(&dir),
            dir,
            _lock: lock,
        })
    }

    /// Writes down what the published files are now. Returns those that an interrupted try has found otherwise.
    pub(super) fn record_sources(
        &mut self,
        sources: &[SourceFile],
    ) -> Result<Vec<PathBuf>, ImportError> {
        let changed = sources.iter().filter(|now| {
            let mut then = self.progress.sources.iter();
            then.any(|then| then.file == now.file && then.entry != now.entry)
        });
        let changed = changed.map(|source| source.file.clone()).collect();
        self.progress.sources = sources.to_vec();
        self.save()?;
        Ok(changed)
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// Whether an earlier try has finished a file by the same plan. Its content is not looked at.
    pub(super) fn is_finished(&self, name: &str, plan: &ContentHash) -> bool {
        let finished = self.progress.finished.get(name);
        finished.is_some_and(|file| file.plan == *plan) && self.path(name).is_file()
    }

    /// The entry of a file that an earlier try has finished by the same plan, if its content is still what it was.
    pub(super) fn kept(&self, name: &str, plan: &ContentHash) -> Option<FileEntry> {
        let finished = self
            .progress
            .finished
            .get(name)
            .filter(|file| file.plan == *plan)?;
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
        self.progress.finished.insert(name.to_owned(), file);
        self.save()
    }

    fn save(&self) -> Result<(), ImportError> {
        let path = self.path(PROGRESS);
        let text = serde_json::to_vec(&self.progress).map_err(io::Error::from);
        text.and_then(|text| durable::replace(&path, &text))
            .map_err(BundleError::io("write", &path))?;
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
            // What is finished stays known, and the lock held, until the folder has its name.
            if !keep.contains(&name) && ![PROGRESS, LOCK].contains(&name.as_str()) {
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
        // In a whole bundle they are files too many, and harm nobody.
        for name in [PROGRESS, LOCK] {
            drop(fs::remove_file(place.join(name)));
        }
        Ok(())
    }
}

/// Checks that nothing stands where the bundle is to be.
pub(super) fn check_free(place: &Path) -> Result<(), ImportError> {
    match place.exists() {
        false => Ok(()),
        true => {
            let reason = "it is there already: name another folder, or remove it";
            Err(ImportError::unusable(place)(reason))
        }
    }
}
