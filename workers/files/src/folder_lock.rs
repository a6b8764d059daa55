//! A folder that one process at a time works in. The lock is the kernel's and ends with the process, however that ends; the
//! file says whose it is, for the message of whoever comes second.

use std::fs::{self, File, TryLockError};
use std::io::{self, Read, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Bytes of a lock's file that are read: a holder's line is shorter.
const LONGEST_HOLDER: u64 = 512;

/// A lock that is held until this is dropped. Its file stays, unless it is removed.
#[derive(Debug)]
pub struct FolderLock {
    file: File,
    path: PathBuf,
}

/// A lock that is not had.
#[derive(Debug, thiserror::Error)]
pub enum FolderLockError {
    /// Another one has it: the process, in words.
    #[error("{0} has it")]
    Held(String),
    /// The file cannot be made or locked.
    #[error(transparent)]
    Io(#[from] io::Error),
}

impl FolderLock {
    /// Takes the lock of this file, whose folder has to exist, without waiting.
    ///
    /// # Errors
    /// Another process has it, or another part of this one; the file cannot be made or locked.
    pub fn take(path: &Path) -> Result<Self, FolderLockError> {
        loop {
            let mut options = File::options();
            let mut file = options
                .create(true)
                .truncate(false)
                .read(true)
                .write(true)
                .open(path)?;
            match file.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => return Err(FolderLockError::Held(holder(&file))),
                Err(TryLockError::Error(error)) => return Err(error.into()),
            }
            // Whoever had it may have removed the file since it was opened, and another one may be locked by somebody else.
            if !is_at(&file, path)? {
                continue;
            }
            // Nobody but the holder writes, and who reads half a line has a worse message and nothing else.
            file.set_len(0)?;
            writeln!(file, "{}", this_process())?;
            let path = path.to_owned();
            return Ok(Self { file, path });
        }
    }

    /// Removes the lock's file, and gives the lock up.
    ///
    /// # Errors
    /// The file cannot be removed; the lock is given up all the same.
    pub fn remove(self) -> io::Result<()> {
        // While it is held, so that it is nobody else's.
        fs::remove_file(&self.path)?;
        drop(self.file);
        Ok(())
    }
}

/// Whether the open file is the one of this name.
fn is_at(file: &File, path: &Path) -> io::Result<bool> {
    let opened = file.metadata()?;
    match fs::metadata(path) {
        Ok(named) => Ok((named.dev(), named.ino()) == (opened.dev(), opened.ino())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// The line that the holder has written.
fn holder(file: &File) -> String {
    let mut line = String::new();
    let read = file.take(LONGEST_HOLDER).read_to_string(&mut line);
    match line.trim() {
        line if read.is_ok() && !line.is_empty() => line.to_owned(),
        _ => "another process".to_owned(),
    }
}

fn this_process() -> String {
    let process = format!("process {}", std::process::id());
    match fs::read_to_string("/proc/sys/kernel/hostname") {
        Ok(host) if !host.trim().is_empty() => format!("{process} on {}", host.trim()),
        _ => process,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::thread;

    use super::*;

    #[test]
    fn the_second_is_told_who_has_the_lock_and_has_it_when_the_first_has_gone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("work.lock");
        fs::write(
            &path,
            "process 1 on a machine that is gone and has a long name",
        )
        .unwrap();
        let first = FolderLock::take(&path).unwrap();
        let refused = FolderLock::take(&path).unwrap_err().to_string();
        let expected = format!("process {}", std::process::id());
        assert!(refused.starts_with(&expected), "{refused}");
        assert!(!refused.contains("gone"), "{refused}");
        drop(first);
        FolderLock::take(&path).unwrap();
    }

    #[test]
    fn a_lock_whose_file_is_removed_is_held_by_one_at_a_time() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("work.lock");
        let held = AtomicUsize::new(0);
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    let mut times = 0;
                    while times < 200 {
                        let Ok(lock) = FolderLock::take(&path) else {
                            continue;
                        };
                        assert_eq!(held.fetch_add(1, Ordering::SeqCst), 0);
                        assert_eq!(held.fetch_sub(1, Ordering::SeqCst), 1);
                        lock.remove().unwrap();
                        times += 1;
                    }
                });
            }
        });
        assert!(!path.exists());
    }
}
