//! A bundle in the object store, kept in a local directory: what is missing is downloaded, checked and renamed into
//! place, what is there and intact is used again.

use std::collections::BTreeSet;
use std::fs::{self, File, TryLockError};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use radialog_files::durable;
use radialog_models::bundle::hashes::HashCache;
use radialog_runtime::blocking;
use radialog_runtime::objects::{ObjectError, Objects};
use radialog_schemas::bundle::{FileEntry, MANIFEST_FILE, Manifest};
use radialog_schemas::{ContentHash, ContentHasher, ObjectKey, Stage};

/// Bytes asked for at a time: a file of weights may be larger than memory.
pub(crate) const PIECE: u64 = 16 << 20;

/// How often a process that waits for another one's download looks again.
const LOOK_AGAIN: Duration = Duration::from_millis(500);

/// How far a fetch is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FetchProgress {
    /// Bytes that are on this machine.
    pub fetched: u64,
    /// Bytes of all files.
    pub wanted: u64,
}

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
        /// The file's size in bytes.
        size: u64,
        /// The hash of what was downloaded.
        sha256: ContentHash,
    },
    /// The local cache cannot be written.
    #[error(
        "cannot write '{}' in the bundle cache: {reason}; set RADIALOG_CACHE to a folder that can be written and has room",
        path.display()
    )]
    Local {
        /// The file.
        path: PathBuf,
        /// The system's words.
        reason: io::Error,
    },
}

impl FetchError {
    fn local(path: &Path) -> impl Fn(io::Error) -> Self + use<> {
        let path = path.to_owned();
        move |reason| FetchError::Local {
            path: path.clone(),
            reason,
        }
    }
}

/// Brings the files that `stages` load from the bundle under `prefix` into `cache`, and returns the bundle's directory. Says
/// to `progress` how far it is.
///
/// It may be dropped at any time: what is downloaded stays, also of a file that is not whole, and the next call goes on
/// there.
///
/// # Errors
/// The store, the content or the local disk fails; what is downloaded stays for the next attempt.
pub async fn fetch_bundle(
    objects: &dyn Objects,
    prefix: &str,
    cache: &Path,
    stages: &[Stage],
    hashes: &HashCache,
    progress: &(dyn Fn(FetchProgress) + Send + Sync),
) -> Result<PathBuf, FetchError> {
    let key = |path: &str| {
        let text = format!("{}/{path}", prefix.trim_end_matches('/'));
        // A bundle may be at the top of its bucket.
        ObjectKey::parse(text.trim_start_matches('/')).ok_or(FetchError::Key(text))
    };
    let manifest_key = key(MANIFEST_FILE)?;
    let content = objects.get(&manifest_key).await?;
    let written = put_at(objects, &manifest_key).await;
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
    let mut seen = BTreeSet::new();
    let files: Vec<_> = components
        .flat_map(|(_, component)| component.files.values())
        .filter(|path| seen.insert(*path))
        .filter_map(|path| manifest.files.get_key_value(path))
        .collect();
    let wanted = files.iter().map(|(_, entry)| entry.size).sum();
    let mut done = 0;
    for (path, entry) in files {
        let key = key(path.as_str())?;
        let file = dir.join(path);
        let says = |size: u64| {
            progress(FetchProgress {
                fetched: done + size,
                wanted,
            });
        };
        says(0);
        if !intact(&file, entry, hashes).await {
            tracing::info!(%key, size = entry.size, "downloading");
            download(objects, &key, entry, &file, hashes, &says).await?;
            remember(&file, entry, hashes).await;
        }
        says(entry.size);
        done += entry.size;
    }
    // Last, so that a directory with a manifest is a bundle.
    let path = dir.join(MANIFEST_FILE);
    let local = FetchError::local(&path);
    let replace = move || {
        durable::create_directory(path.parent().unwrap_or(&path))?;
        durable::replace(&path, &content)?;
        // Gateways tell their clients when a bundle was written, and all of them tell the same.
        File::options()
            .write(true)
            .open(&path)?
            .set_modified(written)
    };
    blocking::io(replace).await.map_err(local)?;
    Ok(dir)
}

/// When the store was given an object; the year 1970 where it does not say.
async fn put_at(objects: &dyn Objects, key: &ObjectKey) -> SystemTime {
    let page = objects.list(key.as_str(), None, 1).await;
    let entries = page.map_or_else(|_| Vec::new(), |page| page.entries);
    let found = entries.into_iter().find(|entry| entry.key == *key);
    found.map_or(UNIX_EPOCH, |entry| entry.modified)
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

/// Downloads a file into its place: into `NAME.partial`, from where an earlier attempt has ended, and renames that when it is
/// whole. Of several processes over one cache, one downloads and the others wait.
async fn download(
    objects: &dyn Objects,
    key: &ObjectKey,
    entry: &FileEntry,
    file: &Path,
    hashes: &HashCache,
    progress: &(dyn Fn(u64) + Send + Sync),
) -> Result<(), FetchError> {
    let local = FetchError::local(file);
    let partial = partial(file);
    let mut out = loop {
        match take_partial(&partial).await.map_err(&local)? {
            Some(out) => break out,
            None => {
                let path = partial.clone();
                let length = blocking::io(move || fs::metadata(path).map(|meta| meta.len()));
                progress(length.await.unwrap_or(0));
                tokio::time::sleep(LOOK_AGAIN).await;
            }
        }
    };
    // Somebody else may have been faster.
    if intact(file, entry, hashes).await {
        return Ok(());
    }
    let (mut size, mut hasher);
    (out, size, hasher) = resume(out, entry.size, progress).await.map_err(&local)?;
    let mut is_resumed = size > 0;
    loop {
        while size < entry.size {
            let piece = objects
                .get_range(key, size..entry.size.min(size + PIECE))
                .await?;
            if piece.is_empty() {
                break;
            }
            size += piece.len() as u64;
            let append = move || {
                hasher.update(&piece);
                out.write_all(&piece).map(|()| (out, hasher))
            };
            (out, hasher) = blocking::io(append).await.map_err(&local)?;
            progress(size);
        }
        let sha256 = hasher.finish();
        if size == entry.size && sha256 == entry.sha256 {
            break;
        }
        if !is_resumed {
            let path = partial.clone();
            blocking::io(move || fs::remove_file(path))
                .await
                .map_err(&local)?;
            return Err(FetchError::Content {
                key: key.clone(),
                size,
                sha256,
            });
        }
        // What an earlier attempt has left may be what is wrong: the machine may have lost its power meanwhile.
        tracing::warn!(%key, "what was downloaded before is damaged; downloading it anew");
        let anew = move || {
            out.set_len(0)?;
            out.seek(SeekFrom::Start(0)).map(|_| out)
        };
        out = blocking::io(anew).await.map_err(&local)?;
        (size, hasher, is_resumed) = (0, ContentHash::hasher(), false);
    }
    let path = file.to_owned();
    let commit = move || {
        out.sync_all()?;
        durable::rename(&partial, &path)
    };
    blocking::io(commit).await.map_err(local)
}

fn partial(file: &Path) -> PathBuf {
    let mut name = file.file_name().unwrap_or_default().to_owned();
    name.push(".partial");
    file.with_file_name(name)
}

/// Opens the part that is there and takes hold of it; none where another process has it. The system lets go of it when its
/// process ends, however it ends.
async fn take_partial(partial: &Path) -> io::Result<Option<File>> {
    let partial = partial.to_owned();
    blocking::io(move || {
        durable::create_directory(partial.parent().unwrap_or(&partial))?;
        let mut options = File::options();
        let options = options.create(true).truncate(false).read(true).write(true);
        let out = options.open(&partial)?;
        match out.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Ok(None),
            // Some network file systems have no locks: two downloads then end in a hash that is wrong, and begin again.
            Err(TryLockError::Error(error)) if error.kind() == io::ErrorKind::Unsupported => {}
            Err(TryLockError::Error(error)) => return Err(error),
        }
        // Whoever had it may have renamed it since: then this is the whole file, under its other name.
        let is_it = fs::metadata(&partial).is_ok_and(|named| {
            out.metadata()
                .is_ok_and(|ours| (ours.dev(), ours.ino()) == (named.dev(), named.ino()))
        });
        Ok(is_it.then_some(out))
    })
    .await
}

/// Hashes what an earlier attempt has left, and says how much it is. More than the file has is nothing.
async fn resume(
    mut out: File,
    most: u64,
    progress: &(dyn Fn(u64) + Send + Sync),
) -> io::Result<(File, u64, ContentHasher)> {
    let (mut size, mut hasher) = (0, ContentHash::hasher());
    loop {
        let step = move || {
            let mut piece = Vec::new();
            (&out).take(PIECE).read_to_end(&mut piece)?;
            hasher.update(&piece);
            Ok((out, hasher, piece.len() as u64))
        };
        let read;
        (out, hasher, read) = blocking::io(step).await?;
        size += read;
        progress(size.min(most));
        if size > most {
            let anew = move || {
                out.set_len(0)?;
                out.seek(SeekFrom::Start(0)).map(|_| out)
            };
            return Ok((blocking::io(anew).await?, 0, ContentHash::hasher()));
        }
        if read == 0 {
            return Ok((out, size, hasher));
        }
    }
}
