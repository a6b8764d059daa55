//! Files below a root, wherever they are kept, always in the byte order of their paths.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use radialog_schemas::system_files::is_system_file;
use radialog_schemas::{ErrorCode, Failure, RelativePath};
use tokio::io::{AsyncBufRead, BufReader};

use super::entries::EntryProblem;
use super::file_place::{FilePlace, OutsideFiles};
use super::image::{ImageSource, outside};
use crate::run_files::{RESULTS_FILE, RUN_FILE};

/// A tree of files: a local folder or a prefix of a bucket.
#[async_trait]
pub(super) trait FileTree: Send + Sync {
    /// Walks the paths of all files under a folder (empty for the root, else closed by `/`), relative to the root.
    fn walk(&self, under: &str) -> Box<dyn PathWalk>;

    /// Names the image at a relative path, which need not be there.
    fn image(&self, path: &str) -> Result<ImageSource, Failure>;

    /// Opens a file to read its lines. Not found is only what is not there; a link that leads nowhere is.
    async fn lines(&self, path: &str) -> io::Result<Box<dyn AsyncBufRead + Send + Unpin>>;

    /// Says what a person calls the file.
    fn name(&self, path: &str) -> String;

    /// The name of the root's own folder; none where it has no name.
    fn folder_name(&self) -> Option<String>;

    /// The tree of the folder that the root lies in.
    fn above(&self) -> Option<Arc<dyn FileTree>>;
}

/// A stream of the paths of a tree, in one pass.
#[async_trait]
pub(super) trait PathWalk: Send {
    async fn next(&mut self) -> Option<Result<String, EntryProblem>>;
}

/// Files on disk. Links are followed; a link back to a folder above it is a problem, and so is one that leads outside unless that is
/// allowed. A system's own files
/// ([`is_system_file`]) are not part of an archive.
pub(super) struct LocalFileTree {
    root: PathBuf,
    outside: OutsideFiles,
}

impl LocalFileTree {
    pub(super) fn new(root: PathBuf, outside: OutsideFiles) -> Self {
        Self { root, outside }
    }
}

#[async_trait]
impl FileTree for LocalFileTree {
    fn walk(&self, under: &str) -> Box<dyn PathWalk> {
        Box::new(LocalPathWalk {
            root: self.root.clone(),
            outside: self.outside,
            start: Some(under.into()),
            levels: Vec::new(),
        })
    }

    fn image(&self, path: &str) -> Result<ImageSource, Failure> {
        if self.outside == OutsideFiles::Refused
            && let Err(error) = RelativePath::parse(path)
        {
            let leads_out = path.starts_with('/') || path.split('/').any(|part| part == "..");
            return Err(match leads_out {
                true => outside(path),
                false => Failure::new(ErrorCode::ArchiveEntry, error.to_string()),
            });
        }
        let path = self.root.join(path);
        Ok(ImageSource::File(FilePlace::new(
            path,
            &self.root,
            self.outside,
        )))
    }

    async fn lines(&self, path: &str) -> io::Result<Box<dyn AsyncBufRead + Send + Unpin>> {
        let path = self.root.join(path);
        let file = match tokio::fs::File::open(&path).await {
            Err(error)
                if error.kind() == io::ErrorKind::NotFound
                    && tokio::fs::symlink_metadata(&path).await.is_ok() =>
            {
                return Err(io::Error::other("it is a link that leads nowhere"));
            }
            file => file?,
        };
        Ok(Box::new(BufReader::with_capacity(1 << 16, file)))
    }

    fn name(&self, path: &str) -> String {
        self.root.join(path).display().to_string()
    }

    fn folder_name(&self) -> Option<String> {
        Some(self.root.file_name()?.to_str()?.to_owned())
    }

    fn above(&self) -> Option<Arc<dyn FileTree>> {
        let root = self.root.parent()?.to_owned();
        Some(Arc::new(Self::new(root, self.outside)))
    }
}

/// A walk that holds the names of one directory for each level it is in.
struct LocalPathWalk {
    root: PathBuf,
    outside: OutsideFiles,
    start: Option<Vec<u8>>,
    levels: Vec<Level>,
}

/// Device and inode.
type FileId = (u64, u64);

struct Level {
    /// The directory's identity, by which a link back is noticed.
    id: FileId,
    /// Relative path, empty or closed by `/`.
    path: Vec<u8>,
    children: std::vec::IntoIter<Vec<u8>>,
}

#[async_trait]
impl PathWalk for LocalPathWalk {
    async fn next(&mut self) -> Option<Result<String, EntryProblem>> {
        if let Some(start) = self.start.take()
            && let Err(problem) = self.enter(start).await
        {
            return Some(Err(problem));
        }
        loop {
            let level = self.levels.last_mut()?;
            let Some(name) = level.children.next() else {
                self.levels.pop();
                continue;
            };
            let path = [level.path.as_slice(), &name].concat();
            let is_folder = path.ends_with(b"/");
            match String::from_utf8(path) {
                Ok(path) if is_folder => {
                    if let Err(problem) = self.enter(path.into_bytes()).await {
                        return Some(Err(problem));
                    }
                }
                Ok(path) => match RelativePath::parse(&path) {
                    Ok(_) => return Some(Ok(path)),
                    Err(invalid) => {
                        return Some(Err(EntryProblem::of_unusable_path(
                            path.escape_debug().to_string(),
                            &path,
                            format!("{invalid}; it is left out: rename it"),
                        )));
                    }
                },
                Err(error) => {
                    let place = error.as_bytes().escape_ascii().to_string();
                    let path = String::from_utf8_lossy(error.as_bytes());
                    let message = "the path is not UTF-8 and is left out; rename it";
                    return Some(Err(EntryProblem::of_unusable_path(place, &path, message)));
                }
            }
        }
    }
}

impl LocalPathWalk {
    async fn enter(&mut self, path: Vec<u8>) -> Result<(), EntryProblem> {
        let folder = self.root.join(OsString::from_vec(path.clone()));
        let place = folder.display().to_string();
        let problem = |code: ErrorCode, reason: String| {
            let message = format!("the directory cannot be read and is left out: {reason}");
            EntryProblem::new(place.clone(), code, message)
        };
        let unreadable = |reason: String| problem(ErrorCode::ArchiveUnreadable, reason);
        let place_of_folder = FilePlace::new(folder, &self.root, self.outside);
        let listing = tokio::task::spawn_blocking(move || list(&place_of_folder)).await;
        let (id, children) = listing
            .map_err(|panic| unreadable(panic.to_string()))?
            .map_err(|error| match error {
                NotListed::Outside => unreadable(OUTSIDE.into()),
                NotListed::Failed(error) => unreadable(error.to_string()),
            })?;
        let is_results = [RUN_FILE, RESULTS_FILE]
            .iter()
            .all(|name| children.iter().any(|child| child == name.as_bytes()));
        if is_results && !self.levels.is_empty() {
            let message = "the folder has the results of a run and is left out";
            return Err(EntryProblem::new(place, ErrorCode::ArchiveEntry, message));
        }
        if self.levels.iter().any(|level| level.id == id) {
            let reason = "it links back to a folder above it";
            return Err(problem(ErrorCode::ArchiveEntry, reason.into()));
        }
        self.levels.push(Level {
            id,
            path,
            children: children.into_iter(),
        });
        Ok(())
    }
}

/// Why a folder that a link leads to outside of the archive is left out.
const OUTSIDE: &str =
    "it is a link that leads outside of the archive; --allow-outside takes what lies there";

/// The reason why the names in a directory are not known.
enum NotListed {
    /// It lies outside of the archive, which is not allowed.
    Outside,
    Failed(io::Error),
}

impl From<io::Error> for NotListed {
    fn from(error: io::Error) -> Self {
        Self::Failed(error)
    }
}

/// Lists the names in a directory that are not a system's own, in byte order; folders are closed by `/`, which gives the order of whole paths.
fn list(place: &FilePlace) -> Result<(FileId, Vec<Vec<u8>>), NotListed> {
    let folder = place.path();
    if place.resolve()?.is_none() {
        return Err(NotListed::Outside);
    }
    let metadata = fs::metadata(folder)?;
    let mut names = Vec::new();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let mut name = entry.file_name().as_bytes().to_owned();
        if is_system_file(&String::from_utf8_lossy(&name)) {
            continue;
        }
        let kind = entry.file_type()?;
        // A dangling link counts as a file: reading it tells what is wrong.
        let is_folder = if kind.is_symlink() {
            fs::metadata(entry.path()).is_ok_and(|target| target.is_dir())
        } else {
            kind.is_dir()
        };
        if is_folder {
            name.push(b'/');
        }
        names.push(name);
    }
    names.sort_unstable();
    Ok(((metadata.dev(), metadata.ino()), names))
}

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;

    use super::*;

    async fn all(walk: &mut dyn PathWalk) -> (Vec<String>, Vec<EntryProblem>) {
        let (mut paths, mut problems) = (Vec::new(), Vec::new());
        while let Some(next) = walk.next().await {
            match next {
                Ok(path) => paths.push(path),
                Err(problem) => problems.push(problem),
            }
        }
        (paths, problems)
    }

    #[test]
    fn a_name_is_told_to_lead_outside_only_where_it_does() {
        let tree = LocalFileTree::new("archive".into(), OutsideFiles::Refused);
        for (name, is_outside) in [
            ("../x.png", true),
            ("/x.png", true),
            ("a\nb.png", false),
            ("images/", false),
        ] {
            let message = tree.image(name).err().unwrap().message;
            assert_eq!(message.contains("--allow-outside"), is_outside, "{message}");
        }
    }

    #[tokio::test]
    async fn a_linked_folder_outside_is_a_problem_unless_it_is_allowed() {
        let dir = tempfile::tempdir().unwrap();
        let [archive, other] = ["archive", "other"].map(|name| dir.path().join(name));
        for folder in [&archive, &other] {
            fs::create_dir(folder).unwrap();
            fs::write(folder.join("a.png"), b"x").unwrap();
        }
        std::os::unix::fs::symlink(&other, archive.join("link")).unwrap();
        std::os::unix::fs::symlink(".", other.join("inside")).unwrap();
        let walk = async |outside| {
            let tree = LocalFileTree::new(archive.clone(), outside);
            all(&mut *tree.walk("")).await
        };
        let (paths, problems) = walk(OutsideFiles::Refused).await;
        assert_eq!(paths, ["a.png"]);
        assert!(
            problems[0].failure.message.contains("--allow-outside")
                && problems[0].may_hide_studies(),
            "{problems:?}"
        );
        let (paths, _) = walk(OutsideFiles::Allowed).await;
        assert_eq!(paths, ["a.png", "link/a.png"]);
    }

    #[tokio::test]
    async fn paths_come_in_byte_order_as_an_object_store_lists_them() {
        let dir = tempfile::tempdir().unwrap();
        for path in [
            "b.png",
            "a/z.png",
            "a/b/c.png",
            "a.png",
            "a-b/d.png",
            ".hidden/e.png",
            "a/._f.png",
            "a/@eaDir/g.png",
            "Thumbs.db",
        ] {
            let path = dir.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, b"x").unwrap();
        }
        let (paths, problems) =
            all(&mut *LocalFileTree::new(dir.path().into(), OutsideFiles::Refused).walk("")).await;
        assert_eq!(
            paths,
            ["a-b/d.png", "a.png", "a/b/c.png", "a/z.png", "b.png"]
        );
        assert!(paths.is_sorted() && problems.is_empty());
    }

    #[tokio::test]
    async fn what_cannot_be_walked_is_named_and_the_walk_goes_on() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        fs::write(root.join("1.png"), b"x").unwrap();
        fs::create_dir(root.join("gone")).unwrap();
        fs::create_dir(root.join("loop")).unwrap();
        std::os::unix::fs::symlink(root, root.join("loop/back")).unwrap();
        fs::write(root.join(OsStr::from_bytes(b"caf\xe9.png")), b"x").unwrap();
        fs::write(root.join(OsStr::from_bytes(b"caf\xe9.txt")), b"x").unwrap();
        fs::write(root.join("z.png"), b"x").unwrap();
        let mut walk = LocalFileTree::new(root.into(), OutsideFiles::Refused).walk("");
        assert_eq!(walk.next().await.unwrap().unwrap(), "1.png");
        fs::remove_dir(root.join("gone")).unwrap();
        let (paths, problems) = all(&mut *walk).await;
        assert_eq!(paths, ["z.png"]);
        let named: Vec<String> = problems.iter().map(EntryProblem::to_string).collect();
        assert_eq!(named.len(), 4, "{named:?}");
        assert!(
            named[0].starts_with("caf\\xe9.png: ") && named[0].contains("not UTF-8"),
            "{named:?}"
        );
        assert!(named[1].starts_with("caf\\xe9.txt: "), "{named:?}");
        assert!(
            named[2].contains("/gone") && named[2].contains("left out"),
            "{named:?}"
        );
        let hides: Vec<bool> = problems
            .iter()
            .map(EntryProblem::may_hide_studies)
            .collect();
        assert_eq!(hides, [true, false, true, false]);
        assert!(
            named[3].contains("/loop/back") && named[3].contains("links back"),
            "{named:?}"
        );
    }
}
