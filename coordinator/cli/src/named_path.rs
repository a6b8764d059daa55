//! Paths that the command line names: what is not there is a fault of the command line.

use std::path::Path;

use crate::exit::UsageError;

/// Refuses a path that leads nowhere; `what` says what to name.
pub(crate) fn require(path: &Path, what: &str) -> Result<(), UsageError> {
    match path.exists() {
        true => Ok(()),
        false => Err(UsageError(format!(
            "there is no '{}': {what}",
            path.display()
        ))),
    }
}

/// Refuses what is read more than once, and is there but once.
pub(crate) fn require_stored(path: &Path) -> Result<(), UsageError> {
    match path.is_file() || path.is_dir() {
        true => Ok(()),
        false => Err(UsageError(format!(
            "'{}' is a pipe, and it is read more than once: write it to a file first",
            path.display()
        ))),
    }
}

/// Refuses a `--meteor` that leads nowhere.
pub(crate) fn require_meteor(path: &Path) -> Result<(), UsageError> {
    require(
        path,
        "--meteor is meteor-1.5.jar or its folder, which `pip install pycocoevalcap` brings",
    )
}
