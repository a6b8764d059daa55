//! What keeps published weights from becoming a bundle, in words that name file, tensor and shapes.

use std::path::{Path, PathBuf};

use super::super::BundleError;
use super::super::components::GeometryError;
use crate::checkpoint::CheckpointError;
use crate::free_space::NotEnoughSpace;
use crate::tokenizers::TokenizerError;

/// An import that cannot be done.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// A weight file cannot be read.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// The bundle cannot be written.
    #[error(transparent)]
    Bundle(#[from] BundleError),
    /// The bundle does not fit where it is to be.
    #[error(transparent)]
    NoSpace(#[from] NotEnoughSpace),
    /// Parts that make no component together.
    #[error("{0}")]
    Parts(String),
    /// A file that is not what the import needs.
    #[error("'{}' cannot be used: {reason}", file.display())]
    Unusable {
        /// The file or folder.
        file: PathBuf,
        /// The fault, and what to do.
        reason: String,
    },
    /// A tensor that a component needs is in none of its files.
    #[error(
        "tensor '{tensor}'{} is not in {}: they are of another model, or not whole; give the files of one release",
        of_shape(expected),
        listed(files)
    )]
    Missing {
        /// The name in the published file.
        tensor: String,
        /// The shape that the other tensors and the configuration ask for; nothing where they follow from it.
        expected: Vec<usize>,
        /// The files that should have it.
        files: Vec<PathBuf>,
    },
    /// A tensor has another shape than the others and the configuration ask for.
    #[error(
        "tensor '{tensor}' in '{}' has shape {found:?}, and {expected:?} is needed beside the other files: they are of \
         different models", file.display()
    )]
    Shape {
        /// The name in the published file.
        tensor: String,
        /// The shape that is needed.
        expected: Vec<usize>,
        /// The shape in the file.
        found: Vec<usize>,
        /// The file.
        file: PathBuf,
    },
    /// An import that was under way and whose finished files are kept.
    #[error(
        "{source}; what is finished is kept in '{}': run the same command again to go on, or remove that folder", folder.display()
    )]
    Kept {
        /// The hidden folder beside the bundle's place.
        folder: PathBuf,
        /// What went wrong.
        #[source]
        source: Box<ImportError>,
    },
    /// A value that is NaN or infinite, or becomes so in the type that it is to be stored in.
    #[error(
        "tensor '{tensor}' in '{}' has values that are not finite when stored as {dtype}: the file is damaged{}",
        file.display(),
        match dtype.as_str() {
            "F16" => ", or give --dtype f32 or bf16",
            _ => ": download it again",
        }
    )]
    NotFinite {
        /// The name in the published file.
        tensor: String,
        /// The file.
        file: PathBuf,
        /// The type that was to be stored.
        dtype: String,
    },
}

impl ImportError {
    /// The error of a file that cannot be used, for `map_err`.
    pub(super) fn unusable<E: std::fmt::Display>(file: &Path) -> impl FnOnce(E) -> Self {
        let file = file.to_path_buf();
        move |reason| Self::Unusable {
            file,
            reason: reason.to_string(),
        }
    }

    /// The error of a tokenizer's content, for `map_err`.
    pub(super) fn tokenizer(file: &Path) -> impl FnOnce(TokenizerError) -> Self {
        Self::unusable(file)
    }

    /// The error of a geometry that was recognised in a file, for `map_err`.
    pub(super) fn geometry(file: &Path) -> impl FnOnce(GeometryError) -> Self {
        Self::unusable(file)
    }
}

/// The shape that is needed, where it is known.
fn of_shape(expected: &[usize]) -> String {
    match expected.is_empty() {
        true => String::new(),
        false => format!(" (shape {expected:?})"),
    }
}

fn listed(files: &[PathBuf]) -> String {
    let names = files.iter().map(|file| format!("'{}'", file.display()));
    names.collect::<Vec<_>>().join(" or ")
}
