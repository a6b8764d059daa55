//! The free space of a file system, looked at before gigabytes are written: a disk that is full says the same an hour later,
//! and takes other programs' space with it.

use std::ffi::OsStr;
use std::fmt;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::statvfs;

/// Bytes of a gibibyte.
const GIB: f64 = (1_u64 << 30) as f64;

/// What will be written into a folder, and what its file system has room for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SpaceNeeded {
    /// The folder.
    pub folder: PathBuf,
    /// Bytes that will be written.
    pub needed: u64,
    /// Bytes that are free for this user; nothing where the file system does not tell.
    pub free: Option<u64>,
}

/// A folder that has not the room for what is to be written into it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{space}, which are {} too few: remove other files there, or name a folder on another file system",
    Bytes(space.missing())
)]
pub struct NotEnoughSpace {
    /// The folder and both numbers.
    pub space: SpaceNeeded,
}

impl SpaceNeeded {
    /// Looks at the file system on which `folder` lies, or will lie once it is made.
    pub fn look(folder: &Path, needed: u64) -> Self {
        let known = existing(folder).and_then(|there| statvfs(&there).ok());
        // Some network file systems know no size, and say 0 of 0 blocks.
        let known = known.filter(|system| system.f_blocks > 0);
        Self {
            folder: folder.to_owned(),
            needed,
            free: known.map(|system| system.f_bavail.saturating_mul(system.f_frsize)),
        }
    }

    /// Holds what is needed against what is free. What a file system does not tell is not refused.
    ///
    /// # Errors
    /// Too few bytes are free.
    pub fn check(self) -> Result<Self, NotEnoughSpace> {
        match self.missing() {
            0 => Ok(self),
            _ => Err(NotEnoughSpace { space: self }),
        }
    }

    fn missing(&self) -> u64 {
        self.needed.saturating_sub(self.free.unwrap_or(u64::MAX))
    }
}

impl fmt::Display for SpaceNeeded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let needed = Bytes(self.needed);
        write!(f, "'{}' needs {needed}, and ", self.folder.display())?;
        match self.free {
            Some(free) => write!(f, "its file system has {} free", Bytes(free)),
            None => write!(f, "its file system does not say how much is free"),
        }
    }
}

/// Whether two folders lie on one file system, or will, once they are made: they share its free space.
pub fn same_file_system(one: &Path, other: &Path) -> bool {
    let device = |path: &Path| Some(fs::metadata(existing(path)?).ok()?.dev());
    match (device(one), device(other)) {
        (Some(one), Some(other)) => one == other,
        _ => false,
    }
}

/// The folder, or the nearest one above it that is there.
fn existing(folder: &Path) -> Option<PathBuf> {
    let mut path = folder;
    loop {
        let looked_at = match path.as_os_str() == OsStr::new("") {
            true => Path::new("."),
            false => path,
        };
        if looked_at.exists() {
            return Some(looked_at.to_owned());
        }
        path = path.parent()?;
    }
}

/// A number of bytes, for people and to the last one.
struct Bytes(u64);

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes ({:.1} GiB)", self.0, self.0 as f64 / GIB)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_without_the_room_is_named_with_what_is_needed_and_what_is_free() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("not/made/yet");
        let space = SpaceNeeded::look(&folder, 1).check().unwrap();
        let free = space.free.unwrap();
        assert!(free > 1);
        let more = SpaceNeeded {
            needed: free + 1,
            ..space.clone()
        };
        let message = more.check().unwrap_err().to_string();
        for words in [
            format!("'{}'", folder.display()),
            format!("needs {} bytes", free + 1),
            format!("has {free} bytes"),
            "which are 1 bytes".into(),
        ] {
            assert!(message.contains(&words), "{words}: {message}");
        }
        assert!(!folder.exists(), "it was only looked at");
        let unknown = SpaceNeeded {
            free: None,
            needed: u64::MAX,
            ..space
        };
        assert!(unknown.check().is_ok(), "nobody knows that it is too much");
    }

    #[test]
    fn a_relative_folder_lies_where_the_process_works() {
        assert!(SpaceNeeded::look(Path::new("bundle"), 0).free.is_some());
        assert!(same_file_system(Path::new("a"), Path::new("b/c")));
        assert!(!same_file_system(Path::new("."), Path::new("/proc")));
    }
}
