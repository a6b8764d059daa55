//! Files and directories that are whole or absent, whatever kills the writer: the process, the machine or the power.
//!
//! A rename alone does not promise that. A file system may write the new name to disk before the content, and then the
//! name stands for an empty file after a power cut. So the content is synced before the rename, and the directory, which
//! holds the name, after it. Every write-then-rename of the workspace happens here. A process that is killed leaves at most
//! an entry under a hidden temporary name, which a later process that writes beside it removes.

use std::ffi::OsStr;
use std::fs::{self, DirBuilder, File, Permissions};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};

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
}

impl Replacement {
    /// Begins the new content of the file at `path`, whose directory must exist.
    ///
    /// # Errors
    /// Where the path names no file, or the directory cannot be written.
    pub fn create(path: &Path) -> io::Result<Self> {
        Self::create_for(Readers::ByUmask, path)
    }

    /// As [`Replacement::create`], for these readers.
    fn create_for(readers: Readers, path: &Path) -> io::Result<Self> {
        Self::create_in(directory_of(path), readers, path)
    }

    /// As [`Replacement::create`], for these readers; until it is whole, it is in another directory of the file system.
    fn create_in(directory: &Path, readers: Readers, path: &Path) -> io::Result<Self> {
        name_of(path)?;
        let file = unfinished(directory, readers)?;
        Ok(Self {
            path: path.to_owned(),
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
        file.as_file().sync_all()?;
        file.persist(&self.path).map_err(|error| error.error)?;
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

/// Begins a file that has no name of its own yet, and removes what killed processes have left of theirs beside it. As long as
/// it is open, nobody takes it for left.
///
/// # Errors
/// Where the directory cannot be written.
pub fn unfinished(directory: &Path, readers: Readers) -> io::Result<NamedTempFile> {
    left_behind::remove_once(directory, is_temporary);
    let file = Builder::new()
        .prefix(UNFINISHED)
        .rand_bytes(RANDOM)
        .permissions(Permissions::from_mode(readers.file_mode()))
        .tempfile_in(directory)?;
    left_behind::hold(file.as_file());
    Ok(file)
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
}

impl NewDirectory {
    /// Starts the directory that will stand at `path`, and creates those above it.
    ///
    /// # Errors
    /// The directories cannot be created.
    pub fn create(path: &Path) -> io::Result<Self> {
        let (prefix, directory) = (hidden(path)?, directory_of(path));
        fs::create_dir_all(directory)?;
        left_behind::remove_once(directory, is_temporary);
        let partial = Builder::new()
            .prefix(&prefix)
            .rand_bytes(RANDOM)
            .suffix(PARTIAL)
            .permissions(Permissions::from_mode(Readers::ByUmask.directory_mode()))
            .tempdir_in(directory)?;
        let held = File::open(partial.path())?;
        left_behind::hold(&held);
        Ok(Self {
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
        rename(self.partial.path(), &self.path)?;
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
    if path.is_dir() {
        return Ok(());
    }
    let parent = directory_of(path);
    if parent == path {
        let message = format!("'{}' is no directory that can be made", path.display());
        return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
    }
    create_directory_for(readers, parent)?;
    match DirBuilder::new()
        .mode(readers.directory_mode())
        .create(path)
    {
        // Somebody else was faster, which is as good.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => {}
        created => created?,
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
mod tests {
    use std::io::{BufRead, BufReader, Lines};
    use std::process::{Child, ChildStdout, Command, Stdio};

    use super::*;

    /// Says to a child process which file to write; without it the child's test does nothing.
    const CHILD_FILE: &str = "RADIALOG_TEST_DURABLE_FILE";
    const LENGTH: usize = 1 << 20;

    fn content(byte: u8) -> Vec<u8> {
        vec![byte; LENGTH]
    }

    fn names(directory: &Path) -> Vec<String> {
        let mut names: Vec<_> = fs::read_dir(directory)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    /// A process of its own that runs one of the children below, and the lines that it prints.
    fn child(test: &str, file: &Path) -> (Child, Lines<BufReader<ChildStdout>>) {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", &format!("durable::tests::{test}")])
            .args(["--ignored", "--nocapture"])
            .env(CHILD_FILE, file)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        (child, lines)
    }

    fn wait_for(lines: &mut Lines<BufReader<ChildStdout>>, wanted: &str) {
        // The first line of a test stands behind the harness's own words.
        let said = lines.any(|line| line.unwrap().ends_with(wanted));
        assert!(said, "the child ended before it said '{wanted}'");
    }

    /// What has a name of a file that is being written.
    fn left_in(directory: &Path) -> Vec<String> {
        let mut left = names(directory);
        left.retain(|name| name.starts_with(UNFINISHED));
        left
    }

    fn make_old(path: &Path) {
        let hours_ago = std::time::SystemTime::now() - std::time::Duration::from_secs(7200);
        let file = File::open(path).unwrap();
        file.set_modified(hours_ago).unwrap();
    }

    /// The permissions of a file or directory, without its type.
    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    /// SIGKILL: the process has no chance to clean up.
    fn kill(mut child: Child) {
        child.kill().unwrap();
        child.wait().unwrap();
    }

    #[test]
    #[ignore = "a process that another test kills"]
    #[allow(clippy::print_stdout)]
    fn child_that_stops_in_the_middle_of_its_second_write() {
        let Some(file) = std::env::var_os(CHILD_FILE) else {
            return;
        };
        let file = Path::new(&file);
        let stop_half_way = |byte: u8| -> io::Result<()> {
            write(file, |writer| {
                writer.write_all(&content(byte)[..LENGTH / 2])?;
                writer.flush()?;
                println!("half");
                io::stdin().read_line(&mut String::new())?;
                writer.write_all(&content(byte)[LENGTH / 2..])
            })
        };
        stop_half_way(1).unwrap();
        println!("whole");
        stop_half_way(2).unwrap();
    }

    #[test]
    #[ignore = "a process that another test kills"]
    #[allow(clippy::print_stdout)]
    fn child_that_writes_until_it_is_killed() {
        let Some(file) = std::env::var_os(CHILD_FILE) else {
            return;
        };
        for byte in (1..=u8::MAX).cycle() {
            replace(Path::new(&file), &content(byte)).unwrap();
            println!("written");
        }
    }

    #[test]
    fn a_process_killed_in_the_middle_of_a_write_leaves_the_file_absent_or_as_it_was() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("file");
        let test = "child_that_stops_in_the_middle_of_its_second_write";

        let (first, mut lines) = child(test, &file);
        wait_for(&mut lines, "half");
        kill(first);
        assert!(!file.exists(), "{:?}", names(directory.path()));

        let (mut second, mut lines) = child(test, &file);
        wait_for(&mut lines, "half");
        second.stdin.as_mut().unwrap().write_all(b"\n").unwrap();
        wait_for(&mut lines, "whole");
        wait_for(&mut lines, "half");
        let left = left_in(directory.path());
        assert_eq!(left.len(), 2, "{left:?}");
        for name in &left {
            make_old(&directory.path().join(name));
        }
        left_behind::remove(directory.path(), is_temporary);
        let writing = left_in(directory.path());
        assert_eq!(writing.len(), 1, "one of them is being written");
        kill(second);
        assert!(fs::read(&file).unwrap() == content(1));
        left_behind::remove(directory.path(), is_temporary);
        assert_eq!(names(directory.path()), ["file"]);
    }

    #[test]
    fn what_was_left_a_moment_ago_or_has_another_name_stays() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        let all = [".writing-abcdef", ".writing-lock", ".writing-abcdefg", "x"];
        for name in all {
            fs::write(path(name), "x").unwrap();
        }
        left_behind::remove(directory.path(), is_temporary);
        assert_eq!(names(directory.path()).len(), 4);
        for name in all {
            make_old(&path(name));
        }
        left_behind::remove(directory.path(), is_temporary);
        let mut left = all[1..].to_vec();
        left.sort_unstable();
        assert_eq!(names(directory.path()), left);
    }

    #[test]
    fn a_process_killed_while_it_writes_and_writes_leaves_a_whole_file() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("file");
        for writes in 1..=8 {
            let (child, mut lines) = child("child_that_writes_until_it_is_killed", &file);
            for _ in 0..writes {
                wait_for(&mut lines, "written");
            }
            kill(child);
            let found = fs::read(&file).unwrap();
            assert!(found == content(found[0]), "{} bytes", found.len());
        }
    }

    #[test]
    fn a_write_that_fails_leaves_the_file_as_it_was_and_nothing_beside_it() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("file");
        replace(&file, b"old").unwrap();
        let failed = write(&file, |writer| {
            writer.write_all(b"new")?;
            Err::<(), _>(io::Error::other("out of words"))
        });
        assert_eq!(failed.unwrap_err().to_string(), "out of words");
        assert_eq!(fs::read(&file).unwrap(), b"old");
        replace(&file, b"new").unwrap();
        assert_eq!(fs::read(&file).unwrap(), b"new");
        assert_eq!(names(directory.path()), ["file"]);
    }

    #[test]
    fn others_may_read_the_file_as_the_umask_says() {
        let directory = tempfile::tempdir().unwrap();
        let [plain, durable] = ["plain", "durable"].map(|name| directory.path().join(name));
        fs::write(&plain, b"x").unwrap();
        replace(&durable, b"x").unwrap();
        assert_eq!(mode(&durable), mode(&plain));
    }

    #[test]
    fn what_is_for_the_owner_alone_is_so_whatever_was_there() {
        let directory = tempfile::tempdir().unwrap();
        let deep = directory.path().join("a/b");
        create_directory_for(Readers::Owner, &deep).unwrap();
        assert_eq!((mode(deep.parent().unwrap()), mode(&deep)), (0o700, 0o700));
        let file = deep.join("file");
        replace(&file, b"for others").unwrap();
        replace_for(Readers::Owner, &file, b"for the owner").unwrap();
        assert_eq!(mode(&file), 0o600);
        assert_eq!(fs::read(&file).unwrap(), b"for the owner");
    }

    #[test]
    fn directories_are_made_down_to_the_wanted_one() {
        let directory = tempfile::tempdir().unwrap();
        let deep = directory.path().join("a/b/c");
        create_directory(&deep).unwrap();
        create_directory(&deep).unwrap();
        assert!(deep.is_dir());
        fs::write(directory.path().join("file"), b"").unwrap();
        assert!(create_directory(&directory.path().join("file/below")).is_err());
    }

    #[test]
    fn a_directory_appears_whole_or_not_at_all() {
        let dir = tempfile::tempdir().unwrap();
        let [path, plain] = ["above/bundle", "plain"].map(|name| dir.path().join(name));
        let pending = NewDirectory::create(&path).unwrap();
        fs::create_dir(pending.partial().join("inner")).unwrap();
        fs::write(pending.partial().join("inner/file"), "content").unwrap();
        assert!(!path.exists());
        pending.commit().unwrap();
        assert_eq!(fs::read(path.join("inner/file")).unwrap(), b"content");
        fs::create_dir(&plain).unwrap();
        assert_eq!(mode(&path), mode(&plain));

        drop(NewDirectory::create(&path).unwrap());
        let second = NewDirectory::create(&path).unwrap();
        second.commit().unwrap_err();
        assert_eq!(fs::read(path.join("inner/file")).unwrap(), b"content");
        assert_eq!(names(&dir.path().join("above")), ["bundle"]);
    }

    #[test]
    fn what_killed_processes_have_left_of_a_path_is_removed_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["weights", ".weights.a.partial", ".other.a.partial"] {
            fs::write(dir.path().join(name), "content").unwrap();
        }
        let unfinished = dir.path().join(".weights.b.partial");
        fs::create_dir(&unfinished).unwrap();
        fs::write(unfinished.join("file"), "content").unwrap();
        remove_unfinished(&dir.path().join("weights")).unwrap();
        let mut left = names(dir.path());
        left.sort();
        assert_eq!(left, [".other.a.partial", "weights"]);
        remove_unfinished(&dir.path().join("absent/weights")).unwrap();
    }

    #[test]
    fn temporary_names_are_told_from_all_others() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["hashes.json", "x", ".hidden"] {
            let path = dir.path().join(name);
            let file = Replacement::create(&path).unwrap();
            let directory = NewDirectory::create(&path).unwrap();
            for made in [file.partial(), directory.partial()] {
                let made = made.file_name().unwrap().to_str().unwrap();
                assert!(is_temporary(made), "{made}");
            }
        }
        for name in [
            "weights.partial",
            ".weights.partial",
            ".weights.ab.partial",
            ".abcdef.partial",
            "weights.abcdef.partial",
        ] {
            assert!(!is_temporary(name), "{name}");
        }
    }
}
