//! The records of a finished run in the order of its archive: they were written as studies finished, and what is made of
//! them must not depend on that. Holds about 25 bytes a study; a record is read when it is its turn.

use std::fs::File;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{BufRead, BufReader, Seek};
use std::path::{Path, PathBuf};

use radialog_schemas::{StudyId, StudyRecord};

use super::journal::for_each_record;
use super::study_set::StudySet;
use crate::CoordinatorError;
use crate::archive::{Archive, StudyEntries};
use crate::run_files::RESULTS_FILE;

/// The records of a run, in one pass in the order of its archive.
pub struct OrderedRecords {
    entries: Box<dyn StudyEntries>,
    passed: StudySet,
    /// Studies that are still to pass; none: all.
    left: Option<u64>,
    /// Where the archive names the study of the last record.
    place: String,
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
        let path = dir.join(RESULTS_FILE);
        let (mut places, mut offset) = (Vec::new(), 0);
        for_each_record(&path, |record, line| {
            places.push((digest(&record.study), offset));
            offset += line.len() as u64;
            Ok(())
        })?;
        places.sort_unstable();
        let file = BufReader::new(File::open(&path).map_err(CoordinatorError::output(&path))?);
        Ok(Self {
            entries: archive.entries().await?,
            passed: StudySet::default(),
            left: None,
            place: String::new(),
            path,
            file,
            places,
        })
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
        while self.left != Some(0)
            && let Some(entry) = self.entries.next().await
        {
            let Ok(entry) = entry else { continue };
            if !self.passed.mark_seen(&entry.study) {
                continue;
            }
            self.left = self.left.map(|left| left - 1);
            if let Some(record) = self.find(&entry.study)? {
                self.place = entry.place;
                return Ok(Some(record));
            }
        }
        Ok(None)
    }

    /// Where the archive names the study whose record was read last: a file, or a file and line.
    pub fn place(&self) -> &str {
        &self.place
    }

    fn find(&mut self, study: &StudyId) -> Result<Option<StudyRecord>, CoordinatorError> {
        let wanted = digest(study);
        let first = self.places.partition_point(|(digest, _)| *digest < wanted);
        for index in first..self.places.len() {
            let (digest, offset) = self.places[index];
            if digest != wanted {
                break;
            }
            let record = self.read(offset)?;
            if record.study == *study {
                return Ok(Some(record));
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
