//! Rows of numbers, all as wide, in a file that has no name and goes with the process.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::ops::Range;
use std::os::unix::fs::FileExt;

/// Bytes of a number.
const NUMBER: usize = size_of::<f64>();
/// Bytes that are read at a time.
const READ: usize = 1 << 16;

/// Rows that are being stored.
pub struct NumberRowsWriter {
    file: BufWriter<File>,
    width: usize,
    rows: usize,
}

/// Rows that are stored.
pub struct NumberRows {
    file: File,
    width: usize,
    rows: usize,
}

impl NumberRowsWriter {
    /// No rows yet, of so many numbers each.
    ///
    /// # Errors
    /// No file can be created in the system's folder of temporary files, or rows have no number.
    pub fn new(width: usize) -> io::Result<Self> {
        if width == 0 {
            return Err(io::Error::other("rows without numbers"));
        }
        Ok(Self {
            file: BufWriter::new(tempfile::tempfile()?),
            width,
            rows: 0,
        })
    }

    /// The number of rows.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// The number of numbers of a row.
    pub fn width(&self) -> usize {
        self.width
    }

    /// Adds a row.
    ///
    /// # Errors
    /// There is no room, or the row has another width.
    pub fn add(&mut self, row: &[f64]) -> io::Result<()> {
        if row.len() != self.width {
            return Err(io::Error::other("a row of another width"));
        }
        for number in row {
            self.file.write_all(&number.to_le_bytes())?;
        }
        self.rows += 1;
        Ok(())
    }

    /// Lets the rows be read.
    ///
    /// # Errors
    /// There is no room.
    pub fn finish(self) -> io::Result<NumberRows> {
        let file = self.file.into_inner();
        Ok(NumberRows {
            file: file.map_err(io::IntoInnerError::into_error)?,
            width: self.width,
            rows: self.rows,
        })
    }
}

impl NumberRows {
    /// The number of rows.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Reads some rows; from any thread.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn range(&self, rows: Range<usize>) -> io::Result<Vec<f64>> {
        let row = self.width * NUMBER;
        let mut bytes = vec![0; rows.len() * row];
        self.file
            .read_exact_at(&mut bytes, (rows.start * row) as u64)?;
        let numbers = bytes.as_chunks::<NUMBER>().0.iter();
        Ok(numbers.map(|bytes| f64::from_le_bytes(*bytes)).collect())
    }

    /// Reads all rows, one after the other, some at a time: the place of the first of them, and their numbers.
    pub fn blocks(&self) -> impl Iterator<Item = io::Result<(usize, Vec<f64>)>> + '_ {
        let at_once = (READ / (self.width * NUMBER)).max(1);
        let begins = (0..self.rows).step_by(at_once);
        begins.map(move |begin| Ok((begin, self.range(begin..self.rows.min(begin + at_once))?)))
    }
}
