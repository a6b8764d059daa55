//! A file system of a test's own that has no room, or cannot be written.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Result, ensure};

/// Mounted until it is dropped.
pub struct SmallDisk(PathBuf);

impl SmallDisk {
    /// Mounts one at this path with an option of tmpfs, e.g. `size=256k`; none where that is not allowed, as it is to root alone.
    ///
    /// # Errors
    /// Where the folder cannot be made.
    pub fn mount(path: &Path, option: &str) -> Result<Option<Self>> {
        fs::create_dir_all(path)?;
        let mut mount = Command::new("mount");
        mount
            .args(["-t", "tmpfs", "-o", option, "tmpfs"])
            .arg(path)
            .stderr(Stdio::null());
        let is_mounted = mount.status().is_ok_and(|status| status.success());
        Ok(is_mounted.then(|| Self(path.to_owned())))
    }

    /// Gives it another option.
    ///
    /// # Errors
    /// Where it is refused.
    pub fn remount(&self, option: &str) -> Result<()> {
        let mut mount = Command::new("mount");
        mount
            .args(["-o", &format!("remount,{option}")])
            .arg(&self.0);
        ensure!(mount.status()?.success(), "it is not mounted with {option}");
        Ok(())
    }

    /// Takes all room.
    ///
    /// # Errors
    /// Where it takes no file.
    pub fn fill(&self) -> Result<()> {
        let mut file = File::create(self.0.join("fill"))?;
        while file.write_all(&[0; 4096]).is_ok() {}
        Ok(())
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Also where a process has a file open in it.
        drop(Command::new("umount").arg("-l").arg(&self.0).status());
    }
}
