//! Files of requests, and the batches that answer them, as they lie in the object store: every gateway finds all of them,
//! and goes on with what another one has left.

use std::time::{Duration, SystemTime};

use radialog_runtime::clock;
use radialog_runtime::objects::{ListCursor, ObjectEntry, ObjectError, Objects};
use radialog_schemas::{ContentHash, ObjectKey};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tracing::info;
use uuid::Uuid;

pub(crate) mod batches;
pub(crate) mod files;

/// Objects listed at a time.
const PAGE: usize = 1000;
/// Digits of a name.
const NAME_LENGTH: usize = 32;
/// How long a file's parts wait for its head: an upload that was broken off, or a batch that nobody goes on with.
const HEADLESS: Duration = Duration::from_secs(7 * 24 * 3600);

/// How an owner is named in keys.
pub(crate) fn owner_folder(owner: &str) -> ContentHash {
    ContentHash::of(owner.as_bytes())
}

/// Makes a name that nobody can guess; later ones come later in a listing.
pub(crate) fn new_name() -> String {
    let random = Uuid::new_v4().simple().to_string();
    // Twelve digits of milliseconds are enough until the year 10889.
    format!("{:012x}{}", clock::now_ms(), &random[..NAME_LENGTH - 12])
}

/// Whether [`new_name`] makes such names.
pub(crate) fn is_name(text: &str) -> bool {
    let is_digit = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
    text.len() == NAME_LENGTH && text.bytes().all(is_digit)
}

/// The seconds since 1970.
pub(crate) fn now() -> u64 {
    clock::now_ms() / 1000
}

fn json<T: Serialize>(value: &T) -> bytes::Bytes {
    let text = serde_json::to_vec(value);
    text.expect("documents have string keys only").into()
}

fn parse<T: DeserializeOwned>(key: &ObjectKey, content: &[u8]) -> Result<T, ObjectError> {
    serde_json::from_slice(content).map_err(|error| ObjectError::Store {
        key: key.to_string(),
        reason: format!("the document is damaged: {error}"),
    })
}

/// Reads a document; none where it is not there.
async fn read<T: DeserializeOwned>(
    objects: &dyn Objects,
    key: &ObjectKey,
) -> Result<Option<T>, ObjectError> {
    match objects.get(key).await {
        Err(ObjectError::NotFound(_)) => Ok(None),
        content => parse(key, &content?).map(Some),
    }
}

/// Everything below a prefix.
async fn entries(objects: &dyn Objects, prefix: &str) -> Result<Vec<ObjectEntry>, ObjectError> {
    let mut entries = Vec::new();
    let mut after: Option<ListCursor> = None;
    loop {
        let page = objects.list(prefix, after.as_ref(), PAGE).await?;
        entries.extend(page.entries);
        after = page.next;
        if after.is_none() {
            return Ok(entries);
        }
    }
}

/// Removes files whose time is over, what is left of broken uploads, and batches that have ended long ago. Returns the
/// number of objects that it has removed, or would remove in a `dry_run`.
///
/// # Errors
/// When the store does not answer; what is left is found by the next sweep.
pub(crate) async fn sweep(objects: &dyn Objects, dry_run: bool) -> Result<u64, ObjectError> {
    let mut gone = Vec::new();
    let listed = entries(objects, ObjectKey::REQUEST_FILES).await?;
    let folder = |entry: &ObjectEntry| {
        let key = entry.key.as_str();
        key.rsplit_once('/')
            .map_or(String::new(), |(folder, _)| folder.to_owned())
    };
    for parts in listed.chunk_by(|one, next| folder(one) == folder(next)) {
        // Names come in order, and digits before letters.
        let head = parts
            .last()
            .filter(|entry| entry.key.as_str().ends_with("/head.json"));
        let is_over = match head {
            Some(entry) => {
                let head: Option<files::FileHead> = read(objects, &entry.key).await?;
                head.is_some_and(|head| head.expires_at < now())
            }
            None => {
                let newest = parts.iter().map(|entry| entry.modified).max();
                newest.is_some_and(|newest| age(newest) > HEADLESS)
            }
        };
        if is_over {
            // The head first.
            gone.extend(parts.iter().rev().map(|entry| entry.key.clone()));
        }
    }
    let batches = entries(objects, ObjectKey::REQUEST_BATCHES).await?;
    let old = batches
        .into_iter()
        .filter(|entry| age(entry.modified) > files::LIFETIME);
    gone.extend(old.map(|entry| entry.key));
    if !dry_run {
        for key in &gone {
            objects.delete(key).await?;
        }
    }
    if !gone.is_empty() {
        info!(
            objects = gone.len(),
            removed = !dry_run,
            "files of requests and batches whose time was over"
        );
    }
    Ok(gone.len() as u64)
}

fn age(time: SystemTime) -> Duration {
    time.elapsed().unwrap_or_default()
}
