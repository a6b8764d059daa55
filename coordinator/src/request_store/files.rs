//! Files of requests and of answers: parts of a bounded size, and a head that says what they are.

use std::time::Duration;

use bytes::Bytes;
use radialog_runtime::objects::{ObjectError, Objects};
use radialog_schemas::http::openai_batches::FilePurpose;
use radialog_schemas::{ContentHash, ObjectKey};
use serde::{Deserialize, Serialize};
use tracing::warn;

use super::{Pages, is_name, json, listed, named_at, now, read};

/// Bytes of each part of an uploaded file but its last.
pub(crate) const PART: usize = 8 << 20;
/// How long a file is kept.
pub(crate) const LIFETIME: Duration = Duration::from_secs(30 * 24 * 3600);
/// What the sign of a file says that is being removed.
pub(super) const REMOVED: &[u8] = b"removed";

/// Who has written the parts of a file from this one on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct PartWriter {
    pub(crate) from: u32,
    pub(crate) name: String,
}

/// What is known of a file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct FileHead {
    pub(crate) bytes: u64,
    pub(crate) parts: u32,
    pub(crate) created_at: u64,
    pub(crate) expires_at: u64,
    pub(crate) filename: String,
    pub(crate) purpose: FilePurpose,
    /// Those who have written it; none where it was uploaded.
    #[serde(default)]
    pub(crate) writers: Vec<PartWriter>,
    /// What is stored of it cannot be read: it can only be removed.
    #[serde(skip)]
    pub(crate) is_damaged: bool,
}

impl FileHead {
    /// Stands for a head that cannot be read.
    fn damaged(file: &str) -> Self {
        let created_at = named_at(file);
        Self {
            bytes: 0,
            parts: 0,
            created_at,
            expires_at: created_at + LIFETIME.as_secs(),
            filename: String::new(),
            purpose: FilePurpose::Batch,
            writers: Vec::new(),
            is_damaged: true,
        }
    }
}

/// The keys of a file's parts, in order.
pub(crate) fn part_keys(
    owner: &ContentHash,
    file: &str,
    parts: u32,
    writers: &[PartWriter],
) -> Vec<ObjectKey> {
    let key = |part| {
        let writer = writers.iter().rfind(|writer| writer.from <= part);
        let writer = writer.map(|writer| writer.name.as_str());
        ObjectKey::request_file_part(owner, file, part, writer)
    };
    (0..parts).map(key).collect()
}

/// Begins an upload: what is left of one that is broken off is found by its sign.
pub(crate) async fn begin(
    objects: &dyn Objects,
    owner: &ContentHash,
    file: &str,
) -> Result<(), ObjectError> {
    let sign = ObjectKey::open_request_file(owner, file);
    objects.put(&sign, Bytes::from_static(b"begun")).await
}

/// Stores a part of an upload.
pub(crate) async fn put_part(
    objects: &dyn Objects,
    owner: &ContentHash,
    file: &str,
    part: u32,
    content: Bytes,
) -> Result<(), ObjectError> {
    let key = ObjectKey::request_file_part(owner, file, part, None);
    objects.put(&key, content).await
}

/// Stores a file's head: from here on it is there.
pub(crate) async fn put_head(
    objects: &dyn Objects,
    owner: &ContentHash,
    file: &str,
    head: &FileHead,
) -> Result<(), ObjectError> {
    let key = ObjectKey::request_file_head(owner, file);
    objects.put(&key, json(head)).await
}

/// Ends an upload. Its sign may stay behind; a sweep finds the head then.
pub(crate) async fn end(
    objects: &dyn Objects,
    owner: &ContentHash,
    file: &str,
    head: &FileHead,
) -> Result<(), ObjectError> {
    put_head(objects, owner, file, head).await?;
    let sign = ObjectKey::open_request_file(owner, file);
    if let Err(error) = objects.delete(&sign).await {
        warn!(%error, "the sign of an upload stays until a sweep");
    }
    Ok(())
}

/// Looks a file up; none where it is not there, or its time is over.
pub(crate) async fn find(
    objects: &dyn Objects,
    owner: &ContentHash,
    file: &str,
) -> Result<Option<FileHead>, ObjectError> {
    let key = ObjectKey::request_file_head(owner, file);
    let Some(head) = read::<FileHead>(objects, &key).await? else {
        return Ok(None);
    };
    let head = head.unwrap_or_else(|damaged| {
        warn!(object = %key, reason = damaged.0, "what is known of a file is damaged");
        FileHead::damaged(file)
    });
    Ok(Some(head).filter(|head| head.expires_at >= now()))
}

/// Removes a file, and what is left of one; false where there is nothing of it. What is done half is done to its end by the
/// next call, or by the next sweep.
pub(crate) async fn remove(
    objects: &dyn Objects,
    owner: &ContentHash,
    file: &str,
) -> Result<bool, ObjectError> {
    let head = ObjectKey::request_file_head(owner, file);
    let sign = ObjectKey::open_request_file(owner, file);
    let parts = ObjectKey::request_file_parts(owner, file);
    let is_there = objects.size(&head).await?.is_some()
        || objects.size(&sign).await?.is_some()
        || !objects.list(&parts, None, 1).await?.entries.is_empty();
    if is_there {
        objects.put(&sign, Bytes::from_static(REMOVED)).await?;
        objects.delete(&head).await?;
        remove_parts(objects, owner, file).await?;
        objects.delete(&sign).await?;
    }
    Ok(is_there)
}

/// Removes a file's parts.
pub(super) async fn remove_parts(
    objects: &dyn Objects,
    owner: &ContentHash,
    file: &str,
) -> Result<(), ObjectError> {
    let prefix = ObjectKey::request_file_parts(owner, file);
    let mut pages = Pages::of(objects, &prefix);
    while let Some(entries) = pages.next().await? {
        for entry in entries {
            objects.delete(&entry.key).await?;
        }
    }
    Ok(())
}

/// The names of an owner's files, the oldest first.
pub(crate) async fn names(
    objects: &dyn Objects,
    owner: &ContentHash,
) -> Result<Vec<String>, ObjectError> {
    let name = |name: &str| is_name(name).then(|| name.to_owned());
    listed(objects, &ObjectKey::request_file_heads_of(owner), name).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_have_the_name_of_who_wrote_them() {
        let owner = ContentHash::of(b"ward");
        let writer = |from, name: &str| PartWriter {
            from,
            name: name.to_owned(),
        };
        let names = |writers: &[PartWriter]| -> Vec<String> {
            let keys = part_keys(&owner, "file", 4, writers);
            let name = |key: &ObjectKey| key.as_str().rsplit('/').next().unwrap().to_owned();
            keys.iter().map(name).collect()
        };
        assert_eq!(names(&[]), ["000000", "000001", "000002", "000003"]);
        let writers = [writer(0, "a"), writer(2, "b"), writer(3, "c")];
        let expected = ["000000-a", "000001-a", "000002-b", "000003-c"];
        assert_eq!(names(&writers), expected);
    }
}
