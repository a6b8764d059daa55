//! The one way in which this crate and the trainings write what others read: under a temporary name beside its place, made
//! durable, then renamed. A reader sees the old content or the new one and never a part, also after a crash or a power
//! cut. A process that is killed leaves at most a hidden `*.partial` entry, which a later process that writes beside it
//! removes.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs::{self, File, Permissions};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError, RwLock};

use tempfile::{Builder, NamedTempFile, TempDir};

use crate::left_behind;

/// Modes before the umask, as `open` and `mkdir` ask for them: what is written is for other users too, while temporary
/// files are made for one.
const FILE_MODE: u32 = 0o666;
const DIRECTORY_MODE: u32 = 0o777;

/// The end of a temporary name.
const SUFFIX: &str = ".partial";
/// Random characters before it.
const RANDOM: usize = 6;

/// Temporary names of this process, of what is not whole yet.
static UNFINISHED: Mutex<BTreeSet<PathBuf>> = Mutex::new(BTreeSet::new());
/// Whether nothing may become whole any more.
static STOPPED: RwLock<bool> = RwLock::new(false);
/// Tries to remove what another thread still writes to.
const REMOVALS: u32 = 10;

/// A temporary name as long as it is one.
#[derive(Debug)]
struct Listed(PathBuf);

impl Listed {
    fn new(path: &Path) -> Self {
        unfinished().insert(path.to_owned());
        Self(path.to_owned())
    }
}

impl Drop for Listed {
    fn drop(&mut self) {
        unfinished().remove(&self.0);
    }
}

fn unfinished() -> MutexGuard<'static, BTreeSet<PathBuf>> {
    UNFINISHED.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Lets nothing of this process become whole from now on: what was committed before this returns is there, and every later commit is an
/// error. For a process that is asked to stop, so that what it says and what there is are one.
pub fn refuse_commits() {
    *STOPPED.write().unwrap_or_else(PoisonError::into_inner) = true;
}

/// Removes what this process has begun to write and is not whole, where it ends without dropping it.
pub fn abandon() {
    refuse_commits();
    for _ in 0..REMOVALS {
        let left: Vec<PathBuf> = unfinished().iter().cloned().collect();
        let is_gone = |path: &PathBuf| {
            let removed = match path.is_dir() {
                true => fs::remove_dir_all(path),
                false => fs::remove_file(path),
            };
            removed.is_ok() || !path.exists()
        };
        if left.iter().filter(|path| !is_gone(path)).count() == 0 {
            return;
        }
    }
}

/// Renames what is whole, unless the process is asked to stop.
fn commit<T>(rename: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    let stopped = STOPPED.read().unwrap_or_else(PoisonError::into_inner);
    match *stopped {
        true => Err(io::Error::new(
            io::ErrorKind::Interrupted,
            "the process was asked to stop",
        )),
        false => rename(),
    }
}

/// Replaces the file at `path`, whose directory has to exist, by one with this content.
///
/// # Errors
/// The file cannot be written, be made durable or be renamed; what was at `path` is then as it was.
pub fn replace(path: &Path, content: &[u8]) -> io::Result<()> {
    write(path, |file| file.write_all(content))
}

/// Replaces the file at `path`, whose directory has to exist, by what `fill` writes.
///
/// # Errors
/// As [`replace`], or an error of `fill`.
pub fn write<T, E: From<io::Error>>(
    path: &Path,
    fill: impl FnOnce(&mut Replacement) -> Result<T, E>,
) -> Result<T, E> {
    let mut file = Replacement::create(path)?;
    let value = fill(&mut file)?;
    file.commit()?;
    Ok(value)
}

/// New content of a file, which is written over a longer time and takes the place of the old one with
/// [`Replacement::commit`]. Dropped before, it vanishes.
#[derive(Debug)]
pub struct Replacement {
    file: BufWriter<NamedTempFile>,
    path: PathBuf,
    _listed: Listed,
}

impl Replacement {
    /// Starts the file that will stand at `path`, whose directory has to exist.
    ///
    /// # Errors
    /// The directory does not exist or cannot be written to.
    pub fn create(path: &Path) -> io::Result<Self> {
        let (prefix, directory) = (prefix(path)?, directory_of(path));
        left_behind::remove_once(directory, is_temporary);
        let file = Builder::new()
            .prefix(&prefix)
            .rand_bytes(RANDOM)
            .suffix(SUFFIX)
            .permissions(Permissions::from_mode(FILE_MODE))
            .tempfile_in(directory)?;
        left_behind::hold(file.as_file());
        Ok(Self {
            _listed: Listed::new(file.path()),
            file: BufWriter::new(file),
            path: path.to_owned(),
        })
    }

    /// The file's place, where nothing of it stands yet.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The path of the content until then, for writers that take a path.
    pub fn partial(&self) -> &Path {
        self.file.get_ref().path()
    }

    /// Makes the content durable and puts the file in its place.
    ///
    /// # Errors
    /// The content cannot be written or be made durable, or the file cannot be renamed.
    pub fn commit(self) -> io::Result<()> {
        let file = self.file.into_inner().map_err(|error| error.into_error())?;
        file.as_file().sync_all()?;
        commit(|| file.persist(&self.path).map_err(|error| error.error))?;
        sync_directory(directory_of(&self.path))
    }
}

impl Write for Replacement {
    fn write(&mut self, piece: &[u8]) -> io::Result<usize> {
        self.file.write(piece)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
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
        let (prefix, directory) = (prefix(path)?, directory_of(path));
        fs::create_dir_all(directory)?;
        left_behind::remove_once(directory, is_temporary);
        let partial = Builder::new()
            .prefix(&prefix)
            .rand_bytes(RANDOM)
            .suffix(SUFFIX)
            .permissions(Permissions::from_mode(DIRECTORY_MODE))
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
        commit(|| rename(self.partial.path(), &self.path))?;
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

/// Removes what killed processes have left of content for `path` that was never whole. Nobody may be writing it.
///
/// # Errors
/// The directory cannot be listed, or an entry cannot be removed.
pub fn remove_unfinished(path: &Path) -> io::Result<()> {
    let (prefix, directory) = (prefix(path)?, directory_of(path));
    let entries = match fs::read_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries?,
    };
    for entry in entries {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if !name.starts_with(prefix.as_str()) || !name.ends_with(SUFFIX) {
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

/// Makes the names in a directory durable, where its file system can.
fn sync_directory(dir: &Path) -> io::Result<()> {
    match File::open(dir)?.sync_all() {
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::InvalidInput | io::ErrorKind::Unsupported
            ) =>
        {
            Ok(())
        }
        result => result,
    }
}

fn directory_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    }
}

/// Whether a file or directory has a name as they are made above, of whatever path.
fn is_temporary(name: &str) -> bool {
    let random = name
        .strip_prefix('.')
        .and_then(|name| name.strip_suffix(SUFFIX))
        .and_then(|name| name.rsplit_once('.'))
        .filter(|(of, _)| !of.is_empty());
    random.is_some_and(|(_, random)| {
        random.len() == RANDOM && random.bytes().all(|byte| byte.is_ascii_alphanumeric())
    })
}

/// The beginning of a temporary name, from which a person sees whose it is.
fn prefix(path: &Path) -> io::Result<String> {
    let name = path.file_name().map(OsStr::to_string_lossy);
    name.map(|name| format!(".{name}.")).ok_or_else(|| {
        let message = format!("'{}' names no file", path.display());
        io::Error::new(io::ErrorKind::InvalidInput, message)
    })
}

#[cfg(test)]
mod tests {
    use std::process::{Child, Command, Stdio};
    use std::thread;
    use std::time::Duration;

    use super::*;

    /// Tells [`is_asked_to_stop`] where to write.
    const STOPPED_IN: &str = "RADIALOG_TEST_STOPPED_IN";

    /// Body of the process that the next test starts.
    #[test]
    #[ignore = "the next test runs it in a process of its own"]
    fn is_asked_to_stop() {
        let dir = std::path::PathBuf::from(std::env::var_os(STOPPED_IN).unwrap());
        let whole = NewDirectory::create(&dir.join("whole")).unwrap();
        whole.commit().unwrap();
        let half = NewDirectory::create(&dir.join("half")).unwrap();
        fs::write(half.partial().join("file"), "x").unwrap();
        let file = Replacement::create(&dir.join("file")).unwrap();
        refuse_commits();
        assert_eq!(
            file.commit().unwrap_err().kind(),
            io::ErrorKind::Interrupted
        );
        abandon();
        assert!(!half.partial().exists());
        std::process::exit(0);
    }

    #[test]
    fn a_process_that_is_asked_to_stop_makes_nothing_whole_and_leaves_nothing_half() {
        let dir = tempfile::tempdir().unwrap();
        let stopped = Command::new(std::env::current_exe().unwrap())
            .args(["--ignored", "--exact", "durable::tests::is_asked_to_stop"])
            .env(STOPPED_IN, dir.path())
            .output()
            .unwrap();
        assert!(stopped.status.success(), "{stopped:?}");
        let left: Vec<_> = fs::read_dir(dir.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .collect();
        assert_eq!(left, ["whole"]);
    }

    /// Tells [`writes_half_and_waits`] where to write.
    const VICTIM: &str = "RADIALOG_TEST_VICTIM";

    fn names(dir: &Path) -> Vec<String> {
        let entries = fs::read_dir(dir).unwrap();
        entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect()
    }

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode()
    }

    #[test]
    fn a_file_is_replaced_whole_and_has_the_mode_of_any_other_new_file() {
        let dir = tempfile::tempdir().unwrap();
        let [path, other] = ["report.json", "other"].map(|name| dir.path().join(name));
        fs::write(&path, "old").unwrap();
        replace(&path, b"new").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"new");
        fs::write(&other, "").unwrap();
        assert_eq!(mode(&path), mode(&other));
        assert_eq!(names(dir.path()).len(), 2, "nothing temporary is left");
    }

    #[test]
    fn a_writer_that_fails_leaves_the_old_content_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("report.json");
        replace(&path, b"old").unwrap();
        let failed: io::Result<()> = write(&path, |file| {
            file.write_all(b"half")?;
            Err(io::Error::other("no more"))
        });
        assert_eq!(failed.unwrap_err().to_string(), "no more");
        assert_eq!(fs::read(&path).unwrap(), b"old");
        assert_eq!(names(dir.path()), ["report.json"]);
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

    #[test]
    fn a_process_that_is_killed_while_it_writes_leaves_the_old_content() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("weights");
        replace(&path, b"old").unwrap();
        let mut victim = victim(&path);
        let has_written = || {
            names(dir.path()).iter().any(|name| {
                name.ends_with(".partial")
                    && fs::metadata(dir.path().join(name)).is_ok_and(|meta| meta.len() > 0)
            })
        };
        while !has_written() {
            assert!(victim.try_wait().unwrap().is_none(), "it ended by itself");
            thread::sleep(Duration::from_millis(5));
        }
        let left = names(dir.path());
        let left = left.iter().find(|name| is_temporary(name)).unwrap();
        let left = dir.path().join(left);
        let hours_ago = std::time::SystemTime::now() - Duration::from_secs(7200);
        File::open(&left).unwrap().set_modified(hours_ago).unwrap();
        left_behind::remove(dir.path(), is_temporary);
        assert!(left.exists(), "it is being written");
        victim.kill().unwrap();
        victim.wait().unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"old");
        left_behind::remove(dir.path(), is_temporary);
        assert_eq!(names(dir.path()), ["weights"]);
    }

    /// The process that is killed: this test binary, with the one test below.
    fn victim(path: &Path) -> Child {
        Command::new(std::env::current_exe().unwrap())
            .args([
                "--ignored",
                "--exact",
                "durable::tests::writes_half_and_waits",
            ])
            .env(VICTIM, path)
            .stdout(Stdio::null())
            .spawn()
            .unwrap()
    }

    #[test]
    #[ignore = "it never ends: another test runs it in a process of its own and kills that"]
    fn writes_half_and_waits() {
        let Some(path) = std::env::var_os(VICTIM) else {
            return;
        };
        let mut file = Replacement::create(Path::new(&path)).unwrap();
        file.write_all(b"half").unwrap();
        file.flush().unwrap();
        loop {
            thread::park();
        }
    }
}
