//! `results.jsonl`: one line a study, appended and flushed as studies finish, so that a process killed at any point
//! leaves complete lines and at most one broken last line, which the next run cuts off.

use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use radialog_files::durable::{self, Replacement};
use radialog_schemas::{StudyRecord, StudyStatus};

use crate::CoordinatorError;
use crate::run_files::RESULTS_FILE;

/// A line may be lost with the machine for this long; its study is then run again from stored outputs.
const SYNC_EVERY: Duration = Duration::from_secs(1);

/// The results file, open for appending.
pub(crate) struct Journal {
    path: PathBuf,
    file: File,
    /// Bytes of complete lines.
    length: u64,
    synced: Instant,
    dirty: bool,
}

impl Journal {
    /// Opens or creates the file, cuts off a broken last line, and shows every record to `seen`.
    pub(crate) fn open(
        dir: &Path,
        mut seen: impl FnMut(StudyRecord),
    ) -> Result<Self, CoordinatorError> {
        let path = dir.join(RESULTS_FILE);
        let mut options = OpenOptions::new();
        let file = options
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .open(&path);
        let file = file.map_err(CoordinatorError::output(&path))?;
        // Lines are synced as they are appended, which is worth nothing where the name of the file is lost.
        durable::sync_directory(dir).map_err(CoordinatorError::output(dir))?;
        let mut length = 0;
        for_each_record(&path, |record, line| {
            seen(record);
            length += line.len() as u64;
            Ok(())
        })?;
        let mut journal = Self {
            path,
            file,
            length,
            synced: Instant::now(),
            dirty: false,
        };
        journal
            .cut()
            .map_err(CoordinatorError::output(&journal.path))?;
        Ok(journal)
    }

    /// Appends lines and hands them to the system. After an error the file holds what it held before.
    pub(crate) fn append<'a>(
        &mut self,
        lines: impl Iterator<Item = &'a str>,
    ) -> Result<(), CoordinatorError> {
        let mut text = String::new();
        for line in lines {
            text.push_str(line);
            text.push('\n');
        }
        if text.is_empty() {
            return Ok(());
        }
        if let Err(error) = self.file.write_all(text.as_bytes()) {
            // Should this fail too, the next run cuts off what is left of a line.
            let _ = self.cut();
            return Err(CoordinatorError::output(&self.path)(error));
        }
        self.length += text.len() as u64;
        self.dirty = true;
        if self.synced.elapsed() >= SYNC_EVERY {
            self.sync()?;
        }
        Ok(())
    }

    /// Puts every line on disk.
    pub(crate) fn sync(&mut self) -> Result<(), CoordinatorError> {
        if self.dirty {
            self.file
                .sync_data()
                .map_err(CoordinatorError::output(&self.path))?;
            self.dirty = false;
        }
        self.synced = Instant::now();
        Ok(())
    }

    fn cut(&mut self) -> io::Result<()> {
        self.file.set_len(self.length)?;
        self.file.seek(SeekFrom::Start(self.length)).map(drop)
    }
}

/// Shows the records of a results file, each with its line; a broken last line is left out.
pub(crate) fn for_each_record(
    path: &Path,
    mut seen: impl FnMut(StudyRecord, &[u8]) -> Result<(), CoordinatorError>,
) -> Result<(), CoordinatorError> {
    let file = File::open(path).map_err(CoordinatorError::output(path))?;
    let mut reader = BufReader::with_capacity(1 << 18, file);
    let mut line = Vec::new();
    for number in 1.. {
        line.clear();
        reader
            .read_until(b'\n', &mut line)
            .map_err(CoordinatorError::output(path))?;
        if line.last() != Some(&b'\n') {
            break;
        }
        let record = serde_json::from_slice(&line).map_err(|error| CoordinatorError::Damaged {
            file: path.to_owned(),
            line: number,
            reason: error.to_string(),
        })?;
        seen(record, &line)?;
    }
    Ok(())
}

/// Takes the failed studies out of the results file, all or none, so that the run tries them again.
pub(crate) fn remove_failed(dir: &Path) -> Result<(), CoordinatorError> {
    let path = dir.join(RESULTS_FILE);
    if !path.exists() {
        return Ok(());
    }
    let failed = || CoordinatorError::output(&path);
    let mut kept = Replacement::create(&path).map_err(failed())?;
    for_each_record(&path, |record, line| match record.status {
        StudyStatus::Done => kept.write_all(line).map_err(failed()),
        StudyStatus::Failed => Ok(()),
    })?;
    kept.commit().map_err(failed())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use radialog_schemas::{ContentHash, ErrorCode, Failure};

    use super::*;
    use crate::archive::StudyEntry;
    use crate::run::study_record;

    fn line(study: &str, done: bool) -> String {
        let failure = Failure::new(ErrorCode::ImageEmpty, "x");
        let entry = StudyEntry::new(study, study, Err(failure.clone()));
        let mut record = study_record::failed(entry, failure, &ContentHash::of(b"bundle"));
        if done {
            record.status = StudyStatus::Done;
        }
        study_record::line(&record)
    }

    fn studies(dir: &Path) -> Vec<String> {
        let mut studies = Vec::new();
        Journal::open(dir, |record| studies.push(record.study.0)).unwrap();
        studies
    }

    #[test]
    fn a_broken_last_line_is_cut_off_and_the_next_line_follows_the_last_complete_one() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(RESULTS_FILE);
        let (a, b) = (line("a", true), line("b", true));
        fs::write(&path, format!("{a}\n{}", &b[..b.len() - 1])).unwrap();
        let mut journal = Journal::open(dir.path(), |_| ()).unwrap();
        journal.append([b.as_str()].into_iter()).unwrap();
        journal.sync().unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), format!("{a}\n{b}\n"));
        assert_eq!(studies(dir.path()), ["a", "b"]);
    }

    #[test]
    fn a_damaged_line_in_the_middle_is_named() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(
            dir.path().join(RESULTS_FILE),
            format!("{}\n{{\n{}\n", line("a", true), line("b", true)),
        )
        .unwrap();
        let error = Journal::open(dir.path(), |_| ()).err().unwrap().to_string();
        assert!(error.contains("results.jsonl' line 2"), "{error}");
    }

    #[test]
    fn failed_studies_can_be_forgotten() {
        let dir = tempfile::tempdir().unwrap();
        let lines = [line("a", true), line("b", false), line("c", true)];
        fs::write(dir.path().join(RESULTS_FILE), lines.join("\n") + "\n").unwrap();
        remove_failed(dir.path()).unwrap();
        assert_eq!(studies(dir.path()), ["a", "c"]);
    }

    #[test]
    fn a_full_disk_is_an_error_that_says_what_to_do() {
        let file = OpenOptions::new().write(true).open("/dev/full").unwrap();
        let path = PathBuf::from("out/results.jsonl");
        let mut journal = Journal {
            path,
            file,
            length: 0,
            synced: Instant::now(),
            dirty: false,
        };
        let error = journal.append(["{}"].into_iter()).unwrap_err().to_string();
        assert!(
            error.contains("out/results.jsonl") && error.contains("free some space"),
            "{error}"
        );
    }
}
