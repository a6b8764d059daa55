//! Texts counted beside their references, in their order and on all cores. What is counted can be kept in a file, from which an
//! evaluation of the same texts goes on that was interrupted.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use super::text_scores::cider::DocumentFrequencies;
use super::text_scores::protocol::{TextCounts, TextScorer};
use crate::error::TrainingError;

/// Bytes of a number.
const NUMBER: usize = size_of::<f64>();
/// Bytes by which the texts of a row are known.
const KEY: usize = 16;
/// Bytes by which a row is known to be whole.
const CHECK: usize = 8;
/// Bytes of a row.
const ROW: usize = KEY + TextCounts::WIDTH * NUMBER + CHECK;
/// Bytes at the beginning of the file, by which it is known how its texts were counted.
const HEADER: usize = 32;

/// A file that keeps counts of texts.
#[derive(Clone, Debug)]
pub struct CountsFile {
    /// Where it lies.
    pub path: PathBuf,
    /// The program that counts. What another one has counted is not taken.
    pub program: &'static str,
}

impl CountsFile {
    /// Removes the file, since the evaluation has come to its end.
    ///
    /// # Errors
    /// It is there and cannot be removed.
    pub fn remove(&self) -> Result<(), TrainingError> {
        match fs::remove_file(&self.path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(TrainingError::io("remove", &self.path)(error))
            }
            _ => Ok(()),
        }
    }
}

/// Counts texts, some at a time.
pub struct TextCounter {
    scorer: TextScorer,
    frequencies: DocumentFrequencies,
    kept: Option<KeptCounts>,
}

impl TextCounter {
    /// Will count by this scorer; `frequencies` are of all references. Counts are kept in the file where one is named, and taken from
    /// it as far as they are of the same texts in the same order, counted in the same way.
    ///
    /// # Errors
    /// The file cannot be read or written.
    pub fn new(
        scorer: TextScorer,
        frequencies: DocumentFrequencies,
        file: Option<&CountsFile>,
    ) -> Result<Self, TrainingError> {
        let open = |file: &CountsFile| {
            let header = header(&scorer, &frequencies, file.program);
            let kept = KeptCounts::open(&file.path, &header);
            kept.map_err(TrainingError::io("use", &file.path))
        };
        Ok(Self {
            kept: file.map(open).transpose()?,
            scorer,
            frequencies,
        })
    }

    /// Counts these texts, each beside its reference.
    ///
    /// # Errors
    /// The file of counts cannot be read or written.
    pub fn count<S: AsRef<str> + Sync>(
        &mut self,
        pairs: &[(S, S)],
    ) -> Result<Vec<TextCounts>, TrainingError> {
        let Self {
            scorer,
            frequencies,
            kept,
        } = self;
        let Some(kept) = kept else {
            return Ok(scorer.counts_with(pairs, frequencies));
        };
        let path = kept.path.clone();
        let failed = |error| TrainingError::io("use", &path)(error);
        let mut counts = kept.take(pairs).map_err(failed)?;
        let rest = &pairs[counts.len()..];
        let counted = scorer.counts_with(rest, frequencies);
        kept.add(rest, &counted).map_err(failed)?;
        counts.extend(counted);
        Ok(counts)
    }

    /// How many texts an evaluation had counted that was interrupted.
    pub fn taken(&self) -> u64 {
        self.kept.as_ref().map_or(0, |kept| kept.taken)
    }

    /// Who counts.
    pub fn scorer(&self) -> &TextScorer {
        &self.scorer
    }
}

/// Rows of an open file.
struct KeptCounts {
    path: PathBuf,
    file: File,
    /// Where the rows end that were taken or added.
    end: u64,
    /// Rows that were taken.
    taken: u64,
    /// Whether the file may have more that are of the texts to come.
    has_more: bool,
}

impl KeptCounts {
    fn open(path: &Path, header: &[u8; HEADER]) -> io::Result<Self> {
        let mut options = OpenOptions::new();
        let file = options.read(true).write(true).create(true).truncate(false);
        let file = file.open(path)?;
        let mut before = [0; HEADER];
        let has_more = match file.read_exact_at(&mut before, 0) {
            Ok(()) => before == *header,
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => false,
            Err(error) => return Err(error),
        };
        if !has_more {
            file.set_len(0)?;
            file.write_all_at(header, 0)?;
        }
        Ok(Self {
            path: path.to_owned(),
            file,
            end: HEADER as u64,
            taken: 0,
            has_more,
        })
    }

    /// The counts of the first of these texts, as far as the file has them. What follows in it is dropped.
    fn take<S: AsRef<str>>(&mut self, pairs: &[(S, S)]) -> io::Result<Vec<TextCounts>> {
        let mut counts = Vec::new();
        let mut row = [0; ROW];
        for pair in pairs {
            if !self.has_more {
                break;
            }
            let found = match self.file.read_exact_at(&mut row, self.end) {
                Ok(()) => counts_of(&row, &key(pair)),
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => None,
                Err(error) => return Err(error),
            };
            match found {
                Some(found) => {
                    counts.push(found);
                    self.end += ROW as u64;
                    self.taken += 1;
                }
                None => {
                    self.has_more = false;
                    self.file.set_len(self.end)?;
                }
            }
        }
        Ok(counts)
    }

    fn add<S: AsRef<str>>(&mut self, pairs: &[(S, S)], counts: &[TextCounts]) -> io::Result<()> {
        let rows = pairs.iter().zip(counts);
        let rows: Vec<u8> = rows
            .flat_map(|(pair, counts)| row(&key(pair), counts))
            .collect();
        self.file.write_all_at(&rows, self.end)?;
        self.end += rows.len() as u64;
        Ok(())
    }
}

/// What the counts of all texts depend on, but for the texts.
fn header(scorer: &TextScorer, frequencies: &DocumentFrequencies, program: &str) -> [u8; HEADER] {
    let meteor = scorer.meteor().identity();
    let parts = [program, scorer.protocol().name(), meteor];
    let mut hash = parts
        .iter()
        .fold(Sha256::new(), |hash, part| with_text(hash, part));
    hash.update(frequencies.digest());
    hash.finalize().into()
}

/// What the texts of a row are known by.
fn key<S: AsRef<str>>((text, reference): &(S, S)) -> [u8; KEY] {
    let hash = with_text(Sha256::new(), text.as_ref());
    let hash = with_text(hash, reference.as_ref()).finalize();
    std::array::from_fn(|place| hash[place])
}

/// A hash of what came before and of a text, with its length.
fn with_text(hash: Sha256, text: &str) -> Sha256 {
    let length = text.len() as u64;
    hash.chain_update(length.to_le_bytes()).chain_update(text)
}

/// The bytes of a row.
fn row(key: &[u8; KEY], counts: &TextCounts) -> Vec<u8> {
    let mut row = Vec::with_capacity(ROW);
    row.extend_from_slice(key);
    row.extend(counts.row().into_iter().flat_map(f64::to_le_bytes));
    let hash = Sha256::digest(&row);
    row.extend_from_slice(&hash[..CHECK]);
    row
}

/// The counts of a row of the texts of this key; none where it is of others, or is not whole.
fn counts_of(row: &[u8; ROW], key: &[u8; KEY]) -> Option<TextCounts> {
    let (content, check) = row.split_at(ROW - CHECK);
    let (of, numbers) = content.split_at(KEY);
    if of != key || check != &Sha256::digest(content)[..CHECK] {
        return None;
    }
    let numbers = numbers.as_chunks::<NUMBER>().0.iter();
    let numbers: Vec<f64> = numbers.map(|bytes| f64::from_le_bytes(*bytes)).collect();
    Some(TextCounts::of_row(&numbers))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::evaluation::text_scores::meteor::Meteor;
    use crate::evaluation::text_scores::protocol::TextProtocol;

    const CHUNK: usize = 4;

    /// Pairs of different texts.
    fn pairs(count: usize) -> Vec<(String, String)> {
        let pair = |number| {
            let text = format!("The heart is large, {number}.");
            (text, format!("{number} large hearts."))
        };
        (0..count).map(pair).collect()
    }

    /// Counts texts some at a time, and says how many were taken from the file.
    fn counted(
        pairs: &[(String, String)],
        protocol: TextProtocol,
        file: Option<&CountsFile>,
    ) -> (Vec<TextCounts>, u64) {
        let mut frequencies = DocumentFrequencies::default();
        let references: Vec<&str> = pairs.iter().map(|(_, text)| text.as_str()).collect();
        protocol.add_references(&references, &mut frequencies);
        let scorer = TextScorer::new(protocol, Meteor::new(None));
        let mut counter = TextCounter::new(scorer, frequencies, file).unwrap();
        let mut counts = Vec::new();
        for chunk in pairs.chunks(CHUNK) {
            counts.extend(counter.count(chunk).unwrap());
        }
        (counts, counter.taken())
    }

    #[test]
    fn what_was_counted_is_taken_as_far_as_it_is_whole_and_of_the_same_texts() {
        let folder = tempfile::tempdir().unwrap();
        let file = CountsFile {
            path: folder.path().join("counts"),
            program: "1",
        };
        let protocol = TextProtocol::Radialog2023;
        let all = pairs(10);
        let (expected, none) = counted(&all, protocol, None);
        assert_eq!(none, 0);
        let taken = |pairs: &[(String, String)]| {
            let (counts, taken) = counted(pairs, protocol, Some(&file));
            assert_eq!(counts, counted(pairs, protocol, None).0);
            taken
        };
        assert_eq!(counted(&all, protocol, Some(&file)), (expected, 0));
        assert_eq!(taken(&all), 10);
        // More texts, and fewer.
        assert_eq!(taken(&pairs(13)), 10);
        assert_eq!(taken(&all[..5]), 5);
        assert_eq!(taken(&all), 10);
        // One that was killed while it wrote.
        let open = || OpenOptions::new().write(true).open(&file.path).unwrap();
        open().set_len((HEADER + 10 * ROW - 1) as u64).unwrap();
        assert_eq!(taken(&all), 9);
        // A row whose bytes never came to the disk.
        let at = HEADER + 6 * ROW + KEY;
        open().write_all_at(&[0; NUMBER], at as u64).unwrap();
        assert_eq!(taken(&all), 6);
        let mut changed = all.clone();
        changed[3].1.push('!');
        assert_eq!(taken(&changed), 3);
        assert_eq!(taken(&all), 3);
        file.remove().unwrap();
        file.remove().unwrap();
        assert_eq!(taken(&all), 0);
    }

    #[test]
    fn what_was_counted_in_another_way_is_not_taken() {
        let folder = tempfile::tempdir().unwrap();
        let mut file = CountsFile {
            path: folder.path().join("counts"),
            program: "1",
        };
        let all = pairs(6);
        let taken = |pairs: &[(String, String)], protocol, file: &CountsFile| {
            let (counts, taken) = counted(pairs, protocol, Some(file));
            assert_eq!(counts, counted(pairs, protocol, None).0);
            taken
        };
        let (coco, original) = (TextProtocol::CocoCaption, TextProtocol::Radialog2023);
        assert_eq!(taken(&all, coco, &file), 0);
        assert_eq!(taken(&all, coco, &file), 6);
        // Each weight of CIDEr is of all references.
        assert_eq!(taken(&all[..5], coco, &file), 0);
        assert_eq!(taken(&all[..5], original, &file), 0);
        assert_eq!(taken(&all[..4], original, &file), 4);
        file.program = "2";
        assert_eq!(taken(&all, original, &file), 0);
    }
}
