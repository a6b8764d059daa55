//! Lines to rows, without reading any: whoever has the lines, from a file or from a store, pushes them in.

use std::collections::VecDeque;

use thiserror::Error;

use super::Header;
use crate::{Finding, Label};

/// A quoted field may hold a report of many lines, but an unclosed quote must end somewhere. In bytes.
pub const LONGEST_ROW: usize = 1 << 20;
/// A row of more lines is none either: where its quote turns out to be unclosed, all of them are looked at again at once.
const MOST_LINES: usize = 10_000;

/// One row: the line on which it begins, counted from 1, and its cells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// The line on which it begins.
    pub line: u64,
    /// Its cells as they stand, without the apostrophe of those that are escaped as formulas.
    pub cells: Vec<String>,
}

/// A row that is none; reading goes on behind it.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{reason}")]
pub struct MalformedRow {
    /// The line on which it begins, counted from 1.
    pub line: u64,
    /// What is wrong with it.
    pub reason: String,
}

/// Splits lines into rows.
///
/// Push lines with their ends; between two pushes and after [`RowParser::finish`], take what [`RowParser::next`] has.
/// The time is linear in the bytes that are pushed: a line is looked at when it comes, and once more where a quote
/// that it was thought to stand in turns out to be unclosed (such lines have an even number of quotes and so begin no
/// quote of their own that stays open).
#[derive(Debug, Default)]
pub struct RowParser {
    /// Lines that were not looked at yet.
    lines: VecDeque<Vec<u8>>,
    /// The number of the first of them.
    line: u64,
    open: Option<OpenRow>,
    finished: bool,
    separator: Separator,
}

/// What stands between two cells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Separator(char);

/// A row whose last cell is quoted and not closed.
#[derive(Debug)]
struct OpenRow {
    cells: Cells,
    line: u64,
    /// The lines behind the first.
    taken: Vec<Vec<u8>>,
    bytes: usize,
}

/// A row in the making.
#[derive(Debug, Default)]
struct Cells {
    done: Vec<String>,
    /// The text of a quoted cell that is not closed.
    quoted: Option<String>,
    separator: Separator,
}

impl Default for Separator {
    fn default() -> Self {
        Self(',')
    }
}

impl Separator {
    /// Those of spreadsheets whose comma is a decimal sign, and of "text" as they export it.
    const OTHERS: [char; 2] = [';', '\t'];

    /// Finds out what separates the cells of this first line: a comma if there is any.
    fn of(line: &str) -> Self {
        let mut outside = String::new();
        // Every other part between quotes stands inside of them.
        outside.extend(line.split('"').step_by(2));
        let found = Self::OTHERS
            .into_iter()
            .find(|&other| outside.contains(other));
        match found {
            Some(other) if !outside.contains(',') => Self(other),
            _ => Self::default(),
        }
    }
}

impl Row {
    /// A cell without surrounding white space; `None` where it is missing or the row is too short.
    pub fn cell(&self, column: usize) -> Option<&str> {
        self.cells.get(column).and_then(|text| super::cell(text))
    }

    /// A cell as it stands; empty where the row is too short.
    pub fn text(&self, column: usize) -> &str {
        self.cells.get(column).map_or("", String::as_str)
    }

    /// The labels of the 14 findings from the columns of [`Header::findings`].
    ///
    /// # Errors
    /// A cell that is no label, with its finding.
    pub fn labels(
        &self,
        columns: &[usize; Finding::ALL.len()],
    ) -> Result<[Label; Finding::ALL.len()], MalformedRow> {
        let mut labels = [Label::Blank; Finding::ALL.len()];
        for ((label, finding), &column) in labels.iter_mut().zip(Finding::ALL).zip(columns) {
            *label = self.text(column).parse().map_err(|error| MalformedRow {
                line: self.line,
                reason: format!("{finding}: {error}"),
            })?;
        }
        Ok(labels)
    }
}

impl RowParser {
    /// A parser of the rows below this header, the first of which has this number.
    pub fn below(header: &Header, line: u64) -> Self {
        Self {
            line,
            separator: Separator(header.separator()),
            ..Self::default()
        }
    }

    /// Whether the line stands before the header: it is blank, or it declares the separator, which is noted.
    pub fn is_before_header(line: &[u8], declared: &mut Option<char>) -> bool {
        let is_blank = matches!(without_mark(line), b"\n" | b"\r\n");
        let separator = Self::declared_separator(line).filter(|_| declared.is_none());
        *declared = declared.or(separator);
        is_blank || separator.is_some()
    }

    /// The separator that a line `sep=;` before the header names, in quotes or not, as spreadsheets read and write it.
    pub fn declared_separator(line: &[u8]) -> Option<char> {
        let line = without_end(std::str::from_utf8(without_mark(line)).ok()?);
        let quoted = line
            .strip_prefix('"')
            .and_then(|line| line.strip_suffix('"'));
        let line = quoted.unwrap_or(line);
        let mut rest = line
            .get(..4)
            .filter(|key| key.eq_ignore_ascii_case("sep="))
            .and(line.get(4..))?
            .chars();
        rest.next()
            .filter(|&separator| rest.next().is_none() && separator != '"')
    }

    /// Splits the line that names the columns, with or without its end and a byte order mark. Where the line before it has
    /// not declared the separator, the line tells it: commas, else semicolons, else tabs.
    ///
    /// # Errors
    /// When it is no text, UTF-16 or no UTF-8, ends as lines on old Macs did, is longer than [`LONGEST_ROW`], or its quoting is
    /// broken.
    pub fn header(line: &[u8], declared: Option<char>) -> Result<Header, MalformedRow> {
        let malformed = |reason: &str| MalformedRow {
            line: 1,
            reason: reason.to_owned(),
        };
        if let Some(reason) = super::no_text(line) {
            return Err(malformed(reason));
        }
        let is_of_old_mac = |two: &[u8]| two[0] == b'\r' && two[1] != b'\n';
        if line.windows(2).any(is_of_old_mac) {
            return Err(malformed(
                "its lines end with a carriage return alone, as on old Macs: save it with the line ends of today",
            ));
        }
        // Of a longer one, only the start is here: columns behind it would be lost.
        if line.len() > LONGEST_ROW {
            return Err(malformed(
                "its first line is longer than 1 MiB: leave columns out that are not needed",
            ));
        }
        let text = std::str::from_utf8(without_mark(line))
            .map_err(|_| malformed("its first line is not UTF-8: save it as CSV in UTF-8"))?;
        let separator = declared.map_or_else(|| Separator::of(text), Separator);
        let mut cells = Cells {
            separator,
            ..Cells::default()
        };
        match cells.extend(text) {
            Ok(()) if cells.quoted.is_none() => Ok(Header::separated(&cells.done, separator.0)),
            _ => Err(malformed("the quoting of its first line is broken")),
        }
    }

    /// Adds a line with its end. Of a line over [`LONGEST_ROW`] no more than one byte more is wanted, and none of it kept.
    pub fn push(&mut self, line: Vec<u8>) {
        self.lines.push_back(line);
    }

    /// Says that no further line comes.
    pub fn finish(&mut self) {
        self.finished = true;
    }

    /// The next row that is not blank; `None` until further lines are pushed, or for good behind the last one.
    #[expect(
        clippy::should_implement_trait,
        reason = "None is no end: lines may follow"
    )]
    pub fn next(&mut self) -> Option<Result<Row, MalformedRow>> {
        loop {
            let Some(line) = self.lines.pop_front() else {
                if self.finished && self.open.is_some() {
                    return Some(Err(self.give_up("a quote is not closed")));
                }
                return None;
            };
            self.line += 1;
            let mut open = match self.open.take() {
                None => OpenRow {
                    cells: Cells {
                        separator: self.separator,
                        ..Cells::default()
                    },
                    line: self.line - 1,
                    taken: Vec::new(),
                    bytes: 0,
                },
                Some(open) => open,
            };
            open.bytes += line.len();
            let parsed = match std::str::from_utf8(&line) {
                _ if line.len() > LONGEST_ROW => Err("the row is longer than 1 MiB"),
                Ok(text) => open.cells.extend(text),
                Err(_) => Err(super::NOT_UTF_8),
            };
            if open.line + 1 < self.line {
                open.taken.push(line);
            }
            match parsed {
                Err(reason) => {
                    self.open = Some(open);
                    return Some(Err(self.give_up(reason)));
                }
                Ok(()) if open.cells.quoted.is_none() => {
                    let line = open.line;
                    let cells: Vec<String> = open.cells.done.into_iter().map(plain).collect();
                    if cells.len() > 1 || !cells[0].is_empty() {
                        return Some(Ok(Row { line, cells }));
                    }
                }
                Ok(()) if open.bytes >= LONGEST_ROW || open.taken.len() >= MOST_LINES => {
                    self.open = Some(open);
                    return Some(Err(self.give_up("a quote is not closed")));
                }
                Ok(()) => self.open = Some(open),
            }
        }
    }

    /// Drops the first line of the open row; those behind it are looked at again.
    fn give_up(&mut self, reason: &str) -> MalformedRow {
        let (line, taken) = self
            .open
            .take()
            .map_or((self.line, Vec::new()), |open| (open.line, open.taken));
        self.line -= taken.len() as u64;
        for line in taken.into_iter().rev() {
            self.lines.push_front(line);
        }
        MalformedRow {
            line,
            reason: reason.to_owned(),
        }
    }
}

impl Cells {
    /// Takes in one line, whose text may end with a line end.
    fn extend(&mut self, text: &str) -> Result<(), &'static str> {
        let mut rest = text;
        let mut begins = self.quoted.is_none();
        loop {
            if begins && let Some(behind) = rest.strip_prefix('"') {
                self.quoted = Some(String::new());
                rest = behind;
            }
            begins = true;
            if let Some(cell) = self.quoted.take() {
                match self.close(cell, rest) {
                    Some(behind) => rest = behind,
                    None => return Ok(()),
                }
            } else {
                let end = rest
                    .find(self.separator.0)
                    .unwrap_or(without_end(rest).len());
                let (cell, behind) = rest.split_at(end);
                if cell.contains('"') {
                    return Err("a quote stands inside a field that does not begin with one");
                }
                self.done.push(cell.to_owned());
                rest = behind;
            }
            rest = match rest.strip_prefix(self.separator.0) {
                Some(behind) => behind,
                None if without_end(rest).is_empty() => return Ok(()),
                None => return Err("something stands between a closing quote and the next cell"),
            };
        }
    }

    /// Reads a quoted cell on to its closing quote; gives what stands behind it, or nothing where it stays open.
    fn close<'a>(&mut self, mut cell: String, mut rest: &'a str) -> Option<&'a str> {
        while let Some((part, behind)) = rest.split_once('"') {
            cell.push_str(part);
            match behind.strip_prefix('"') {
                Some(escaped) => {
                    cell.push('"');
                    rest = escaped;
                }
                None => {
                    self.done.push(cell);
                    return Some(behind);
                }
            }
        }
        cell.push_str(rest);
        self.quoted = Some(cell);
        None
    }
}

/// The cell without the mark of an escaped formula.
fn plain(cell: String) -> String {
    match super::unescaped(&cell) {
        same if same.len() == cell.len() => cell,
        other => other.to_owned(),
    }
}

fn without_mark(line: &[u8]) -> &[u8] {
    line.strip_prefix(b"\xef\xbb\xbf").unwrap_or(line)
}

fn without_end(line: &str) -> &str {
    let line = line.strip_suffix('\n').unwrap_or(line);
    line.strip_suffix('\r').unwrap_or(line)
}

#[cfg(test)]
mod tests {
    use super::*;

    type Outcome = Result<(u64, Vec<String>), String>;

    fn parse(text: &str) -> Vec<Outcome> {
        let mut parser = RowParser {
            line: 1,
            ..RowParser::default()
        };
        for line in text.split_inclusive('\n') {
            parser.push(line.as_bytes().to_vec());
        }
        parser.finish();
        let rows = std::iter::from_fn(|| parser.next());
        rows.map(|row| match row {
            Ok(row) => Ok((row.line, row.cells)),
            Err(malformed) => Err(format!("line {}: {malformed}", malformed.line)),
        })
        .collect()
    }

    fn row(line: u64, cells: &[&str]) -> Outcome {
        Ok((line, cells.iter().map(|&cell| cell.to_owned()).collect()))
    }

    #[test]
    fn quoted_cells_hold_commas_quotes_and_lines() {
        let rows = parse("1,\"x, \"\"y\"\"\r\nz\"\r\n\r\n2,\n\"\",\"\"\"\"\n");
        let expected = [
            row(1, &["1", "x, \"y\"\r\nz"]),
            row(4, &["2", ""]),
            row(5, &["", "\""]),
        ];
        assert_eq!(rows, expected);
    }

    #[test]
    fn a_table_of_a_spreadsheet_is_read_by_its_own_separator_or_named() {
        for (line, separator, names) in [
            ("a,b;c\n", ',', vec!["a", "b;c"]),
            ("a;\"b,c\"\r\n", ';', vec!["a", "b,c"]),
            ("\u{feff}a\tb", '\t', vec!["a", "b"]),
            ("a", ',', vec!["a"]),
        ] {
            let header = RowParser::header(line.as_bytes(), None).unwrap();
            assert_eq!(
                (header.separator(), header.names()),
                (
                    separator,
                    &names
                        .iter()
                        .map(|&name| name.to_owned())
                        .collect::<Vec<_>>()[..]
                ),
                "{line:?}"
            );
        }
        let header = RowParser::header(b"a|b,c\n", Some('|')).unwrap();
        assert_eq!(header.names(), ["a", "b,c"]);
        let mut parser = RowParser::below(&header, 3);
        parser.push(b"1,5|\"x|y\"\n".to_vec());
        assert_eq!(parser.next().unwrap().unwrap().cells, ["1,5", "x|y"]);
        for (line, declared) in [
            (b"\xef\xbb\xbfsep=;\r\n".as_slice(), Some(';')),
            (b"SEP=\t\n", Some('\t')),
            (b"\"sep=;\"\r\n", Some(';')),
            (b"sep=;,a\n", None),
            (b"separator\n", None),
            (b"se", None),
        ] {
            assert_eq!(RowParser::declared_separator(line), declared);
        }
        for (line, cause) in [
            (b"\xff\xfea\0,\0".as_slice(), "UTF-16"),
            (b"\0a\0,\0b", "UTF-16"),
            (b"a,b\r1,2\r", "old Macs"),
            (b"a,b\r\r\n", "old Macs"),
            (b"caf\xe9,b\n", "not UTF-8"),
            (b"PK\x03\x04\0", "save it as CSV"),
        ] {
            let error = RowParser::header(line, None).unwrap_err().to_string();
            assert!(error.contains(cause), "{error}");
        }
    }

    #[test]
    fn escaped_formulas_are_read_as_they_were() {
        let rows = parse("'=cmd|x,\"'@SUM(1,2)\",-1.0,'tis\n");
        assert_eq!(rows, [row(1, &["=cmd|x", "@SUM(1,2)", "-1.0", "'tis"])]);
    }

    #[test]
    fn lines_that_are_no_utf_8_are_parsed_in_linear_time() {
        let mut parser = RowParser::below(&Header::new(["a"]), 1);
        let lines = LONGEST_ROW / 4;
        parser.push(b"1,\"open\n".to_vec());
        for _ in 0..lines {
            parser.push(b"\"\"\n".to_vec());
            parser.push(b"\xff\"\n".to_vec());
        }
        parser.finish();
        let rows: Vec<_> = std::iter::from_fn(|| parser.next()).collect();
        assert!(rows.iter().all(Result::is_err));
        assert_eq!(rows.len(), lines + 1, "each is named once");
    }

    #[test]
    fn bad_quoting_costs_one_row_and_names_its_line() {
        let rows = parse("1,x\n2,\"open\n3,y\n4,\"z\"z\n5,z\"z\n6,\"last\"\n");
        // The quote that opens in line 2 closes in line 4, where something else follows.
        assert_eq!(rows[0], row(1, &["1", "x"]));
        assert!(
            rows[1]
                .as_ref()
                .is_err_and(|text| text.starts_with("line 2:"))
        );
        assert_eq!(rows[2], row(3, &["3", "y"]));
        assert!(
            rows[3]
                .as_ref()
                .is_err_and(|text| text.starts_with("line 4:"))
        );
        assert!(
            rows[4]
                .as_ref()
                .is_err_and(|text| text.starts_with("line 5:"))
        );
        assert_eq!(rows[5..], [row(6, &["6", "last"])]);
    }

    #[test]
    fn a_quote_that_never_closes_costs_one_row() {
        let rows = parse("1,\"open\n2,x\n3,y");
        assert_eq!(rows[0], Err("line 1: a quote is not closed".to_owned()));
        assert_eq!(rows[1..], [row(2, &["2", "x"]), row(3, &["3", "y"])]);
    }

    #[test]
    fn an_open_quote_before_a_longest_row_of_escaped_quotes_is_parsed_in_linear_time() {
        let mut parser = RowParser::below(&Header::new(["a"]), 1);
        parser.push(b"1,\"open\n".to_vec());
        let lines = 2 * LONGEST_ROW / 3;
        for _ in 0..lines {
            parser.push(b"\"\"\n".to_vec());
        }
        parser.push(b"2,x\n".to_vec());
        parser.finish();
        // A blank row is none, so that only the first and the last line give one. Quadratic, this takes an hour.
        let rows: Vec<_> = std::iter::from_fn(|| parser.next()).collect();
        assert!(rows[0].as_ref().is_err_and(|malformed| malformed.line == 1));
        assert!(
            rows[1]
                .as_ref()
                .is_ok_and(|row| row.line == lines as u64 + 2)
        );
        assert_eq!(rows.len(), 2);
    }

    #[test]
    fn cells_that_programs_write_for_no_value_are_missing() {
        let missing = [
            "", " ", "nan", "NaN", "NA", "None", "null", "N/A", "n/a ", "#N/A", "NULL", "<NA>",
            "-nan", "1.#QNAN",
        ];
        for text in missing {
            let row = Row {
                line: 1,
                cells: vec![text.to_owned()],
            };
            assert_eq!(row.cell(0), None, "{text:?}");
            assert_eq!(row.cell(1), None);
            assert_eq!(row.text(0), text);
        }
        for text in ["0", "na", "none", "Nan", "N/A."] {
            assert_eq!(super::super::cell(text), Some(text));
        }
    }
}
