//! Finding out what an archive is: kinds are told apart by what is there.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use radialog_runtime::objects::{ObjectError, Objects};
use radialog_schemas::ObjectKey;

use super::entries::Archive;
use super::file_place::OutsideFiles;
use super::file_tree::{FileTree, LocalFileTree};
use super::folder::{FolderArchive, RETRY_PAUSE};
use super::image::FileKind;
use super::manifest::{ManifestArchive, SplitOfTable, StudyIdColumn};
use super::object_tree::ObjectTree;
use crate::CoordinatorError;

/// The number of files among which a MIMIC-CXR-JPG tree is looked for before a run, whose tables are checked then.
const PROBE: usize = 100;

/// The place of an archive, as a person names it.
#[derive(Clone)]
pub enum ArchiveLocation {
    /// A folder, an image or a CSV manifest.
    Path(PathBuf),
    /// Everything under a prefix of a bucket, or a CSV manifest in it.
    Objects {
        /// The address as it was given, e.g. `s3://bucket/prefix`.
        url: String,
        /// The bucket.
        store: Arc<dyn Objects>,
        /// The prefix without leading or closing `/`; empty for the whole bucket.
        prefix: String,
    },
}

/// Opens an archive and finds out its kind. Images outside of it are refused.
///
/// # Errors
/// As [`open_with`].
pub async fn open(input: &ArchiveLocation) -> Result<Arc<dyn Archive>, CoordinatorError> {
    open_with(input, OutsideFiles::Refused).await
}

/// Opens an archive and finds out its kind. `outside` says whether its tables and links may lead out of its folder; an
/// archive in a bucket has no outside.
///
/// # Errors
/// When it is not there, is neither a folder, an image nor a manifest, or a table of it lacks a column.
pub async fn open_with(
    input: &ArchiveLocation,
    outside: OutsideFiles,
) -> Result<Arc<dyn Archive>, CoordinatorError> {
    let FoundArchive { name, tree, file } = FoundArchive::of(input, outside).await?;
    if let Some(file) = file {
        if is_workbook(&file) {
            return Err(CoordinatorError::NotAnArchive {
                input: name,
                reason: "it is a workbook of a spreadsheet: save it as CSV".into(),
            });
        }
        if !is_table(&file) {
            return one_image(name, tree, file).await;
        }
        let images = tree.clone();
        return checked(ManifestArchive {
            name,
            tree,
            file,
            images,
            split: None,
            ids: StudyIdColumn::Studies,
        })
        .await
        .map_err(|error| match error {
            CoordinatorError::NoTable { file, reason } => CoordinatorError::NotAnArchive {
                input: file,
                reason,
            },
            error => error,
        });
    }
    let folder = FolderArchive::new(name, tree);
    folder.check_first(PROBE, RETRY_PAUSE).await?;
    Ok(Arc::new(folder))
}

/// A single image as an archive; what turns out to be none is refused.
async fn one_image(
    name: String,
    tree: Arc<dyn FileTree>,
    file: String,
) -> Result<Arc<dyn Archive>, CoordinatorError> {
    let archive = FolderArchive::of_one_file(name.clone(), tree, file);
    let mut entries = archive.entries().await?;
    match entries.next().await {
        Some(Err(problem)) => Err(CoordinatorError::NotAnArchive {
            input: name,
            reason: problem.failure.message,
        }),
        _ => Ok(Arc::new(archive)),
    }
}

/// Opens an image table, as trainings read it: a CSV with `image`, perhaps `split`, and `dicom_id` or `study_id` (else an
/// image's name is its id), or the sectioned table of MIMIC-CXR. `images` is the folder that images are relative to, the table's own
/// without it. With `split`, other rows are not part of the archive. `outside` is that of [`open_with`].
///
/// # Errors
/// When it is not there, is no CSV, or lacks a column.
pub async fn open_image_table(
    input: &ArchiveLocation,
    images: Option<&Path>,
    split: Option<SplitOfTable>,
    outside: OutsideFiles,
) -> Result<Arc<dyn Archive>, CoordinatorError> {
    let TableFile { name, tree, file } = TableFile::of(input, outside).await?;
    let images: Arc<dyn FileTree> = match images {
        None => tree.clone(),
        Some(folder) => match local(folder, outside).await? {
            FoundArchive {
                tree, file: None, ..
            } => tree,
            FoundArchive { name, .. } => {
                return Err(CoordinatorError::NotAnArchive {
                    input: name,
                    reason: "it is not a folder".into(),
                });
            }
        },
    };
    let name = format!(
        "{name}{}",
        split
            .as_ref()
            .map_or_else(String::new, |split| format!(" ({})", split.description))
    );
    checked(ManifestArchive {
        name,
        tree,
        file,
        images,
        split,
        ids: StudyIdColumn::Images,
    })
    .await
}

/// Reads the header, so that a missing column is found before any work.
async fn checked(manifest: ManifestArchive) -> Result<Arc<dyn Archive>, CoordinatorError> {
    manifest.entries().await?;
    Ok(Arc::new(manifest))
}

/// What lies at a location: a tree, or a file in a tree.
struct FoundArchive {
    name: String,
    tree: Arc<dyn FileTree>,
    file: Option<String>,
}

/// A table, and the tree in which it lies.
pub(super) struct TableFile {
    pub(super) name: String,
    pub(super) tree: Arc<dyn FileTree>,
    pub(super) file: String,
}

impl FoundArchive {
    async fn of(input: &ArchiveLocation, outside: OutsideFiles) -> Result<Self, CoordinatorError> {
        match input {
            ArchiveLocation::Path(path) => local(path, outside).await,
            ArchiveLocation::Objects { url, store, prefix } => bucket(url, store, prefix).await,
        }
    }
}

impl TableFile {
    pub(super) async fn of(
        input: &ArchiveLocation,
        outside: OutsideFiles,
    ) -> Result<Self, CoordinatorError> {
        let found = FoundArchive::of(input, outside).await;
        // Whoever names a table is not told what archives there are.
        let found = found.map_err(|error| match error {
            CoordinatorError::NoArchive { input } => CoordinatorError::MissingTable { file: input },
            error => error,
        });
        match found? {
            FoundArchive {
                name,
                tree,
                file: Some(file),
            } if is_table(&file) => Ok(Self { name, tree, file }),
            FoundArchive { name, .. } => Err(CoordinatorError::NoTable {
                file: name,
                reason: "it is no .csv or .tsv file, compressed by gzip or not".into(),
            }),
        }
    }
}

/// The name of a local archive is its whole path, so that it is the same archive from wherever a run is resumed.
async fn local(path: &Path, outside: OutsideFiles) -> Result<FoundArchive, CoordinatorError> {
    let unusable = |reason: String| CoordinatorError::Input {
        input: path.display().to_string(),
        reason,
    };
    let failed = |error: io::Error| match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => CoordinatorError::NoArchive {
            input: path.display().to_string(),
        },
        _ => unusable(error.to_string()),
    };
    let path = tokio::fs::canonicalize(path).await.map_err(failed)?;
    let name = path.display().to_string();
    if tokio::fs::metadata(&path).await.map_err(failed)?.is_dir() {
        // A root that cannot be read is no problem of an entry: nothing can be run.
        drop(tokio::fs::read_dir(&path).await.map_err(failed)?);
        return Ok(FoundArchive {
            name,
            tree: Arc::new(LocalFileTree::new(path, outside)),
            file: None,
        });
    }
    let file = path.file_name().and_then(|file| file.to_str());
    let file = Some(
        file.ok_or_else(|| unusable("its name is not UTF-8".into()))?
            .to_owned(),
    );
    let folder = path.parent().unwrap_or(&path).to_owned();
    Ok(FoundArchive {
        name,
        tree: Arc::new(LocalFileTree::new(folder, outside)),
        file,
    })
}

async fn bucket(
    url: &str,
    store: &Arc<dyn Objects>,
    prefix: &str,
) -> Result<FoundArchive, CoordinatorError> {
    let (folder, file) = match prefix.rsplit_once('/').unwrap_or(("", prefix)) {
        (folder, file) if is_table(file) || FileKind::of(file) == FileKind::Image => {
            (folder, Some(file))
        }
        // An image may be called like a folder.
        (folder, file) if !url.ends_with('/') && is_object(&**store, prefix).await? => {
            (folder, Some(file))
        }
        _ => (prefix, None),
    };
    if file.is_none() {
        require_listing(&**store, folder).await?;
    }
    let root = file.map_or(url, |file| url.strip_suffix(file).unwrap_or(url));
    let tree = Arc::new(ObjectTree::new(root, store.clone(), folder));
    Ok(FoundArchive {
        name: url.trim_end_matches('/').to_owned(),
        tree,
        file: file.map(str::to_owned),
    })
}

/// Fails where the store refuses to list a folder, which does not change by waiting: nothing can be run. Whatever else it says
/// is waited for by who lists it.
async fn require_listing(store: &dyn Objects, folder: &str) -> Result<(), CoordinatorError> {
    let prefix = match folder {
        "" => String::new(),
        folder => format!("{folder}/"),
    };
    match store.list(&prefix, None, 1).await {
        Err(refused @ ObjectError::Refused { .. }) => Err(refused.into()),
        _ => Ok(()),
    }
}

/// Whether an object with content has this name; markers of folders have none. A store that answers for no single object
/// has only prefixes, and one that keeps files fails where a prefix is a folder.
async fn is_object(store: &dyn Objects, name: &str) -> Result<bool, CoordinatorError> {
    let Some(key) = ObjectKey::parse(name) else {
        return Ok(false);
    };
    match store.size(&key).await {
        Ok(size) => Ok(size.is_some_and(|size| size > 0)),
        Err(ObjectError::Refused { .. } | ObjectError::Store { .. }) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

fn is_table(path: &str) -> bool {
    ends_with_one_of(path, &[".csv", ".csv.gz", ".tsv", ".tsv.gz"])
}

fn is_workbook(path: &str) -> bool {
    ends_with_one_of(path, &[".xls", ".xlsx", ".ods"])
}

fn ends_with_one_of(path: &str, suffixes: &[&str]) -> bool {
    let path = path.to_ascii_lowercase();
    suffixes.iter().any(|suffix| path.ends_with(suffix))
}
