//! The folder that an evaluation writes to: one evaluation at a time, and no scores of an earlier one beside a failure.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, anyhow};
use radialog_coordinator::CoordinatorError;
use radialog_models::folder_lock::{FolderLock, FolderLockError};

use crate::exit::EXIT_INTERRUPTED;

/// The file whose lock an evaluation holds.
const LOCK_FILE: &str = ".evaluation.lock";
/// The end of the names of files of an earlier evaluation, while a new one has not come to its end.
const OLD: &str = "old";

/// A folder that nobody else evaluates into until this is dropped.
pub(super) struct OutFolder {
    _lock: FolderLock,
    /// The files of the evaluation, and whether an earlier one had them.
    files: Vec<(PathBuf, bool)>,
}

impl OutFolder {
    /// Makes the folder where it is not there, and takes it.
    pub(super) fn take(folder: &Path) -> anyhow::Result<Self> {
        let shown = folder.display();
        fs::create_dir_all(folder).with_context(|| format!("cannot create '{shown}'"))?;
        let lock = FolderLock::take(&folder.join(LOCK_FILE)).map_err(|error| match error {
            FolderLockError::Held(holder) => anyhow!(
                "another evaluation writes to '{shown}' ({holder}): wait for it, or name another folder with --out"
            ),
            FolderLockError::Io(error) => anyhow!("cannot lock '{shown}': {error}"),
        })?;
        Ok(Self {
            _lock: lock,
            files: Vec::new(),
        })
    }

    /// Gives the files of an earlier evaluation names that say so, until this one has come to its end.
    pub(super) fn set_aside(&mut self, files: Vec<PathBuf>) -> anyhow::Result<()> {
        for file in files {
            let was_there = match fs::rename(&file, old(&file)) {
                Ok(()) => true,
                Err(error) if error.kind() == io::ErrorKind::NotFound => false,
                Err(error) => {
                    let shown = file.display();
                    return Err(error).context(format!("cannot set '{shown}' aside"));
                }
            };
            self.files.push((file, was_there));
        }
        Ok(())
    }

    /// Removes the earlier files where the evaluation has come to its end. Where it failed they keep the names that say that they
    /// are old; but an evaluation that was refused, since the folder's runs are of another one, has not touched them.
    pub(super) fn settle(self, result: &anyhow::Result<ExitCode>) -> anyhow::Result<()> {
        let is_refusal = |error: &anyhow::Error| {
            matches!(
                error.downcast_ref(),
                Some(CoordinatorError::OtherRun { .. })
            )
        };
        for (file, was_there) in self.files {
            let settled = match result {
                Ok(code) if *code == ExitCode::from(EXIT_INTERRUPTED) => Ok(()),
                Ok(_) => match fs::remove_file(old(&file)) {
                    Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
                    _ => Ok(()),
                },
                Err(error) if was_there && is_refusal(error) => fs::rename(old(&file), &file),
                Err(_) => Ok(()),
            };
            settled.with_context(|| format!("cannot settle '{}'", old(&file).display()))?;
        }
        Ok(())
    }
}

fn old(file: &Path) -> PathBuf {
    let mut name = file.as_os_str().to_owned();
    name.push(".");
    name.push(OLD);
    name.into()
}

#[cfg(test)]
mod tests {
    use anyhow::bail;

    use super::*;

    fn evaluated(folder: &Path, result: anyhow::Result<ExitCode>) -> (bool, bool) {
        let file = folder.join("scores.json");
        fs::write(&file, "{}").unwrap();
        let _ = fs::remove_file(old(&file));
        let mut out = OutFolder::take(folder).unwrap();
        assert!(OutFolder::take(folder).is_err());
        out.set_aside(vec![file.clone(), folder.join("missing")])
            .unwrap();
        assert!(!file.exists());
        out.settle(&result).unwrap();
        (file.exists(), old(&file).exists())
    }

    #[test]
    fn scores_of_an_earlier_evaluation_go_with_success_are_marked_by_failure_and_stay_where_it_was_refused()
     {
        let folder = tempfile::tempdir().unwrap();
        let of = |result| evaluated(folder.path(), result);
        assert_eq!(of(Ok(ExitCode::SUCCESS)), (false, false));
        assert_eq!(of(Ok(ExitCode::from(EXIT_INTERRUPTED))), (false, true));
        assert_eq!(of(Err(anyhow!("it broke"))), (false, true));
        let refused = || -> anyhow::Result<ExitCode> {
            bail!(CoordinatorError::OtherRun {
                dir: folder.path().to_owned(),
                run: "r".to_owned(),
                difference: "bundle".to_owned(),
            })
        };
        assert_eq!(of(refused()), (true, false));
    }
}
