//! The rows of a table of an archive, wherever it lies, each with its place for messages. Lines are read here, and parsed beside
//! the async threads.

use std::collections::VecDeque;
use std::{io, iter, mem};

use radialog_runtime::cpu;
use radialog_schemas::ErrorCode;
use radialog_schemas::table::{Header, LONGEST_ROW, MalformedRow, Row, RowParser};
use tokio::io::{AsyncBufReadExt, AsyncReadExt};

use super::entries::EntryProblem;
use super::gzip::Lines;
use crate::CoordinatorError;

/// The most rows that are read ahead, each of up to a mebibyte.
const MOST_AHEAD: usize = 16;
/// Lines are parsed together up to so many bytes: that takes far longer than handing them to another thread.
const BLOCK: usize = 1 << 16;

/// A table with a header, row by row.
pub(super) struct TableRows {
    lines: Lines,
    file: String,
    header: Header,
    parser: RowParser,
    /// What was parsed and not taken yet.
    parsed: VecDeque<Result<Row, MalformedRow>>,
    /// The number of lines that were read, the header's too.
    read: u64,
    ended: bool,
    /// The reason why the lines ended too early; told after the rows before it.
    cut: Option<io::Error>,
    /// Rows that were read to find out what the rows of this table are.
    ahead: VecDeque<Result<Row, EntryProblem>>,
}

impl TableRows {
    /// Reads the header; `required` columns must be there, each once.
    ///
    /// # Errors
    /// When the header cannot be read, the file is no such table, or a column is missing or there twice.
    pub(super) async fn open(
        mut lines: Lines,
        file: String,
        required: &[&str],
    ) -> Result<Self, CoordinatorError> {
        let no_table = |reason: String| CoordinatorError::NoTable {
            file: file.clone(),
            reason,
        };
        let unreadable = |error: io::Error| unread(&file, &error, error.to_string());
        let mut first = line(&mut lines).await.map_err(unreadable)?;
        let (mut declared, mut read) = (None, 1);
        while RowParser::is_before_header(&first, &mut declared) {
            first = line(&mut lines).await.map_err(unreadable)?;
            read += 1;
        }
        if first.is_empty() {
            return Err(no_table("it is empty".to_owned()));
        }
        let parsed = cpu::run(move || RowParser::header(&first, declared)).await;
        let header = parsed
            .map_err(|panicked| unreadable(io::Error::other(panicked)))?
            .map_err(|malformed| no_table(malformed.to_string()))?;
        let rows = Self {
            lines,
            file,
            parser: RowParser::below(&header, read + 1),
            parsed: VecDeque::new(),
            header,
            read,
            ended: false,
            cut: None,
            ahead: VecDeque::new(),
        };
        for name in required {
            rows.required(name)?;
        }
        Ok(rows)
    }

    /// Finds the position of a column.
    ///
    /// # Errors
    /// Several are called so: which of them is meant, nobody can say.
    pub(super) fn column(&self, name: &str) -> Result<Option<usize>, CoordinatorError> {
        let namesakes = self.header.namesakes(name);
        if namesakes.is_empty() {
            return Ok(self.header.column(name));
        }
        let places: Vec<String> = namesakes
            .iter()
            .map(|position| (position + 1).to_string())
            .collect();
        Err(CoordinatorError::DoubledColumn {
            file: self.file.clone(),
            column: name.to_owned(),
            places: places.join(" and "),
        })
    }

    /// Finds the position of a column that must be there.
    ///
    /// # Errors
    /// It is missing, or as [`TableRows::column`].
    pub(super) fn required(&self, name: &str) -> Result<usize, CoordinatorError> {
        self.column(name)?;
        self.header
            .required(name)
            .map_err(|missing| CoordinatorError::MissingColumn {
                file: self.file.clone(),
                column: missing.column,
                found: missing.found,
            })
    }

    /// Says how many cells a row has to have.
    pub(super) fn width(&self) -> usize {
        self.header.width()
    }

    /// Says where a line stands, for people.
    pub(super) fn place(&self, line: u64) -> String {
        format!("{} line {line}", self.file)
    }

    /// Describes a problem with the row that begins on this line.
    pub(super) fn problem(&self, line: u64, message: impl std::fmt::Display) -> EntryProblem {
        EntryProblem::new(self.place(line), ErrorCode::ArchiveEntry, message)
    }

    /// Describes a row of which nobody can say what studies it has.
    pub(super) fn unreadable(&self, line: u64, message: impl std::fmt::Display) -> EntryProblem {
        EntryProblem::new(self.place(line), ErrorCode::ArchiveUnreadable, message)
    }

    /// Refuses a row that has not as many cells as the header names and so many in front of them: what it is about, nobody can
    /// say, since its cells may stand under other columns' names.
    pub(super) fn check_width(&self, row: &Row, unnamed: usize) -> Result<(), EntryProblem> {
        let (found, expected) = (row.cells.len(), self.width() + unnamed);
        if found == expected {
            return Ok(());
        }
        let message = format!("the row has {found} fields; rows of this table have {expected}");
        Err(self.unreadable(row.line, message))
    }

    /// Reads the next row that is not blank. A row that is malformed is a problem that may hide studies, and reading goes on
    /// behind it; so is a rest that cannot be read.
    pub(super) async fn next(&mut self) -> Option<Result<Row, EntryProblem>> {
        self.next_or_cut().await.unwrap_or_else(|error| {
            let problem = self.unreadable(self.read + 1, rest_words(&error));
            Some(Err(problem))
        })
    }

    /// As [`TableRows::next`], of a table whose rows are of use only together.
    ///
    /// # Errors
    /// The rest of the table cannot be read: what was read of it is not the table.
    pub(super) async fn next_of_whole(
        &mut self,
    ) -> Result<Option<Result<Row, EntryProblem>>, CoordinatorError> {
        self.next_or_cut().await.map_err(|error| {
            let reason = format!("line {}: {}", self.read + 1, rest_words(&error));
            unread(&self.file, &error, reason)
        })
    }

    /// The number of cells in front of those that the header names: none or one, as pandas and the original write it. One
    /// answer holds for all rows. It is one where every row of the first ones, which are read ahead for it, has a cell more: a
    /// program that writes rows so writes all of them so, and beside a row without, those have a stray comma.
    pub(super) async fn unnamed_cells(&mut self) -> usize {
        let columns = self.width();
        let (mut named, mut longer) = (0, 0);
        let mut ahead = VecDeque::new();
        while ahead.len() < MOST_AHEAD {
            let Some(next) = self.next().await else {
                break;
            };
            // A row that is broken otherwise says nothing of others.
            let found = next.as_ref().map_or(0, |row| row.cells.len());
            named += usize::from(found == columns);
            longer += usize::from(found == columns + 1);
            ahead.push_back(next);
        }
        self.ahead = ahead;
        usize::from(longer > 0 && named == 0)
    }

    async fn next_or_cut(&mut self) -> io::Result<Option<Result<Row, EntryProblem>>> {
        if let Some(next) = self.ahead.pop_front() {
            return Ok(Some(next));
        }
        loop {
            match self.parsed.pop_front() {
                Some(Ok(row)) => return Ok(Some(Ok(row))),
                Some(Err(malformed)) => {
                    let problem = self.unreadable(malformed.line, &malformed.reason);
                    return Ok(Some(Err(problem)));
                }
                None if self.ended => return self.cut.take().map_or(Ok(None), Err),
                None => self.parse_block().await,
            }
        }
    }

    /// Reads some lines, and parses them where no other task waits for it.
    async fn parse_block(&mut self) {
        let (mut lines, mut bytes) = (Vec::new(), 0);
        while bytes < BLOCK && !self.ended {
            match line(&mut self.lines).await {
                Ok(line) if line.is_empty() => self.ended = true,
                Ok(line) => {
                    self.read += 1;
                    bytes += line.len();
                    lines.push(line);
                }
                Err(error) => {
                    self.cut = Some(error);
                    self.ended = true;
                }
            }
        }
        let (mut parser, is_last) = (mem::take(&mut self.parser), self.ended);
        let parsing = cpu::run(move || {
            for line in lines {
                parser.push(line);
            }
            if is_last {
                parser.finish();
            }
            let rows: VecDeque<_> = iter::from_fn(|| parser.next()).collect();
            (parser, rows)
        });
        match parsing.await {
            Ok((parser, rows)) => (self.parser, self.parsed) = (parser, rows),
            Err(panicked) => {
                self.cut = Some(io::Error::other(panicked));
                self.ended = true;
            }
        }
    }
}

fn rest_words(error: &io::Error) -> String {
    format!("the rest of the table cannot be read: {error}")
}

/// Describes a table that cannot be read: because of what is in it, or perhaps just now.
pub(super) fn unread(file: &str, error: &io::Error, reason: String) -> CoordinatorError {
    match is_of_content(error) {
        true => CoordinatorError::NoTable {
            file: file.to_owned(),
            reason,
        },
        false => CoordinatorError::Unread {
            file: file.to_owned(),
            reason,
            may_pass: may_pass(error),
        },
    }
}

/// Whether a moment may heal it: only what the system says, other errors are this program's own, and nothing of a permission
/// or of a folder that stands under the name.
fn may_pass(error: &io::Error) -> bool {
    let stays = matches!(
        error.kind(),
        io::ErrorKind::PermissionDenied
            | io::ErrorKind::IsADirectory
            | io::ErrorKind::NotADirectory
    );
    error.raw_os_error().is_some() && !stays
}

/// Whether a table cannot be read because of what is in it: it is compressed otherwise than its name says, or cut.
fn is_of_content(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::InvalidData | io::ErrorKind::InvalidInput | io::ErrorKind::UnexpectedEof
    )
}

/// Reads one line with its end; empty at the end of the table. Of a line that is longer than any row, only as much is kept
/// as shows that.
async fn line(lines: &mut Lines) -> io::Result<Vec<u8>> {
    // A table that is in memory never waits, and must not hold the thread until its end.
    tokio::task::consume_budget().await;
    let mut line = Vec::new();
    let mut head = (&mut *lines).take(LONGEST_ROW as u64 + 1);
    head.read_until(b'\n', &mut line).await?;
    let mut ends = line.len() <= LONGEST_ROW || line.ends_with(b"\n");
    while !ends {
        tokio::task::consume_budget().await;
        let rest = lines.fill_buf().await?;
        let rest = &rest[..rest.len().min(BLOCK)];
        let end = rest.iter().position(|&byte| byte == b'\n');
        let passed = end.map_or(rest.len(), |end| end + 1);
        ends = end.is_some() || rest.is_empty();
        lines.consume(passed);
    }
    Ok(line)
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::io::Cursor;
    use std::pin::{Pin, pin};
    use std::task::{Context, Poll};
    use std::thread::available_parallelism;

    use tokio::io::{AsyncRead, BufReader, ReadBuf};

    use super::*;

    /// A disk that fails.
    struct Failing(io::ErrorKind);

    impl AsyncRead for Failing {
        fn poll_read(
            self: Pin<&mut Self>,
            _: &mut Context<'_>,
            _: &mut ReadBuf<'_>,
        ) -> Poll<io::Result<()>> {
            Poll::Ready(Err(io::Error::new(self.0, "lost")))
        }
    }

    async fn read(lines: Lines) -> Vec<Result<(u64, Vec<String>), String>> {
        let mut rows = TableRows::open(lines, "t.csv".into(), &["a", "b"])
            .await
            .unwrap();
        let mut all = Vec::new();
        while let Some(row) = rows.next().await {
            all.push(match row {
                Ok(row) => Ok((row.line, row.cells)),
                Err(problem) => Err(problem.to_string()),
            });
        }
        all
    }

    fn row(line: u64, cells: &[&str]) -> Result<(u64, Vec<String>), String> {
        Ok((line, cells.iter().map(|&cell| cell.to_owned()).collect()))
    }

    #[tokio::test]
    async fn rows_are_counted_from_the_header_on_and_a_broken_one_is_named_with_its_place() {
        let text = "\u{feff}A, b\r\n1,\"x, \"\"y\"\"\r\nz\"\r\n\r\n2,\n3,z\"z\n4,\"open\n5,x\n6,y";
        let rows = read(Box::new(Cursor::new(text))).await;
        assert_eq!(
            rows[..2],
            [row(2, &["1", "x, \"y\"\r\nz"]), row(5, &["2", ""])]
        );
        assert!(
            rows[2]
                .as_ref()
                .is_err_and(|text| text.starts_with("t.csv line 6: ")),
            "{rows:?}"
        );
        assert!(
            rows[3].as_ref().is_err_and(|text| text
                .starts_with("t.csv line 7: archive_unreadable: ")
                && text.contains("not closed")),
            "{rows:?}"
        );
        assert_eq!(rows[4..], [row(8, &["5", "x"]), row(9, &["6", "y"])]);
    }

    #[tokio::test]
    async fn rows_are_parsed_beside_the_async_threads() {
        let lines = Box::new(Cursor::new("a,b\n1,x\n"));
        let opened = TableRows::open(lines, "t.csv".into(), &["a", "b"]).await;
        let mut rows = opened.unwrap();
        // All places for such work are taken, so that parsing waits for one; done here, it would not.
        let places = available_parallelism().map_or(2, |cores| cores.get().max(2));
        let (taken, mut all_taken) = tokio::sync::mpsc::unbounded_channel();
        let mut held = Vec::new();
        for _ in 0..places {
            let (free, freed) = std::sync::mpsc::channel::<()>();
            let taken = taken.clone();
            let holding = cpu::run(move || {
                taken.send(()).unwrap();
                // Until the other end is dropped.
                let _ = freed.recv();
            });
            held.push((free, tokio::spawn(holding)));
        }
        for _ in 0..places {
            all_taken.recv().await.unwrap();
        }
        let mut next = pin!(rows.next());
        let waits = poll_fn(|context| Poll::Ready(next.as_mut().poll(context).is_pending()));
        assert!(waits.await);
        drop(held);
        let row = next.await.unwrap().unwrap();
        assert_eq!((row.line, row.cells), (2, vec!["1".into(), "x".into()]));
    }

    #[tokio::test]
    async fn a_line_longer_than_any_row_costs_that_row_and_little_memory() {
        let long = "x".repeat(3 * LONGEST_ROW);
        let text = format!("a,b\n1,x\n2,{long}\n3,y\n4,{long}");
        let rows = read(Box::new(Cursor::new(text))).await;
        assert_eq!(
            (&rows[0], &rows[2]),
            (&row(2, &["1", "x"]), &row(4, &["3", "y"]))
        );
        for (index, place) in [(1, "t.csv line 3: "), (3, "t.csv line 5: ")] {
            let error = rows[index].as_ref().unwrap_err();
            assert!(
                error.starts_with(place) && error.contains("1 MiB"),
                "{error}"
            );
        }
        assert_eq!(rows.len(), 4);
    }

    #[tokio::test]
    async fn a_header_longer_than_any_row_is_refused() {
        let long = format!("a,b{}\n1,x\n", ",c".repeat(LONGEST_ROW));
        let error = TableRows::open(Box::new(Cursor::new(long)), "t.csv".into(), &["a"]).await;
        let error = error.err().unwrap();
        assert!(
            matches!(&error, CoordinatorError::NoTable { reason, .. } if reason.contains("1 MiB")),
            "{error}"
        );
    }

    #[tokio::test]
    async fn rows_before_a_failing_disk_are_read_and_the_failure_is_told_once() {
        let lines = BufReader::new(Cursor::new("a,b\n1,x\n").chain(Failing(io::ErrorKind::Other)));
        let rows = read(Box::new(lines)).await;
        assert_eq!(rows[0], row(2, &["1", "x"]));
        assert!(
            rows[1]
                .as_ref()
                .is_err_and(|text| text.starts_with("t.csv line 3: ") && text.contains("lost")),
            "{rows:?}"
        );
        assert_eq!(rows.len(), 2);
    }

    #[tokio::test]
    async fn two_columns_of_one_name_are_refused_where_they_are_read() {
        let open = |text: &'static str, required: &'static [&'static str]| async move {
            TableRows::open(Box::new(Cursor::new(text)), "t.csv".into(), required).await
        };
        let error = open("a,b,A,b\n", &["a", "b"]).await.err().unwrap();
        let text = error.to_string();
        assert!(
            text.contains("'t.csv'") && text.contains("'b', 2 and 4"),
            "{text}"
        );
        // One that nobody reads may be there twice.
        let rows = open("a,b,b\n", &["a"]).await.unwrap();
        assert_eq!(rows.column("a").unwrap(), Some(0));
        assert!(rows.column("b").is_err() && rows.column("c").unwrap().is_none());
    }

    #[tokio::test]
    async fn what_is_no_table_is_told_apart_from_a_disk_that_fails() {
        for (content, words) in [
            (&b"\xff\xfea\0,\0b\0\n\0"[..], "UTF-16"),
            (b"a,b\r1,x\r", "old Macs"),
            (b"a,\0b\n", "zero bytes"),
            (b"\x1f\x8b\x08\0\0\0", "gzip"),
            (b"a,\xe9\n", "not UTF-8"),
            (b"", "it is empty"),
            (b"\n\n", "it is empty"),
        ] {
            let lines = Box::new(Cursor::new(content));
            let error = TableRows::open(lines, "t.csv".into(), &["a"]).await;
            let error = error.err().unwrap();
            assert!(
                matches!(&error, CoordinatorError::NoTable { file, reason }
                    if file == "t.csv" && reason.contains(words)),
                "{error}"
            );
        }
        for (kind, is_table) in [
            (io::ErrorKind::InvalidInput, false),
            (io::ErrorKind::UnexpectedEof, false),
            (io::ErrorKind::Other, true),
        ] {
            let lines = Box::new(BufReader::new(Failing(kind)));
            let error = TableRows::open(lines, "t.csv".into(), &["a"]).await;
            let error = error.err().unwrap();
            assert_eq!(
                matches!(error, CoordinatorError::Unread { .. }),
                is_table,
                "{error}"
            );
        }
    }

    #[tokio::test]
    async fn a_missing_column_is_named_with_its_file() {
        let lines = Box::new(Cursor::new("a,c\n"));
        let error = TableRows::open(lines, "t.csv".into(), &["a", "b"]).await;
        let text = error.err().unwrap().to_string();
        assert!(
            text.contains("t.csv") && text.contains("'b'") && text.contains("a, c"),
            "{text}"
        );
    }
}
