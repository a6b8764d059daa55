//! The folder that an evaluation writes to: one evaluation at a time, and no scores of an earlier one beside a failure.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, anyhow};
use radialog_models::folder_lock::{FolderLock, FolderLockError};

use crate::commands::former_files::FormerFiles;
use crate::exit::UsageError;

/// The file whose lock an evaluation holds.
const LOCK_FILE: &str = ".evaluation.lock";

/// A folder that nobody else evaluates into until this is dropped.
pub(super) struct OutFolder {
    _lock: FolderLock,
    former: FormerFiles,
}

impl OutFolder {
    /// Makes the folder where it is not there, and takes it.
    pub(super) fn take(folder: &Path) -> anyhow::Result<Self> {
        let shown = folder.display();
        if folder.is_file() {
            let message = format!("--out: '{shown}' is a file: name a folder");
            return Err(UsageError(message).into());
        }
        fs::create_dir_all(folder).with_context(|| format!("cannot create '{shown}'"))?;
        let lock = FolderLock::take(&folder.join(LOCK_FILE)).map_err(|error| match error {
            FolderLockError::Held(holder) => anyhow!(
                "another evaluation writes to '{shown}' ({holder}): wait for it, or name another folder with --out"
            ),
            FolderLockError::Io(error) => anyhow!("cannot lock '{shown}': {error}"),
        })?;
        Ok(Self {
            _lock: lock,
            former: FormerFiles::default(),
        })
    }

    /// Gives the files of an earlier evaluation names that say so, until this one has come to its end.
    pub(super) fn set_aside<'a>(
        &mut self,
        files: &[PathBuf],
        read: impl IntoIterator<Item = &'a Path>,
    ) -> anyhow::Result<()> {
        self.former.set_aside(files, read)
    }

    /// Says how the files of an earlier evaluation are called where this one writes none, and leaves them so.
    pub(super) fn leave(self) {
        for (file, now) in self.former.were_there() {
            outln!(
                "{} is of an earlier evaluation, and is called {} now",
                file.display(),
                now.display()
            );
        }
    }

    /// Ends the evaluation: what becomes of the earlier files ([`FormerFiles::settle`]).
    pub(super) fn settle(self, result: &anyhow::Result<ExitCode>) -> anyhow::Result<()> {
        self.former.settle(result)
    }
}

#[cfg(test)]
mod tests {
    use anyhow::bail;
    use radialog_coordinator::CoordinatorError;

    use super::*;
    use crate::exit::EXIT_INTERRUPTED;

    fn evaluated(folder: &Path, result: anyhow::Result<ExitCode>) -> (bool, bool) {
        let file = folder.join("scores.json");
        fs::write(&file, "{}").unwrap();
        let old = folder.join("scores.json.old");
        let _ = fs::remove_file(&old);
        let mut out = OutFolder::take(folder).unwrap();
        assert!(OutFolder::take(folder).is_err());
        out.set_aside(&[file.clone(), folder.join("missing")], [])
            .unwrap();
        assert!(!file.exists());
        out.settle(&result).unwrap();
        (file.exists(), old.exists())
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
