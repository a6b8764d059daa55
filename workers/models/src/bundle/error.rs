//! What can be wrong with a bundle. Every message names the file, and for tensors the shapes, so that a person can tell
//! a broken download from a bundle of another geometry.

use std::io;
use std::path::{Path, PathBuf};

use radialog_schemas::{ContentHash, Stage};

use crate::free_space::NotEnoughSpace;

/// A bundle that cannot be used, or not be written.
#[derive(Debug, thiserror::Error)]
pub enum BundleError {
    /// No manifest.
    #[error(
        "'{}' is not a bundle: it has no bundle.json. Give a bundle's directory, or make one of weights that you have with \
         `radialog bundle import`, or one of random weights with `radialog bundle random`", .0.display()
    )]
    NotABundle(PathBuf),
    /// Something stands where the bundle is to be.
    #[error("'{}' cannot be used: it is there already: name another folder, or remove it", .0.display())]
    IsThere(PathBuf),
    /// The manifest, a configuration or a tokenizer is not what this version reads.
    #[error("'{}' cannot be used: {reason}", file.display())]
    Unusable {
        /// The file.
        file: PathBuf,
        /// The fault in it.
        reason: String,
    },
    /// The bundle has nothing for this stage.
    #[error(
        "bundle '{}' has no component for the {stage} stage: `radialog bundle import --help` names the published files that it \
         is made of", dir.display()
    )]
    NoComponent {
        /// The bundle.
        dir: PathBuf,
        /// The stage.
        stage: Stage,
    },
    /// The operating system refuses.
    #[error("cannot {action} '{}': {source}", file.display())]
    Io {
        /// The operation that failed, e.g. `read`.
        action: &'static str,
        /// The file.
        file: PathBuf,
        /// The system's words.
        source: io::Error,
    },
    /// The bundle does not fit where it is to be.
    #[error(transparent)]
    NoSpace(#[from] NotEnoughSpace),
    /// A file is shorter or longer than the manifest says.
    #[error(
        "'{}' has {found} bytes and bundle.json says {expected}: the file is incomplete or from another bundle; \
         copy it again", file.display()
    )]
    Size {
        /// The file.
        file: PathBuf,
        /// The size in the manifest, in bytes.
        expected: u64,
        /// The size of the file, in bytes.
        found: u64,
    },
    /// A file's content is not what the manifest says.
    #[error(
        "'{}' has sha256 {found} and bundle.json says {expected}: the file is damaged or from another bundle; \
         copy it again", file.display()
    )]
    Hash {
        /// The file.
        file: PathBuf,
        /// The hash in the manifest.
        expected: ContentHash,
        /// The hash of the file's content.
        found: ContentHash,
    },
    /// The file is not a whole safetensors file.
    #[error("'{}' is not a whole safetensors file ({reason}): it is truncated or damaged; copy it again", file.display())]
    Safetensors {
        /// The file.
        file: PathBuf,
        /// The parser's words.
        reason: String,
    },
    /// A tensor that the network needs is not there.
    #[error("tensor '{tensor}' (shape {expected:?}) is not in '{}'", file.display())]
    TensorMissing {
        /// Its name as in the published checkpoint.
        tensor: String,
        /// The shape that the configuration asks for.
        expected: Vec<usize>,
        /// The weights file that should have it.
        file: PathBuf,
    },
    /// A tensor does not fit the configuration.
    #[error(
        "tensor '{tensor}' in '{}' has shape {found:?} and the bundle's configuration asks for {expected:?}",
        file.display()
    )]
    TensorShape {
        /// Its name.
        tensor: String,
        /// The shape that the configuration asks for.
        expected: Vec<usize>,
        /// The shape in the file.
        found: Vec<usize>,
        /// The weights file.
        file: PathBuf,
    },
    /// A value of the weights is NaN or infinite: every output would be, too.
    #[error(
        "tensor '{tensor}' in '{}' has values that are not finite (NaN or infinite): the training diverged or the file is \
         damaged; use another checkpoint", file.display()
    )]
    NotFinite {
        /// Its name.
        tensor: String,
        /// The weights file.
        file: PathBuf,
    },
    /// A network could not be made of the weights.
    #[error("the {stage} component of bundle '{}' does not load: {reason}", dir.display())]
    Model {
        /// The bundle.
        dir: PathBuf,
        /// The stage that loads the component.
        stage: Stage,
        /// The network's words.
        reason: String,
    },
}

impl BundleError {
    /// The error of a file operation, for `map_err`.
    pub(super) fn io(action: &'static str, file: &Path) -> impl FnOnce(io::Error) -> Self {
        let file = file.to_path_buf();
        move |source| Self::Io {
            action,
            file,
            source,
        }
    }

    /// The error of a parser, for `map_err`.
    pub(super) fn unusable<E: std::fmt::Display>(file: &Path) -> impl FnOnce(E) -> Self {
        let file = file.to_path_buf();
        move |reason| Self::Unusable {
            file,
            reason: reason.to_string(),
        }
    }
}
