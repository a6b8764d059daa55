//! Files of texts: CSV without a header, one text a row.

use std::io;
use std::path::Path;

use csv::{ReaderBuilder, StringRecord};

/// Reads the texts of a file with the lines where they begin.
///
/// # Errors
///
/// The file cannot be read, a row has more than one cell (a comma outside of quotes), or a line is blank: a reader of CSV passes
/// over it, and every later text would stand beside another one's reference.
pub fn read(file: &Path) -> csv::Result<Vec<(u64, String)>> {
    let mut reader = ReaderBuilder::new()
        .has_headers(false)
        .flexible(true)
        .from_path(file)?;
    let mut rows = Vec::new();
    let mut record = StringRecord::new();
    loop {
        let line = reader.position().line();
        if !reader.read_record(&mut record)? {
            return Ok(rows);
        }
        let [text] = record.iter().collect::<Vec<_>>()[..] else {
            return Err(refused(
                line,
                "has more than one cell: put the text in quotes",
            ));
        };
        let taken = reader.position().line() - line;
        if taken > text.matches('\n').count() as u64 + 1 {
            return Err(refused(line, "is blank: write \"\" for an empty text"));
        }
        rows.push((line, text.to_owned()));
    }
}

fn refused(line: u64, reason: &str) -> csv::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("line {line} {reason}")).into()
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::read;

    #[test]
    fn texts_keep_their_lines_and_blank_lines_or_second_cells_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("texts.csv");
        let rows = |content: &str| {
            fs::write(&file, content).unwrap();
            read(&file).map_err(|error| error.to_string())
        };
        let texts = rows("\"a, b\nc\"\n\"\"\nd").unwrap();
        let texts: Vec<(u64, &str)> = texts.iter().map(|(l, t)| (*l, t.as_str())).collect();
        assert_eq!(texts, [(1, "a, b\nc"), (3, ""), (4, "d")]);
        assert!(rows("a\n\nb\n").unwrap_err().contains("line 2 is blank"));
        assert!(rows("a\nb, c\n").unwrap_err().contains("line 2 has more"));
    }
}
