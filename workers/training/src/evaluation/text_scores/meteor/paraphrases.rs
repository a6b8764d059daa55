//! METEOR's paraphrase table: phrases of some words, and the phrases that stand for them. It has five million entries, so the
//! paraphrases stay one long text, and only the phrases are looked up by name.

use std::io::{self, Read};
use std::ops::Range;
use std::sync::mpsc::{self, SyncSender};
use std::thread;

use memchr::memchr_iter;

use super::super::grams::HashMap;

/// Bytes that are unpacked at a time: few enough for an allocator to have them at hand.
const CHUNK: usize = 1 << 16;
/// Chunks that may wait to be taken apart.
const WAITING: usize = 64;

/// Paraphrases by phrase.
#[derive(Default)]
pub(crate) struct Paraphrases {
    /// One paraphrase a line, in the table's order.
    lines: Vec<u8>,
    /// Where the paraphrases of a phrase lie.
    phrases: HashMap<Box<[u8]>, Range<usize>>,
    /// Words of the longest phrase.
    longest: usize,
}

impl Paraphrases {
    /// Reads the unpacked `paraphrase-en`: three lines an entry, a probability (which METEOR does not use), a phrase and its
    /// paraphrase. All entries of a phrase stand together.
    pub(super) fn read(table: impl Read + Send) -> Result<Self, TableError> {
        // To unpack it takes as long as to take it apart.
        thread::scope(|scope| {
            let (sender, chunks) = mpsc::sync_channel(WAITING);
            let unpacking = scope.spawn(move || unpack(table, &sender));
            let mut reader = TableReader::default();
            for chunk in chunks {
                reader.chunk(&chunk)?;
            }
            let died = || Err(io::Error::other("the thread that unpacks it has died"));
            let unpacked = unpacking.join().unwrap_or_else(|_| died());
            unpacked.map_err(TableError::Read)?;
            reader.finished()
        })
    }

    /// Words of the longest phrase that has paraphrases.
    pub(super) fn longest(&self) -> usize {
        self.longest
    }

    /// The paraphrases of a phrase (words with single blanks between them), in the table's order.
    pub(super) fn of(&self, phrase: &str) -> impl Iterator<Item = &[u8]> {
        let range = self.phrases.get(phrase.as_bytes()).cloned();
        let lines = &self.lines[range.unwrap_or_default()];
        let mut start = 0;
        let line = move |end| {
            let line = &lines[start..end];
            start = end + 1;
            line
        };
        memchr_iter(b'\n', lines)
            .map(line)
            .filter(|l| !l.is_empty())
    }
}

/// Sends the table in chunks, as long as somebody takes them.
fn unpack(mut table: impl Read, chunks: &SyncSender<Vec<u8>>) -> io::Result<()> {
    loop {
        let mut chunk = Vec::with_capacity(CHUNK);
        let read = (&mut table).take(CHUNK as u64).read_to_end(&mut chunk)?;
        if read == 0 || chunks.send(chunk).is_err() {
            return Ok(());
        }
    }
}

/// What is wrong with a table, before it is known which file it is.
pub(super) enum TableError {
    Read(std::io::Error),
    Content(String),
}

/// Reads the table line by line.
#[derive(Default)]
struct TableReader {
    found: Paraphrases,
    /// The beginning of a line that the last chunk has broken off.
    rest: Vec<u8>,
    line: usize,
    phrase: Vec<u8>,
    /// Where the paraphrases of the phrase begin.
    start: usize,
}

impl TableReader {
    fn chunk(&mut self, chunk: &[u8]) -> Result<(), TableError> {
        let mut start = 0;
        for end in memchr_iter(b'\n', chunk) {
            let line = &chunk[start..end];
            start = end + 1;
            if self.rest.is_empty() {
                self.line(line)?;
            } else {
                let mut whole = std::mem::take(&mut self.rest);
                whole.extend(line);
                self.line(&whole)?;
            }
        }
        self.rest.extend(&chunk[start..]);
        Ok(())
    }

    fn line(&mut self, line: &[u8]) -> Result<(), TableError> {
        match self.line % 3 {
            1 if self.phrase != line => {
                self.end_phrase()?;
                self.phrase.extend(line);
            }
            2 => {
                self.found.lines.extend(line);
                self.found.lines.push(b'\n');
            }
            _ => {}
        }
        self.line += 1;
        Ok(())
    }

    fn end_phrase(&mut self) -> Result<(), TableError> {
        let range = self.start..self.found.lines.len();
        self.start = range.end;
        if range.is_empty() {
            return Ok(());
        }
        let words = self.phrase.split(|byte| *byte == b' ').count();
        self.found.longest = self.found.longest.max(words);
        let phrase = std::mem::take(&mut self.phrase).into_boxed_slice();
        match self.found.phrases.insert(phrase, range) {
            None => Ok(()),
            Some(_) => Err(TableError::Content(format!(
                "line {}: the phrase before it has entries elsewhere, too",
                self.line + 1
            ))),
        }
    }

    fn finished(mut self) -> Result<Paraphrases, TableError> {
        if !self.rest.is_empty() {
            let last = std::mem::take(&mut self.rest);
            self.line(&last)?;
        }
        if !self.line.is_multiple_of(3) {
            let reason = "the last entry is cut off".to_owned();
            return Err(TableError::Content(reason));
        }
        self.end_phrase()?;
        Ok(self.found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paraphrases_are_found_by_phrase_in_the_order_of_the_table() {
        let table = "0.1\na b\nc\n0.2\na b\nd e\n0.3\nf\ng\n";
        let Ok(found) = Paraphrases::read(table.as_bytes()) else {
            panic!("a table in order is read")
        };
        let of = |phrase| found.of(phrase).map(<[u8]>::to_vec).collect::<Vec<_>>();
        assert_eq!(of("a b"), [b"c".to_vec(), b"d e".to_vec()]);
        assert_eq!(of("f"), [b"g"]);
        assert!(of("a").is_empty());
        assert_eq!(found.longest(), 2);
    }

    #[test]
    fn a_table_that_is_cut_off_or_not_in_order_is_refused() {
        for table in ["0.1\na\n", "0\na\nb\n0\nc\nd\n0\na\ne\n"] {
            let found = Paraphrases::read(table.as_bytes());
            assert!(matches!(found, Err(TableError::Content(_))), "{table}");
        }
    }
}
