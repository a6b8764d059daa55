//! A file that appears whole or not at all.

use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use crate::CoordinatorError;

/// New content for a file, written beside it.
pub(crate) struct Replacement {
    path: PathBuf,
    part: PathBuf,
    writer: BufWriter<File>,
}

impl Replacement {
    pub(crate) fn create(path: &Path) -> Result<Self, CoordinatorError> {
        let mut part = path.as_os_str().to_owned();
        part.push(".part");
        let part = PathBuf::from(part);
        let file = File::create(&part).map_err(CoordinatorError::output(&part))?;
        Ok(Self {
            path: path.to_owned(),
            part,
            writer: BufWriter::with_capacity(1 << 16, file),
        })
    }

    pub(crate) fn write(&mut self, content: &[u8]) -> Result<(), CoordinatorError> {
        self.writer
            .write_all(content)
            .map_err(CoordinatorError::output(&self.part))
    }

    /// Puts the content in place.
    pub(crate) fn commit(mut self) -> Result<(), CoordinatorError> {
        let mut finish = || {
            self.writer.flush()?;
            self.writer.get_ref().sync_all()?;
            fs::rename(&self.part, &self.path)
        };
        finish().map_err(CoordinatorError::output(&self.path))
    }

    /// Writes a whole file.
    pub(crate) fn of(path: &Path, content: &[u8]) -> Result<(), CoordinatorError> {
        let mut replacement = Self::create(path)?;
        replacement.write(content)?;
        replacement.commit()
    }
}
