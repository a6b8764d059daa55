//! Finding the programs, and installing them where that is possible.

use std::path::PathBuf;
use std::process::Command;
use std::sync::Mutex;

use anyhow::{Result, bail};

/// The first of `candidates` that exists, as a path or as a name on the `PATH`. Where none does, installs `package`.
pub(super) fn program(candidates: &[&str], package: &str, variable: &str) -> Result<PathBuf> {
    // Packages are installed one at a time: apt refuses to run twice.
    static INSTALLING: Mutex<()> = Mutex::new(());
    let _turn = INSTALLING
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner);
    if let Some(path) = find(candidates) {
        return Ok(path);
    }
    install(package);
    match find(candidates) {
        Some(path) => Ok(path),
        None => bail!(
            "the tests need {package}: install it (as root, `apt-get install {package}` is tried), or set {variable} to \
             the address of a running one"
        ),
    }
}

fn find(candidates: &[&str]) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders: Vec<PathBuf> = std::env::split_paths(&path).collect();
    // Joining an absolute path replaces the folder.
    candidates.iter().find_map(|name| {
        folders
            .iter()
            .map(|folder| folder.join(name))
            .find(|path| path.is_file())
    })
}

/// Debian starts a service when its package is installed; a policy that forbids it is honoured also in containers.
fn install(package: &str) {
    tracing::info!(package, "installing with apt-get");
    for arguments in [
        vec!["update"],
        vec!["install", "-y", "--no-install-recommends", package],
    ] {
        let run = Command::new("apt-get")
            .args(arguments)
            .env("DEBIAN_FRONTEND", "noninteractive")
            .env("RUNLEVEL", "1")
            .output();
        // What is missing afterwards is told by the caller.
        if !run.is_ok_and(|output| output.status.success()) {
            return;
        }
    }
}
