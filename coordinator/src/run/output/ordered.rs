//! The records of a finished run in the order of its archive: they were written as studies finished, and what is made of
//! them must not depend on that. Holds about 25 bytes a study; a record is read when it is its turn.

use std::fs::File;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{BufRead, BufReader, Seek};
use std::ops::Range;
use std::path::{Path, PathBuf};

use radialog_schemas::{StudyId, StudyRecord};

use super::blocking;
use super::journal::for_each_record;
use super::study_set::StudySet;
use crate::CoordinatorError;
use crate::archive::{Archive, ImageSource, StudyEntries, StudyEntry};
use crate::run_files::RESULTS_FILE;

/// The order in which an archive names its studies, in 8 bytes a study.
#[derive(Default)]
pub(crate) struct StudyOrder(Vec<u64>);

impl StudyOrder {
    /// Adds the next study.
    pub(crate) fn push(&mut self, study: &StudyId) {
        self.0.push(digest(study));
    }

    /// The number of studies.
    pub(crate) fn len(&self) -> u64 {
        self.0.len() as u64
    }
}

/// What becomes of records whose studies are in no order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NotInArchive {
    /// They come last, as they were written: the archive was not read whole and may name them.
    Last,
    /// They are left out: the archive does not name them.
    LeftOut,
}

/// Shows each record of a run in this order; returns how many were left out.
pub(crate) fn for_each_in_order(
    dir: &Path,
    order: &StudyOrder,
    others: NotInArchive,
    mut seen: impl FnMut(StudyRecord) -> Result<(), CoordinatorError>,
) -> Result<u64, CoordinatorError> {
    let mut records = RecordFile::open(dir)?;
    let mut shown = vec![false; records.places.len()];
    let mut show = |records: &mut RecordFile, index: usize| {
        if std::mem::replace(&mut shown[index], true) {
            return Ok(());
        }
        seen(records.read(records.places[index].1)?)
    };
    for &study in &order.0 {
        for index in records.places_of(study) {
            show(&mut records, index)?;
        }
    }
    if others == NotInArchive::LeftOut {
        return Ok(shown.iter().filter(|shown| !**shown).count() as u64);
    }
    let mut rest: Vec<usize> = (0..records.places.len()).collect();
    rest.sort_unstable_by_key(|&index| records.places[index].1);
    rest.into_iter()
        .try_for_each(|index| show(&mut records, index))?;
    Ok(0)
}

/// The records of a run, in one pass in the order of its archive.
pub struct OrderedRecords {
    entries: Box<dyn StudyEntries>,
    passed: StudySet,
    /// Studies that are still to pass; none: all.
    left: Option<u64>,
    /// Where the archive names the study of the last record.
    place: String,
    /// Where the archive has its image.
    image: Option<ImageSource>,
    records: RecordFile,
    /// Whether the record at each place was read.
    shown: Vec<bool>,
    /// What becomes of those that the archive does not name, and the ones that are still to come.
    others: NotInArchive,
    rest: Option<std::vec::IntoIter<usize>>,
}

/// The lines of a results file, found by their studies.
struct RecordFile {
    path: PathBuf,
    file: BufReader<File>,
    /// A study's hash, and where its line begins; sorted.
    places: Vec<(u64, u64)>,
}

impl OrderedRecords {
    /// Starts a pass over an archive and the output directory of a run over it.
    ///
    /// # Errors
    /// When there is no run in the directory, its results are damaged, or the archive cannot be read.
    pub async fn open(archive: &dyn Archive, dir: &Path) -> Result<Self, CoordinatorError> {
        let dir = dir.to_owned();
        let records = blocking(move || RecordFile::open(&dir)).await?;
        Ok(Self {
            entries: archive.entries().await?,
            passed: StudySet::default(),
            left: None,
            place: String::new(),
            image: None,
            shown: vec![false; records.places.len()],
            others: NotInArchive::LeftOut,
            rest: None,
            records,
        })
    }

    /// The same pass, and behind it the records that it has not come by, as they were written: those of an archive of which a part is
    /// unread.
    pub fn with_unnamed(mut self) -> Self {
        self.others = NotInArchive::Last;
        self
    }

    /// The same pass over the first studies of the archive alone, counted as a run counts them: a folder may hold more, of an
    /// earlier session without the limit.
    pub fn limited(mut self, studies: Option<u64>) -> Self {
        self.left = studies;
        self
    }

    /// Reads the record of the next study that has one. Entries that are no study, or a study that came before, are passed over as in the
    /// run.
    ///
    /// # Errors
    /// When the results cannot be read.
    pub async fn next(&mut self) -> Result<Option<StudyRecord>, CoordinatorError> {
        match self.next_with_entry().await? {
            Some((_, record)) => Ok(Some(record)),
            None => self.next_unnamed(),
        }
    }

    fn next_unnamed(&mut self) -> Result<Option<StudyRecord>, CoordinatorError> {
        if self.others == NotInArchive::LeftOut {
            return Ok(None);
        }
        let rest = self.rest.get_or_insert_with(|| {
            let places = 0..self.records.places.len();
            let mut rest: Vec<usize> = places.filter(|index| !self.shown[*index]).collect();
            rest.sort_unstable_by_key(|&index| self.records.places[index].1);
            rest.into_iter()
        });
        let Some(index) = rest.next() else {
            return Ok(None);
        };
        self.place.clear();
        self.image = None;
        self.records.read(self.records.places[index].1).map(Some)
    }

    /// As [`OrderedRecords::next`], with what the archive says of the study now.
    pub(crate) async fn next_with_entry(
        &mut self,
    ) -> Result<Option<(StudyEntry, StudyRecord)>, CoordinatorError> {
        while self.left != Some(0)
            && let Some(entry) = self.entries.next().await
        {
            let Ok(entry) = entry else { continue };
            if !self.passed.mark_seen(&entry.study) {
                continue;
            }
            self.left = self.left.map(|left| left - 1);
            if let Some((index, record)) = self.records.find(&entry.study)? {
                self.shown[index] = true;
                self.place.clone_from(&entry.place);
                self.image = entry.image.as_ref().ok().cloned();
                return Ok(Some((entry, record)));
            }
        }
        Ok(None)
    }

    /// Where the archive names the study whose record was read last: a file, or a file and line.
    pub fn place(&self) -> &str {
        &self.place
    }

    /// Where the archive has the image of that study now; none where it names none.
    pub fn image(&self) -> Option<&ImageSource> {
        self.image.as_ref()
    }
}

impl RecordFile {
    fn open(dir: &Path) -> Result<Self, CoordinatorError> {
        let path = dir.join(RESULTS_FILE);
        let (mut places, mut offset) = (Vec::new(), 0);
        for_each_record(&path, |record, line| {
            places.push((digest(&record.study), offset));
            offset += line.len() as u64;
            Ok(())
        })?;
        places.sort_unstable();
        let file = BufReader::new(File::open(&path).map_err(CoordinatorError::output(&path))?);
        Ok(Self { path, file, places })
    }

    /// The places of studies with this hash.
    fn places_of(&self, wanted: u64) -> Range<usize> {
        let first = self.places.partition_point(|(digest, _)| *digest < wanted);
        let end = self.places.partition_point(|(digest, _)| *digest <= wanted);
        first..end
    }

    /// The record of a study, and the number of its place.
    fn find(&mut self, study: &StudyId) -> Result<Option<(usize, StudyRecord)>, CoordinatorError> {
        for index in self.places_of(digest(study)) {
            let record = self.read(self.places[index].1)?;
            if record.study == *study {
                return Ok(Some((index, record)));
            }
        }
        Ok(None)
    }

    fn read(&mut self, offset: u64) -> Result<StudyRecord, CoordinatorError> {
        let mut line = Vec::new();
        // Relative, so that a neighbour is found in what is read already.
        let mut read = || {
            let here = self.file.stream_position()?;
            self.file
                .seek_relative(offset.wrapping_sub(here).cast_signed())?;
            self.file.read_until(b'\n', &mut line)
        };
        read().map_err(CoordinatorError::output(&self.path))?;
        serde_json::from_slice(&line).map_err(|error| CoordinatorError::Damaged {
            file: self.path.clone(),
            line: self
                .places
                .iter()
                .filter(|(_, place)| *place < offset)
                .count() as u64
                + 1,
            reason: error.to_string(),
        })
    }
}

fn digest(study: &StudyId) -> u64 {
    let mut hasher = DefaultHasher::new();
    study.hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use radialog_schemas::{ContentHash, ErrorCode, Failure};

    use super::*;
    use crate::run::study_record;

    #[test]
    fn records_come_in_the_order_of_the_archive_whichever_was_written_first() {
        let dir = tempfile::tempdir().unwrap();
        let failure = Failure::new(ErrorCode::ImageEmpty, "no bytes");
        let line = |study: &str| {
            let entry = StudyEntry::new(study, "x.png", Err(failure.clone()));
            let record = study_record::failed(entry, failure.clone(), &ContentHash::of(b"b"));
            serde_json::to_string(&record).unwrap() + "\n"
        };
        let mut order = StudyOrder::default();
        for study in ["b", "a", "not written", "c"] {
            order.push(&StudyId(study.into()));
        }
        for written in [["c", "z", "a", "b", "y"], ["a", "z", "y", "b", "c"]] {
            let lines: String = written.map(line).concat();
            std::fs::write(dir.path().join(RESULTS_FILE), lines).unwrap();
            for (others, expected, expected_left_out) in [
                (NotInArchive::Last, &["b", "a", "c", "z", "y"][..], 0),
                (NotInArchive::LeftOut, &["b", "a", "c"][..], 2),
            ] {
                let mut seen = Vec::new();
                let left_out = for_each_in_order(dir.path(), &order, others, |record| {
                    seen.push(record.study.0);
                    Ok(())
                });
                assert_eq!(left_out.unwrap(), expected_left_out);
                assert_eq!(seen, expected);
            }
        }
    }
}
