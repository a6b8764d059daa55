//! The folder that an evaluation writes to: one evaluation at a time, and no scores of an earlier one beside a failure.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, anyhow};
use radialog_files::durable::{self, MadeDirectories};
use radialog_files::folder_lock::{FolderLock, FolderLockError};
use radialog_schemas::counted;
use radialog_training::evaluation::counted_texts::CountsFile;

use crate::commands::former_files::FormerFiles;
use crate::exit::UsageError;
use crate::version::VERSION;

/// The file whose lock an evaluation holds.
const LOCK_FILE: &str = ".evaluation.lock";
/// The names of the files that evaluations have written into the folder.
const FILES_FILE: &str = ".evaluation.files";
/// How names of files begin that keep counts of texts until an evaluation has come to its end.
const COUNTS_FILE: &str = ".evaluation.texts-";

/// A folder that nobody else evaluates into until this is dropped.
pub(super) struct OutFolder {
    lock: Option<FolderLock>,
    made: MadeDirectories,
    former: FormerFiles,
    folder: PathBuf,
}

/// The file of the folder that keeps counts of these texts, from which an evaluation goes on that was interrupted.
pub(super) fn counts_file(folder: &Path, texts: &str) -> CountsFile {
    CountsFile {
        path: folder.join(format!("{COUNTS_FILE}{texts}")),
        program: VERSION,
    }
}

/// Says that texts were not scored again.
pub(super) fn tell_resumed(texts: u64) {
    if texts > 0 {
        let texts = counted(texts, "text was", "texts were");
        errln!("note: {texts} scored by an evaluation that was interrupted");
    }
}

impl OutFolder {
    /// Makes the folder where it is not there, and takes it.
    pub(super) fn take(folder: &Path) -> anyhow::Result<Self> {
        let shown = folder.display();
        if folder.is_file() {
            let message = format!("--out: '{shown}' is a file: name a folder");
            return Err(UsageError(message).into());
        }
        let made =
            MadeDirectories::create(folder).with_context(|| format!("cannot create '{shown}'"))?;
        let lock = FolderLock::take(&folder.join(LOCK_FILE)).map_err(|error| match error {
            FolderLockError::Held(holder) => anyhow!(
                "another evaluation writes to '{shown}' ({holder}): wait for it, or name another folder with --out"
            ),
            FolderLockError::Io(error) => anyhow!("cannot lock '{shown}': {error}"),
        })?;
        Ok(Self {
            lock: Some(lock),
            made,
            former: FormerFiles::default(),
            folder: folder.to_owned(),
        })
    }

    /// Gives the files of an earlier evaluation names that say so, until this one has come to its end. The first one has the scores:
    /// where there are none, and no evaluation has noted that a file of the folder is its own, it is somebody else's, and is refused.
    pub(super) fn set_aside<'a>(
        &mut self,
        files: &[PathBuf],
        read: impl IntoIterator<Item = &'a Path>,
    ) -> anyhow::Result<()> {
        let noted = self.folder.join(FILES_FILE);
        let shown = noted.display();
        let text = match fs::read_to_string(&noted) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
            text => text.with_context(|| format!("cannot read '{shown}'"))?,
        };
        let mut ours: BTreeSet<&str> = text.lines().collect();
        let name = |file: &'_ PathBuf| -> Option<String> {
            let name = file.strip_prefix(&self.folder).ok()?;
            Some(name.to_string_lossy().into_owned())
        };
        let has_scores = files.first().is_some_and(|scores| scores.exists());
        let is_foreign = |file: &&PathBuf| {
            let is_ours = |name: String| has_scores || ours.contains(name.as_str());
            file.exists() && !name(file).is_none_or(is_ours)
        };
        if let Some(file) = files.iter().find(is_foreign) {
            let message = format!(
                "'{}' is there, and no evaluation has written it: name another folder with --out",
                file.display()
            );
            return Err(UsageError(message).into());
        }
        self.former.set_aside(files, read)?;
        let names: Vec<String> = files.iter().filter_map(name).collect();
        ours.extend(names.iter().map(String::as_str));
        let text: String = ours.into_iter().flat_map(|name| [name, "\n"]).collect();
        durable::replace(&noted, text.as_bytes()).with_context(|| format!("cannot write '{shown}'"))
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
    pub(super) fn settle(mut self, result: &anyhow::Result<ExitCode>) -> anyhow::Result<()> {
        std::mem::take(&mut self.former).settle(result)
    }

    /// Whether nothing is in the folder but what this has noted, and empty folders, which go.
    fn came_to_nothing(&self) -> io::Result<bool> {
        for entry in fs::read_dir(&self.folder)? {
            let entry = entry?;
            let name = entry.file_name();
            let is_ours = name == LOCK_FILE || name == FILES_FILE;
            if !is_ours && fs::remove_dir(entry.path()).is_err() {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

/// A folder that was made for an evaluation that could not begin, as a wrong command line, goes again.
impl Drop for OutFolder {
    fn drop(&mut self) {
        if self.made.is_empty() || !self.came_to_nothing().unwrap_or(false) {
            return;
        }
        // Where one cannot be removed, it stays, and the folder with it.
        let _ = fs::remove_file(self.folder.join(FILES_FILE));
        let _ = self.lock.take().map(FolderLock::remove);
        self.made.remove_empty();
    }
}

#[cfg(test)]
mod tests {
    use anyhow::bail;
    use radialog_coordinator::CoordinatorError;

    use super::*;
    use crate::exit::EXIT_INTERRUPTED;

    #[test]
    fn a_new_folder_goes_where_its_evaluation_came_to_nothing_and_stays_where_something_is_in_it() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("above/eval");
        let take = || {
            let mut out = OutFolder::take(&folder).unwrap();
            let scores = folder.join("scores.json");
            out.set_aside(&[scores], []).unwrap();
            out
        };
        let out = take();
        fs::create_dir(folder.join("objects")).unwrap();
        out.settle(&Err(anyhow!("wrong"))).unwrap();
        assert!(!dir.path().join("above").exists());

        let out = take();
        fs::write(folder.join("faults.csv"), "").unwrap();
        out.settle(&Err(anyhow!("wrong"))).unwrap();
        assert!(folder.join("faults.csv").exists());
        // One that was there stays.
        fs::remove_file(folder.join("faults.csv")).unwrap();
        drop(take());
        assert!(folder.join(LOCK_FILE).exists());
    }

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
    fn what_no_evaluation_has_written_is_never_taken_for_one_of_its_files() {
        let folder = tempfile::tempdir().unwrap();
        let files = ["scores.json", "studies.csv"].map(|name| folder.path().join(name));
        let set_aside = || {
            OutFolder::take(folder.path())
                .unwrap()
                .set_aside(&files, [])
        };
        fs::write(&files[1], "somebody's").unwrap();
        for _ in 0..2 {
            assert!(set_aside().is_err());
            assert_eq!(fs::read_to_string(&files[1]).unwrap(), "somebody's");
        }
        fs::remove_file(&files[1]).unwrap();
        set_aside().unwrap();
        // What was left by one that was killed before its scores.
        fs::write(&files[1], "ours").unwrap();
        set_aside().unwrap();
        assert!(!files[1].exists());
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
