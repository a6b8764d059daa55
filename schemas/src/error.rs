//! What can go wrong with a study, in codes that stay stable. The class decides what the runner does; the code tells a
//! person or a program what happened.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::queues::{RETRY_DELAYS, ROLL_OUT_RETRIES};

/// What to do about a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ErrorClass {
    /// May work later: retried with growing delay, then dead-lettered.
    Transient,
    /// Can never work: reported at once.
    Permanent,
    /// Nobody wants it any more.
    Cancelled,
}

/// The stable name of a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ErrorCode {
    /// The image file is not there.
    ImageMissing,
    /// The image file cannot be read.
    ImageUnreadable,
    /// The file has no bytes.
    ImageEmpty,
    /// The image is neither PNG nor JPEG.
    ImageFormatUnsupported,
    /// The image is truncated or corrupt.
    ImageCorrupt,
    /// A side is 0, or the shape cannot be processed.
    ImageDimensions,
    /// More pixels, or a larger file, than the limit.
    ImageTooLarge,
    /// CMYK or another colour model that the reference does not define.
    ImageColorUnsupported,
    /// The image has more than one frame.
    ImageAnimated,
    /// Two entries of the archive have the same study id.
    DuplicateStudy,
    /// A row or an entry of the archive cannot be used.
    ArchiveEntry,
    /// A part of the archive cannot be read, so that studies of it may be missing.
    ArchiveUnreadable,
    /// A file that stands in for a stage has no entry for the study.
    GivenMissing,
    /// An input object that the task names is not in the store.
    ObjectMissing,
    /// An input object is there but cannot be decoded.
    ObjectCorrupt,
    /// The object store does not answer or refuses.
    ObjectStore,
    /// The object store refuses this object, and answers for others.
    ObjectRefused,
    /// The object store has no room left.
    ObjectStoreFull,
    /// The queue does not answer or refuses.
    Queue,
    /// The message is not a task of this stage.
    MessageInvalid,
    /// The message has a schema version that this worker does not know.
    SchemaVersion,
    /// The task was made for another bundle than the worker's, or for a later revision of its code.
    BundleMismatch,
    /// The prompt is longer than the model's context.
    ContextLength,
    /// The model failed.
    Model,
    /// The stage took the whole worker down, or was about to.
    Crash,
    /// Nobody wants the result any more.
    Cancelled,
    /// The answer was not begun in time.
    DeadlineExceeded,
}

impl ErrorCode {
    /// The code as in JSON, e.g. `image_corrupt`.
    pub fn as_str(self) -> String {
        match serde_json::to_value(self) {
            Ok(serde_json::Value::String(text)) => text,
            _ => format!("{self:?}"),
        }
    }

    /// The code of this name; none where this release has none of it.
    pub fn named(name: &str) -> Option<Self> {
        serde_json::from_value(name.into()).ok()
    }

    /// What the runner does about it.
    pub fn class(self) -> ErrorClass {
        match self {
            ErrorCode::ObjectStore
            | ErrorCode::Queue
            | ErrorCode::Model
            | ErrorCode::Crash
            // While an installation is upgraded, the next one to take it may be of the release that knows it.
            | ErrorCode::SchemaVersion
            | ErrorCode::BundleMismatch => ErrorClass::Transient,
            ErrorCode::Cancelled => ErrorClass::Cancelled,
            _ => ErrorClass::Permanent,
        }
    }
}

impl ErrorCode {
    /// How often a task or turn that failed so is tried again. While an installation is upgraded, a worker of the new release
    /// or bundle may come only when it has loaded its weights: a quarter of an hour, in steps of the last retry queue.
    pub fn retries(self) -> usize {
        match self.class() {
            ErrorClass::Transient if self.is_for_another_worker() => {
                RETRY_DELAYS.len() + ROLL_OUT_RETRIES
            }
            ErrorClass::Transient => RETRY_DELAYS.len(),
            _ => 0,
        }
    }

    /// Whether nobody has tried the task or turn that failed so: it waits for a worker of another release or bundle.
    pub fn is_for_another_worker(self) -> bool {
        matches!(self, Self::SchemaVersion | Self::BundleMismatch)
    }
}

impl fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.as_str())
    }
}

/// A failure with its code and words. Messages never hold patient text.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema, thiserror::Error)]
#[error("{code}: {message}")]
pub struct Failure {
    /// The stable code.
    pub code: ErrorCode,
    /// What happened and what to do, for people.
    pub message: String,
}

impl Failure {
    /// A failure of this code.
    pub fn new(code: ErrorCode, message: impl fmt::Display) -> Self {
        Self {
            code,
            message: message.to_string(),
        }
    }

    /// What to do about it.
    pub fn class(&self) -> ErrorClass {
        self.code.class()
    }
}
