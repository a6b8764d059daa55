//! An archive as a stream of studies. Kinds are told apart by what is there; every kind works on a folder and on an
//! object store. What is wrong with one entry is named and the stream goes on.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use radialog_runtime::objects::Objects;
use radialog_schemas::{ErrorCode, Failure, StudyId};
use serde::{Deserialize, Serialize};

use crate::CoordinatorError;
use crate::archive::folder::ImageFolder;
use crate::archive::manifest::{Ids, Manifest};
use crate::archive::mimic::{Mimic, StudyFolder};
use crate::archive::objects::ObjectTree;
use crate::archive::tree::{LocalTree, Tree};

mod folder;
mod image;
mod manifest;
mod mimic;
mod objects;
mod rows;
mod texts;
mod tree;

pub use image::{ImageSource, ReadError};
pub use texts::{PromptList, ReportTable};

/// How many files are looked at to tell a MIMIC-CXR-JPG tree from any other folder.
const PROBE: usize = 100;

/// One study as an archive describes it, before anything was read.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Meant to be unique within the archive.
    pub study: StudyId,
    /// The image's name in the archive, for people.
    pub file: String,
    /// Where the entry stands: a file, or a file and line.
    pub place: String,
    /// Where the image is, or why there can be none.
    pub image: Result<ImageSource, Failure>,
    /// Further images of the study.
    pub other_files: Vec<String>,
    /// The radiologist's text.
    pub reference: Option<String>,
    /// Why the image was taken.
    pub indication: Option<String>,
    /// Which data split.
    pub split: Option<String>,
}

impl Entry {
    /// An entry with nothing but an image.
    pub fn new(study: &str, file: impl Into<String>, image: Result<ImageSource, Failure>) -> Self {
        let file = file.into();
        Self {
            study: StudyId::from(study),
            place: file.clone(),
            file,
            image,
            other_files: Vec::new(),
            reference: None,
            indication: None,
            split: None,
        }
    }
}

/// Something in an archive that cannot become a study: an unreadable directory, a row without an id, a second entry
/// of the same study.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// A file or directory, or a file and line.
    pub place: String,
    /// What is wrong.
    pub failure: Failure,
}

impl Problem {
    /// A problem of this code.
    pub fn new(place: impl Into<String>, code: ErrorCode, message: impl fmt::Display) -> Self {
        Self {
            place: place.into(),
            failure: Failure::new(code, message),
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.place, self.failure)
    }
}

/// One pass over an archive.
#[async_trait]
pub trait Entries: Send {
    /// The next study or problem. Waits out a lost object store.
    async fn next(&mut self) -> Option<Result<Entry, Problem>>;
}

/// A collection of studies that can be read from its start any number of times, always in the same order. Memory does
/// not grow with it.
#[async_trait]
pub trait Archive: Send + Sync {
    /// What a person calls it, e.g. its path.
    fn name(&self) -> String;

    /// Starts a pass.
    ///
    /// # Errors
    /// When the whole archive is unusable.
    async fn entries(&self) -> Result<Box<dyn Entries>, CoordinatorError>;

    /// The number of studies, without reading images.
    ///
    /// # Errors
    /// As [`Archive::entries`].
    async fn count(&self) -> Result<u64, CoordinatorError> {
        let mut entries = self.entries().await?;
        let mut count = 0;
        while let Some(entry) = entries.next().await {
            count += u64::from(entry.is_ok());
        }
        Ok(count)
    }
}

/// What a person names as the archive.
#[derive(Clone)]
pub enum Input {
    /// A folder or a CSV manifest.
    Path(PathBuf),
    /// Everything under a prefix of a bucket, or a CSV manifest in it.
    Objects {
        /// As given, e.g. `s3://bucket/prefix`.
        url: String,
        /// The bucket.
        store: Arc<dyn Objects>,
        /// Without leading or closing `/`; empty for the whole bucket.
        prefix: String,
    },
}

/// Opens an archive and finds out its kind.
///
/// # Errors
/// When it is not there, is neither a folder nor a manifest, or a table of it lacks a column.
pub async fn open(input: &Input) -> Result<Arc<dyn Archive>, CoordinatorError> {
    let Found {
        name,
        tree,
        manifest,
    } = Found::of(input).await?;
    if let Some(file) = manifest {
        let images = tree.clone();
        return checked(Manifest {
            name,
            tree,
            file,
            images,
            split: None,
            ids: Ids::Studies,
        })
        .await;
    }
    let mut walk = tree.walk("");
    for _ in 0..PROBE {
        let Some(path) = walk.next().await else { break };
        if let Some(found) = path.ok().as_deref().and_then(StudyFolder::of) {
            return Ok(Arc::new(Mimic::open(name, tree, found.root).await?));
        }
    }
    Ok(Arc::new(ImageFolder { name, tree }))
}

/// Opens an image table, as trainings read it: a CSV with `image`, perhaps `split`, and `dicom_id` or `study_id` (else an
/// image's name is its id). `images` is the folder that images are relative to, the table's own without it. With `split`,
/// other rows are not part of the archive.
///
/// # Errors
/// When it is not there, is no CSV, or lacks a column.
pub async fn image_table(
    input: &Input,
    images: Option<&Path>,
    split: Option<&str>,
) -> Result<Arc<dyn Archive>, CoordinatorError> {
    let Table { name, tree, file } = Table::of(input).await?;
    let images: Arc<dyn Tree> = match images {
        None => tree.clone(),
        Some(folder) => match local(folder).await? {
            Found {
                tree,
                manifest: None,
                ..
            } => tree,
            Found { name, .. } => {
                return Err(CoordinatorError::Input {
                    input: name,
                    reason: "it is not a folder".into(),
                });
            }
        },
    };
    let name = format!(
        "{name}{}",
        split.map_or_else(String::new, |split| format!(" ({split})"))
    );
    checked(Manifest {
        name,
        tree,
        file,
        images,
        split: split.map(str::to_owned),
        ids: Ids::Images,
    })
    .await
}

/// Reads the header, so that a missing column is found before any work.
async fn checked(manifest: Manifest) -> Result<Arc<dyn Archive>, CoordinatorError> {
    manifest.entries().await?;
    Ok(Arc::new(manifest))
}

/// An input found: a tree, or a manifest in a tree.
struct Found {
    name: String,
    tree: Arc<dyn Tree>,
    manifest: Option<String>,
}

/// A table found in a tree.
struct Table {
    name: String,
    tree: Arc<dyn Tree>,
    file: String,
}

impl Found {
    async fn of(input: &Input) -> Result<Self, CoordinatorError> {
        match input {
            Input::Path(path) => local(path).await,
            Input::Objects { url, store, prefix } => Ok(bucket(url, store, prefix)),
        }
    }
}

impl Table {
    async fn of(input: &Input) -> Result<Self, CoordinatorError> {
        match Found::of(input).await? {
            Found {
                name,
                tree,
                manifest: Some(file),
            } => Ok(Self { name, tree, file }),
            Found { name, .. } => Err(CoordinatorError::Input {
                input: name,
                reason: "it is no .csv file".into(),
            }),
        }
    }
}

/// The name of a local archive is its whole path, so that it is the same archive from wherever a run is resumed.
async fn local(path: &Path) -> Result<Found, CoordinatorError> {
    let unusable = |reason: String| CoordinatorError::Input {
        input: path.display().to_string(),
        reason,
    };
    let failed = |error: std::io::Error| unusable(error.to_string());
    let path = tokio::fs::canonicalize(path).await.map_err(failed)?;
    let name = path.display().to_string();
    if tokio::fs::metadata(&path).await.map_err(failed)?.is_dir() {
        // A root that cannot be read is no problem of an entry: nothing can be run.
        drop(tokio::fs::read_dir(&path).await.map_err(failed)?);
        return Ok(Found {
            name,
            tree: Arc::new(LocalTree::new(path)),
            manifest: None,
        });
    }
    if !is_csv(&name) {
        return Err(unusable("it is neither a folder nor a .csv file".into()));
    }
    let file = path.file_name().and_then(|file| file.to_str());
    let manifest = Some(
        file.ok_or_else(|| unusable("its name is not UTF-8".into()))?
            .to_owned(),
    );
    let folder = path.parent().unwrap_or(&path).to_owned();
    Ok(Found {
        name,
        tree: Arc::new(LocalTree::new(folder)),
        manifest,
    })
}

fn bucket(url: &str, store: &Arc<dyn Objects>, prefix: &str) -> Found {
    let (folder, file) = match prefix.rsplit_once('/').unwrap_or(("", prefix)) {
        (folder, file) if is_csv(file) => (folder, Some(file)),
        _ => (prefix, None),
    };
    let root = file.map_or(url, |file| url.strip_suffix(file).unwrap_or(url));
    let tree = Arc::new(ObjectTree::new(root, store.clone(), folder));
    Found {
        name: url.trim_end_matches('/').to_owned(),
        tree,
        manifest: file.map(str::to_owned),
    }
}

fn is_csv(path: &str) -> bool {
    path.rsplit_once('.')
        .is_some_and(|(_, suffix)| suffix.eq_ignore_ascii_case("csv"))
}
