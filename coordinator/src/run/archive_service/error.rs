//! Why a run over an archive does not begin, or cannot be looked at.

use std::path::PathBuf;

use radialog_runtime::objects::ObjectError;
use radialog_runtime::state::StateError;

use crate::CoordinatorError;

/// The reason why runs over archives are not begun, looked at or gone on with.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveRunsError {
    /// The archive is not one that may be read.
    #[error("'{archive}' is not under an allowed prefix{}", allowed(.prefixes))]
    NotAllowed {
        /// The archive as it was asked for.
        archive: String,
        /// What is allowed.
        prefixes: Vec<String>,
    },
    /// The id belongs to another request.
    #[error("this Idempotency-Key started another run; give each new request a new key")]
    Mismatch,
    /// The archive cannot be read.
    #[error(transparent)]
    Archive(CoordinatorError),
    /// Its folder cannot be written.
    #[error("the gateway cannot keep the run in '{}': {source}; free some space, or set gateway.directory", .path.display())]
    Directory {
        /// Its folder.
        path: PathBuf,
        /// The system's words.
        source: std::io::Error,
    },
    /// A request is kept under its id, and nobody knows which.
    #[error("the gateway keeps a request of this run in '{}', which cannot be read: {reason}; start a release that can read it, or use another Idempotency-Key", .file.display())]
    Kept {
        /// The request's file.
        file: PathBuf,
        /// What is wrong with it.
        reason: std::io::Error,
    },
    /// A document of a run that another release has written, or that is damaged: to ask again changes nothing.
    #[error(
        "document '{name}' of run '{id}' cannot be read: {reason}; start a release that can read it, or wait a week, after which it is forgotten"
    )]
    Unreadable {
        /// The document's name in the state.
        name: &'static str,
        /// The run.
        id: String,
        /// What is wrong with it.
        reason: serde_json::Error,
    },
    /// The state store.
    #[error(transparent)]
    State(#[from] StateError),
    /// The object store.
    #[error(transparent)]
    Objects(#[from] ObjectError),
    /// Its gateway stopped first.
    #[error(transparent)]
    Stopped(#[from] CoordinatorError),
}

fn allowed(prefixes: &[String]) -> String {
    match prefixes {
        [] => {
            ": runs over archives are off here. Set gateway.archives to the s3:// prefixes that may be read".to_owned()
        }
        prefixes => format!(": {}", prefixes.join(", ")),
    }
}
