//! A bundle in the object store, kept in a local directory: what is missing is downloaded, checked and renamed into
//! place, what is there and intact is used again.

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use radialog_models::bundle::hashes::HashCache;
use radialog_runtime::durable::{self, Replacement};
use radialog_runtime::objects::{ObjectError, Objects};
use radialog_schemas::bundle::{FileEntry, MANIFEST_FILE, Manifest};
use radialog_schemas::{ContentHash, ObjectKey, Stage};

/// Bytes asked for at a time: a file of weights may be larger than memory.
const PIECE: u64 = 16 << 20;

/// A bundle that cannot be fetched.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// The store fails, or has no such bundle.
    #[error("cannot fetch the bundle: {0}")]
    Store(#[from] ObjectError),
    /// The prefix or a path of the manifest is no key.
    #[error("'{0}' is not a valid object key")]
    Key(String),
    /// The manifest is not one of this format, or a name in it is no path inside of a bundle.
    #[error("'{key}' is not a bundle's manifest: {reason}")]
    Manifest {
        /// Its key.
        key: ObjectKey,
        /// What is wrong with it.
        reason: String,
    },
    /// A file is not what the manifest says.
    #[error(
        "'{key}' has {size} bytes with sha256 {sha256}, which is not what bundle.json says; upload it again"
    )]
    Content {
        /// Its key.
        key: ObjectKey,
        /// In bytes.
        size: u64,
        /// As downloaded.
        sha256: ContentHash,
    },
    /// The local cache cannot be written.
    #[error("cannot write '{}' in the bundle cache: {source}", path.display())]
    Local {
        /// The file.
        path: PathBuf,
        /// The system's words.
        source: io::Error,
    },
}

impl FetchError {
    fn local(path: &Path) -> impl Fn(io::Error) -> Self + use<> {
        let path = path.to_owned();
        move |source| FetchError::Local {
            path: path.clone(),
            source,
        }
    }
}

/// Brings the files that `stages` load from the bundle under `prefix` into `cache`, and returns the bundle's directory.
///
/// # Errors
/// The store, the content or the local disk fails; files that were complete stay for the next attempt.
pub async fn fetch_bundle(
    objects: &dyn Objects,
    prefix: &str,
    cache: &Path,
    stages: &[Stage],
    hashes: &HashCache,
) -> Result<PathBuf, FetchError> {
    let key = |path: &str| {
        let text = format!("{}/{path}", prefix.trim_end_matches('/'));
        // A bundle may be at the top of its bucket.
        ObjectKey::parse(text.trim_start_matches('/')).ok_or(FetchError::Key(text))
    };
    let manifest_key = key(MANIFEST_FILE)?;
    let content = objects.get(&manifest_key).await?;
    let manifest = Manifest::parse(&content).map_err(|error| FetchError::Manifest {
        key: manifest_key,
        reason: error.to_string(),
    })?;

    let dir = cache.join(format!("bundle-{}", manifest.hash().short()));
    let components = manifest
        .components
        .iter()
        .filter(|(stage, _)| stages.contains(stage));
    // The manifest is checked: what a component loads is in the list.
    let files = components
        .flat_map(|(_, component)| component.files.values())
        .filter_map(|path| manifest.files.get_key_value(path));
    for (path, entry) in files {
        let key = key(path.as_str())?;
        let file = dir.join(path);
        if !intact(&file, entry, hashes).await {
            tracing::info!(%key, size = entry.size, "downloading");
            download(objects, &key, entry, &file).await?;
            remember(&file, entry, hashes).await;
        }
    }
    // Last, so that a directory with a manifest is a bundle.
    let path = dir.join(MANIFEST_FILE);
    let local = FetchError::local(&path);
    let replace = move || {
        durable::create_directory(path.parent().unwrap_or(&path))?;
        durable::replace(&path, &content)
    };
    blocking(replace).await.map_err(local)?;
    Ok(dir)
}

async fn intact(file: &Path, entry: &FileEntry, hashes: &HashCache) -> bool {
    let (file, entry, hashes) = (file.to_owned(), entry.clone(), hashes.clone());
    let check = move || {
        std::fs::metadata(&file).is_ok_and(|meta| meta.len() == entry.size)
            && hashes.hash(&file).is_ok_and(|hash| hash == entry.sha256)
    };
    tokio::task::spawn_blocking(check).await.unwrap_or(false)
}

/// What was hashed while it was downloaded need not be hashed again when the bundle is opened.
async fn remember(file: &Path, entry: &FileEntry, hashes: &HashCache) {
    let (file, sha256, hashes) = (file.to_owned(), entry.sha256.clone(), hashes.clone());
    // A cache that cannot be written costs time and nothing else.
    let _ = tokio::task::spawn_blocking(move || hashes.remember(&file, sha256)).await;
}

async fn download(
    objects: &dyn Objects,
    key: &ObjectKey,
    entry: &FileEntry,
    file: &Path,
) -> Result<(), FetchError> {
    let local = FetchError::local(file);
    let path = file.to_owned();
    let create = move || {
        durable::create_directory(path.parent().unwrap_or(&path))?;
        Replacement::create(&path)
    };
    let mut out = blocking(create).await.map_err(&local)?;
    let (mut size, mut hasher) = (0, ContentHash::hasher());
    while size < entry.size {
        let piece = objects
            .get_range(key, size..entry.size.min(size + PIECE))
            .await?;
        if piece.is_empty() {
            break;
        }
        hasher.update(&piece);
        size += piece.len() as u64;
        let append = move || out.write_all(&piece).map(|()| out);
        out = blocking(append).await.map_err(&local)?;
    }
    let sha256 = hasher.finish();
    if size != entry.size || sha256 != entry.sha256 {
        return Err(FetchError::Content {
            key: key.clone(),
            size,
            sha256,
        });
    }
    blocking(move || out.commit()).await.map_err(local)
}

/// Files are written beside the runtime's threads, which other tasks wait for.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    tokio::task::spawn_blocking(work)
        .await
        .unwrap_or_else(|error| Err(io::Error::other(error)))
}
