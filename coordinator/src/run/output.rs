//! The output directory of a run: `run.json` (what it is), `results.jsonl` (one line a study, the truth),
//! `results.csv` and `summary.json` (made from it at the end), `problems.jsonl` (what of the archive is no study) and
//! `inputs.jsonl` (what each image file was when it was read). One process at a time writes to it.

use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use radialog_files::durable::{self, MadeDirectories, Readers, Replacement};
use radialog_schemas::table::escaped;
use radialog_schemas::{ContentHash, RunId, RunSpec};
use serde::{Deserialize, Serialize};

use crate::CoordinatorError;

pub(crate) mod journal;
mod ordered;
pub(crate) mod problems;
pub(crate) mod stamps;
pub(crate) mod study_set;
mod summary;
mod table;

use summary::SummaryCounts;

pub use crate::run_files::{RESULTS_FILE, RUN_FILE};
pub use ordered::OrderedRecords;
pub(crate) use ordered::{NotInArchive, StudyOrder};
pub use problems::{PROBLEMS_FILE, read_problems};
pub use summary::{
    FailedStudy, LabelHistogram, NotCompared, RunSummary, SessionSummary, StageSummary,
};

/// The name of the file that has the records as a table.
pub const TABLE_FILE: &str = "results.csv";
/// The name of the file that has the run in numbers.
pub const SUMMARY_FILE: &str = "summary.json";
/// Held by the process that writes; the system lets go of it when the process ends, however it ends.
pub(crate) const LOCK_FILE: &str = ".lock";

/// The content of `run.json`: what the run is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RunFile {
    /// The archive.
    pub input: String,
    /// What is done with it.
    pub spec: RunSpec,
}

/// The content of `archive.json`: the size of the run's archive, so that whoever looks at the folder knows how much is left.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ArchiveSize {
    /// Studies of the archive that the run is over.
    pub studies: u64,
    /// Lines of the results whose studies are none of them, as the last session that read the whole archive found.
    #[serde(default)]
    pub not_in_archive: u64,
}

/// The name of the file that has the size of the archive.
const SIZE_FILE: &str = "archive.json";

impl ArchiveSize {
    /// Reads the size that a run has noted; there is none before the archive is counted, or where the note is damaged.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn read(dir: &Path) -> Result<Option<Self>, CoordinatorError> {
        let path = dir.join(SIZE_FILE);
        let text = match fs::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(CoordinatorError::output(&path)(error)),
        };
        // The next session counts anew.
        Ok(serde_json::from_slice(&text).ok())
    }

    /// Notes it in the output directory.
    pub(crate) fn write(self, dir: &Path) -> Result<(), CoordinatorError> {
        let text = serde_json::to_vec(&self).expect("a size has string keys only");
        replace(&dir.join(SIZE_FILE), &text)
    }
}

/// An output directory that this process holds.
pub(crate) struct OutputDirectory {
    dir: PathBuf,
    run: RunFile,
    _lock: File,
}

impl RunFile {
    /// Reads the run of an output directory; there is none before its first session.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn read(dir: &Path) -> Result<Option<Self>, CoordinatorError> {
        let path = dir.join(RUN_FILE);
        let text = match fs::read(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            text => text.map_err(CoordinatorError::output(&path))?,
        };
        let reason = match serde_json::from_slice(&text) {
            Ok(run) => return Ok(Some(run)),
            Err(_) if text.is_empty() => "it is empty".to_owned(),
            Err(error) => format!("it is damaged ({error})"),
        };
        Err(CoordinatorError::LostRun { file: path, reason })
    }

    /// Reads the run of an output directory that is to be gone on with; none where a new one may begin there.
    ///
    /// # Errors
    /// As [`RunFile::read`], or there are results, and nothing says of what.
    pub(crate) fn of_former(dir: &Path) -> Result<Option<Self>, CoordinatorError> {
        let run = Self::read(dir)?;
        let results = dir.join(RESULTS_FILE);
        let has_lines = match fs::metadata(&results) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => false,
            results_file => {
                let results_file = results_file.map_err(CoordinatorError::output(&results))?;
                results_file.len() > 0
            }
        };
        if run.is_none() && has_lines {
            return Err(CoordinatorError::LostRun {
                file: dir.join(RUN_FILE),
                reason: "it is not there".to_owned(),
            });
        }
        Ok(run)
    }

    /// Refuses to go on with this run when another is asked for.
    pub(crate) fn check_same_run(&self, wanted: &Self, dir: &Path) -> Result<(), CoordinatorError> {
        match self.difference(wanted) {
            None => Ok(()),
            Some(difference) => {
                let (dir, run) = (dir.to_owned(), self.spec.run.0.clone());
                Err(CoordinatorError::OtherRun {
                    dir,
                    run,
                    difference,
                })
            }
        }
    }

    /// Names what differs, the run's id aside.
    fn difference(&self, wanted: &Self) -> Option<String> {
        let (then, now) = (&self.spec, &wanted.spec);
        let differs = |what: &str, then: String, now: String| {
            (then != now).then(|| format!("{what} ({then}, now {now})"))
        };
        let names = |spec: &RunSpec| {
            spec.stages
                .iter()
                .map(|stage| stage.name())
                .collect::<Vec<_>>()
                .join(",")
        };
        differs("input", self.input.clone(), wanted.input.clone())
            .or_else(|| {
                differs(
                    "kind of input",
                    format!("{:?}", then.source),
                    format!("{:?}", now.source),
                )
            })
            .or_else(|| {
                differs(
                    "bundle",
                    then.bundle.short().to_owned(),
                    now.bundle.short().to_owned(),
                )
            })
            .or_else(|| differs("choice of stages", names(then), names(now)))
            .or_else(|| {
                differs(
                    "way of decoding",
                    then.generation.fingerprint(),
                    now.generation.fingerprint(),
                )
            })
            .or_else(|| {
                let group = |spec: &RunSpec| {
                    spec.group
                        .as_ref()
                        .map_or_else(|| "none".to_owned(), ToString::to_string)
                };
                differs("group of queues", group(then), group(now))
            })
            .or_else(|| {
                let given = |spec: &RunSpec| {
                    let files = spec.given.values().flatten();
                    let files: Vec<String> = files
                        .map(|file| format!("{} {}", file.name, file.sha256.short()))
                        .collect();
                    match files.is_empty() {
                        true => "none".to_owned(),
                        false => files.join(", "),
                    }
                };
                differs(
                    "files of embeddings and predictions",
                    given(then),
                    given(now),
                )
            })
            .or_else(|| (then.components != now.components).then(|| "bundle component".to_owned()))
    }
}

/// Sees to it that an output directory can be written to and that a run may be in it, before anything else takes time or makes a
/// store there. Nothing is left of that: what is wrong with a command line may show later.
///
/// # Errors
/// It cannot be made, or not be written to, or has results of which nothing says what they are.
pub fn check_directory(dir: &Path) -> Result<(), CoordinatorError> {
    let failed = CoordinatorError::unwritable(dir);
    let made = MadeDirectories::create(dir).map_err(&failed)?;
    let lock = dir.join(LOCK_FILE);
    let written = match lock.exists() {
        true => File::options().write(true).open(lock).map(drop),
        false => durable::unfinished(dir, Readers::Owner).map(drop),
    };
    let former = RunFile::of_former(dir);
    made.remove_empty();
    written.map_err(&failed)?;
    former.map(drop)
}

impl OutputDirectory {
    /// Takes hold of a directory and of the run in it; begins a new run where there is none.
    pub(crate) fn open(dir: &Path, mut wanted: RunFile) -> Result<Self, CoordinatorError> {
        durable::create_directory(dir).map_err(CoordinatorError::output(dir))?;
        // First without the lock: none is left in a folder where no run may be.
        RunFile::of_former(dir)?;
        let path = dir.join(LOCK_FILE);
        let lock = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&path);
        let lock = lock.map_err(CoordinatorError::output(&path))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(CoordinatorError::Locked {
                    dir: dir.to_owned(),
                });
            }
            Err(TryLockError::Error(error)) => return Err(CoordinatorError::output(&path)(error)),
        }
        let run = match RunFile::of_former(dir)? {
            Some(run) => {
                run.check_same_run(&wanted, dir)?;
                run
            }
            None => {
                wanted.spec.run = new_id(dir);
                let text = serde_json::to_vec_pretty(&wanted).expect("a run has string keys only");
                replace(&dir.join(RUN_FILE), &text)?;
                wanted
            }
        };
        Ok(Self {
            dir: dir.to_owned(),
            run,
            _lock: lock,
        })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.dir
    }

    pub(crate) fn run(&self) -> &RunFile {
        &self.run
    }

    /// Writes `results.csv` and `summary.json` from `results.jsonl`, which is read twice, for its places and then in the order of
    /// the archive: neither depends on which study was done first. Studies that the archive has not named in this session are left out and
    /// counted where nothing that may have them is unread, else they come last. `complete` adds what the records do not tell.
    pub(crate) fn write_summary(
        &self,
        (order, others): (&StudyOrder, NotInArchive),
        complete: impl FnOnce(&mut RunSummary),
    ) -> Result<RunSummary, CoordinatorError> {
        let spec = &self.run.spec;
        let mut counting = SummaryCounts::new(
            spec.run.clone(),
            self.run.input.clone(),
            spec.bundle.clone(),
        );
        let path = self.dir.join(TABLE_FILE);
        let failed = || CoordinatorError::output(&path);
        let mut writer = csv::Writer::from_writer(Replacement::create(&path).map_err(failed())?);
        let mut write = |cells: Vec<String>| {
            let cells = cells.iter().map(|cell| escaped(cell).into_owned());
            let written = writer.write_record(cells).map_err(io::Error::from);
            written.map_err(failed())
        };
        write(table::header())?;
        let left_out = ordered::for_each_in_order(&self.dir, order, others, |record| {
            counting.add(&record);
            write(table::row(&record))
        })?;
        let table = writer.into_inner().map_err(|error| error.into_error());
        table.and_then(Replacement::commit).map_err(failed())?;
        let mut summary = counting.finish();
        summary.not_in_archive = left_out;
        complete(&mut summary);
        let text = serde_json::to_vec_pretty(&summary).expect("a summary has string keys only");
        replace(&self.dir.join(SUMMARY_FILE), &text)?;
        Ok(summary)
    }
}

/// Does what reads and writes much of a run's folder where no other task waits for it.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, CoordinatorError> + Send + 'static,
) -> Result<T, CoordinatorError> {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()))
}

fn replace(path: &Path, content: &[u8]) -> Result<(), CoordinatorError> {
    durable::replace(path, content).map_err(CoordinatorError::output(path))
}

/// Makes an id that differs for every run and is short enough to type.
pub(crate) fn new_id(dir: &Path) -> RunId {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
        .as_nanos();
    let seed = format!("{}/{now}/{}", dir.display(), std::process::id());
    RunId::from(ContentHash::of(seed.as_bytes()).short())
}

#[cfg(test)]
mod tests {
    use radialog_schemas::{Generation, PerStage, SCHEMA_VERSION, Source, StageSet};

    use super::*;

    fn wanted(input: &str, bundle: &[u8]) -> RunFile {
        let spec = RunSpec {
            schema_version: SCHEMA_VERSION,
            run: RunId::from(""),
            source: Source::Image,
            stages: StageSet::all(),
            generation: Generation::default(),
            bundle: ContentHash::of(bundle),
            components: PerStage::from_fn(|_| ContentHash::of(bundle)),
            group: None,
            given: std::collections::BTreeMap::new(),
            conversation: None,
        };
        RunFile {
            input: input.into(),
            spec,
        }
    }

    fn error_of(dir: &Path, wanted: RunFile) -> String {
        OutputDirectory::open(dir, wanted)
            .err()
            .unwrap()
            .to_string()
    }

    #[test]
    fn a_directory_belongs_to_one_process_at_a_time_and_to_one_run() {
        let dir = tempfile::tempdir().unwrap();
        let out = dir.path().join("out");
        let first = OutputDirectory::open(&out, wanted("a", b"1")).unwrap();
        let id = first.run().spec.run.clone();
        assert!(error_of(&out, wanted("a", b"1")).contains("another process"));
        drop(first);
        assert_eq!(
            OutputDirectory::open(&out, wanted("a", b"1"))
                .unwrap()
                .run()
                .spec
                .run,
            id
        );
        assert!(error_of(&out, wanted("b", b"1")).contains("another input (a, now b)"));
        assert!(error_of(&out, wanted("a", b"2")).contains("another bundle"));
        let mut longer = wanted("a", b"1");
        longer.spec.generation.max_new_tokens += 1;
        assert!(error_of(&out, longer).contains("another way of decoding"));
    }

    #[test]
    fn results_of_which_nothing_says_what_they_are_are_gone_on_with_by_no_run() {
        let dir = tempfile::tempdir().unwrap();
        let out = dir.path();
        drop(OutputDirectory::open(out, wanted("a", b"1")).unwrap());
        let run = out.join(RUN_FILE);
        let whole = fs::read(&run).unwrap();
        fs::write(out.join(RESULTS_FILE), "{}\n").unwrap();
        for (text, words) in [
            (Some(&b""[..]), "it is empty"),
            (Some(&whole[..whole.len() / 2]), "it is damaged"),
            (None, "it is not there"),
        ] {
            match text {
                Some(text) => fs::write(&run, text).unwrap(),
                None => fs::remove_file(&run).unwrap(),
            }
            let error = error_of(out, wanted("a", b"1"));
            assert!(
                error.contains("run.json") && error.contains(words) && error.contains("--out"),
                "{error}"
            );
            assert!(!error.contains("Delete"), "{error}");
        }
        fs::write(&run, whole).unwrap();
        OutputDirectory::open(out, wanted("a", b"1")).unwrap();
    }

    #[test]
    fn a_refused_run_leaves_nothing_in_a_folder_of_somebody_else() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(RESULTS_FILE), "mine\n").unwrap();
        let refused = check_directory(dir.path()).unwrap_err().to_string();
        assert!(refused.contains("it is not there"), "{refused}");
        assert_eq!(error_of(dir.path(), wanted("a", b"1")), refused);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_directory_that_cannot_be_made_is_an_error_with_its_path() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        fs::write(&file, b"").unwrap();
        let error = error_of(&file.join("out"), wanted("a", b"1"));
        assert!(
            error.contains("file/out") && error.contains("run the same command again"),
            "{error}"
        );
    }
}
