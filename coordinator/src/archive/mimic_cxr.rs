//! The layout of MIMIC-CXR-JPG (`files/pNN/pNNNNNNNN/sNNNNNNNN/{dicom id}.jpg`), wherever in an archive it begins: every
//! `s` folder is a study. Where the tables that ship with it lie beside `files`, unzipped or not, they give the split and
//! the view: the study's image is the first PA view, else the first AP view, else the first by name. References are not
//! read from the report tree; a CSV manifest can give them.

use std::collections::HashMap;
use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use radialog_runtime::objects::ObjectError;
use radialog_schemas::{ErrorCode, Failure};
use tokio::sync::Mutex;
use tracing::warn;

use super::entries::{EntryProblem, StudyEntry};
use super::file_tree::FileTree;
use super::gzip;
use super::image::{FileKind, unsupported};
use super::table_rows::{TableRows, unread};
use crate::CoordinatorError;

/// Release numbers that the tables' names may carry.
const RELEASES: [&str; 2] = ["2.0.0", "2.1.0"];
/// What is between a table's kind and the end of its name.
const SUFFIXES: [&str; 2] = [".csv", ".csv.gz"];
const SPLITS: [&str; 3] = ["train", "validate", "test"];
/// The frontal views, the best first.
const FRONTAL: [&str; 2] = ["PA", "AP"];

/// What the tables beside a tree say about its images. There are 377,110 of them, so their names are kept as hashes.
#[derive(Default)]
pub(super) struct ImageTable {
    images: HashMap<u64, ImageAttributes>,
    /// The tables that were read, as the archive names them; none where they lie outside of it.
    files: Vec<String>,
    /// Rows that could not be used.
    problems: Vec<EntryProblem>,
    knows_views: bool,
    /// Whether it was told that views are not known.
    told: AtomicBool,
    /// The reason why nobody can say what the tables have.
    unusable: Option<Failure>,
}

/// What is known of an image, as positions in [`SPLITS`] and [`FRONTAL`].
#[derive(Clone, Copy, Default)]
struct ImageAttributes {
    split: Option<u8>,
    view: Option<u8>,
}

/// The tables of every tree of an archive, each read once.
pub(super) struct ImageTables {
    tree: Arc<dyn FileTree>,
    archive: ArchiveRoot,
    /// By the folder that the patients of a tree lie in.
    read: Mutex<HashMap<String, Arc<ImageTable>>>,
}

/// What the root of an archive is in the layout: the paths below it begin where that ends.
#[derive(Debug, PartialEq, Eq)]
enum ArchiveRoot {
    /// A folder that is no patient's.
    Tree,
    /// A patient's folder.
    Patient,
    /// The folder of this study of a patient.
    Study(String),
}

impl ArchiveRoot {
    /// Finds out what a tree's root is, by its name and that of the folder it lies in.
    fn of(tree: &dyn FileTree) -> Self {
        match tree.folder_name() {
            Some(name) if is_patient(&name) => Self::Patient,
            Some(name) if is_study(&name) => {
                let above = tree.above().and_then(|above| above.folder_name());
                match above {
                    Some(above) if is_patient(&above) => Self::Study(name),
                    _ => Self::Tree,
                }
            }
            _ => Self::Tree,
        }
    }
}

/// The parts of a path in a study folder.
pub(super) struct StudyFolder<'a> {
    /// The folder that holds `p10` to `p19`, relative, empty or closed by `/`.
    pub(super) root: &'a str,
    /// The path of the study's folder, closed by `/`, or empty where that is the archive itself.
    pub(super) path: &'a str,
    /// The study's name.
    pub(super) study: &'a str,
}

impl<'a> StudyFolder<'a> {
    /// Takes `…pNN/pNNNNNNNN/sNNNNNNNN/name` apart, or what of it lies below the folder of a group, of a patient or of a
    /// study; other paths are none.
    fn of(path: &'a str, archive: &'a ArchiveRoot) -> Option<Self> {
        let Some((folder, _)) = path.rsplit_once('/') else {
            return match archive {
                ArchiveRoot::Study(study) => Some(Self {
                    root: "",
                    path: "",
                    study,
                }),
                _ => None,
            };
        };
        let Some((patient_path, study)) = folder.rsplit_once('/') else {
            let is_one = *archive == ArchiveRoot::Patient && is_study(folder);
            return is_one.then(|| Self {
                root: "",
                path: &path[..=folder.len()],
                study: folder,
            });
        };
        let (group_path, patient) = patient_path.rsplit_once('/').unwrap_or(("", patient_path));
        if !is_patient(patient) || !is_study(study) {
            return None;
        }
        let group = group_path.rsplit('/').next().unwrap_or_default();
        let above = match group {
            group if is_group(group) && patient.starts_with(group) => {
                group_path.len() - group.len()
            }
            // An archive that is the folder of one group.
            "" => 0,
            _ => return None,
        };
        Some(Self {
            root: &path[..above],
            path: &path[..=folder.len()],
            study,
        })
    }
}

fn is_numbered(name: &str, letter: char, digits: usize) -> bool {
    let digits_of = name.strip_prefix(letter);
    digits_of.is_some_and(|rest| rest.len() == digits && rest.bytes().all(|b| b.is_ascii_digit()))
}

fn is_group(name: &str) -> bool {
    is_numbered(name, 'p', 2)
}

fn is_patient(name: &str) -> bool {
    is_numbered(name, 'p', 8)
}

fn is_study(name: &str) -> bool {
    is_numbered(name, 's', 8)
}

/// Says whether the file is called as a table that is read beside a tree.
pub(super) fn is_image_table(path: &str) -> bool {
    let name = path.rsplit('/').next().unwrap_or(path);
    ["split", "metadata"]
        .into_iter()
        .flat_map(names)
        .any(|table| table == name)
}

/// The folder, empty or closed by `/`, that has the tables of the tree that begins at this root.
fn folder_of_tables(root: &str) -> &str {
    match root.strip_suffix("files/") {
        Some(beside) if beside.is_empty() || beside.ends_with('/') => beside,
        _ => root,
    }
}

/// Says whether a file lies where the tables of the tree that begins at this root do.
pub(super) fn is_beside(file: &str, root: &str) -> bool {
    let name = file.rsplit('/').next().unwrap_or(file);
    file.strip_suffix(name) == Some(folder_of_tables(root))
}

/// The names that the published table of this kind has.
fn names(kind: &str) -> impl Iterator<Item = String> {
    RELEASES.into_iter().flat_map(move |release| {
        SUFFIXES.map(|suffix| format!("mimic-cxr-{release}-{kind}{suffix}"))
    })
}

impl ImageTables {
    pub(super) fn new(tree: Arc<dyn FileTree>) -> Self {
        Self {
            archive: ArchiveRoot::of(&*tree),
            tree,
            read: Mutex::default(),
        }
    }

    /// Takes the path of a file in a study folder apart; other paths are none.
    pub(super) fn study_folder<'a>(&'a self, path: &'a str) -> Option<StudyFolder<'a>> {
        StudyFolder::of(path, &self.archive)
    }

    /// What the tables beside this root say: nothing where there are none.
    ///
    /// # Errors
    /// When a table is there and cannot be used.
    pub(super) async fn beside(&self, root: &str) -> Result<Arc<ImageTable>, CoordinatorError> {
        let mut read = self.read.lock().await;
        if let Some(table) = read.get(root) {
            return Ok(table.clone());
        }
        let table = Arc::new(self.open(root).await?);
        read.insert(root.to_owned(), table.clone());
        Ok(table)
    }

    async fn open(&self, root: &str) -> Result<ImageTable, CoordinatorError> {
        let mut table = ImageTable::default();
        table
            .read(&*self.tree, folder_of_tables(root), true)
            .await?;
        // An archive that is the folder `files`, or that of a group, a patient or a study, has its tables above it.
        let is_inner = |name: String| {
            name == "files" || is_group(&name) || is_patient(&name) || is_study(&name)
        };
        let mut tree = Some(self.tree.clone()).filter(|_| root.is_empty());
        while let Some(inner) = tree.take_if(|tree| tree.folder_name().is_some_and(is_inner)) {
            tree = inner.above();
            if let Some(above) = &tree {
                table.read(&**above, "", false).await?;
            }
        }
        Ok(table)
    }
}

impl ImageTable {
    /// Tables that are there and cannot be used, so that nobody can say which image is a study's.
    pub(super) fn unusable(reason: &str) -> Self {
        Self {
            unusable: Some(Failure::new(ErrorCode::ArchiveEntry, reason)),
            ..Self::default()
        }
    }

    /// Reads the tables in a folder.
    async fn read(
        &mut self,
        tree: &dyn FileTree,
        folder: &str,
        is_in_archive: bool,
    ) -> Result<(), CoordinatorError> {
        for name in names("split") {
            let path = format!("{folder}{name}");
            let set = |image: &mut ImageAttributes, value| image.split = Some(value);
            if self.read_table(tree, &path, "split", &SPLITS, set).await? && is_in_archive {
                self.files.push(path);
            }
        }
        for name in names("metadata") {
            let path = format!("{folder}{name}");
            let set = |image: &mut ImageAttributes, value| image.view = Some(value);
            if self
                .read_table(tree, &path, "ViewPosition", &FRONTAL, set)
                .await?
            {
                self.knows_views = true;
                self.files.extend(is_in_archive.then_some(path));
            }
        }
        Ok(())
    }

    /// Reads a table if it is there, and says whether it is.
    async fn read_table(
        &mut self,
        tree: &dyn FileTree,
        path: &str,
        column: &str,
        values: &[&str],
        set: impl Fn(&mut ImageAttributes, u8) + Send + Sync,
    ) -> Result<bool, CoordinatorError> {
        let name = tree.name(path);
        let lines = match gzip::lines(tree, path).await {
            Ok(lines) => lines,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            Err(error) => match error.downcast::<ObjectError>() {
                Ok(error) => return Err(error.into()),
                Err(error) => return Err(unread(&name, &error, error.to_string())),
            },
        };
        let mut rows = TableRows::open(lines, name, &["dicom_id", column]).await?;
        let (dicom, column) = (rows.required("dicom_id")?, rows.required(column)?);
        while let Some(row) = rows.next_of_whole().await? {
            match row {
                Ok(row) => {
                    let (Some(dicom), Some(value)) = (row.cell(dicom), row.cell(column)) else {
                        continue;
                    };
                    if let Some(value) = values.iter().position(|known| *known == value) {
                        set(self.images.entry(hash(dicom)).or_default(), value as u8);
                    }
                }
                Err(problem) => self.problems.push(problem),
            }
        }
        Ok(true)
    }

    /// Whether this file of the archive was read as a table.
    pub(super) fn was_read_from(&self, path: &str) -> bool {
        self.files.iter().any(|file| file == path)
    }

    /// Whether nobody can say what the tables have.
    pub(super) fn is_unusable(&self) -> bool {
        self.unusable.is_some()
    }

    /// What is wrong with rows of the tables.
    pub(super) fn problems(&self) -> &[EntryProblem] {
        &self.problems
    }

    /// Makes the study of this name of these files, which are those of one folder and images, if of other formats.
    pub(super) fn study(
        &self,
        study: &str,
        tree: &dyn FileTree,
        files: &[(String, FileKind)],
    ) -> Option<StudyEntry> {
        let known = |path: &str| {
            let file = path.rsplit('/').next().unwrap_or(path);
            let dicom = file.rsplit_once('.').map_or(file, |(stem, _)| stem);
            self.images.get(&hash(dicom)).copied().unwrap_or_default()
        };
        let rank = |(path, kind): &&(String, FileKind)| {
            (
                *kind == FileKind::Unsupported,
                known(path).view.unwrap_or(u8::MAX),
            )
        };
        let (primary, kind) = files.iter().min_by_key(rank)?;
        let is_unknown = !self.knows_views && self.unusable.is_none();
        if is_unknown && files.len() > 1 && !self.told.swap(true, Ordering::Relaxed) {
            warn!(
                first = primary,
                "no mimic-cxr-*-metadata.csv beside the tree: of a study's images, the first by name is read, whatever its view"
            );
        }
        let image = match (&self.unusable, kind) {
            (Some(failure), _) => Err(failure.clone()),
            (None, FileKind::Unsupported) => Err(unsupported(primary)),
            (None, _) => tree.image(primary),
        };
        Some(StudyEntry {
            other_files: files
                .iter()
                .map(|(file, _)| file)
                .filter(|file| *file != primary)
                .cloned()
                .collect(),
            split: known(primary)
                .split
                .map(|split| SPLITS[usize::from(split)].to_owned()),
            ..StudyEntry::new(study, primary.clone(), image)
        })
    }
}

fn hash(dicom: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    dicom.hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::Write;
    use std::path::Path;

    use async_trait::async_trait;
    use flate2::Compression;
    use flate2::write::GzEncoder;
    use futures::stream;
    use tokio_util::io::StreamReader;

    use super::super::file_tree::PathWalk;
    use super::super::image::ImageSource;
    use super::super::open::{ArchiveLocation, open};
    use super::*;

    fn write(root: &Path, path: &str, content: &str) {
        let path = root.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }

    async fn read(root: &Path) -> Vec<StudyEntry> {
        let archive = open(&ArchiveLocation::Path(root.into())).await.unwrap();
        let mut entries = archive.entries().await.unwrap();
        let mut all = Vec::new();
        while let Some(entry) = entries.next().await {
            all.push(entry.unwrap());
        }
        assert_eq!(archive.count().await.unwrap(), all.len() as u64);
        all
    }

    #[tokio::test]
    async fn a_study_folder_is_one_study_with_its_frontal_image() {
        let dir = tempfile::tempdir().unwrap();
        let base = "mimic-cxr-jpg/2.0.0/";
        for file in [
            "p10/p10000032/s50414267/a.jpg",
            "p10/p10000032/s50414267/b.jpg",
            "p11/p11000001/s50000002/c.jpg",
        ] {
            write(dir.path(), &format!("{base}files/{file}"), "x");
        }
        write(
            dir.path(),
            &format!("{base}files/p10/p10000032/index.html"),
            "x",
        );
        let split = "dicom_id,study_id,subject_id,split\na,1,1,train\nb,1,1,train\nc,2,2,test\n";
        write(
            dir.path(),
            &format!("{base}mimic-cxr-2.0.0-split.csv"),
            split,
        );
        let views = "dicom_id,ViewPosition\na,LATERAL\nb,AP\n";
        write(
            dir.path(),
            &format!("{base}mimic-cxr-2.0.0-metadata.csv"),
            views,
        );
        let all = read(dir.path()).await;
        let ids: Vec<_> = all.iter().map(|entry| entry.study.as_str()).collect();
        assert_eq!(ids, ["s50414267", "s50000002"]);
        assert!(all[0].file.ends_with("s50414267/b.jpg"));
        assert_eq!(all[0].other_files.len(), 1);
        assert_eq!(all[0].split.as_deref(), Some("train"));
        assert_eq!(all[1].split.as_deref(), Some("test"));
    }

    #[tokio::test]
    async fn a_patients_or_a_studys_folder_alone_gives_the_studies_that_the_whole_tree_gives() {
        let dir = tempfile::tempdir().unwrap();
        let patient = "files/p10/p10000001";
        for file in [
            "s50000001/a.jpg",
            "s50000001/b.jpg",
            "s50000001/deeper/c.jpg",
            "s50000002/d.jpg",
        ] {
            write(dir.path(), &format!("{patient}/{file}"), "x");
        }
        for (kind, text) in [
            ("metadata", "dicom_id,ViewPosition\na,LATERAL\nb,PA\nd,AP\n"),
            ("split", "dicom_id,split\nb,validate\nd,test\n"),
        ] {
            let mut table = GzEncoder::new(Vec::new(), Compression::default());
            table.write_all(text.as_bytes()).unwrap();
            let name = format!("mimic-cxr-2.0.0-{kind}.csv.gz");
            fs::write(dir.path().join(name), table.finish().unwrap()).unwrap();
        }
        for (folder, expected) in [
            (patient.to_owned(), 3),
            (format!("{patient}/s50000001"), 2),
            ("files/p10".to_owned(), 3),
        ] {
            let all = read(&dir.path().join(&folder)).await;
            let image = all
                .iter()
                .find(|entry| entry.study.0 == "s50000001")
                .expect("the study of the folder");
            assert!(image.file.ends_with("b.jpg"), "{folder}: {}", image.file);
            assert_eq!(image.split.as_deref(), Some("validate"), "{folder}");
            assert_eq!(image.other_files.len(), 1, "{folder}");
            assert_eq!(all.len(), expected, "{folder}: {all:?}");
        }
        // A folder that is only called like a study's.
        write(dir.path(), "ward/s50000009/x.jpg", "x");
        let all = read(&dir.path().join("ward/s50000009")).await;
        assert_eq!(all[0].study.0, "x");
    }

    const METADATA: &str = "dicom_id,ViewPosition\na,LATERAL\nb,PA\n";

    /// A tree that has a table of views, whose end the disk does not give as long as it fails in this way.
    struct FailingTree(std::sync::Mutex<Option<io::ErrorKind>>);

    #[async_trait]
    impl FileTree for FailingTree {
        fn walk(&self, _: &str) -> Box<dyn PathWalk> {
            unreachable!("nobody walks it")
        }

        fn image(&self, path: &str) -> Result<ImageSource, Failure> {
            Err(Failure::new(ErrorCode::ArchiveEntry, path))
        }

        async fn lines(&self, path: &str) -> io::Result<gzip::Lines> {
            if path != "mimic-cxr-2.0.0-metadata.csv" {
                return Err(io::ErrorKind::NotFound.into());
            }
            let kind = *self.0.lock().unwrap();
            let (read, end) = METADATA.split_at(METADATA.len() - 5);
            let end = match kind {
                Some(kind) => Err(io::Error::new(kind, "lost")),
                None => Ok(end.as_bytes()),
            };
            let parts = stream::iter([Ok(read.as_bytes()), end]);
            Ok(Box::new(StreamReader::new(parts)))
        }

        fn name(&self, path: &str) -> String {
            path.to_owned()
        }

        fn folder_name(&self) -> Option<String> {
            None
        }

        fn above(&self) -> Option<Arc<dyn FileTree>> {
            None
        }
    }

    #[tokio::test]
    async fn a_table_that_was_read_half_is_not_used_and_is_read_again() {
        let tree = Arc::new(FailingTree(Some(io::ErrorKind::Other).into()));
        let tables = ImageTables::new(tree.clone());
        let error = tables.beside("").await.err().expect("half a table");
        let text = error.to_string();
        assert!(
            matches!(error, CoordinatorError::Unread { .. })
                && text.contains("metadata.csv")
                && text.contains("line 3: the rest of the table cannot be read: lost"),
            "{text}"
        );
        // What is cut in the store itself will not come back.
        *tree.0.lock().unwrap() = Some(io::ErrorKind::UnexpectedEof);
        let error = tables.beside("").await.err().expect("a cut table");
        assert!(matches!(error, CoordinatorError::NoTable { .. }), "{error}");
        *tree.0.lock().unwrap() = None;
        let table = tables.beside("").await.expect("the whole table");
        let files = ["a.jpg", "b.jpg"].map(|file| (file.to_owned(), FileKind::Image));
        let study = table.study("s", &*tree, &files).expect("a study");
        assert_eq!(study.file, "b.jpg");
    }

    #[tokio::test]
    async fn without_tables_the_first_image_by_name_is_read() {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), "p10/p10000032/s50414267/b.jpg", "x");
        write(dir.path(), "p10/p10000032/s50414267/a.dcm", "x");
        write(dir.path(), "p10/p10000032/s50414267/c.jpg", "x");
        let all = read(dir.path()).await;
        assert_eq!(all[0].file, "p10/p10000032/s50414267/b.jpg");
        assert_eq!(all[0].other_files.len(), 2);
        assert_eq!(all[0].split, None);
    }
}
