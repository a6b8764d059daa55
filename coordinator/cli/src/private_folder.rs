//! Folders for what came from patients, for as long as a command needs them.

use std::fs::{self, File, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Once;
use std::thread::sleep;
use std::time::Duration;

use anyhow::Context;
use radialog_files::left_behind;
use tempfile::TempDir;

/// Looks whether a removed folder stays away, and the wait before each: a write of a worker that was stopped may be under
/// way, and makes its folder.
const LOOKS: u32 = 40;
const LOOK_EVERY: Duration = Duration::from_millis(25);

/// How the folders are called; those of earlier releases, which held no lock, have other names.
const PREFIX: &str = "radialog-private-";

/// A temporary folder that its owner alone can read. It goes when this is dropped; that of a process that was killed goes when
/// a later one makes its own.
pub(crate) struct PrivateFolder {
    folder: TempDir,
    /// Open as long as it is used.
    _held: File,
}

impl PrivateFolder {
    pub(crate) fn new() -> anyhow::Result<Self> {
        static LOOKED: Once = Once::new();
        LOOKED.call_once(|| {
            left_behind::remove(&std::env::temp_dir(), |name| name.starts_with(PREFIX));
        });
        let make = || {
            let folder = tempfile::Builder::new()
                .prefix(PREFIX)
                .permissions(Permissions::from_mode(0o700))
                .tempdir()?;
            let held = File::open(folder.path())?;
            left_behind::hold(&held);
            io::Result::Ok((folder, held))
        };
        let (folder, held) = make().context("cannot make a temporary folder; set TMPDIR")?;
        Ok(Self {
            folder,
            _held: held,
        })
    }

    pub(crate) fn path(&self) -> &Path {
        self.folder.path()
    }
}

impl Drop for PrivateFolder {
    fn drop(&mut self) {
        for _ in 0..LOOKS {
            let removed = fs::remove_dir_all(self.path());
            sleep(LOOK_EVERY);
            if !self.path().exists() {
                return;
            }
            if let Err(error) = removed {
                tracing::debug!(%error, "the temporary folder is removed again");
            }
        }
        errln!(
            "note: {} could not be removed; remove it by hand",
            self.path().display()
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_for_the_owner_alone_and_goes() {
        let folder = PrivateFolder::new().unwrap();
        let path = folder.path().to_owned();
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o700);
        fs::create_dir(path.join("objects")).unwrap();
        drop(folder);
        assert!(!path.exists());
    }
}
