//! A folder that one process at a time works in. The lock is the kernel's and ends with the process, however that ends; the
//! file says whose it is, for the message of whoever comes second.

use std::fs::{self, File, TryLockError};
use std::io::{self, Read, Write};
use std::path::Path;

/// Bytes of a lock's file that are read: a holder's line is shorter.
const LONGEST_HOLDER: u64 = 512;

/// A lock that is held until this is dropped. Its file stays, since removing it would let two have one each.
#[derive(Debug)]
pub struct FolderLock {
    _file: File,
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
        // Nobody but the holder writes, and who reads half a line has a worse message and nothing else.
        file.set_len(0)?;
        writeln!(file, "{}", this_process())?;
        Ok(Self { _file: file })
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
}
