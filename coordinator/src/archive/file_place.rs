//! Where a local image may lie: below the folder of its archive, or, where a person allows it, anywhere.

use std::io;
use std::path::{Path, PathBuf};

/// A local file that an archive names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FilePlace {
    path: PathBuf,
    /// The folder that the file must lie in, links resolved; none where it may lie anywhere.
    within: Option<PathBuf>,
}

/// Whether images may lie outside of the folder of an archive.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OutsideFiles {
    /// They are refused, so that a table cannot name any file of the machine.
    #[default]
    Refused,
    /// They are read; the person who runs it vouches for the table and for links.
    Allowed,
}

impl FilePlace {
    pub(super) fn new(path: PathBuf, root: &Path, outside: OutsideFiles) -> Self {
        let within = match outside {
            OutsideFiles::Refused => Some(root.to_owned()),
            OutsideFiles::Allowed => None,
        };
        Self { path, within }
    }

    /// The path by which the archive names the file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The file itself, behind all links; none where that lies outside.
    pub(super) fn resolve(&self) -> io::Result<Option<PathBuf>> {
        let file = self.path.canonicalize()?;
        match &self.within {
            Some(root) if !file.starts_with(root.canonicalize()?) => Ok(None),
            _ => Ok(Some(file)),
        }
    }
}
