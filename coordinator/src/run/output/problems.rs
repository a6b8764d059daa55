//! `problems.jsonl`: what of an archive is no study, one line each. Every session reads the whole archive and writes the
//! list anew.

use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Write};
use std::path::{Path, PathBuf};

use radialog_files::durable::Replacement;
use tracing::warn;

use crate::CoordinatorError;
use crate::archive::EntryProblem;

/// The name of the file that lists what of the archive is no study.
pub const PROBLEMS_FILE: &str = "problems.jsonl";

/// Problems that the summary has, too, and that are told as they are found.
const KEPT: usize = 100;

/// The list of a session.
pub(crate) struct ProblemList {
    path: PathBuf,
    /// None before the first problem.
    file: Option<Replacement>,
    first: Vec<EntryProblem>,
    count: u64,
    /// Those of them by which studies may be missing.
    unread: u64,
    /// Those of them by which studies that have lines may be missing.
    hidden: u64,
}

/// Reads what the last session of a run has left out of its archive, one after the other; nothing where it took everything.
///
/// # Errors
/// The list is there and cannot be opened. An item is one where a line cannot be read.
pub fn read_problems(
    dir: &Path,
) -> Result<impl Iterator<Item = Result<EntryProblem, CoordinatorError>>, CoordinatorError> {
    let path = dir.join(PROBLEMS_FILE);
    let file = match File::open(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        file => Some(file.map_err(CoordinatorError::output(&path))?),
    };
    let lines = file
        .into_iter()
        .flat_map(|file| BufReader::new(file).lines());
    Ok((1..).zip(lines).map(move |(line, text)| {
        let text = text.map_err(CoordinatorError::output(&path))?;
        serde_json::from_str(&text).map_err(|error| CoordinatorError::Damaged {
            file: path.clone(),
            line,
            reason: error.to_string(),
        })
    }))
}

impl ProblemList {
    /// An empty list for this output directory.
    pub(crate) fn new(out: &Path) -> Self {
        Self {
            path: out.join(PROBLEMS_FILE),
            file: None,
            first: Vec::new(),
            count: 0,
            unread: 0,
            hidden: 0,
        }
    }

    pub(crate) fn add(&mut self, problem: EntryProblem) -> Result<(), CoordinatorError> {
        self.write(&problem)
            .map_err(CoordinatorError::output(&self.path))?;
        self.count += 1;
        self.unread += u64::from(problem.may_hide_studies());
        self.hidden += u64::from(problem.may_hide_lines());
        if self.first.len() < KEPT {
            warn!(place = %problem.place, code = %problem.failure.code, "an entry of the archive is left out");
            self.first.push(problem);
        } else if self.count == KEPT as u64 + 1 {
            warn!(file = %self.path.display(), "more entries are left out; all of them will be in this file");
        }
        Ok(())
    }

    fn write(&mut self, problem: &EntryProblem) -> io::Result<()> {
        let file = match &mut self.file {
            Some(file) => file,
            none => none.insert(Replacement::create(&self.path)?),
        };
        serde_json::to_writer(&mut *file, problem)?;
        file.write_all(b"\n")
    }

    /// Puts the list in place of that of the session before.
    pub(crate) fn commit(&mut self) -> Result<(), CoordinatorError> {
        let committed = match self.file.take() {
            Some(file) => file.commit(),
            None => match fs::remove_file(&self.path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
                _ => Ok(()),
            },
        };
        committed.map_err(CoordinatorError::output(&self.path))
    }

    /// The number of problems, and the first of them.
    pub(crate) fn read(&self) -> (u64, &[EntryProblem]) {
        (self.count, &self.first)
    }

    /// The number of those that may hide studies.
    pub(crate) fn unread(&self) -> u64 {
        self.unread
    }

    /// The number of those that may hide studies that have lines.
    pub(crate) fn hidden(&self) -> u64 {
        self.hidden
    }
}
