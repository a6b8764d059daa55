//! The object store contract: whole objects under content-addressed keys.

use std::fmt;
use std::ops::Range;
use std::path::Path;
use std::time::SystemTime;

use async_trait::async_trait;
use bytes::Bytes;
use radialog_schemas::{ContentHash, ErrorCode, Failure, ObjectKey};
use tracing::warn;

use crate::blocking;
use crate::metrics::metrics;

pub use conditions::knows_conditions;

mod conditions;
pub mod filesystem;
pub mod s3;

/// Bytes of a stored object that are in memory at a time while it is compared.
const COMPARED_AT_ONCE: usize = 4 << 20;
/// A version that nothing has, so that what is written for a try is not stored.
const NO_VERSION: &str = "\"nothing-has-this-version\"";

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
    /// The store refuses this object, and answers for others: a policy denies it. Only who sets the rights can change that.
    #[error("the object store refuses '{key}', and answers for other objects: {reason}")]
    Refused {
        /// The object.
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
    /// The store says that it does not know conditional writes. Trying again does not help.
    #[error("the object store does not know conditional writes: it left '{key}' undone: {reason}")]
    NoConditions {
        /// The object.
        key: String,
        /// The store's words.
        reason: String,
    },
    /// There is no room left in the store.
    #[error(
        "the object store is full: could not write '{0}'. Free some space there, or raise the limit of file sizes (ulimit -f): a \
         batch is gone on with by the same command. Another place (--objects, RADIALOG_OBJECTS_DIRECTORY; --s3, RADIALOG_S3_URL) \
         begins with nothing stored, and must be named to every role"
    )]
    Full(String),
}

impl From<ObjectError> for Failure {
    fn from(error: ObjectError) -> Self {
        let code = match &error {
            // Where the store is, is its operator's to know.
            ObjectError::Full(_) => {
                let message = "there is no room left to store what the models make: ask again when its operator has made some";
                return Failure::new(ErrorCode::ObjectStoreFull, message);
            }
            ObjectError::NotFound(_) => ErrorCode::ObjectMissing,
            ObjectError::Refused { .. } => ErrorCode::ObjectRefused,
            ObjectError::Store { .. }
            | ObjectError::Listing { .. }
            | ObjectError::NoConditions { .. } => ErrorCode::ObjectStore,
        };
        Failure::new(code, error)
    }
}

/// Names one content of an object: another content has another version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Version(String);

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// An object as a listing shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObjectEntry {
    /// The object's key.
    pub key: ObjectKey,
    /// Its size in bytes.
    pub size: u64,
    /// When it was put, by the store's clock.
    pub modified: SystemTime,
}

/// Says whether an object of the same size has this content.
async fn is_same<O: Objects + ?Sized>(
    objects: &O,
    key: &ObjectKey,
    content: &Bytes,
) -> Result<bool, ObjectError> {
    let mut at = 0;
    while at < content.len() {
        let end = content.len().min(at + COMPARED_AT_ONCE);
        let stored = match objects.get_range(key, at as u64..end as u64).await {
            // Deleted since it was looked up.
            Err(ObjectError::NotFound(_)) => return Ok(false),
            stored => stored?,
        };
        if stored != content.slice(at..end) {
            return Ok(false);
        }
        at = end;
    }
    Ok(true)
}

async fn read_file(key: &ObjectKey, file: &Path) -> Result<Bytes, ObjectError> {
    let path = file.to_owned();
    let content = blocking::io(move || std::fs::read(path)).await;
    content
        .map(Bytes::from)
        .map_err(|error| unreadable(key, file, &error))
}

/// A file that was to be stored and cannot be read.
fn unreadable(key: &ObjectKey, file: &Path, error: &std::io::Error) -> ObjectError {
    ObjectError::Store {
        key: key.to_string(),
        reason: format!("'{}' cannot be read: {error}", file.display()),
    }
}

/// Counts an object that is not what was stored, and says which.
fn damaged(key: &ObjectKey) {
    warn!(object = %key, "a stored object is damaged; it is written again");
    metrics().objects_damaged.inc();
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
    pub(crate) fn add(&mut self, name: &str, size: u64, modified: SystemTime) {
        match ObjectKey::parse(name) {
            Some(key) => self.entries.push(ObjectEntry {
                key,
                size,
                modified,
            }),
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

    /// Stores the object if the store holds the expected version of it, or none where none is expected, and returns the new
    /// version; `None` where it holds something else, and nothing is stored. Of several that expect the same, one writes.
    ///
    /// A write whose answer was lost may have happened: read the object again before `None` is believed.
    async fn put_if(
        &self,
        key: &ObjectKey,
        content: Bytes,
        expected: Option<&Version>,
    ) -> Result<Option<Version>, ObjectError>;

    /// Reads the whole object with its version, for [`Objects::put_if`].
    async fn get_versioned(&self, key: &ObjectKey) -> Result<(Bytes, Version), ObjectError>;

    /// Looks up the version alone; none where the object does not exist. An adapter that need not read the content does not;
    /// this default does.
    async fn version(&self, key: &ObjectKey) -> Result<Option<Version>, ObjectError> {
        match self.get_versioned(key).await {
            Err(ObjectError::NotFound(_)) => Ok(None),
            found => found.map(|(_, version)| Some(version)),
        }
    }

    /// Stores a file's content if the store holds the expected version, as [`Objects::put_if`] does, and says whether it was
    /// stored. An adapter that need not hold the whole in memory does not; this default does.
    async fn put_file_if(
        &self,
        key: &ObjectKey,
        file: &Path,
        expected: Option<&Version>,
    ) -> Result<bool, ObjectError> {
        let content = read_file(key, file).await?;
        let put = self.put_if(key, content, expected).await?;
        Ok(put.is_some())
    }

    /// Stores a file's content, as [`Objects::put`] does. An adapter that need not hold the whole in memory does not; this
    /// default does.
    async fn put_file(&self, key: &ObjectKey, file: &Path) -> Result<(), ObjectError> {
        self.put(key, read_file(key, file).await?).await
    }

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

    /// Sees to it that exactly this content is stored, and writes it where nothing or something else is there: what is
    /// stored may be the rest of an interrupted copy or have rotted.
    async fn ensure(&self, key: &ObjectKey, content: &Bytes) -> Result<(), ObjectError> {
        match self.size(key).await? {
            Some(size) if size == content.len() as u64 && is_same(self, key, content).await? => {
                return Ok(());
            }
            Some(_) => damaged(key),
            None => {}
        }
        self.put(key, content.clone()).await
    }

    /// Stores the output of a stage, and its SHA-256 with it, by which [`Objects::has_whole_output`] knows it again.
    /// Otherwise as [`Objects::put`].
    async fn put_output(&self, key: &ObjectKey, content: Bytes) -> Result<(), ObjectError>;

    /// Reads the whole object, and the SHA-256 that [`Objects::put_output`] has stored with it; none where it was stored in
    /// another way.
    async fn get_output(
        &self,
        key: &ObjectKey,
    ) -> Result<(Bytes, Option<ContentHash>), ObjectError>;

    /// Looks whether the output of a stage is stored under this key, without reading it. No stage has an empty output: an
    /// object without content counts as missing.
    async fn has_output(&self, key: &ObjectKey) -> Result<bool, ObjectError> {
        Ok(self.size(key).await?.is_some_and(|size| size > 0))
    }

    /// Reads the output of a stage and says whether it is there as it was stored. What an interrupted write, a broken copy or
    /// a bad disk has left is counted and counts as missing, so that the output is computed again.
    async fn has_whole_output(&self, key: &ObjectKey) -> Result<bool, ObjectError> {
        let (content, stored) = match self.get_output(key).await {
            Err(ObjectError::NotFound(_)) => return Ok(false),
            output => output?,
        };
        let check = move || !content.is_empty() && stored == Some(ContentHash::of(&content));
        let is_whole = tokio::task::spawn_blocking(check).await.unwrap_or(false);
        if !is_whole {
            damaged(key);
        }
        Ok(is_whole)
    }

    /// Removes what killed processes have left of what they were writing, and no object. A store in which nobody sees half an
    /// object has none.
    async fn tidy(&self) -> Result<(), ObjectError> {
        Ok(())
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
