//! The MIMIC-CXR-JPG tree (`files/pNN/pNNNNNNNN/sNNNNNNNN/{dicom id}.jpg`): every `s` folder is a study. Where the
//! tables that ship with it lie beside `files`, unzipped, they give the split and the view: the study's image is the
//! first PA view, else the first AP view, else the first by name. References are not read from the report tree; a CSV
//! manifest can give them.

use std::collections::HashMap;
use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};
use std::io;
use std::sync::Arc;

use async_trait::async_trait;

use super::entries::{Archive, EntryProblem, StudyEntries, StudyEntry};
use super::file_tree::{FileTree, PathWalk};
use super::image::{FileKind, unsupported};
use super::table_rows::TableRows;
use crate::CoordinatorError;

/// Release numbers that the tables' names may carry.
const RELEASES: [&str; 2] = ["2.0.0", "2.1.0"];
const SPLITS: [&str; 3] = ["train", "validate", "test"];
/// The frontal views, the best first.
const FRONTAL: [&str; 2] = ["PA", "AP"];

/// An archive in the layout of MIMIC-CXR-JPG.
pub(super) struct MimicArchive {
    name: String,
    tree: Arc<dyn FileTree>,
    /// The folder that holds `p10` to `p19`, relative, empty or closed by `/`.
    root: String,
    table: Arc<HashMap<u64, ImageAttributes>>,
    problems: Vec<EntryProblem>,
}

/// What the tables say about an image, as positions in [`SPLITS`] and [`FRONTAL`]. There are 377,110 of them, so their
/// names are kept as hashes.
#[derive(Clone, Copy, Default)]
struct ImageAttributes {
    split: Option<u8>,
    view: Option<u8>,
}

/// The parts of a path in a study folder.
pub(super) struct StudyFolder<'a> {
    /// What stands before `pNN`.
    pub(super) root: &'a str,
    study: &'a str,
    file: &'a str,
}

struct MimicEntries {
    tree: Arc<dyn FileTree>,
    table: Arc<HashMap<u64, ImageAttributes>>,
    walk: Box<dyn PathWalk>,
    /// The first path of the next study.
    ahead: Option<String>,
    problems: Vec<EntryProblem>,
}

impl<'a> StudyFolder<'a> {
    /// Takes `…pNN/pNNNNNNNN/sNNNNNNNN/name` apart; other paths are none.
    pub(super) fn of(path: &'a str) -> Option<Self> {
        let (folder, file) = path.rsplit_once('/')?;
        let (patient_path, study) = folder.rsplit_once('/')?;
        let (group_path, patient) = patient_path.rsplit_once('/')?;
        let group = group_path.rsplit('/').next()?;
        let is_numbered = |name: &str, letter: char, digits: usize| {
            name.strip_prefix(letter).is_some_and(|rest| {
                rest.len() == digits && rest.bytes().all(|b| b.is_ascii_digit())
            })
        };
        let ok = is_numbered(group, 'p', 2)
            && is_numbered(patient, 'p', 8)
            && is_numbered(study, 's', 8)
            && patient.starts_with(group);
        ok.then(|| Self {
            root: &path[..group_path.len() - group.len()],
            study,
            file,
        })
    }
}

impl MimicArchive {
    /// Reads the tables, where there are any.
    pub(super) async fn open(
        name: String,
        tree: Arc<dyn FileTree>,
        root: &str,
    ) -> Result<Self, CoordinatorError> {
        let beside = root.strip_suffix("files/").unwrap_or(root);
        let mut mimic = Self {
            name,
            tree,
            root: root.to_owned(),
            table: Arc::default(),
            problems: Vec::new(),
        };
        let mut table = HashMap::new();
        for release in RELEASES {
            let path = |kind| format!("{beside}mimic-cxr-{release}-{kind}.csv");
            mimic
                .read(
                    &path("split"),
                    "split",
                    &SPLITS,
                    &mut table,
                    |image, value| image.split = Some(value),
                )
                .await?;
            let view = "ViewPosition";
            mimic
                .read(
                    &path("metadata"),
                    view,
                    &FRONTAL,
                    &mut table,
                    |image, value| image.view = Some(value),
                )
                .await?;
        }
        mimic.table = Arc::new(table);
        Ok(mimic)
    }

    async fn read(
        &mut self,
        path: &str,
        column: &str,
        values: &[&str],
        table: &mut HashMap<u64, ImageAttributes>,
        set: impl Fn(&mut ImageAttributes, u8) + Send + Sync,
    ) -> Result<(), CoordinatorError> {
        let name = self.tree.name(path);
        let lines = match self.tree.lines(path).await {
            Ok(lines) => lines,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => {
                return Err(CoordinatorError::Input {
                    input: name,
                    reason: error.to_string(),
                });
            }
        };
        let mut rows = TableRows::open(lines, name, &["dicom_id", column]).await?;
        let (dicom, column) = (
            rows.column("dicom_id").unwrap_or(0),
            rows.column(column).unwrap_or(0),
        );
        while let Some(row) = rows.next().await {
            match row {
                Ok(row) => {
                    let (Some(dicom), Some(value)) = (row.cell(dicom), row.cell(column)) else {
                        continue;
                    };
                    if let Some(value) = values.iter().position(|known| *known == value) {
                        set(table.entry(hash(dicom)).or_default(), value as u8);
                    }
                }
                Err(problem) => self.problems.push(problem),
            }
        }
        Ok(())
    }
}

#[async_trait]
impl Archive for MimicArchive {
    fn name(&self) -> String {
        self.name.clone()
    }

    async fn entries(&self) -> Result<Box<dyn StudyEntries>, CoordinatorError> {
        Ok(Box::new(MimicEntries {
            tree: self.tree.clone(),
            table: self.table.clone(),
            walk: self.tree.walk(&self.root),
            ahead: None,
            problems: self.problems.clone(),
        }))
    }
}

#[async_trait]
impl StudyEntries for MimicEntries {
    async fn next(&mut self) -> Option<Result<StudyEntry, EntryProblem>> {
        if let Some(problem) = self.problems.pop() {
            return Some(Err(problem));
        }
        let mut files: Vec<String> = Vec::new();
        while let Some(path) = self.next_image().await {
            if files
                .first()
                .is_some_and(|first| folder(first) != folder(&path))
            {
                self.ahead = Some(path);
                break;
            }
            files.push(path);
        }
        match self.study(&files) {
            Some(entry) => Some(Ok(entry)),
            None => self.problems.pop().map(Err),
        }
    }
}

impl MimicEntries {
    /// Finds the next image in a study folder. Others are not part of the published layout, e.g. thumbnails beside the tree.
    async fn next_image(&mut self) -> Option<String> {
        if let Some(path) = self.ahead.take() {
            return Some(path);
        }
        loop {
            match self.walk.next().await? {
                Ok(path)
                    if FileKind::of(&path) != FileKind::Other
                        && StudyFolder::of(&path).is_some() =>
                {
                    return Some(path);
                }
                Ok(_) => {}
                Err(problem) => self.problems.push(problem),
            }
        }
    }

    /// Makes the study of these files of one folder.
    fn study(&self, files: &[String]) -> Option<StudyEntry> {
        let known = |path: &&String| {
            let file = StudyFolder::of(path).map_or("", |place| place.file);
            let dicom = file.rsplit_once('.').map_or(file, |(stem, _)| stem);
            self.table.get(&hash(dicom)).copied().unwrap_or_default()
        };
        let rank = |path: &&String| {
            (
                FileKind::of(path) != FileKind::Image,
                known(path).view.unwrap_or(u8::MAX),
            )
        };
        let primary = files.iter().min_by_key(rank)?;
        let image = match FileKind::of(primary) {
            FileKind::Image => self.tree.image(primary),
            _ => Err(unsupported(primary)),
        };
        let study = StudyFolder::of(primary)?.study;
        Some(StudyEntry {
            other_files: files
                .iter()
                .filter(|file| *file != primary)
                .cloned()
                .collect(),
            split: known(&primary)
                .split
                .map(|split| SPLITS[usize::from(split)].to_owned()),
            ..StudyEntry::new(study, primary.clone(), image)
        })
    }
}

fn folder(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(folder, _)| folder)
}

fn hash(dicom: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    dicom.hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

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
