//! What killed processes have left of what they were writing. Whoever writes holds a lock of the kernel's, which ends with its
//! process, however that ends: what is old and has no lock is nobody's.

use std::collections::HashSet;
use std::fs::{self, DirEntry, File};
use std::path::{Path, PathBuf};
use std::sync::{LazyLock, Mutex, PoisonError};
use std::time::Duration;

use super::{RANDOM, UNFINISHED};

/// So long nothing is taken for left: it is locked a moment after it is made.
const PATIENCE: Duration = Duration::from_secs(3600);
/// Directories that are remembered, so that a process that writes to ever new ones takes no memory for them.
const REMEMBERED: usize = 1000;

/// Removes what was left in a directory, once a process. What cannot be removed stays: it is nobody's work that fails by it.
pub(super) fn remove_once(directory: &Path) {
    static LOOKED_AT: LazyLock<Mutex<HashSet<PathBuf>>> = LazyLock::new(Mutex::default);
    let mut looked_at = LOOKED_AT.lock().unwrap_or_else(PoisonError::into_inner);
    if looked_at.contains(directory) {
        return;
    }
    if looked_at.len() >= REMEMBERED {
        looked_at.clear();
    }
    looked_at.insert(directory.to_owned());
    drop(looked_at);
    remove(directory);
}

/// As [`remove_once`], each time.
pub(super) fn remove(directory: &Path) {
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        if is_left(&entry) {
            drop(fs::remove_file(entry.path()));
        }
    }
}

fn is_left(entry: &DirEntry) -> bool {
    let name = entry.file_name();
    let random = name.to_str().and_then(|name| name.strip_prefix(UNFINISHED));
    let is_ours = random.is_some_and(|random| {
        random.len() == RANDOM && random.bytes().all(|byte| byte.is_ascii_alphanumeric())
    });
    let is_old = || {
        let metadata = entry.metadata().ok().filter(fs::Metadata::is_file);
        let modified = metadata.and_then(|metadata| metadata.modified().ok());
        let age = modified.and_then(|modified| modified.elapsed().ok());
        age.is_some_and(|age| age > PATIENCE)
    };
    let is_nobodys = || File::open(entry.path()).is_ok_and(|file| file.try_lock().is_ok());
    is_ours && is_old() && is_nobodys()
}
