//! What killed processes have left of what they were writing. Whoever writes holds a lock of the kernel's, which ends with its
//! process, however that ends: what is old and has no lock is nobody's.

use std::collections::HashSet;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::{LazyLock, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

/// So long nothing is taken for left: it is locked a moment after it is made.
const PATIENCE: Duration = Duration::from_secs(3600);
/// Directories that are remembered, so that a process that writes to ever new ones takes no memory for them.
const REMEMBERED: usize = 1000;

/// Holds a file or directory that was just made, as long as the handle is open. Where a file system knows no locks, nothing is
/// ever taken for left.
pub fn hold(made: &File) {
    drop(made.try_lock());
}

/// As [`remove`], once a process: it is asked for with every write.
pub(crate) fn remove_once(directory: &Path, is_temporary: impl Fn(&str) -> bool) {
    static LOOKED_AT: LazyLock<Mutex<HashSet<PathBuf>>> = LazyLock::new(Mutex::default);
    let mut looked_at = LOOKED_AT.lock().unwrap_or_else(PoisonError::into_inner);
    if looked_at.len() >= REMEMBERED {
        looked_at.clear();
    }
    if looked_at.insert(directory.to_owned()) {
        drop(looked_at);
        remove(directory, is_temporary);
    }
}

/// Removes what was left in a directory under names that `is_temporary` knows. What cannot be removed stays.
pub fn remove(directory: &Path, is_temporary: impl Fn(&str) -> bool) {
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        if entry.file_name().to_str().is_some_and(&is_temporary) {
            remove_left(&entry.path());
        }
    }
}

fn remove_left(path: &Path) {
    let Ok(metadata) = fs::symlink_metadata(path) else {
        return;
    };
    let is_left = || {
        let is_old = newest(path).is_some_and(|time| {
            let age = SystemTime::now().duration_since(time);
            age.is_ok_and(|age| age > PATIENCE)
        });
        is_old && File::open(path).is_ok_and(|left| left.try_lock().is_ok())
    };
    if metadata.is_dir() && is_left() {
        drop(fs::remove_dir_all(path));
    } else if metadata.is_file() && is_left() {
        drop(fs::remove_file(path));
    }
}

/// When something at or below a path was last written; none where that cannot be said.
fn newest(path: &Path) -> Option<SystemTime> {
    let metadata = fs::symlink_metadata(path).ok()?;
    let mut time = metadata.modified().ok()?;
    if metadata.is_dir() {
        for entry in fs::read_dir(path).ok()? {
            time = time.max(newest(&entry.ok()?.path())?);
        }
    }
    Some(time)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn make(path: &Path, is_directory: bool) -> File {
        if is_directory {
            fs::create_dir(path).unwrap();
            fs::write(path.join("content"), "x").unwrap();
        } else {
            fs::write(path, "x").unwrap();
        }
        File::open(path).unwrap()
    }

    fn make_old(path: &Path) {
        let two_hours_ago = SystemTime::now() - 2 * PATIENCE;
        if path.is_dir() {
            make_old(&path.join("content"));
        }
        File::open(path)
            .unwrap()
            .set_modified(two_hours_ago)
            .unwrap();
    }

    #[test]
    fn what_is_old_and_nobodys_goes_and_nothing_else() {
        for is_directory in [false, true] {
            let dir = tempfile::tempdir().unwrap();
            let path = |name: &str| dir.path().join(name);
            for name in ["left.tmp", "young.tmp", "held.tmp", "other"] {
                make(&path(name), is_directory);
            }
            for name in ["left.tmp", "held.tmp", "other"] {
                make_old(&path(name));
            }
            let held = File::open(path("held.tmp")).unwrap();
            hold(&held);
            let is_temporary = |name: &str| name.ends_with(".tmp");
            remove(dir.path(), is_temporary);
            let are_there = |names: [&str; 4]| names.map(|name| path(name).exists());
            let names = ["left.tmp", "young.tmp", "held.tmp", "other"];
            assert_eq!(are_there(names), [false, true, true, true]);
            drop(held);
            remove(dir.path(), is_temporary);
            assert_eq!(are_there(names), [false, true, false, true]);
        }
    }

    #[test]
    fn what_is_written_below_a_directory_keeps_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.tmp");
        make(&path, true);
        make_old(&path);
        fs::write(path.join("content"), "more").unwrap();
        remove(dir.path(), |_| true);
        assert!(path.exists());
    }

    #[test]
    fn a_directory_is_looked_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("left");
        for is_there_afterwards in [false, true] {
            make(&path, false);
            make_old(&path);
            remove_once(dir.path(), |_| true);
            assert_eq!(path.exists(), is_there_afterwards);
        }
    }
}
