//! A folder of PNG and JPEG files: every file is a study. Its id is the path below the archive without the suffix, so
//! that equal names in different folders stay apart. A file of another image format is a failed study under its whole
//! path, so that it does not take the place of the PNG beside it.

use std::sync::Arc;

use async_trait::async_trait;

use super::entries::{Archive, EntryProblem, StudyEntries, StudyEntry};
use super::file_tree::{FileTree, PathWalk};
use super::image::{FileKind, unsupported};
use crate::CoordinatorError;

/// An archive whose studies are its image files.
pub(super) struct FolderArchive {
    pub(super) name: String,
    pub(super) tree: Arc<dyn FileTree>,
}

struct FolderEntries {
    tree: Arc<dyn FileTree>,
    walk: Box<dyn PathWalk>,
}

#[async_trait]
impl Archive for FolderArchive {
    fn name(&self) -> String {
        self.name.clone()
    }

    async fn entries(&self) -> Result<Box<dyn StudyEntries>, CoordinatorError> {
        Ok(Box::new(FolderEntries {
            tree: self.tree.clone(),
            walk: self.tree.walk(""),
        }))
    }
}

#[async_trait]
impl StudyEntries for FolderEntries {
    async fn next(&mut self) -> Option<Result<StudyEntry, EntryProblem>> {
        loop {
            let path = match self.walk.next().await? {
                Ok(path) => path,
                Err(problem) => return Some(Err(problem)),
            };
            match FileKind::of(&path) {
                FileKind::Image => {
                    let study = path
                        .rsplit_once('.')
                        .map_or(path.as_str(), |(stem, _)| stem);
                    return Some(Ok(StudyEntry::new(
                        study,
                        path.clone(),
                        self.tree.image(&path),
                    )));
                }
                FileKind::Unsupported => {
                    return Some(Ok(StudyEntry::new(
                        &path,
                        path.clone(),
                        Err(unsupported(&path)),
                    )));
                }
                FileKind::Other => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use radialog_schemas::ErrorCode;

    use super::super::open::{ArchiveLocation, open};

    #[tokio::test]
    async fn a_folder_is_read_in_order_with_paths_as_ids() {
        let dir = tempfile::tempdir().unwrap();
        for path in [
            "ward/2.JPG",
            "ward/1.png",
            "notes.txt",
            "scan.dcm",
            "scan.png",
        ] {
            fs::create_dir_all(dir.path().join(path).parent().unwrap()).unwrap();
            fs::write(dir.path().join(path), b"x").unwrap();
        }
        let archive = open(&ArchiveLocation::Path(dir.path().into()))
            .await
            .unwrap();
        let mut entries = archive.entries().await.unwrap();
        let mut seen = Vec::new();
        while let Some(entry) = entries.next().await {
            let entry = entry.unwrap();
            seen.push((
                entry.study.0,
                entry.file,
                entry.image.err().map(|failure| failure.code),
            ));
        }
        let row = |study: &str, file: &str, code| (study.to_owned(), file.to_owned(), code);
        assert_eq!(
            seen,
            [
                row(
                    "scan.dcm",
                    "scan.dcm",
                    Some(ErrorCode::ImageFormatUnsupported)
                ),
                row("scan", "scan.png", None),
                row("ward/1", "ward/1.png", None),
                row("ward/2", "ward/2.JPG", None),
            ]
        );
        assert_eq!(archive.count().await.unwrap(), 4);
    }

    #[tokio::test]
    async fn an_input_that_is_no_archive_is_refused_with_what_would_be_one() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("x.png"), b"x").unwrap();
        for path in [dir.path().join("nowhere"), dir.path().join("x.png")] {
            let error = open(&ArchiveLocation::Path(path.clone()))
                .await
                .err()
                .unwrap()
                .to_string();
            assert!(
                error.contains(path.to_str().unwrap()) && error.contains("CSV manifest"),
                "{error}"
            );
        }
    }
}
