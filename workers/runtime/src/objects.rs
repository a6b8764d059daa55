//! The object store contract: whole objects under content-addressed keys.

use std::ops::Range;

use async_trait::async_trait;
use bytes::Bytes;
use radialog_schemas::{ErrorCode, Failure, ObjectKey};

pub mod filesystem;
pub mod s3;

/// What goes wrong with an object store.
#[derive(Debug, thiserror::Error)]
pub enum ObjectError {
    /// There is no such object.
    #[error("object '{0}' does not exist")]
    NotFound(ObjectKey),
    /// The store does not answer or refuses; may work later.
    #[error("the object store failed at '{key}': {reason}")]
    Store {
        /// The object or prefix.
        key: String,
        /// The store's words and what to check.
        reason: String,
    },
    /// The store's listing does not go on: it is out of order, or has no end. Trying again does not help.
    #[error("the object store cannot be listed at '{prefix}': {reason}")]
    Listing {
        /// The prefix that was asked for.
        prefix: String,
        /// What its answer lacks.
        reason: String,
    },
    /// There is no room left in the store.
    #[error(
        "the object store is full: could not write '{0}'. Free some space and run the same command again; it resumes"
    )]
    Full(ObjectKey),
}

impl From<ObjectError> for Failure {
    fn from(error: ObjectError) -> Self {
        let code = match &error {
            ObjectError::NotFound(_) => ErrorCode::ObjectMissing,
            ObjectError::Store { .. } | ObjectError::Listing { .. } | ObjectError::Full(_) => {
                ErrorCode::ObjectStore
            }
        };
        Failure::new(code, error)
    }
}

/// An object as a listing shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObjectEntry {
    /// The object's key.
    pub key: ObjectKey,
    /// Its size in bytes.
    pub size: u64,
}

/// One page of a listing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ObjectPage {
    /// The objects, in the byte order of their keys. There may be none on a page that is not the last.
    pub entries: Vec<ObjectEntry>,
    /// What lies in the store under names that are no keys (`a//b`, `../a`, control characters), and so cannot be read.
    pub unusable: Vec<String>,
    /// Where the next page begins; `None` where this is the last one.
    pub next: Option<ListCursor>,
}

/// A place in a listing: behind a name of the store, which need not be a key nor exist any more. A cursor that a page
/// gives lies always behind the one it was asked for, so that a listing ends whatever names it meets.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ListCursor(String);

impl ListCursor {
    /// The place behind an object.
    pub fn after(key: &ObjectKey) -> Self {
        Self(key.as_str().to_owned())
    }

    pub(crate) fn behind(name: impl Into<String>) -> Self {
        Self(name.into())
    }

    pub(crate) fn name(&self) -> &str {
        &self.0
    }
}

impl ObjectPage {
    /// Sorts in what lies under `name`. Folder markers, the empty objects `a/` that consoles make, are no content.
    pub(crate) fn add(&mut self, name: &str, size: u64) {
        match ObjectKey::parse(name) {
            Some(key) => self.entries.push(ObjectEntry { key, size }),
            None if size == 0 && (name.is_empty() || name.ends_with('/')) => {}
            None => self.unusable.push(name.to_owned()),
        }
    }
}

/// An object store. One conformance suite, in the tests crate, holds every implementation to this contract.
#[async_trait]
pub trait Objects: Send + Sync + 'static {
    /// Stores the object whole or not at all; replaces what is there. Readers never see a part of it.
    async fn put(&self, key: &ObjectKey, content: Bytes) -> Result<(), ObjectError>;

    /// Reads the whole object.
    async fn get(&self, key: &ObjectKey) -> Result<Bytes, ObjectError>;

    /// Reads the bytes of the object in `range`, cut at its end. An adapter that can read a part does; this default reads
    /// the whole.
    async fn get_range(&self, key: &ObjectKey, range: Range<u64>) -> Result<Bytes, ObjectError> {
        let content = self.get(key).await?;
        let at = |offset: u64| {
            usize::try_from(offset)
                .unwrap_or(usize::MAX)
                .min(content.len())
        };
        Ok(content.slice(at(range.start)..at(range.end).max(at(range.start))))
    }

    /// Looks up the object's size in bytes; none where it does not exist.
    async fn size(&self, key: &ObjectKey) -> Result<Option<u64>, ObjectError>;

    /// Says whether the output of a stage is stored under this key. No stage has an empty output: an object without content is
    /// what an interrupted write or a broken copy has left, and counts as missing, so that the output is computed again.
    async fn has_output(&self, key: &ObjectKey) -> Result<bool, ObjectError> {
        Ok(self.size(key).await?.is_some_and(|size| size > 0))
    }

    /// Removes the object; not an error where it does not exist.
    async fn delete(&self, key: &ObjectKey) -> Result<(), ObjectError>;

    /// Lists objects whose names start with `prefix` and come after `after`, in the byte order of their names, from up to
    /// `limit` names (at least one). Only [`ObjectPage::next`] says whether there are more.
    async fn list(
        &self,
        prefix: &str,
        after: Option<&ListCursor>,
        limit: usize,
    ) -> Result<ObjectPage, ObjectError>;
}
