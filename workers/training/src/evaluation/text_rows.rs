//! Files of texts: CSV without a header, one text a row, read row by row.

use std::fs::File;
use std::io;
use std::path::Path;

use csv::{Reader, ReaderBuilder, StringRecord};

/// The texts of a file with the lines where they begin.
///
/// A row is refused where it has more than one cell (a comma outside of quotes), and a line where it is blank: a reader of CSV
/// passes over it, and every later text would stand beside another one's reference. Nothing is read behind an error.
pub struct TextRows {
    reader: Reader<File>,
    record: StringRecord,
    is_over: bool,
}

impl TextRows {
    /// Opens a file.
    ///
    /// # Errors
    /// The file cannot be opened.
    pub fn open(file: &Path) -> csv::Result<Self> {
        let reader = ReaderBuilder::new()
            .has_headers(false)
            .flexible(true)
            .from_path(file)?;
        Ok(Self {
            reader,
            record: StringRecord::new(),
            is_over: false,
        })
    }

    fn read(&mut self) -> csv::Result<Option<(u64, String)>> {
        let line = self.reader.position().line();
        if !self.reader.read_record(&mut self.record)? {
            return Ok(None);
        }
        let mut cells = self.record.iter();
        let (Some(text), None) = (cells.next(), cells.next()) else {
            return Err(refused(
                line,
                "has more than one cell: put the text in quotes",
            ));
        };
        let taken = self.reader.position().line() - line;
        if taken > text.matches('\n').count() as u64 + 1 {
            return Err(refused(line, "is blank: write \"\" for an empty text"));
        }
        Ok(Some((line, text.to_owned())))
    }
}

impl Iterator for TextRows {
    type Item = csv::Result<(u64, String)>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.is_over {
            return None;
        }
        let row = self.read().transpose();
        self.is_over = !matches!(row, Some(Ok(_)));
        row
    }
}

fn refused(line: u64, reason: &str) -> csv::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("line {line} {reason}")).into()
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::TextRows;

    #[test]
    fn texts_keep_their_lines_and_blank_lines_or_second_cells_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("texts.csv");
        let rows = |content: &str| {
            fs::write(&file, content).unwrap();
            let rows = TextRows::open(&file).unwrap();
            let rows: csv::Result<Vec<(u64, String)>> = rows.collect();
            rows.map_err(|error| error.to_string())
        };
        let texts = rows("\"a, b\nc\"\n\"\"\nd").unwrap();
        let texts: Vec<(u64, &str)> = texts.iter().map(|(l, t)| (*l, t.as_str())).collect();
        assert_eq!(texts, [(1, "a, b\nc"), (3, ""), (4, "d")]);
        assert!(rows("a\n\nb\n").unwrap_err().contains("line 2 is blank"));
        assert!(rows("a\nb, c\n").unwrap_err().contains("line 2 has more"));
    }
}
