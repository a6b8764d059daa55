//! The rows of a CSV table (RFC 4180), strictly and with line numbers. A lenient reader takes everything behind an
//! unclosed quote for one field, to the end of the file; here only the broken row is lost.

use std::collections::VecDeque;
use std::io;

use radialog_schemas::ErrorCode;
use tokio::io::{AsyncBufRead, AsyncBufReadExt};

use super::entries::EntryProblem;
use crate::CoordinatorError;

/// A quoted field may hold a report of many lines, but an unclosed quote must end somewhere.
const LONGEST_ROW: usize = 1 << 20;

type Lines = Box<dyn AsyncBufRead + Send + Unpin>;

/// A table with a header.
pub(super) struct TableRows {
    lines: Lines,
    file: String,
    header: Vec<String>,
    /// Lines that were read to find the end of a quote and did not hold it.
    pushed_back: VecDeque<Vec<u8>>,
    /// The number of the line that comes next.
    line: u64,
    failed: bool,
}

/// One row, where it begins and what its fields hold.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Row {
    pub(super) place: String,
    pub(super) fields: Vec<String>,
}

/// Why a text is no row.
#[derive(Debug, PartialEq, Eq)]
enum Fault {
    /// A quote is open at its end.
    Open,
    /// The words for a person.
    Bad(&'static str),
}

impl TableRows {
    /// Reads the header; `required` columns must be there.
    pub(super) async fn open(
        lines: Lines,
        file: String,
        required: &[&str],
    ) -> Result<Self, CoordinatorError> {
        let mut rows = Self {
            lines,
            file,
            header: Vec::new(),
            pushed_back: VecDeque::new(),
            line: 1,
            failed: false,
        };
        let first = rows
            .next_line()
            .await
            .map_err(|error| rows.unusable(error))?
            .unwrap_or_default();
        let first = first.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&first);
        let text = std::str::from_utf8(first).map_err(|error| rows.unusable(error))?;
        let header =
            split(text).map_err(|_| rows.unusable("the quoting of its first line is broken"))?;
        rows.header = header
            .into_iter()
            .map(|name| name.trim().to_owned())
            .collect();
        if let Some(missing) = required.iter().find(|name| rows.column(name).is_none()) {
            return Err(CoordinatorError::MissingColumn {
                file: rows.file,
                column: (*missing).to_owned(),
                found: rows.header.join(", "),
            });
        }
        Ok(rows)
    }

    /// The position of a column.
    pub(super) fn column(&self, name: &str) -> Option<usize> {
        self.header.iter().position(|column| column == name)
    }

    /// How many fields a row has to have.
    pub(super) fn width(&self) -> usize {
        self.header.len()
    }

    /// The next row that is not blank.
    pub(super) async fn next(&mut self) -> Option<Result<Row, EntryProblem>> {
        while !self.failed {
            let place = format!("{} line {}", self.file, self.line);
            let problem = |message: String| {
                Some(Err(EntryProblem::new(
                    place.clone(),
                    ErrorCode::ArchiveEntry,
                    message,
                )))
            };
            let mut text = match self.next_line().await {
                Ok(Some(line)) => line,
                Ok(None) => return None,
                Err(error) => {
                    self.failed = true;
                    return problem(format!("the rest of the table cannot be read: {error}"));
                }
            };
            let mut taken = Vec::new();
            loop {
                let fault = match std::str::from_utf8(&text).map(split) {
                    Ok(Ok(fields)) if fields.len() == 1 && fields[0].is_empty() => break,
                    Ok(Ok(fields)) => return Some(Ok(Row { place, fields })),
                    Ok(Err(Fault::Open)) if self.extend(&mut text, &mut taken).await => continue,
                    Ok(Err(Fault::Open)) => "a quote is not closed",
                    Ok(Err(Fault::Bad(words))) => words,
                    Err(_) => "the row is not UTF-8",
                };
                self.line -= taken.len() as u64;
                self.pushed_back.extend(taken);
                return problem(fault.to_owned());
            }
        }
        None
    }

    /// Takes further lines up to one that may close a quote. False where there is none in reach.
    async fn extend(&mut self, text: &mut Vec<u8>, taken: &mut Vec<Vec<u8>>) -> bool {
        while text.len() < LONGEST_ROW
            && let Ok(Some(line)) = self.next_line().await
        {
            let closes = line.contains(&b'"');
            text.extend_from_slice(&line);
            taken.push(line);
            if closes {
                return true;
            }
        }
        false
    }

    /// A line with its end.
    async fn next_line(&mut self) -> io::Result<Option<Vec<u8>>> {
        let mut line = Vec::new();
        match self.pushed_back.pop_front() {
            Some(pushed_back) => line = pushed_back,
            None if self.lines.read_until(b'\n', &mut line).await? == 0 => return Ok(None),
            None => {}
        }
        self.line += 1;
        Ok(Some(line))
    }

    fn unusable(&self, reason: impl std::fmt::Display) -> CoordinatorError {
        CoordinatorError::Input {
            input: self.file.clone(),
            reason: reason.to_string(),
        }
    }
}

/// The fields of one row, whose text may end with a line end.
fn split(text: &str) -> Result<Vec<String>, Fault> {
    let text = text.strip_suffix('\n').unwrap_or(text);
    let mut rest = text.strip_suffix('\r').unwrap_or(text);
    let mut fields = Vec::new();
    loop {
        let mut field = String::new();
        if let Some(quoted) = rest.strip_prefix('"') {
            rest = quoted;
            loop {
                let (part, behind) = rest.split_once('"').ok_or(Fault::Open)?;
                field.push_str(part);
                rest = behind;
                match rest.strip_prefix('"') {
                    Some(behind) => {
                        field.push('"');
                        rest = behind;
                    }
                    None => break,
                }
            }
        } else {
            let end = rest.find(',').unwrap_or(rest.len());
            field.push_str(&rest[..end]);
            rest = &rest[end..];
            if field.contains('"') {
                return Err(Fault::Bad(
                    "a quote stands inside a field that does not begin with one",
                ));
            }
        }
        fields.push(field);
        match rest.strip_prefix(',') {
            Some(behind) => rest = behind,
            None if rest.is_empty() => return Ok(fields),
            None => {
                return Err(Fault::Bad(
                    "something stands between a closing quote and the next comma",
                ));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use super::*;

    async fn read(text: &'static str) -> Vec<Result<(String, Vec<String>), String>> {
        let mut rows = TableRows::open(Box::new(Cursor::new(text)), "t.csv".into(), &["a", "b"])
            .await
            .unwrap();
        let mut all = Vec::new();
        while let Some(row) = rows.next().await {
            all.push(match row {
                Ok(row) => Ok((row.place, row.fields)),
                Err(problem) => Err(problem.to_string()),
            });
        }
        all
    }

    fn row(line: u64, fields: &[&str]) -> Result<(String, Vec<String>), String> {
        Ok((
            format!("t.csv line {line}"),
            fields.iter().map(|field| (*field).to_owned()).collect(),
        ))
    }

    #[tokio::test]
    async fn quoted_fields_hold_commas_quotes_and_lines() {
        let rows = read("\u{feff}a,b\r\n1,\"x, \"\"y\"\"\r\nz\"\r\n\r\n2,\n").await;
        assert_eq!(rows, [row(2, &["1", "x, \"y\"\r\nz"]), row(5, &["2", ""])]);
    }

    #[tokio::test]
    async fn bad_quoting_costs_one_row_and_names_its_line() {
        let rows = read("a,b\n1,x\n2,\"open\n3,y\n4,\"z\"z\n5,z\"z\n6,\"last\"\n").await;
        let Err(open) = &rows[1] else {
            panic!("{rows:?}")
        };
        // The quote that opens in line 3 closes in line 5, where something else follows.
        assert!(open.starts_with("t.csv line 3:"), "{open}");
        assert_eq!(rows[2], row(4, &["3", "y"]));
        assert!(
            rows[3]
                .as_ref()
                .is_err_and(|text| text.starts_with("t.csv line 5:"))
        );
        assert!(
            rows[4]
                .as_ref()
                .is_err_and(|text| text.starts_with("t.csv line 6:"))
        );
        assert_eq!(rows[5], row(7, &["6", "last"]));
        assert_eq!(rows.len(), 6);
    }

    #[tokio::test]
    async fn a_quote_that_never_closes_costs_one_row() {
        let rows = read("a,b\n1,\"open\n2,x\n3,y").await;
        assert!(
            rows[0]
                .as_ref()
                .is_err_and(|text| text.contains("t.csv line 2: ") && text.contains("not closed"))
        );
        assert_eq!(rows[1..], [row(3, &["2", "x"]), row(4, &["3", "y"])]);
    }

    #[tokio::test]
    async fn a_missing_column_is_named_with_its_file() {
        let error = TableRows::open(Box::new(Cursor::new("a,c\n")), "t.csv".into(), &["a", "b"])
            .await
            .err()
            .unwrap();
        let text = error.to_string();
        assert!(
            text.contains("t.csv") && text.contains("'b'") && text.contains("a, c"),
            "{text}"
        );
    }
}
