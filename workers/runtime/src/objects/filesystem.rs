//! Objects as files under a directory: the store of the embedded mode, and of clusters with a shared volume.

use std::ffi::OsString;
use std::fs;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::ops::Range;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use async_trait::async_trait;
use bytes::Bytes;
use radialog_schemas::{ContentHash, ObjectKey};

use super::{ListCursor, ObjectError, ObjectPage, Objects, Version};
use crate::blocking;
use radialog_files::durable::{self, Readers, UNFINISHED};

/// The SHA-256 of the output `a/b` is in the file `a/.sum-b`. Listings skip it, and it goes with its object.
const SUM: &str = ".sum-";
/// Locked while a version is compared and replaced. Listings skip it, as they skip all that begins with [`UNFINISHED`].
const LOCK: &str = ".writing-lock";
/// The directory of what is being written, which killed processes leave there for later ones to remove: the store may have too
/// many directories to look into all. A folder of the store that is a file system of its own has its own. Listings skip it, too.
const WRITING: &str = ".writing-files";
/// Attempts to write into a directory that another thread removes each time because it is empty.
const WRITE_ATTEMPTS: u32 = 16;

/// A directory of objects. `images/ab…` is the file `images/ab…` under the root. The user of this process alone can read
/// what it makes there, whatever the umask says.
///
/// Look-ups and reads run in place: outputs are read soon after they were written, from the page cache, where a hop to
/// another thread and back costs more than the read. Writes and listings go to the blocking pool.
pub struct FilesystemObjects {
    root: PathBuf,
}

impl FilesystemObjects {
    /// A store under `root`, which is created where it does not exist.
    ///
    /// # Errors
    /// Where the directory cannot be created or read.
    pub fn open(root: impl Into<PathBuf>) -> Result<Self, ObjectError> {
        let root = root.into();
        // What is above the store is not the store's: it is made as everybody makes directories.
        root.parent()
            .filter(|parent| !parent.as_os_str().is_empty())
            .map_or(Ok(()), durable::create_directory)
            .and_then(|()| durable::create_directory_for(Readers::Owner, &root))
            .and_then(|()| fs::read_dir(&root).map(drop))
            .map_err(|error| match error.kind() {
                io::ErrorKind::AlreadyExists | io::ErrorKind::NotADirectory => ObjectError::Store {
                    key: root.display().to_string(),
                    reason: "it is no folder, or below a file; name another one with --objects (RADIALOG_OBJECTS_DIRECTORY)".to_owned(),
                },
                _ => store_error(&root.display().to_string(), &error),
            })?;
        Ok(Self { root })
    }

    /// The store under `root`, for somebody who looks for what others have stored; none where there is no such directory, which
    /// is not made.
    ///
    /// # Errors
    /// Where the directory cannot be read.
    pub fn open_existing(root: impl Into<PathBuf>) -> Result<Option<Self>, ObjectError> {
        let root = root.into();
        match fs::read_dir(&root) {
            Ok(_) => Ok(Some(Self { root })),
            Err(error) if is_absent(&error) => Ok(None),
            Err(error) => Err(store_error(&root.display().to_string(), &error)),
        }
    }

    fn path(&self, key: &ObjectKey) -> Result<PathBuf, ObjectError> {
        // A key that was built from parts, and not parsed, must not climb; none may name an unfinished file.
        match ObjectKey::parse(key.as_str()) {
            Some(_)
                if [UNFINISHED, SUM]
                    .iter()
                    .all(|name| !key.as_str().contains(name)) =>
            {
                Ok(self.root.join(key.as_str()))
            }
            _ => Err(ObjectError::NotFound(key.clone())),
        }
    }
}

impl FilesystemObjects {
    fn write_error(&self, key: &ObjectKey, error: &io::Error) -> ObjectError {
        match object_error(key, error) {
            // Part of the path is a file: a place to write is missing, not an object to read.
            ObjectError::NotFound(_) => store_error(key.as_str(), error),
            // Whoever makes room must know where.
            ObjectError::Full(_) => {
                ObjectError::Full(self.root.join(key.as_str()).display().to_string())
            }
            other => other,
        }
    }
}

#[async_trait]
impl Objects for FilesystemObjects {
    async fn put(&self, key: &ObjectKey, content: Bytes) -> Result<(), ObjectError> {
        let (root, path) = (self.root.clone(), self.path(key)?);
        let written = blocking::io(move || replace(&root, &path, &content)).await;
        written.map_err(|error| self.write_error(key, &error))
    }

    async fn put_if(
        &self,
        key: &ObjectKey,
        content: Bytes,
        expected: Option<&Version>,
    ) -> Result<Option<Version>, ObjectError> {
        let path = self.path(key)?;
        let (root, expected) = (self.root.clone(), expected.cloned());
        let written = blocking::io(move || {
            // One writer at a time, of all processes: the comparison and the write are one step.
            let lock = fs::File::options()
                .create(true)
                .truncate(false)
                .write(true)
                .open(root.join(LOCK))?;
            lock.lock()?;
            let stored = match fs::read(&path) {
                Ok(stored) => Some(version(&stored)),
                Err(error) if is_absent(&error) => None,
                Err(error) => return Err(error),
            };
            if stored != expected {
                return Ok(None);
            }
            replace(&root, &path, &content)?;
            Ok(Some(version(&content)))
        });
        written.await.map_err(|error| self.write_error(key, &error))
    }

    async fn get_versioned(&self, key: &ObjectKey) -> Result<(Bytes, Version), ObjectError> {
        let content = self.get(key).await?;
        let version = version(&content);
        Ok((content, version))
    }

    async fn put_output(&self, key: &ObjectKey, content: Bytes) -> Result<(), ObjectError> {
        let (root, path) = (self.root.clone(), self.path(key)?);
        let written = blocking::io(move || {
            // The hash first: a crash in between leaves no output without one. It need not survive a power cut, since an
            // output without its hash is computed again.
            retry_in_new_directory(&root, &path, || write_sum(&root, &path, &content))?;
            replace(&root, &path, &content)
        });
        written.await.map_err(|error| self.write_error(key, &error))
    }

    async fn get_output(
        &self,
        key: &ObjectKey,
    ) -> Result<(Bytes, Option<ContentHash>), ObjectError> {
        let sum = sum_path(&self.path(key)?);
        let content = self.get(key).await?;
        match fs::read_to_string(sum) {
            Ok(hash) => Ok((content, ContentHash::from_hex(&hash))),
            Err(error) if is_absent(&error) || error.kind() == io::ErrorKind::InvalidData => {
                Ok((content, None))
            }
            Err(error) => Err(object_error(key, &error)),
        }
    }

    async fn get(&self, key: &ObjectKey) -> Result<Bytes, ObjectError> {
        let path = self.path(key)?;
        fs::read(path)
            .map(Bytes::from)
            .map_err(|error| object_error(key, &error))
    }

    async fn get_range(&self, key: &ObjectKey, range: Range<u64>) -> Result<Bytes, ObjectError> {
        let path = self.path(key)?;
        let read = || {
            let mut file = fs::File::open(path)?;
            file.seek(SeekFrom::Start(range.start))?;
            let mut content = Vec::new();
            file.take(range.end.saturating_sub(range.start))
                .read_to_end(&mut content)?;
            Ok(content)
        };
        read()
            .map(Bytes::from)
            .map_err(|error| object_error(key, &error))
    }

    async fn size(&self, key: &ObjectKey) -> Result<Option<u64>, ObjectError> {
        let path = self.path(key)?;
        match fs::metadata(path) {
            Ok(metadata) => Ok(metadata.is_file().then_some(metadata.len())),
            Err(error) if is_absent(&error) => Ok(None),
            Err(error) => Err(object_error(key, &error)),
        }
    }

    async fn tidy(&self) -> Result<(), ObjectError> {
        let root = self.root.clone();
        let tidied = blocking::io(move || {
            durable::remove_left(&root.join(WRITING));
            for folder in fs::read_dir(&root)? {
                durable::remove_left(&folder?.path().join(WRITING));
            }
            Ok(())
        });
        tidied.await.map_err(|error| store_error(WRITING, &error))
    }

    async fn delete(&self, key: &ObjectKey) -> Result<(), ObjectError> {
        let path = self.path(key)?;
        let root = self.root.clone();
        match blocking::io(move || remove(&root, &path)).await {
            Err(error) if !is_absent(&error) => Err(object_error(key, &error)),
            _ => Ok(()),
        }
    }

    async fn list(
        &self,
        prefix: &str,
        after: Option<&ListCursor>,
        limit: usize,
    ) -> Result<ObjectPage, ObjectError> {
        let (root, owned_prefix) = (self.root.clone(), prefix.to_owned());
        let after = after.map_or_else(String::new, |cursor| cursor.name().to_owned());
        let listing = blocking::io(move || {
            let mut listing = Listing {
                prefix: &owned_prefix,
                after: &after,
                room: limit.max(1),
                page: ObjectPage::default(),
            };
            listing.visit(&root, "").map(|()| listing.page)
        });
        listing.await.map_err(|error| store_error(prefix, &error))
    }
}

/// A walk in the byte order of the names, which enters only directories that can hold wanted ones.
struct Listing<'a> {
    prefix: &'a str,
    after: &'a str,
    /// Names that may still be looked at.
    room: usize,
    page: ObjectPage,
}

impl Listing<'_> {
    fn visit(&mut self, directory: &Path, key: &str) -> io::Result<()> {
        let names = match names(directory) {
            // Removed with its last object since its parent was read.
            Err(error) if is_absent(&error) && !key.is_empty() => return Ok(()),
            names => names?,
        };
        for (name, file) in names {
            if self.room == 0 {
                break;
            }
            let child = format!("{key}{name}");
            let path = directory.join(&file);
            if name.ends_with('/') {
                let wanted = child.starts_with(self.prefix) || self.prefix.starts_with(&child);
                let passed = child.as_str() < self.after && !self.after.starts_with(&child);
                if wanted && !passed {
                    self.visit(&path, &child)?;
                }
            } else if child.starts_with(self.prefix) && child.as_str() > self.after {
                match fs::metadata(&path) {
                    Ok(metadata) => {
                        let modified = metadata.modified()?;
                        self.page.add(&child, metadata.len(), modified);
                    }
                    Err(error) if is_absent(&error) => continue,
                    Err(error) => return Err(error),
                }
                self.room -= 1;
                if self.room == 0 {
                    self.page.next = Some(ListCursor::behind(child));
                }
            }
        }
        Ok(())
    }
}

/// The names in a directory in their order, each with the file's own name. One that is not UTF-8 is written with escapes,
/// which have a backslash and so are no keys. Directories end with their slash, as their keys do: `a.b` comes before `a/b`.
fn names(directory: &Path) -> io::Result<Vec<(String, OsString)>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let file = entry.file_name();
        let mut name = match file.to_str() {
            Some(name) if name.starts_with(UNFINISHED) || name.starts_with(SUM) => continue,
            Some(name) => name.to_owned(),
            None => file.as_bytes().escape_ascii().to_string(),
        };
        // The directory says what most of its entries are: a page of few names looks at no sibling of theirs.
        let is_directory = entry.file_type().is_ok_and(|kind| match kind.is_symlink() {
            true => fs::metadata(entry.path()).is_ok_and(|target| target.is_dir()),
            false => kind.is_dir(),
        });
        if is_directory {
            name.push('/');
        }
        names.push((name, file));
    }
    names.sort_unstable();
    Ok(names)
}

fn version(content: &[u8]) -> Version {
    Version(ContentHash::of(content).as_str().to_owned())
}

fn replace(root: &Path, path: &Path, content: &[u8]) -> io::Result<()> {
    retry_in_new_directory(root, path, || {
        by_way_of_writing(root, path, |writing| {
            durable::replace_from(writing, Readers::Owner, path, content)
        })
    })
}

/// Writes by way of the directory of what is being written that is on the path's file system.
fn by_way_of_writing(
    root: &Path,
    path: &Path,
    write: impl Fn(&Path) -> io::Result<()>,
) -> io::Result<()> {
    let beside = path.parent().unwrap_or(root);
    // The folder that is apart, as a rule.
    let folders = beside.ancestors().take_while(|folder| *folder != root);
    let apart = folders.last().unwrap_or(beside).join(WRITING);
    match write(&root.join(WRITING)) {
        Err(error) if is_apart(&error) => {}
        written => return written,
    }
    durable::create_directory_for(Readers::Owner, &apart)?;
    match write(&apart) {
        Err(error) if is_apart(&error) => write(beside),
        written => written,
    }
}

/// Says that a folder of the store is a file system of its own, as a mount or a link makes it: nothing is renamed into it from
/// beside.
fn is_apart(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::CrossesDevices
}

/// Writes into the path's directory, which is made where it is missing. Whoever deletes the last object of a directory
/// removes it, perhaps just now.
fn retry_in_new_directory(
    root: &Path,
    path: &Path,
    write: impl Fn() -> io::Result<()>,
) -> io::Result<()> {
    let writing = root.join(WRITING);
    let mut attempts = 1..WRITE_ATTEMPTS;
    loop {
        // Before anything is written, which may be much.
        for directory in [Some(writing.as_path()), path.parent()]
            .into_iter()
            .flatten()
        {
            match durable::create_directory_for(Readers::Owner, directory) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                created => created?,
            }
        }
        match write() {
            Err(error) if error.kind() == io::ErrorKind::NotFound && attempts.next().is_some() => {}
            written => return written,
        }
    }
}

fn sum_path(path: &Path) -> PathBuf {
    let mut name = OsString::from(SUM);
    name.push(path.file_name().unwrap_or_default());
    path.with_file_name(name)
}

/// Writes an output's hash whole or not at all, for the owner alone, as temporary files are.
fn write_sum(root: &Path, path: &Path, content: &[u8]) -> io::Result<()> {
    let (sum, hash) = (sum_path(path), ContentHash::of(content));
    by_way_of_writing(root, path, |writing| {
        let mut file = durable::unfinished(writing, Readers::Owner)?;
        file.write_all(hash.as_str().as_bytes())?;
        file.persist(&sum).map(drop).map_err(|error| error.error)
    })
}

/// Removes an object with its hash, and the directories that are empty then.
fn remove(root: &Path, path: &Path) -> io::Result<()> {
    let removed = fs::remove_file(path);
    match fs::remove_file(sum_path(path)) {
        Err(error) if !is_absent(&error) => return Err(error),
        _ => {}
    }
    let mut directory = path.parent();
    while let Some(empty) = directory.filter(|directory| *directory != root)
        && fs::remove_dir(empty).is_ok()
    {
        directory = empty.parent();
    }
    removed
}

fn is_absent(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
    )
}

fn object_error(key: &ObjectKey, error: &io::Error) -> ObjectError {
    match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory | io::ErrorKind::IsADirectory => {
            ObjectError::NotFound(key.clone())
        }
        // A limit of file sizes leaves no more room than a full disk.
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge => {
            ObjectError::Full(key.to_string())
        }
        _ => store_error(key.as_str(), error),
    }
}

fn store_error(key: &str, error: &io::Error) -> ObjectError {
    let advice = match error.kind() {
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
            "; make the directory writable, or name another one with --objects (RADIALOG_OBJECTS_DIRECTORY)"
        }
        _ => "",
    };
    ObjectError::Store {
        key: key.to_owned(),
        reason: format!("{error}{advice}"),
    }
}
