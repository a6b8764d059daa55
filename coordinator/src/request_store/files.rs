//! Files of requests and of answers: parts of a bounded size, and a head that says what they are.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::stream::{self, Stream};
use radialog_runtime::objects::{ObjectError, Objects};
use radialog_schemas::http::openai_batches::FilePurpose;
use radialog_schemas::{ContentHash, ObjectKey};
use serde::{Deserialize, Serialize};

use super::{entries, json, now, read};

/// Bytes of each part of an uploaded file but its last.
pub(crate) const PART: usize = 8 << 20;
/// How long a file is kept.
pub(crate) const LIFETIME: Duration = Duration::from_secs(30 * 24 * 3600);

/// What is known of a file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct FileHead {
    pub(crate) bytes: u64,
    pub(crate) parts: u32,
    pub(crate) created_at: u64,
    pub(crate) expires_at: u64,
    pub(crate) filename: String,
    pub(crate) purpose: FilePurpose,
}

/// Stores a part of a file that has no head yet.
pub(crate) async fn put_part(
    objects: &dyn Objects,
    owner: &ContentHash,
    file: &str,
    part: u32,
    content: Bytes,
) -> Result<(), ObjectError> {
    let key = ObjectKey::request_file_part(owner, file, part);
    objects.put(&key, content).await
}

/// Ends a file: from here on it is there.
pub(crate) async fn put_head(
    objects: &dyn Objects,
    owner: &ContentHash,
    file: &str,
    head: &FileHead,
) -> Result<(), ObjectError> {
    let key = ObjectKey::request_file_head(owner, file);
    objects.put(&key, json(head)).await
}

/// Looks a file up; none where it is not there, or its time is over.
pub(crate) async fn find(
    objects: &dyn Objects,
    owner: &ContentHash,
    file: &str,
) -> Result<Option<FileHead>, ObjectError> {
    let head: Option<FileHead> = read(objects, &ObjectKey::request_file_head(owner, file)).await?;
    Ok(head.filter(|head| head.expires_at >= now()))
}

/// Removes a file, and what is left of one.
pub(crate) async fn remove(
    objects: &dyn Objects,
    owner: &ContentHash,
    file: &str,
) -> Result<(), ObjectError> {
    objects
        .delete(&ObjectKey::request_file_head(owner, file))
        .await?;
    let prefix = ObjectKey::request_file_prefix(owner, file);
    for entry in entries(objects, &prefix).await? {
        objects.delete(&entry.key).await?;
    }
    Ok(())
}

/// The names of an owner's files, the oldest first.
pub(crate) async fn names(
    objects: &dyn Objects,
    owner: &ContentHash,
) -> Result<Vec<String>, ObjectError> {
    let prefix = ObjectKey::request_files_of(owner);
    let listed = entries(objects, &prefix).await?;
    let name = |key: &ObjectKey| {
        let name = key
            .as_str()
            .strip_prefix(&prefix)?
            .strip_suffix("/head.json")?;
        Some(name.to_owned())
    };
    Ok(listed.iter().filter_map(|entry| name(&entry.key)).collect())
}

/// A file's content, part by part.
pub(crate) fn content(
    objects: Arc<dyn Objects>,
    owner: &ContentHash,
    file: &str,
    parts: u32,
) -> impl Stream<Item = Result<Bytes, ObjectError>> + Send + use<> {
    let key = |part| ObjectKey::request_file_part(owner, file, part);
    let keys: Vec<ObjectKey> = (0..parts).map(key).collect();
    stream::unfold(
        (keys.into_iter(), objects),
        |(mut keys, objects)| async move {
            let part = objects.get(&keys.next()?).await;
            Some((part, (keys, objects)))
        },
    )
}
