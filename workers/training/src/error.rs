//! What can go wrong while data is prepared and models are trained, in words that name the file and what to do.

use std::fmt;
use std::path::{Path, PathBuf};

use radialog_models::ModelError;
use radialog_models::bundle::BundleError;
use radialog_models::checkpoint::CheckpointError;
use radialog_models::language::LanguageError;
use radialog_models::prompt::ChatPromptError;
use radialog_models::tokenizers::TokenizerError;

/// The most faults of tables that are shown.
const LISTED: usize = 40;

/// A failure of a preparation or a training.
#[derive(Debug, thiserror::Error)]
pub enum TrainingError {
    /// A file or folder cannot be read or written.
    #[error("cannot {action} '{}': {source}", path.display())]
    Io {
        /// What was tried, e.g. `read`.
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// A file holds something else than it should.
    #[error("'{}'{}: {reason}", path.display(), place(*line))]
    Content {
        /// The file.
        path: PathBuf,
        /// The line, from 1 on, where it is known.
        line: Option<u64>,
        /// What is wrong, and what to do.
        reason: String,
    },
    /// A table lacks a column that must be there.
    #[error("'{}' line 1: {reason}", path.display())]
    MissingColumn {
        /// The table.
        path: PathBuf,
        /// Which column, and which ones are there.
        reason: String,
    },
    /// Several columns of a table have the name of one that is read.
    #[error(
        "'{}' has several columns '{column}', {places}: leave one of them, or name the others otherwise, and run again", path.display()
    )]
    DoubledColumn {
        /// The table.
        path: PathBuf,
        /// Their name.
        column: String,
        /// Which they are, counted from 1.
        places: String,
    },
    /// A recipe that cannot be followed; every fault of it.
    #[error("recipe '{}' has {} fault(s):\n  {}", path.display(), faults.len(), faults.join("\n  "))]
    Recipe {
        /// The recipe's file.
        path: PathBuf,
        /// What is wrong.
        faults: Vec<String>,
    },
    /// Tables that cannot be trained on; every fault of them, with its line.
    #[error("the tables have {} fault(s), and nothing was begun:\n  {}", .0.len(), listed(.0))]
    Tables(Vec<String>),
    /// Nothing to work on.
    #[error("{0}")]
    Empty(String),
    /// The loss is not a number any more.
    #[error(
        "the loss of step {step} or its gradient is not a number; its samples are {}. Lower the learning rate or look at these samples; \
         the last checkpoint is whole", samples.join(", ")
    )]
    NotANumber {
        /// Optimizer step, from 1 on.
        step: u64,
        /// Ids of the batch.
        samples: Vec<String>,
    },
    /// A checkpoint that does not belong to this recipe.
    #[error("checkpoint '{}': {reason}", path.display())]
    Checkpoint {
        /// The checkpoint's folder.
        path: PathBuf,
        /// What does not fit.
        reason: String,
    },
    /// A network failed.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// The language model failed.
    #[error(transparent)]
    Language(#[from] LanguageError),
    /// A conversation does not fit the language model.
    #[error(transparent)]
    Dialog(#[from] ChatPromptError),
    /// A bundle failed.
    #[error(transparent)]
    Bundle(#[from] BundleError),
    /// A published weight file, or one of stored embeddings, cannot be read.
    #[error(transparent)]
    StoredTensors(#[from] CheckpointError),
    /// A tokenizer failed.
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
    /// The tensor library failed.
    #[error("tensor operation failed: {0}")]
    Candle(#[from] candle_core::Error),
}

impl TrainingError {
    /// The error of a file operation, for `map_err`.
    pub(crate) fn io(action: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.to_owned();
        move |source| TrainingError::Io {
            action,
            path,
            source,
        }
    }

    /// The error of a parser of whole files, for `map_err`.
    pub(crate) fn content<E: fmt::Display>(path: &Path) -> impl FnOnce(E) -> Self {
        let path = path.to_owned();
        move |reason| TrainingError::Content {
            path,
            line: None,
            reason: reason.to_string(),
        }
    }

    /// A fault in one line of a file.
    pub(crate) fn line(path: &Path, line: u64, reason: impl Into<String>) -> Self {
        TrainingError::Content {
            path: path.to_owned(),
            line: Some(line),
            reason: reason.into(),
        }
    }
}

/// The first faults, and how many more there are.
fn listed(faults: &[String]) -> String {
    let mut shown: Vec<String> = faults.iter().take(LISTED).cloned().collect();
    if let Some(more) = faults.len().checked_sub(LISTED).filter(|more| *more > 0) {
        shown.push(format!("and {more} more"));
    }
    shown.join("\n  ")
}

fn place(line: Option<u64>) -> String {
    line.map_or_else(String::new, |line| format!(" line {line}"))
}
