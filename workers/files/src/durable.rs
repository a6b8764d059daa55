//! Files and directories that are whole or absent, whatever kills the writer: the process, the machine or the power.
//!
//! A rename alone does not promise that. A file system may write the new name to disk before the content, and then the
//! name stands for an empty file after a power cut. So the content is synced before the rename, and the directory, which
//! holds the name, after it. Every write-then-rename of the workspace happens here. A process that is killed leaves at most
//! an entry under a hidden temporary name, which a later process that writes beside it removes.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs::{self, DirBuilder, File, Permissions};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{PoisonError, RwLock};

use tempfile::{Builder, NamedTempFile, TempDir};

use crate::left_behind;

/// Names of files that are being written start with this; readers of a directory skip them. Random characters follow.
pub const UNFINISHED: &str = ".writing-";
/// Names of directories that are being filled are those of their places, hidden, with random characters and this end.
const PARTIAL: &str = ".partial";
/// Random characters in a temporary name.
const RANDOM: usize = 6;
/// A few writes a megabyte, for content that comes in small pieces.
const BUFFER: usize = 1 << 16;
/// Tries to remove what another thread still writes to.
const REMOVALS: u32 = 10;

/// What this process writes. It is one for the process because a signal is: whoever hears it knows none of the writers.
static WRITING: RwLock<Writing> = RwLock::new(Writing {
    is_refused: false,
    names: BTreeSet::new(),
});

#[derive(Debug)]
struct Writing {
    /// Whether nothing may become whole any more.
    is_refused: bool,
    /// Temporary names of what is not whole yet.
    names: BTreeSet<PathBuf>,
}

impl Writing {
    fn change<T>(change: impl FnOnce(&mut Self) -> T) -> T {
        change(&mut WRITING.write().unwrap_or_else(PoisonError::into_inner))
    }
}

/// A temporary name as long as it is one.
#[derive(Debug)]
struct Listed(PathBuf);

impl Listed {
    fn new(path: &Path) -> Self {
        Writing::change(|writing| writing.names.insert(path.to_owned()));
        Self(path.to_owned())
    }
}

impl Drop for Listed {
    fn drop(&mut self) {
        Writing::change(|writing| writing.names.remove(&self.0));
    }
}

/// Lets nothing that is begun with [`Replacement`] or [`NewDirectory`] become whole from now on: what was committed before this
/// returns is there, and every later commit is an error. For a process that is asked to stop, so that what it says and what there is
/// are one.
pub fn refuse_commits() {
    Writing::change(|writing| writing.is_refused = true);
}

/// Removes what this process has begun to write and is not whole, where it ends without dropping it. Nothing becomes whole after it.
pub fn abandon() {
    refuse_commits();
    for _ in 0..REMOVALS {
        let left = Writing::change(|writing| writing.names.clone());
        let is_gone = |path: &PathBuf| {
            let removed = match path.is_dir() {
                true => fs::remove_dir_all(path),
                false => fs::remove_file(path),
            };
            removed.is_ok() || !path.exists()
        };
        // Each is tried, whatever became of those before it.
        if left.iter().filter(|path| !is_gone(path)).count() == 0 {
            return;
        }
    }
}

/// Gives what is whole its name, unless the process is asked to stop.
fn commit<T>(rename: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    let writing = WRITING.read().unwrap_or_else(PoisonError::into_inner);
    match writing.is_refused {
        true => Err(io::Error::new(
            io::ErrorKind::Interrupted,
            "the process was asked to stop",
        )),
        false => rename(),
    }
}

/// Who may read what is written here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Readers {
    /// Whom the umask lets, as with [`File::create`]: other users (a mounted volume, a web server) read results.
    ByUmask,
    /// The user of this process alone, whatever the umask says: what came from patients.
    Owner,
}

impl Readers {
    fn file_mode(self) -> u32 {
        match self {
            Self::ByUmask => 0o666,
            Self::Owner => 0o600,
        }
    }

    fn directory_mode(self) -> u32 {
        match self {
            Self::ByUmask => 0o777,
            Self::Owner => 0o700,
        }
    }
}

/// New content for a file, written beside it under another name. Dropping it without [`Replacement::commit`] leaves the
/// file as it was.
#[derive(Debug)]
pub struct Replacement {
    path: PathBuf,
    writer: BufWriter<NamedTempFile>,
    _listed: Listed,
}

/// Links that are followed to a file, as many as the system follows.
const MOST_LINKS: usize = 40;

/// What stands in the place of a file is none, e.g. a device, a pipe or a folder, or is what somebody has open: a replacement would take it away from whoever
/// uses it.
#[derive(Debug, thiserror::Error)]
#[error("'{}' is no regular file, or one that is open: name another one", .0.display())]
pub struct NoRegularFile(PathBuf);

impl Replacement {
    /// Begins the new content of the file at `path`, whose directory must exist. A link to a file stays, and its target gets the
    /// content.
    ///
    /// # Errors
    /// Where the path names no file, what stands there is none ([`NoRegularFile`]), or the directory cannot be written.
    pub fn create(path: &Path) -> io::Result<Self> {
        Self::create_for(Readers::ByUmask, path)
    }

    /// As [`Replacement::create`], for these readers.
    ///
    /// # Errors
    /// As [`Replacement::create`].
    pub fn create_for(readers: Readers, path: &Path) -> io::Result<Self> {
        let path = target_of(path)?;
        Self::create_in(directory_of(&path), readers, &path)
    }

    /// As [`Replacement::create`], for these readers; until it is whole, it is in another directory of the file system.
    fn create_in(directory: &Path, readers: Readers, path: &Path) -> io::Result<Self> {
        name_of(path)?;
        let file = unfinished(directory, readers)?;
        Ok(Self {
            path: path.to_owned(),
            _listed: Listed::new(file.path()),
            writer: BufWriter::with_capacity(BUFFER, file),
        })
    }

    /// The file's place, where nothing of it stands yet.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The path of the content until then, for writers that take a path.
    pub fn partial(&self) -> &Path {
        self.writer.get_ref().path()
    }

    /// Puts the content on disk and in place of the old one. When this returns, a crash cannot take it back.
    ///
    /// # Errors
    /// Where the content cannot be written; the file is as it was then. Where only the directory cannot be synced, the
    /// new content is in place, and whether it survives a crash is unknown.
    pub fn commit(self) -> io::Result<()> {
        let file = self
            .writer
            .into_inner()
            .map_err(|error| error.into_error())?;
        // By its path: a writer that took that may have put a file of its own there.
        File::open(file.path())?.sync_all()?;
        commit(|| file.persist(&self.path).map_err(|error| error.error))?;
        sync_directory(directory_of(&self.path))
    }
}

impl Write for Replacement {
    fn write(&mut self, content: &[u8]) -> io::Result<usize> {
        self.writer.write(content)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.writer.flush()
    }
}

/// Replaces the file at `path` by these bytes, whole or not at all.
///
/// # Errors
/// As [`Replacement::create`] and [`Replacement::commit`].
pub fn replace(path: &Path, content: &[u8]) -> io::Result<()> {
    write(path, |writer| writer.write_all(content))
}

/// As [`replace`], for these readers.
///
/// # Errors
/// As [`replace`].
pub fn replace_for(readers: Readers, path: &Path, content: &[u8]) -> io::Result<()> {
    let mut replacement = Replacement::create_for(readers, path)?;
    replacement.write_all(content)?;
    replacement.commit()
}

/// As [`replace_for`], by way of this directory of the same file system: where there are many to be written to, what killed
/// processes have left is in one.
///
/// # Errors
/// As [`replace`].
pub fn replace_from(
    directory: &Path,
    readers: Readers,
    path: &Path,
    content: &[u8],
) -> io::Result<()> {
    let mut replacement = Replacement::create_in(directory, readers, path)?;
    replacement.write_all(content)?;
    replacement.commit()
}

/// Writes a file by something that makes it itself, under whatever mode; it is read by whom the umask lets then. Libraries that rename a
/// temporary file of theirs leave its mode, which is its owner's alone.
///
/// # Errors
/// What `write` returns; the file cannot be made.
pub fn write_by<E: From<io::Error>>(
    path: &Path,
    write: impl FnOnce(&Path) -> Result<(), E>,
) -> Result<(), E> {
    let permissions = File::create(path)?.metadata()?.permissions();
    write(path)?;
    fs::set_permissions(path, permissions)?;
    Ok(())
}

/// Copies the content of a file into a new one, which is read by whom the umask lets, whoever may read the original.
///
/// # Errors
/// The one cannot be read, or the other not be written.
pub fn copy(from: &Path, to: &Path) -> io::Result<u64> {
    let mut from = File::open(from)?;
    io::copy(&mut from, &mut File::create(to)?)
}

/// Begins a file that has no name of its own yet, and removes what killed processes have left of theirs beside it. As long as
/// it is open, nobody takes it for left.
///
/// # Errors
/// Where the directory cannot be written.
pub fn unfinished(directory: &Path, readers: Readers) -> io::Result<NamedTempFile> {
    left_behind::remove_at_times(directory, is_temporary);
    let file = Builder::new()
        .prefix(UNFINISHED)
        .rand_bytes(RANDOM)
        .permissions(Permissions::from_mode(readers.file_mode()))
        .tempfile_in(directory)?;
    left_behind::hold(file.as_file());
    Ok(file)
}

/// Removes what killed processes have left in a directory of files that they were writing. Whoever writes there does so, too,
/// from time to time; this is for who sweeps.
pub fn remove_left(directory: &Path) {
    left_behind::remove(directory, is_temporary);
}

/// Replaces the file at `path` by what `fill` writes, whole or not at all; where `fill` fails, not at all.
///
/// # Errors
/// What `fill` returns, and as [`Replacement::create`] and [`Replacement::commit`].
pub fn write<T, E: From<io::Error>>(
    path: &Path,
    fill: impl FnOnce(&mut Replacement) -> Result<T, E>,
) -> Result<T, E> {
    let mut replacement = Replacement::create(path)?;
    let outcome = fill(&mut replacement)?;
    replacement.commit()?;
    Ok(outcome)
}

/// A directory that is filled under a hidden name and appears whole with [`NewDirectory::commit`]. Dropped before, it
/// vanishes with all that is in it.
#[derive(Debug)]
pub struct NewDirectory {
    partial: TempDir,
    path: PathBuf,
    /// Open as long as it is filled.
    _held: File,
    _listed: Listed,
}

impl NewDirectory {
    /// Starts the directory that will stand at `path`, and creates those above it.
    ///
    /// # Errors
    /// The directories cannot be created.
    pub fn create(path: &Path) -> io::Result<Self> {
        let (prefix, directory) = (hidden(path)?, directory_of(path));
        fs::create_dir_all(directory)?;
        left_behind::remove_at_times(directory, is_temporary);
        let partial = Builder::new()
            .prefix(&prefix)
            .rand_bytes(RANDOM)
            .suffix(PARTIAL)
            .permissions(Permissions::from_mode(Readers::ByUmask.directory_mode()))
            .tempdir_in(directory)?;
        let held = File::open(partial.path())?;
        left_behind::hold(&held);
        Ok(Self {
            _listed: Listed::new(partial.path()),
            partial,
            path: path.to_owned(),
            _held: held,
        })
    }

    /// The path under which its files are written.
    pub fn partial(&self) -> &Path {
        self.partial.path()
    }

    /// Makes all files in it durable and renames it. An empty directory at its place is replaced.
    ///
    /// # Errors
    /// Files that cannot be made durable; a directory with content, or a file, at its place.
    pub fn commit(self) -> io::Result<()> {
        sync_tree(self.partial.path())?;
        commit(|| fs::rename(self.partial.path(), &self.path))?;
        sync_directory(directory_of(&self.path))?;
        // It has left its temporary name: nothing is there to be removed.
        let _ = self.partial.keep();
        Ok(())
    }
}

/// Renames a file or directory whose content is durable, and makes the new name so.
///
/// # Errors
/// As [`fs::rename`].
pub fn rename(from: &Path, to: &Path) -> io::Result<()> {
    fs::rename(from, to)?;
    sync_directory(directory_of(to))
}

/// Removes what killed processes have left of a directory for `path` that was never whole. Nobody may be filling it.
///
/// # Errors
/// The directory cannot be listed, or an entry cannot be removed.
pub fn remove_unfinished(path: &Path) -> io::Result<()> {
    let (prefix, directory) = (hidden(path)?, directory_of(path));
    let entries = match fs::read_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries?,
    };
    for entry in entries {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if !name.starts_with(prefix.as_str()) || !name.ends_with(PARTIAL) {
            continue;
        }
        if entry.file_type()?.is_dir() {
            fs::remove_dir_all(entry.path())?;
        } else {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

/// Makes every file and directory below `dir` durable, and `dir` itself.
fn sync_tree(dir: &Path) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            sync_tree(&entry.path())?;
        } else {
            File::open(entry.path())?.sync_all()?;
        }
    }
    sync_directory(dir)
}

/// Creates a directory and those above it, where they are missing, so that a crash cannot take them back.
///
/// # Errors
/// As [`std::fs::create_dir_all`].
pub fn create_directory(path: &Path) -> io::Result<()> {
    create_directory_for(Readers::ByUmask, path)
}

/// As [`create_directory`], for these readers; directories that are there already stay as they are.
///
/// # Errors
/// As [`create_directory`].
pub fn create_directory_for(readers: Readers, path: &Path) -> io::Result<()> {
    create_missing(readers, path, &mut Vec::new())
}

/// Directories that were made, and that can go again where nothing has come of them.
#[derive(Debug, Default)]
pub struct MadeDirectories(Vec<PathBuf>);

impl MadeDirectories {
    /// As [`create_directory`]; knows which ones were not there.
    ///
    /// # Errors
    /// As [`create_directory`].
    pub fn create(path: &Path) -> io::Result<Self> {
        let mut made = Self::default();
        match create_missing(Readers::ByUmask, path, &mut made.0) {
            Ok(()) => Ok(made),
            Err(error) => {
                made.remove_empty();
                Err(error)
            }
        }
    }

    /// Whether all of them were there.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Removes those of them that nothing is in.
    pub fn remove_empty(&self) {
        // One that is in use, or gone, stays as it is.
        let _ = self.0.iter().rev().try_for_each(fs::remove_dir);
    }
}

/// Makes what is missing of a path, and notes what it has made, those above first.
fn create_missing(readers: Readers, path: &Path, made: &mut Vec<PathBuf>) -> io::Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    let parent = directory_of(path);
    if parent == path {
        let message = format!("'{}' is no directory that can be made", path.display());
        return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
    }
    create_missing(readers, parent, made)?;
    match DirBuilder::new()
        .mode(readers.directory_mode())
        .create(path)
    {
        // Somebody else was faster, which is as good.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => {}
        created => {
            created?;
            made.push(path.to_owned());
        }
    }
    sync_directory(parent)
}

/// Puts the names in a directory on disk, e.g. that of a file which was created to be appended to.
///
/// # Errors
/// Where the directory cannot be opened, or the disk fails.
pub fn sync_directory(directory: &Path) -> io::Result<()> {
    match File::open(directory)?.sync_all() {
        // Some network and user-space file systems cannot sync a directory; they keep their names in another way.
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::InvalidInput | io::ErrorKind::Unsupported
            ) =>
        {
            Ok(())
        }
        synced => synced,
    }
}

fn directory_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        Some(_) => Path::new("."),
        // The root directory, which is always there.
        None => path,
    }
}

/// The file that is meant by a path, behind its links, whether it is there or not.
///
/// # Errors
/// Where what stands there is no regular file, or one that somebody has open, as `/dev/stdout` ([`NoRegularFile`]); where links are
/// a loop, or the system does not follow them.
pub fn target_of(path: &Path) -> io::Result<PathBuf> {
    let none = || io::Error::new(io::ErrorKind::InvalidInput, NoRegularFile(path.to_owned()));
    let mut target = path.to_owned();
    for _ in 0..MOST_LINKS {
        let Ok(next) = fs::read_link(&target) else {
            break;
        };
        let folder = directory_of(&target);
        // Who has the file open would go on writing where it has no name any more.
        if fs::canonicalize(folder)?.starts_with("/proc") {
            return Err(none());
        }
        target = folder.join(next);
    }
    match fs::metadata(path) {
        Ok(found) if !found.is_file() => Err(none()),
        // A loop, or a link that the system does not follow.
        Err(error) if path.is_symlink() && error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(target),
    }
}

/// The name of what a path stands for.
fn name_of(path: &Path) -> io::Result<&OsStr> {
    path.file_name().ok_or_else(|| {
        let message = format!("'{}' names no file", path.display());
        io::Error::new(io::ErrorKind::InvalidInput, message)
    })
}

/// The beginning of a directory's temporary name, from which a person sees whose it is.
fn hidden(path: &Path) -> io::Result<String> {
    let name = name_of(path)?.to_string_lossy();
    Ok(format!(".{name}."))
}

/// Whether a file or directory has a name as they are made above, of whatever path.
fn is_temporary(name: &str) -> bool {
    let of_directory = || {
        let name = name.strip_prefix('.')?.strip_suffix(PARTIAL)?;
        let (of, random) = name.rsplit_once('.')?;
        (!of.is_empty()).then_some(random)
    };
    let random = name.strip_prefix(UNFINISHED).or_else(of_directory);
    random.is_some_and(|random| {
        random.len() == RANDOM && random.bytes().all(|byte| byte.is_ascii_alphanumeric())
    })
}

#[cfg(test)]
mod tests;
