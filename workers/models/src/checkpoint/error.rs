//! What can be wrong with a published weight file, in words that name file, tensor and shapes and say what to do.

use std::io;
use std::path::{Path, PathBuf};

/// A weight file that cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    /// The operating system refuses.
    #[error("cannot {action} '{}': {source}", file.display())]
    Io {
        /// The operation that failed, e.g. `read`.
        action: &'static str,
        /// The file.
        file: PathBuf,
        /// The system's words.
        source: io::Error,
    },
    /// The file ends before its content does.
    #[error("'{}' is cut: {reason}; download or copy it again", file.display())]
    Cut {
        /// The file.
        file: PathBuf,
        /// What is missing.
        reason: String,
    },
    /// The content is not what a file of its kind holds.
    #[error("'{}' cannot be read: {reason}", file.display())]
    Content {
        /// The file.
        file: PathBuf,
        /// The fault in it, and what to do.
        reason: String,
    },
    /// One tensor cannot be read.
    #[error("tensor '{tensor}' ({}) in '{}': {reason}", shape_in_words(shape), file.display())]
    Tensor {
        /// The file.
        file: PathBuf,
        /// Its name there.
        tensor: String,
        /// Its shape there.
        shape: Vec<usize>,
        /// The fault in it.
        reason: String,
    },
}

/// A shape, or that a tensor has none.
fn shape_in_words(shape: &[usize]) -> String {
    match shape.is_empty() {
        true => "a single value".to_owned(),
        false => format!("shape {shape:?}"),
    }
}

impl CheckpointError {
    /// The error of a file operation, for `map_err`.
    pub fn io(action: &'static str, file: &Path) -> impl FnOnce(io::Error) -> Self {
        let file = file.to_path_buf();
        move |source| match source.kind() {
            io::ErrorKind::UnexpectedEof => Self::Cut {
                file,
                reason: "it ends too early".into(),
            },
            _ => Self::Io {
                action,
                file,
                source,
            },
        }
    }

    /// The error of a file's content, for `map_err`.
    pub fn content<E: std::fmt::Display>(file: &Path) -> impl FnOnce(E) -> Self {
        let file = file.to_path_buf();
        move |reason| Self::Content {
            file,
            reason: reason.to_string(),
        }
    }
}
