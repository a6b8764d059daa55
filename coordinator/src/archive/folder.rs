//! A tree of files in which every file is accounted for: it is a study, part of one, or a problem that is named. PNG and
//! JPEG files are studies; those in a study folder of MIMIC-CXR-JPG are one study together, wherever in the tree that
//! begins. An image's id is its path below the archive without the suffix, so that equal names in different folders stay
//! apart. A file of another image format is a failed study under its whole path, so that it does not take the place of the
//! PNG beside it; so is an image whose suffix is none. What is no image is left out and listed. A system's own files are
//! no part of an archive ([`radialog_schemas::system_files`]).

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use radialog_runtime::objects::ObjectError;
use radialog_schemas::{ErrorCode, Failure, ImageFormat, ObjectKey};
use tracing::warn;

use super::entries::{Archive, EntryProblem, StudyEntries, StudyEntry};
use super::file_tree::{FileTree, PathWalk};
use super::image::{FileKind, ImageReadError, unsupported};
use super::mimic_cxr::{ImageTable, ImageTables, is_beside, is_image_table};
use crate::CoordinatorError;

/// Pause before a file of a store that does not answer, or a table that a disk does not give, is looked at again.
pub(super) const RETRY_PAUSE: Duration = Duration::from_secs(2);
/// How often a table that a disk does not give is tried before the studies of its tree are passed over: a moment costs none.
const TABLE_TRIES: u32 = 5;
/// Pause before tables that could not be read are tried again: to read them half takes as long as hundreds of studies.
const TABLE_PAUSE: Duration = Duration::from_secs(60);

/// An archive whose studies are its image files.
pub(super) struct FolderArchive {
    name: String,
    tree: Arc<dyn FileTree>,
    tables: Arc<ImageTables>,
    /// The only file that is part of it.
    only: Option<String>,
}

struct FolderEntries {
    tree: Arc<dyn FileTree>,
    tables: Arc<ImageTables>,
    walk: Box<dyn PathWalk>,
    /// A path that was walked to, and not looked at.
    ahead: Option<String>,
    /// What was found on the way to the end of a study's folder.
    found: VecDeque<Found>,
    /// The tables beside each tree of MIMIC's layout that was come by.
    roots: HashMap<String, Arc<ImageTable>>,
    /// Trees whose tables could not be read when a study of them was come by, which was told, and when that was tried last.
    unread: HashMap<String, Instant>,
    /// The pause between tries to read tables.
    retry_pause: Duration,
    /// How long such tables are not tried again.
    table_pause: Duration,
    /// Files that are called as such tables.
    table_files: Vec<String>,
    is_one_file: bool,
}

type Found = Result<StudyEntry, EntryProblem>;

/// A walk of one file.
struct OneFile(Option<String>);

/// What a file turned out to be.
enum FileContent {
    Image,
    Unsupported(Failure),
    NoImage(String),
    /// Nobody knows what it is.
    Unreadable(String),
}

#[async_trait]
impl PathWalk for OneFile {
    async fn next(&mut self) -> Option<Result<String, EntryProblem>> {
        self.0.take().map(Ok)
    }
}

impl FolderArchive {
    /// Everything in a tree.
    pub(super) fn new(name: String, tree: Arc<dyn FileTree>) -> Self {
        Self {
            name,
            tables: Arc::new(ImageTables::new(tree.clone())),
            tree,
            only: None,
        }
    }

    /// One image of a tree.
    pub(super) fn of_one_file(name: String, tree: Arc<dyn FileTree>, file: String) -> Self {
        Self {
            only: Some(file),
            ..Self::new(name, tree)
        }
    }

    /// Reads the tables beside the first tree of MIMIC's layout, if it begins among so many first files: one that cannot be
    /// used is noticed before any work. `pause` is that between tries.
    ///
    /// # Errors
    /// When a table is there and cannot be used.
    pub(super) async fn check_first(
        &self,
        files: usize,
        pause: Duration,
    ) -> Result<(), CoordinatorError> {
        let mut walk = self.walk();
        for _ in 0..files {
            let Some(path) = walk.next().await else { break };
            if let Some(found) = path.ok()
                && let Some(found) = self.tables.study_folder(&found)
            {
                tables_of_disk(&self.tables, found.root, pause).await?;
                break;
            }
        }
        Ok(())
    }

    fn pass(&self) -> FolderEntries {
        FolderEntries {
            tree: self.tree.clone(),
            tables: self.tables.clone(),
            walk: self.walk(),
            ahead: None,
            found: VecDeque::new(),
            roots: HashMap::new(),
            unread: HashMap::new(),
            retry_pause: RETRY_PAUSE,
            table_pause: TABLE_PAUSE,
            table_files: Vec::new(),
            is_one_file: self.only.is_some(),
        }
    }

    fn walk(&self) -> Box<dyn PathWalk> {
        match &self.only {
            Some(file) => Box::new(OneFile(Some(file.clone()))),
            None => self.tree.walk(""),
        }
    }
}

#[async_trait]
impl Archive for FolderArchive {
    fn name(&self) -> String {
        self.name.clone()
    }

    async fn entries(&self) -> Result<Box<dyn StudyEntries>, CoordinatorError> {
        Ok(Box::new(self.pass()))
    }
}

#[async_trait]
impl StudyEntries for FolderEntries {
    async fn next(&mut self) -> Option<Found> {
        loop {
            if let Some(found) = self.found.pop_front() {
                return Some(found);
            }
            match self.next_path().await {
                None => match self.table_files.pop() {
                    Some(file) => self.unread_table(&file),
                    None => return None,
                },
                Some(Err(problem)) => return Some(Err(self.told(problem))),
                Some(Ok(path)) if self.is_in_study_folder(&path) => self.study_folder(path).await,
                Some(Ok(path)) => self.file(path).await,
            }
        }
    }
}

impl FolderEntries {
    async fn next_path(&mut self) -> Option<Result<String, EntryProblem>> {
        match self.ahead.take() {
            Some(path) => Some(Ok(path)),
            None => self.walk.next().await,
        }
    }

    /// Whether the file is one of a study's folder. An archive of one file is none of a study's, wherever that lies.
    fn is_in_study_folder(&self, path: &str) -> bool {
        !self.is_one_file && self.tables.study_folder(path).is_some()
    }

    /// Says of a problem of the walk whether it may hide lines of results. A file is a study by its path, so that one under a path
    /// that nobody can use has no line, unless the folder that it lies in is a study's; below a folder may lie one of those.
    fn told(&self, problem: EntryProblem) -> EntryProblem {
        let has_no_id = problem
            .unusable_path()
            .is_some_and(|path| !path.ends_with('/') && !self.is_in_study_folder(path));
        match has_no_id {
            true => problem.without_id(),
            false => problem,
        }
    }

    /// Takes in the folder of a study that begins with this path.
    async fn study_folder(&mut self, first: String) {
        let tables = self.tables.clone();
        let Some(place) = tables.study_folder(&first) else {
            return;
        };
        let (root, folder) = (place.root.to_owned(), place.path.to_owned());
        let study = place.study.to_owned();
        let table = self.table(&root).await;
        let mut files: Vec<(String, FileKind)> = Vec::new();
        let mut next = Some(Ok(first));
        while let Some(path) = next {
            match path {
                Ok(path)
                    if tables
                        .study_folder(&path)
                        .is_some_and(|place| place.path == folder) =>
                {
                    match content(&*self.tree, &path).await {
                        FileContent::Image => files.push((path, FileKind::Image)),
                        FileContent::Unsupported(_) => files.push((path, FileKind::Unsupported)),
                        FileContent::NoImage(reason) => self.left_out(&path, &reason),
                        FileContent::Unreadable(reason) => self.unreadable(&path, &reason),
                    }
                }
                // Below a folder of a study, where the layout has nothing.
                Ok(path) if path.starts_with(&folder) => self.file(path).await,
                Ok(path) => {
                    self.ahead = Some(path);
                    break;
                }
                Err(problem) => {
                    let problem = self.told(problem);
                    self.found.push_back(Err(problem));
                }
            }
            next = self.walk.next().await;
        }
        let entry = table.and_then(|table| table.study(&study, &*self.tree, &files));
        if let Some(entry) = entry {
            self.found.push_front(Ok(entry));
        }
    }

    /// Takes in a file outside of any study's folder.
    async fn file(&mut self, path: String) {
        if is_image_table(&path) {
            self.table_files.push(path);
            return;
        }
        let stem = match FileKind::of(&path) {
            FileKind::Image => path.rsplit_once('.').map_or(&*path, |(stem, _)| stem),
            _ => &*path,
        };
        let entry = match content(&*self.tree, &path).await {
            FileContent::Image => StudyEntry::new(stem, path.clone(), self.tree.image(&path)),
            FileContent::Unsupported(failure) => StudyEntry::new(&path, path.clone(), Err(failure)),
            FileContent::NoImage(reason) => return self.left_out(&path, &reason),
            FileContent::Unreadable(reason) => return self.unreadable(&path, &reason),
        };
        self.found.push_back(Ok(entry));
    }

    /// The tables beside a tree of MIMIC's layout. What is wrong with them is told once a pass. None where store or disk did not
    /// give them: what its studies are, nobody can say just now, and the first one after a pause tries again.
    async fn table(&mut self, root: &str) -> Option<Arc<ImageTable>> {
        if let Some(table) = self.roots.get(root) {
            return Some(table.clone());
        }
        let tried = self.unread.get(root);
        if tried.is_some_and(|tried| tried.elapsed() < self.table_pause) {
            return None;
        }
        let table = match tables_beside(&self.tables, root, self.retry_pause).await {
            Ok(table) => table,
            Err(error) => {
                let message = format!(
                    "{error}. Splits and views of the images below are not known, so that no study of them is read"
                );
                let is_of_content = matches!(
                    error,
                    CoordinatorError::NoTable { .. }
                        | CoordinatorError::MissingColumn { .. }
                        | CoordinatorError::DoubledColumn { .. }
                );
                let told = match is_of_content {
                    true => None,
                    false => self.unread.insert(root.to_owned(), Instant::now()),
                };
                if told.is_none() {
                    self.found.push_back(Err(EntryProblem::new(
                        self.tree.name(root),
                        ErrorCode::ArchiveUnreadable,
                        &message,
                    )));
                }
                if !is_of_content {
                    return None;
                }
                Arc::new(ImageTable::unusable(&message))
            }
        };
        let problems = table.problems().iter().cloned().map(Err);
        self.found.extend(problems);
        self.roots.insert(root.to_owned(), table.clone());
        Some(table)
    }

    /// Lists a table that was not read, unless that was told with the tree beside it.
    fn unread_table(&mut self, file: &str) {
        let unusable = self.roots.iter().filter(|(_, table)| table.is_unusable());
        let mut told = self.unread.keys().chain(unusable.map(|(root, _)| root));
        let was_told = told.any(|root| is_beside(file, root));
        if !was_told && !self.roots.values().any(|table| table.was_read_from(file)) {
            self.left_out(file, "there is no tree of MIMIC-CXR-JPG beside it");
        }
    }

    fn left_out(&mut self, path: &str, reason: &str) {
        self.problem(path, ErrorCode::ArchiveEntry, reason);
    }

    fn unreadable(&mut self, path: &str, reason: &str) {
        self.problem(path, ErrorCode::ArchiveUnreadable, reason);
    }

    fn problem(&mut self, path: &str, code: ErrorCode, reason: &str) {
        let message = format!("{reason}; it is left out");
        let problem = EntryProblem::new(path, code, message);
        self.found.push_back(Err(problem));
    }
}

/// Reads the tables beside a root; a store that does not answer is waited for, as everywhere in a walk: without its table a
/// study would be another.
async fn tables_beside(
    tables: &ImageTables,
    root: &str,
    pause: Duration,
) -> Result<Arc<ImageTable>, CoordinatorError> {
    loop {
        match tables_of_disk(tables, root, pause).await {
            Err(CoordinatorError::Objects(error))
                if !matches!(error, ObjectError::Refused { .. }) =>
            {
                warn!(%error, root, "the tables beside the tree cannot be read; trying again");
                tokio::time::sleep(pause).await;
            }
            table => return table,
        }
    }
}

/// Reads the tables beside a root; what a disk does not give, and may give a moment later, is tried a few times.
async fn tables_of_disk(
    tables: &ImageTables,
    root: &str,
    pause: Duration,
) -> Result<Arc<ImageTable>, CoordinatorError> {
    let mut tries = 1;
    loop {
        match tables.beside(root).await {
            Err(error @ CoordinatorError::Unread { may_pass: true, .. }) if tries < TABLE_TRIES => {
                warn!(%error, root, "the tables beside the tree cannot be read; trying again");
                tries += 1;
                tokio::time::sleep(pause).await;
            }
            table => return table,
        }
    }
}

/// Finds out what a file is: by its suffix, where that says so, else by its first bytes. A store that does not answer is
/// waited for.
async fn content(tree: &dyn FileTree, path: &str) -> FileContent {
    match FileKind::of(path) {
        FileKind::Image => return FileContent::Image,
        FileKind::Unsupported => return FileContent::Unsupported(unsupported(path)),
        FileKind::Document => return FileContent::NoImage("it is no image".into()),
        FileKind::Unknown => {}
    }
    // The store of an earlier run may lie in the archive.
    if ObjectKey::is_stored_image(path) {
        return FileContent::NoImage("it is an image that a run has stored".into());
    }
    let image = match tree.image(path) {
        Ok(image) => image,
        Err(failure) => return FileContent::NoImage(failure.message),
    };
    loop {
        match image.start(path).await {
            Ok(start) => {
                return match ImageFormat::of(&start) {
                    Ok(_) => FileContent::Image,
                    Err(what) if what == ImageFormat::NONE => {
                        FileContent::NoImage("it is no image, by its first bytes".into())
                    }
                    Err(what) => {
                        let message = format!("'{path}' is {what}; convert it to PNG or JPEG");
                        let code = ErrorCode::ImageFormatUnsupported;
                        FileContent::Unsupported(Failure::new(code, message))
                    }
                };
            }
            // Nobody may look, so that nobody can say that it is none.
            Err(ImageReadError::Study(failure)) if failure.code == ErrorCode::ObjectRefused => {
                return FileContent::Unsupported(failure);
            }
            // A link that leads nowhere now, or where nobody may look, may be one to a folder of studies.
            Err(ImageReadError::Study(failure))
                if matches!(
                    failure.code,
                    ErrorCode::ImageUnreadable | ErrorCode::ImageMissing | ErrorCode::ArchiveEntry
                ) =>
            {
                return FileContent::Unreadable(failure.message);
            }
            Err(ImageReadError::Study(failure)) => {
                return FileContent::NoImage(failure.message);
            }
            Err(ImageReadError::Store(error)) => {
                warn!(%error, path, "the file cannot be looked at; trying again");
                tokio::time::sleep(RETRY_PAUSE).await;
            }
        }
    }
}

#[cfg(test)]
mod tests;
