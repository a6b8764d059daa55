//! Rows in a file that has no name and goes with the process: memory holds where each one ends, whatever is in it.

use std::fs::File;
use std::io;
use std::marker::PhantomData;
use std::ops::Range;
use std::os::unix::fs::FileExt;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::error::TrainingError;

/// Bytes that are written at a time.
const WRITTEN: usize = 1 << 16;
/// Rows that are read at a time.
const READ: usize = 256;

/// Rows of one kind, in the order in which they were added.
#[derive(Debug)]
pub struct StoredRows<R> {
    file: File,
    /// Where each row ends.
    ends: Vec<u64>,
    /// The last rows, which are not in the file yet.
    buffer: Vec<u8>,
    /// The length of the file.
    stored: u64,
    rows: PhantomData<fn(R) -> R>,
}

impl<R: Serialize + DeserializeOwned> StoredRows<R> {
    /// No rows yet.
    ///
    /// # Errors
    /// No file can be created in the system's folder of temporary files.
    pub fn new() -> io::Result<Self> {
        Ok(Self {
            file: tempfile::tempfile()?,
            ends: Vec::new(),
            buffer: Vec::new(),
            stored: 0,
            rows: PhantomData,
        })
    }

    /// Adds a row.
    ///
    /// # Errors
    /// There is no room.
    pub fn add(&mut self, row: &R) -> io::Result<()> {
        serde_json::to_writer(&mut self.buffer, row)?;
        self.ends.push(self.stored + self.buffer.len() as u64);
        match self.buffer.len() >= WRITTEN {
            true => self.flush(),
            false => Ok(()),
        }
    }

    /// The number of rows.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Whether there is no row.
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// Reads a row, which must be there.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn get(&self, place: usize) -> io::Result<R> {
        let row = self.range(place..place + 1)?.pop();
        row.ok_or_else(|| io::Error::other("a row that is not there"))
    }

    /// Reads some rows.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn range(&self, rows: Range<usize>) -> io::Result<Vec<R>> {
        let ends = &self.ends[rows.clone()];
        let Some(last) = ends.last() else {
            return Ok(Vec::new());
        };
        let begin = self.begin(rows.start);
        let mut bytes = vec![0; (last - begin) as usize];
        let of_file = (self.stored.saturating_sub(begin) as usize).min(bytes.len());
        let (of_file, of_buffer) = bytes.split_at_mut(of_file);
        self.file.read_exact_at(of_file, begin)?;
        if !of_buffer.is_empty() {
            let from = begin.saturating_sub(self.stored) as usize;
            of_buffer.copy_from_slice(&self.buffer[from..from + of_buffer.len()]);
        }
        let mut from = begin;
        let row = |end: &u64| {
            let row = &bytes[(from - begin) as usize..(end - begin) as usize];
            from = *end;
            Ok(serde_json::from_slice(row)?)
        };
        ends.iter().map(row).collect()
    }

    /// Reads all rows, so many at a time.
    pub fn chunks(&self, rows: usize) -> impl Iterator<Item = io::Result<Vec<R>>> + '_ {
        let begins = (0..self.len()).step_by(rows);
        begins.map(move |begin| self.range(begin..self.len().min(begin + rows)))
    }

    /// Reads all rows, one after the other.
    pub fn iter(&self) -> impl Iterator<Item = io::Result<R>> + '_ {
        self.chunks(READ).flat_map(|rows| {
            let (rows, error) = match rows {
                Ok(rows) => (rows, None),
                Err(error) => (Vec::new(), Some(Err(error))),
            };
            rows.into_iter().map(Ok).chain(error)
        })
    }

    /// Keeps the first rows.
    ///
    /// # Errors
    /// There is no room for those.
    pub fn truncate(&mut self, rows: usize) -> io::Result<()> {
        self.flush()?;
        self.ends.truncate(rows);
        self.stored = self.begin(self.ends.len());
        Ok(())
    }

    /// Makes each row anew, or leaves it out. Where that fails, the rows are as they were.
    ///
    /// # Errors
    /// An error of `row`; a row cannot be read, or there is no room.
    pub fn rewrite<E: From<io::Error>>(
        &mut self,
        mut row: impl FnMut(R) -> Result<Option<R>, E>,
    ) -> Result<(), E> {
        let mut rows = Self::new()?;
        for old in self.iter() {
            if let Some(new) = row(old?)? {
                rows.add(&new)?;
            }
        }
        *self = rows;
        Ok(())
    }

    fn begin(&self, place: usize) -> u64 {
        place.checked_sub(1).map_or(0, |before| self.ends[before])
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.write_all_at(&self.buffer, self.stored)?;
        self.stored += self.buffer.len() as u64;
        self.buffer.clear();
        Ok(())
    }
}

/// What an error of a file without a name is called.
pub fn temporary(error: io::Error) -> TrainingError {
    TrainingError::io("use", "a temporary file".as_ref())(error)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(rows: &StoredRows<(String, u32)>) -> Vec<u32> {
        rows.iter().map(|row| row.unwrap().1).collect()
    }

    #[test]
    fn rows_are_read_in_any_order_while_others_are_added() {
        let mut rows = StoredRows::new().unwrap();
        // More than are written or read at a time.
        let text = "Ödem.\n".repeat(100);
        for number in 0..1000_u32 {
            rows.add(&(text.clone(), number)).unwrap();
            let other = number / 2;
            assert_eq!(rows.get(other as usize).unwrap(), (text.clone(), other));
        }
        assert_eq!(all(&rows), (0..1000).collect::<Vec<u32>>());
        let some: Vec<u32> = rows
            .range(700..703)
            .unwrap()
            .iter()
            .map(|row| row.1)
            .collect();
        assert_eq!(some, [700, 701, 702]);
        let even = |row: (String, u32)| Ok::<_, io::Error>(Some(row).filter(|row| row.1 % 2 == 0));
        rows.rewrite(even).unwrap();
        rows.truncate(3).unwrap();
        rows.add(&(text, 7)).unwrap();
        assert_eq!(all(&rows), [0, 2, 4, 7]);
        assert!(rows.rewrite(|_| Err(io::Error::other("no"))).is_err());
        assert_eq!(rows.len(), 4);
    }
}
