//! A bundle into the object store, from where [`crate::bundle_cache`] brings it to workers.

use std::path::Path;

use bytes::Bytes;
use radialog_runtime::blocking;
use radialog_runtime::objects::{ObjectError, Objects};
use radialog_schemas::bundle::{FileEntry, MANIFEST_FILE, Manifest};
use radialog_schemas::{ContentHash, ObjectKey};

use crate::bundle_cache::PIECE;

/// Behind the manifest's name: which bundle is on its way to a prefix.
const CLAIM: &str = "bundle.json.uploading";

/// A bundle that cannot be uploaded.
#[derive(Debug, thiserror::Error)]
pub enum UploadError {
    /// The store fails.
    #[error("cannot upload the bundle: {0}")]
    Store(#[from] ObjectError),
    /// The prefix or a path of the manifest is no key.
    #[error("'{0}' is not a valid object key")]
    Key(String),
    /// Under the prefix is a bundle already, which workers may be using.
    #[error(
        "another bundle is at '{0}': upload this one under another prefix, or remove that one first"
    )]
    Other(ObjectKey),
    /// Another bundle is on its way to the prefix, or its upload was broken off there.
    #[error(
        "the upload of another bundle has begun at '{0}': wait for its end, upload this one under another prefix, or, where \
         that upload was given up, remove that object"
    )]
    Claimed(ObjectKey),
}

/// Stores the bundle in `dir`, whose manifest is this one, under `prefix`, its manifest last, so that what has one is a whole
/// bundle. What is there already is not sent again. Says to `progress` which files are done, in the order of the manifest.
///
/// Of two bundles that are uploaded to one prefix at a time one is refused before its first file: each would replace files
/// of the other one. The same bundle may be uploaded twice at a time.
///
/// # Errors
/// The store or a file fails: what is uploaded stays for the next attempt. Another bundle is there, or on its way.
pub async fn upload_bundle(
    objects: &dyn Objects,
    prefix: &str,
    dir: &Path,
    manifest: &Manifest,
    progress: &(dyn Fn(&str, Uploaded) + Send + Sync),
) -> Result<(), UploadError> {
    let key = |path: &str| {
        let text = format!("{}/{path}", prefix.trim_matches('/'));
        ObjectKey::parse(text.trim_start_matches('/')).ok_or(UploadError::Key(text))
    };
    let (manifest_key, claim) = (key(MANIFEST_FILE)?, key(CLAIM)?);
    let path = dir.join(MANIFEST_FILE);
    let content = blocking::io(move || std::fs::read(path)).await;
    let content = content.map_err(|error| ObjectError::Store {
        key: manifest_key.to_string(),
        reason: format!("the bundle's manifest cannot be read: {error}"),
    })?;
    let content = Bytes::from(content);
    let mut is_there = is_this(objects, &manifest_key, manifest).await?;
    if !is_there {
        take(objects, &claim, manifest, &content).await?;
        // Another upload may have ended, and let go of the prefix, since the last look.
        is_there = match is_this(objects, &manifest_key, manifest).await {
            Err(other @ UploadError::Other(_)) => {
                objects.delete(&claim).await?;
                return Err(other);
            }
            is_there => is_there?,
        };
    }
    for (path, entry) in &manifest.files {
        let (path, key) = (path.as_str(), key(path.as_str())?);
        let uploaded = match is_whole(objects, &key, entry).await? {
            true => Uploaded::Before,
            false => {
                objects.put_file(&key, &dir.join(path)).await?;
                Uploaded::Now
            }
        };
        progress(path, uploaded);
    }
    if !is_there {
        let put = objects.put_if(&manifest_key, content, None);
        if put.await?.is_none() && !is_this(objects, &manifest_key, manifest).await? {
            return Err(UploadError::Other(manifest_key));
        }
    }
    // From here on the manifest refuses others; it is a claim of this bundle where there is one.
    if is_claimed_by(objects, &claim, manifest).await? == Some(true) {
        objects.delete(&claim).await?;
    }
    Ok(())
}

/// Claims the prefix for the bundle of this manifest.
async fn take(
    objects: &dyn Objects,
    claim: &ObjectKey,
    manifest: &Manifest,
    content: &Bytes,
) -> Result<(), UploadError> {
    // Where the other one lets go in between, this one tries again.
    loop {
        if objects
            .put_if(claim, content.clone(), None)
            .await?
            .is_some()
        {
            return Ok(());
        }
        match is_claimed_by(objects, claim, manifest).await? {
            Some(true) => return Ok(()),
            Some(false) => return Err(UploadError::Claimed(claim.clone())),
            None => {}
        }
    }
}

/// Says whether the claim is this bundle's; none where there is no claim.
async fn is_claimed_by(
    objects: &dyn Objects,
    claim: &ObjectKey,
    manifest: &Manifest,
) -> Result<Option<bool>, UploadError> {
    match objects.get(claim).await {
        Err(ObjectError::NotFound(_)) => Ok(None),
        stored => {
            let stored = Manifest::parse(&stored?);
            Ok(Some(stored.is_ok_and(|stored| stored == *manifest)))
        }
    }
}

/// Whether a file was in the store already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Uploaded {
    /// It was there, with the content that the manifest says.
    Before,
    /// It was sent.
    Now,
}

/// Says whether this bundle's manifest is stored already; another one is an error.
async fn is_this(
    objects: &dyn Objects,
    key: &ObjectKey,
    manifest: &Manifest,
) -> Result<bool, UploadError> {
    match objects.get(key).await {
        Err(ObjectError::NotFound(_)) => Ok(false),
        stored => match Manifest::parse(&stored?) {
            Ok(stored) if stored == *manifest => Ok(true),
            _ => Err(UploadError::Other(key.clone())),
        },
    }
}

/// Reads what is stored and compares its hash, which takes less than sending it again.
async fn is_whole(
    objects: &dyn Objects,
    key: &ObjectKey,
    entry: &FileEntry,
) -> Result<bool, UploadError> {
    if objects.size(key).await? != Some(entry.size) {
        return Ok(false);
    }
    let (mut at, mut hasher) = (0, ContentHash::hasher());
    while at < entry.size {
        let end = entry.size.min(at + PIECE);
        let piece = objects.get_range(key, at..end).await?;
        if piece.is_empty() {
            return Ok(false);
        }
        hasher.update(&piece);
        at += piece.len() as u64;
    }
    Ok(hasher.finish() == entry.sha256)
}
