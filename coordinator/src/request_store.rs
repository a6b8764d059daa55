//! Files of requests, and the batches that answer them, as they lie in the object store: every gateway finds all of them,
//! and goes on with what another one has left.

use std::time::{Duration, SystemTime};

use radialog_runtime::clock;
use radialog_runtime::objects::{ListCursor, ObjectEntry, ObjectError, Objects};
use radialog_schemas::{ContentHash, ObjectKey};
use serde::Serialize;
use serde::de::DeserializeOwned;
use uuid::Uuid;

pub(crate) mod batches;
pub(crate) mod files;
mod sweep;

pub(crate) use sweep::sweep;

/// Objects listed at a time.
const PAGE: usize = 1000;
/// Digits of a name.
const NAME_LENGTH: usize = 32;
/// Those of them that are the time, in milliseconds since 1970: enough until the year 10889.
const TIME_LENGTH: usize = 12;

/// How an owner is named in keys.
pub(crate) fn owner_folder(owner: &str) -> ContentHash {
    ContentHash::of(owner.as_bytes())
}

/// Makes a name that nobody can guess; later ones come later in a listing.
pub(crate) fn new_name() -> String {
    let random = Uuid::new_v4().simple().to_string();
    let random = &random[..NAME_LENGTH - TIME_LENGTH];
    format!("{:0TIME_LENGTH$x}{random}", clock::now_ms())
}

/// The name of something that belongs to what has this name, and was made with it.
fn derived_name(name: &str, what: &str) -> String {
    let hash = ContentHash::of_parts([name.as_bytes(), what.as_bytes()]);
    let time = name.get(..TIME_LENGTH).unwrap_or_default();
    format!("{time}{}", &hash.as_str()[..NAME_LENGTH - TIME_LENGTH])
}

/// When [`new_name`] made a name, in seconds since 1970.
fn named_at(name: &str) -> u64 {
    let time = name.get(..TIME_LENGTH).unwrap_or_default();
    u64::from_str_radix(time, 16).unwrap_or(0) / 1000
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

/// A document that cannot be read: cut, or of a release that writes others.
#[derive(Debug)]
struct Damaged(String);

fn parse<T: DeserializeOwned>(content: &[u8]) -> Result<T, Damaged> {
    serde_json::from_slice(content).map_err(|error| Damaged(error.to_string()))
}

/// Reads a document; none where it is not there.
async fn read<T: DeserializeOwned>(
    objects: &dyn Objects,
    key: &ObjectKey,
) -> Result<Option<Result<T, Damaged>>, ObjectError> {
    match objects.get(key).await {
        Err(ObjectError::NotFound(_)) => Ok(None),
        content => Ok(Some(parse(&content?))),
    }
}

/// A listing, of which one page is in memory at a time.
struct Pages<'a> {
    objects: &'a dyn Objects,
    prefix: &'a str,
    after: Option<ListCursor>,
    is_over: bool,
}

impl<'a> Pages<'a> {
    fn of(objects: &'a dyn Objects, prefix: &'a str) -> Self {
        Self {
            objects,
            prefix,
            after: None,
            is_over: false,
        }
    }

    /// The next page; none behind the last one.
    async fn next(&mut self) -> Result<Option<Vec<ObjectEntry>>, ObjectError> {
        if self.is_over {
            return Ok(None);
        }
        let page = self
            .objects
            .list(self.prefix, self.after.as_ref(), PAGE)
            .await?;
        self.is_over = page.next.is_none();
        self.after = page.next;
        Ok(Some(page.entries))
    }
}

/// What of the keys below a prefix `of` makes something.
async fn listed<T>(
    objects: &dyn Objects,
    prefix: &str,
    of: impl Fn(&str) -> Option<T>,
) -> Result<Vec<T>, ObjectError> {
    let mut found = Vec::new();
    let mut pages = Pages::of(objects, prefix);
    while let Some(entries) = pages.next().await? {
        let rests = entries
            .iter()
            .filter_map(|entry| entry.key.as_str().strip_prefix(prefix));
        found.extend(rests.filter_map(&of));
    }
    Ok(found)
}

/// Reads `OWNER` and name of a key's last part, which this sign parts.
fn owned(text: &str, sign: char) -> Option<(ContentHash, String)> {
    let (owner, name) = text.split_once(sign)?;
    is_name(name).then_some((ContentHash::from_hex(owner)?, name.to_owned()))
}

fn age(time: SystemTime) -> Duration {
    time.elapsed().unwrap_or_default()
}
