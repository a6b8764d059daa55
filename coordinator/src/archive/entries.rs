//! What every archive gives: a stream of studies, each described before anything of it is read.

use std::fmt;

use async_trait::async_trait;
use radialog_runtime::objects::ObjectError;
use radialog_schemas::{ErrorCode, Failure, StudyId};
use serde::{Deserialize, Serialize};

use super::image::{FileKind, ImageReadError, ImageSource};
use crate::CoordinatorError;

/// One study as an archive describes it, before anything was read.
#[derive(Clone, Debug)]
pub struct StudyEntry {
    /// Meant to be unique within the archive.
    pub study: StudyId,
    /// The image's name in the archive, for people.
    pub file: String,
    /// The place of the entry: a file, or a file and line.
    pub place: String,
    /// The place of the image, or the reason why there can be none.
    pub image: Result<ImageSource, Failure>,
    /// Further images of the study.
    pub other_files: Vec<String>,
    /// The radiologist's text.
    pub reference: Option<String>,
    /// The reason why the image was taken.
    pub indication: Option<String>,
    /// The data split.
    pub split: Option<String>,
}

impl StudyEntry {
    /// Creates an entry that has nothing but an image.
    pub fn new(study: &str, file: impl Into<String>, image: Result<ImageSource, Failure>) -> Self {
        let file = file.into();
        Self {
            study: StudyId::from(study),
            place: file.clone(),
            file,
            image,
            other_files: Vec::new(),
            reference: None,
            indication: None,
            split: None,
        }
    }

    /// Looks up what tells the image's file from another one in its place, as [`ImageSource::stamp`]; where nothing can be looked
    /// at, the code that says why.
    ///
    /// # Errors
    /// The archive's store does not answer.
    pub(crate) async fn seen(&self) -> Result<Option<String>, ObjectError> {
        let stamp = match &self.image {
            Ok(source) => source.stamp(&self.file).await,
            Err(failure) => Err(failure.clone().into()),
        };
        match stamp {
            Ok(stamp) => Ok(stamp),
            Err(ImageReadError::Study(failure)) => Ok(Some(failure.code.as_str())),
            Err(ImageReadError::Store(error)) => Err(error),
        }
    }
}

/// Something in an archive that cannot become a study: an unreadable directory, a row without an id, a second entry
/// of the same study.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EntryProblem {
    /// A file or directory, or a file and line.
    pub place: String,
    /// What is wrong.
    pub failure: Failure,
    /// Whether nothing of it has an id that a line of results could be of.
    #[serde(skip)]
    has_no_id: bool,
    /// The path below the archive, where that is what nobody can use; that of a folder ends with `/`.
    #[serde(skip)]
    unusable_path: Option<String>,
}

impl EntryProblem {
    /// Creates a problem of this code.
    pub fn new(place: impl Into<String>, code: ErrorCode, message: impl fmt::Display) -> Self {
        Self {
            place: place.into(),
            failure: Failure::new(code, message),
            has_no_id: false,
            unusable_path: None,
        }
    }

    /// The same, where nothing of the entry has an id that a line of results could be of.
    pub(super) fn without_id(self) -> Self {
        Self {
            has_no_id: true,
            ..self
        }
    }

    /// Describes a file or folder whose path nobody can use. It may have a study, unless its suffix says that it is no image.
    pub(super) fn of_unusable_path(
        place: impl Into<String>,
        path: &str,
        message: impl fmt::Display,
    ) -> Self {
        let code = match FileKind::of(path) {
            FileKind::Document => ErrorCode::ArchiveEntry,
            FileKind::Image | FileKind::Unsupported | FileKind::Unknown => {
                ErrorCode::ArchiveUnreadable
            }
        };
        Self {
            unusable_path: Some(path.to_owned()),
            ..Self::new(place, code, message)
        }
    }

    /// The path below the archive that nobody can use; none where something else is wrong. That of a folder ends with `/`.
    pub(super) fn unusable_path(&self) -> Option<&str> {
        self.unusable_path.as_deref()
    }

    /// Whether studies may be missing because of it: nobody could look at a part of the archive, or an entry is not run since
    /// another one has its id.
    pub fn may_hide_studies(&self) -> bool {
        matches!(
            self.failure.code,
            ErrorCode::ArchiveUnreadable | ErrorCode::DuplicateStudy
        )
    }

    /// Whether studies that have lines of results may be missing because of it: the study of a second entry is there by its
    /// first, and what has no id has no line.
    pub(crate) fn may_hide_lines(&self) -> bool {
        self.failure.code == ErrorCode::ArchiveUnreadable && !self.has_no_id
    }
}

impl fmt::Display for EntryProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.place, self.failure)
    }
}

/// A stream of the studies of an archive, in one pass.
#[async_trait]
pub trait StudyEntries: Send {
    /// Reads the next study or problem; `None` is the end. It waits out a lost object store.
    async fn next(&mut self) -> Option<Result<StudyEntry, EntryProblem>>;
}

/// A collection of studies that can be read from its start any number of times, always in the same order. Memory does
/// not grow with it.
#[async_trait]
pub trait Archive: Send + Sync {
    /// Says what a person calls the archive, e.g. its path.
    fn name(&self) -> String;

    /// Starts a pass.
    ///
    /// # Errors
    /// When the whole archive is unusable.
    async fn entries(&self) -> Result<Box<dyn StudyEntries>, CoordinatorError>;

    /// Counts the studies, without reading images.
    ///
    /// # Errors
    /// As [`Archive::entries`].
    async fn count(&self) -> Result<u64, CoordinatorError> {
        let mut entries = self.entries().await?;
        let mut count = 0;
        while let Some(entry) = entries.next().await {
            count += u64::from(entry.is_ok());
        }
        Ok(count)
    }
}
