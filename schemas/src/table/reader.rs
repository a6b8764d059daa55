//! Rows of a table that lies behind a reader of this thread.

use std::io::{self, BufRead, Read};

use thiserror::Error;

use super::{Header, LONGEST_ROW, MalformedRow, Row, RowParser};

/// A table with a header, row by row. It holds one row at a time.
#[derive(Debug)]
pub struct TableReader<R> {
    lines: R,
    header: Header,
    parser: RowParser,
    ended: bool,
}

/// The reason why a table cannot be read on.
#[derive(Debug, Error)]
pub enum TableError {
    /// The lines cannot be read.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// A row is none; those behind it can still be read.
    #[error(transparent)]
    Row(#[from] MalformedRow),
}

impl TableError {
    /// What is wrong, with the line where it is.
    pub fn with_line(&self) -> String {
        match self {
            Self::Io(error) => error.to_string(),
            Self::Row(row) => format!("line {}: {}", row.line, row.reason),
        }
    }
}

impl<R: BufRead> TableReader<R> {
    /// Reads the header.
    ///
    /// # Errors
    /// When it cannot be read, or as [`RowParser::header`].
    pub fn new(mut lines: R) -> Result<Self, TableError> {
        let mut first = line(&mut lines)?;
        let (mut declared, mut read) = (None, 1);
        while RowParser::is_before_header(&first, &mut declared) {
            first = line(&mut lines)?;
            read += 1;
        }
        let header = RowParser::header(&first, declared)?;
        Ok(Self {
            parser: RowParser::below(&header, read + 1),
            header,
            lines,
            ended: false,
        })
    }

    /// The names of the columns.
    pub fn header(&self) -> &Header {
        &self.header
    }
}

impl<R: BufRead> Iterator for TableReader<R> {
    type Item = Result<Row, TableError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            match self.parser.next() {
                Some(row) => return Some(row.map_err(TableError::Row)),
                None if self.ended => return None,
                None => {}
            }
            match line(&mut self.lines) {
                Ok(line) if line.is_empty() => {
                    self.ended = true;
                    self.parser.finish();
                }
                Ok(line) => self.parser.push(line),
                Err(error) => {
                    self.ended = true;
                    return Some(Err(TableError::Io(error)));
                }
            }
        }
    }
}

/// Reads one line with its end; empty at the end of the table. Of a line that is longer than any row, only as much is kept
/// as shows that.
fn line(lines: &mut impl BufRead) -> io::Result<Vec<u8>> {
    let mut line = Vec::new();
    let mut head = lines.by_ref().take(LONGEST_ROW as u64 + 1);
    head.read_until(b'\n', &mut line)?;
    if line.len() > LONGEST_ROW && !line.ends_with(b"\n") {
        lines.skip_until(b'\n')?;
    }
    Ok(line)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Finding, Label};

    #[test]
    fn blank_lines_and_a_separator_in_quotes_may_stand_before_the_header() {
        let text = "\u{feff}\r\n\"sep=|\"\r\n\r\nstudy_id|image\r\ns1|a,b.png\r\n";
        let mut table = TableReader::new(text.as_bytes()).unwrap();
        assert_eq!(table.header().names(), ["study_id", "image"]);
        let row = table.next().unwrap().unwrap();
        assert_eq!((row.line, row.cell(1)), (5, Some("a,b.png")));
        assert!(
            TableReader::new("\n\n".as_bytes())
                .unwrap()
                .header()
                .column("a")
                .is_none()
        );
    }

    #[test]
    fn a_header_that_is_longer_than_any_row_is_refused_and_loses_no_column() {
        let names = |bytes: usize| format!("{}text", "c,".repeat((bytes - 5) / 2));
        let longest = names(LONGEST_ROW);
        let text = format!("{longest}\nx\n");
        let table = TableReader::new(text.as_bytes()).unwrap();
        assert!(table.header().column("text").is_some());
        for end in ["\n", ""] {
            let text = format!("{}{end}", names(LONGEST_ROW + 100));
            let error = TableReader::new(text.as_bytes()).unwrap_err();
            assert!(error.with_line().contains("longer than 1 MiB"), "{error}");
        }
        // What it is otherwise comes first, however long its first line is.
        let mac = "a,b\r".repeat(LONGEST_ROW / 4 + 1);
        let error = TableReader::new(mac.as_bytes()).unwrap_err();
        assert!(error.with_line().contains("old Macs"), "{error}");
    }

    #[test]
    fn a_table_is_read_by_the_names_of_its_columns() {
        let names: Vec<_> = Finding::ALL
            .iter()
            .map(|finding| finding.name().to_uppercase())
            .collect();
        let text = format!(
            "\u{feff}{}, Image\n1.0,-1{},x.png\n2{},y.png\n",
            names.join(","),
            ",".repeat(12),
            ",".repeat(13)
        );
        let mut table = TableReader::new(text.as_bytes()).unwrap();
        let image = table.header().required("image").unwrap();
        let findings = table.header().findings().unwrap();
        let row = table.next().unwrap().unwrap();
        assert_eq!((row.line, row.cell(image)), (2, Some("x.png")));
        let labels = row.labels(&findings).unwrap();
        assert_eq!(
            labels[..3],
            [Label::Positive, Label::Uncertain, Label::Blank]
        );
        let invalid = table
            .next()
            .unwrap()
            .unwrap()
            .labels(&findings)
            .unwrap_err();
        assert_eq!(invalid.line, 3);
        assert!(invalid.reason.starts_with("No Finding: '2'"), "{invalid}");
        assert!(table.next().is_none());
    }
}
