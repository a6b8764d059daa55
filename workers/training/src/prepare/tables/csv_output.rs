//! A CSV table that is written row by row and appears under its name when it is whole.

use std::path::{Path, PathBuf};

use csv::{Terminator, Writer, WriterBuilder};
use radialog_files::durable::Replacement;
use radialog_schemas::table::escaped;

use crate::error::TrainingError;

/// A CSV table in the making.
pub struct CsvOutput {
    writer: Writer<Replacement>,
    path: PathBuf,
    rows: u64,
    /// Whether cells that a spreadsheet would run are escaped.
    escapes: bool,
}

impl CsvOutput {
    /// Begins a table with these names.
    ///
    /// # Errors
    /// The file cannot be created.
    pub fn create<'a>(
        path: &Path,
        names: impl IntoIterator<Item = &'a str>,
    ) -> Result<Self, TrainingError> {
        Self::begin(path, names, &WriterBuilder::new(), true)
    }

    /// Begins a table as Python's `csv` writes it, which the original reads back: lines end with CR and LF, rows may have
    /// more cells than names, and no cell is escaped.
    ///
    /// # Errors
    /// The file cannot be created.
    pub(crate) fn create_as_python<'a>(
        path: &Path,
        names: impl IntoIterator<Item = &'a str>,
    ) -> Result<Self, TrainingError> {
        let mut builder = WriterBuilder::new();
        builder.terminator(Terminator::CRLF).flexible(true);
        Self::begin(path, names, &builder, false)
    }

    /// Begins a table as pandas writes it, for scripts that were made for the original: no cell is escaped.
    ///
    /// # Errors
    /// The file cannot be created.
    pub(crate) fn create_as_pandas<'a>(
        path: &Path,
        names: impl IntoIterator<Item = &'a str>,
    ) -> Result<Self, TrainingError> {
        Self::begin(path, names, &WriterBuilder::new(), false)
    }

    fn begin<'a>(
        path: &Path,
        names: impl IntoIterator<Item = &'a str>,
        builder: &WriterBuilder,
        escapes: bool,
    ) -> Result<Self, TrainingError> {
        let file = Replacement::create(path).map_err(TrainingError::io("create", path))?;
        let mut output = Self {
            writer: builder.from_writer(file),
            path: path.to_owned(),
            rows: 0,
            escapes,
        };
        output.write(names)?;
        Ok(output)
    }

    /// Adds a row.
    ///
    /// # Errors
    /// There is no room.
    pub fn row<'a>(
        &mut self,
        cells: impl IntoIterator<Item = &'a str>,
    ) -> Result<(), TrainingError> {
        self.rows += 1;
        self.write(cells)
    }

    /// Puts the table in its place, and returns the number of its rows.
    ///
    /// # Errors
    /// There is no room.
    pub fn finish(self) -> Result<u64, TrainingError> {
        let file = self
            .writer
            .into_inner()
            .map_err(|error| TrainingError::io("write", &self.path)(error.into_error()))?;
        file.commit()
            .map_err(TrainingError::io("write", &self.path))?;
        Ok(self.rows)
    }

    fn write<'a>(&mut self, cells: impl IntoIterator<Item = &'a str>) -> Result<(), TrainingError> {
        let cells = cells.into_iter().map(|cell| match self.escapes {
            true => escaped(cell),
            false => cell.into(),
        });
        let written = self
            .writer
            .write_record(cells.map(|cell| cell.into_owned()));
        written.map_err(TrainingError::content(&self.path))
    }
}
