//! Everything that stops a run. What concerns one study is a [`radialog_schemas::Failure`] instead.

use std::io;
use std::path::{Path, PathBuf};

use radialog_runtime::conversations::Unreadable;
use radialog_runtime::objects::ObjectError;
use radialog_runtime::queue::QueueError;
use radialog_runtime::state::StateError;

/// The reason why a run did not start or did not end.
#[derive(Debug, thiserror::Error)]
pub enum CoordinatorError {
    /// There is nothing where the input should be.
    #[error(
        "there is no archive at '{input}'. Give a folder of PNG or JPEG files or a MIMIC-CXR-JPG tree, one image, a CSV \
         manifest (study_id,image) or s3://bucket/prefix of one of them"
    )]
    NoArchive {
        /// The archive as it was given.
        input: String,
    },
    /// What is there is no archive.
    #[error(
        "'{input}' is no archive: {reason}. Give a folder of PNG or JPEG files or a MIMIC-CXR-JPG tree, one image, a CSV \
         manifest (study_id,image) or s3://bucket/prefix of one of them"
    )]
    NotAnArchive {
        /// The archive as it was given.
        input: String,
        /// What it is instead.
        reason: String,
    },
    /// There is no such table.
    #[error("there is no table '{file}': give a .csv or .tsv file that is there")]
    MissingTable {
        /// The table as it was given.
        file: String,
    },
    /// A table, or one of an archive, is none.
    #[error("'{file}' cannot be read as a table: {reason}. Mend it, or do without it")]
    NoTable {
        /// The table.
        file: String,
        /// What it is instead.
        reason: String,
    },
    /// Store or disk did not give a table, or the rest of one.
    #[error(
        "cannot read the table '{file}': {reason}. Make it readable and run again, or do without it"
    )]
    Unread {
        /// The table.
        file: String,
        /// What is wrong with it.
        reason: String,
        /// Whether it may be read a moment later: a disk failed, and not a permission, a folder of its name or a link to nowhere.
        may_pass: bool,
    },
    /// The archive has nothing: its name may have a slip in it.
    #[error("there is no image in '{input}': check the archive's name")]
    NoImage {
        /// The archive as it was given.
        input: String,
    },
    /// Nothing of the archive is a study.
    #[error("no entry of '{input}' is a study: problems.jsonl says why of each")]
    NoStudy {
        /// The archive.
        input: String,
    },
    /// The whole input is unusable.
    #[error(
        "cannot read the archive '{input}': {reason}. Give a folder of PNG or JPEG files or a MIMIC-CXR-JPG tree, \
         one image, a CSV manifest (study_id,image) or s3://bucket/prefix of one of them"
    )]
    Input {
        /// The archive as it was given.
        input: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A table of the archive lacks a column.
    #[error(
        "'{file}' line 1 has no column '{column}'; it has: {found}. Add the column, or name it so, and run again"
    )]
    MissingColumn {
        /// The table.
        file: String,
        /// The column that is missing.
        column: String,
        /// The columns that the header names.
        found: String,
    },
    /// Several columns of a table of the archive have the name of one that is read.
    #[error(
        "'{file}' has several columns '{column}', {places}: leave one of them, or name the others otherwise, and run again"
    )]
    DoubledColumn {
        /// The table.
        file: String,
        /// Their name.
        column: String,
        /// Which they are, counted from 1.
        places: String,
    },
    /// A model that is not served.
    #[error("there is no model '{model}' here; this gateway has {models}")]
    NoModel {
        /// The name that was asked for.
        model: String,
        /// Those that there are.
        models: String,
    },
    /// Another process holds the output directory.
    #[error("another process writes to '{}'; wait for it to end, or choose another --out", .dir.display())]
    Locked {
        /// The output directory.
        dir: PathBuf,
    },
    /// The output directory holds the results of something else.
    #[error(
        "'{}' holds run {run}, made with another {difference}. Choose another --out (what is already computed is \
         reused from the object store), or ask for the same as before", .dir.display()
    )]
    OtherRun {
        /// The output directory.
        dir: PathBuf,
        /// Its run.
        run: String,
        /// What differs, then and now.
        difference: String,
    },
    /// Nothing says of what the results in the output directory are.
    #[error(
        "'{}' says of what the results beside it are, and {reason}: put it back as it was, or choose another --out (what is \
         already computed is reused from the object store)", .file.display()
    )]
    LostRun {
        /// Its `run.json`.
        file: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A complete line in the middle of `results.jsonl` is not ours.
    #[error(
        "'{}' line {line} is damaged: {reason}. Delete that line (its study is then run again) and run again",
        .file.display()
    )]
    Damaged {
        /// The file.
        file: PathBuf,
        /// The line, counted from 1.
        line: u64,
        /// The parser's words.
        reason: String,
    },
    /// The output directory cannot be written.
    #[error(
        "cannot write '{}': {reason}. Results up to here are safe; {} and run the same command again, it resumes",
        .path.display(), advice(.reason)
    )]
    Output {
        /// The file.
        path: PathBuf,
        /// The system's words.
        reason: io::Error,
    },
    /// The output directory cannot be written, which was found before the run began.
    #[error(
        "cannot write results to '{}': {reason}. Give another --out: a folder that can be written, or s3://bucket/prefix",
        .dir.display()
    )]
    Unwritable {
        /// The output directory.
        dir: PathBuf,
        /// The system's words.
        reason: io::Error,
    },
    /// The folder in which a run into a store works cannot be written.
    #[error(
        "cannot write '{}': {reason}. Set --work, or RADIALOG_CACHE, to a folder that can be written",
        .path.display()
    )]
    Work {
        /// The folder.
        path: PathBuf,
        /// The system's words.
        reason: io::Error,
    },
    /// The record of a run in a store is not ours.
    #[error("'{key}' in the store is not the record of a run: {reason}. Choose another --out")]
    Session {
        /// Its key.
        key: String,
        /// What is wrong with it.
        reason: String,
    },
    /// Another session holds the output in the store.
    #[error(
        "another process has taken over '{url}', since this one had not reached the store for too long; the run goes on there"
    )]
    TakenOver {
        /// The output.
        url: String,
    },
    /// The store cannot keep two runs apart.
    #[error(
        "the store of '{url}' does not know conditional writes (If-None-Match), by which two runs into one prefix are kept \
         apart. Give a folder with --out, or a store that knows them, e.g. AWS S3 or MinIO"
    )]
    NoConditionalWrites {
        /// The output.
        url: String,
    },
    /// The object store has no room.
    #[error(transparent)]
    Objects(#[from] ObjectError),
    /// The broker fails before the run has begun.
    #[error(transparent)]
    Queue(#[from] QueueError),
    /// The state store fails before the run has begun.
    #[error(transparent)]
    State(#[from] StateError),
    /// The run was asked to stop, which is no failure.
    #[error("stopped before the end; run the same command again to resume")]
    Stopped,
}

/// The reason why something that goes over broker, object store and state store was not done; the same call may
/// work later.
#[derive(Debug, thiserror::Error)]
pub enum BackendError {
    /// The broker did not do it.
    #[error(transparent)]
    Queue(#[from] QueueError),
    /// The state store did not do it.
    #[error(transparent)]
    State(#[from] StateError),
    /// The object store did not do it.
    #[error(transparent)]
    Objects(#[from] ObjectError),
    /// It is done to no conversation that cannot be read.
    #[error(transparent)]
    Unreadable(#[from] Unreadable),
}

impl CoordinatorError {
    pub(crate) fn output(path: &Path) -> impl FnOnce(io::Error) -> Self + use<> {
        let path = path.to_owned();
        move |reason| Self::Output { path, reason }
    }

    pub(crate) fn unwritable(dir: &Path) -> impl Fn(io::Error) -> Self + use<> {
        let dir = dir.to_owned();
        move |reason| Self::Unwritable {
            dir: dir.clone(),
            reason,
        }
    }

    pub(crate) fn work(path: &Path) -> impl FnOnce(io::Error) -> Self + use<> {
        let path = path.to_owned();
        move |reason| Self::Work { path, reason }
    }
}

fn advice(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            "free some space there (the folder of --out or --run; of --work or RADIALOG_CACHE where --out is in a store)"
        }
        io::ErrorKind::FileTooLarge => "raise the limit of file sizes (ulimit -f)",
        io::ErrorKind::ReadOnlyFilesystem | io::ErrorKind::PermissionDenied => {
            "make the directory writable or give another --out (a folder, or s3://bucket/prefix) or --run; another --work or \
             RADIALOG_CACHE where --out is in a store"
        }
        _ => "check the directory",
    }
}
