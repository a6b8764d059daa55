//! What a run knows: the journal, which studies have a line, which are in flight, and the counts.

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use radialog_schemas::{ErrorCode, StudyId, StudyRecord, StudySpec};
use tokio::sync::OwnedSemaphorePermit;
use tracing::warn;

use crate::CoordinatorError;
use crate::archive::{EntryProblem, StudyEntry};
use crate::run::output::journal::Journal;
use crate::run::output::problems::ProblemList;
use crate::run::output::stamps::StampFile;
use crate::run::output::study_set::StudySet;
use crate::run::output::{ArchiveSize, NotInArchive, OutputDirectory, StudyOrder};
use crate::run::progress::{RateMeter, RunCounts, RunProgress, StageCounts};

/// The book of a run, which is kept under a lock.
pub(crate) struct RunLedger {
    journal: Journal,
    studies: StudySet,
    /// The studies as the archive names them.
    order: StudyOrder,
    in_flight: HashMap<StudyId, StudyInFlight>,
    counts: RunCounts,
    problems: ProblemList,
    stamps: StampFile,
    /// Lines of tasks of earlier sessions that came before the archive named their study in this one.
    early: HashMap<StudyId, (String, Box<StudyRecord>)>,
    /// The output directory, where the archive's size is noted.
    folder: PathBuf,
    /// Lines of earlier sessions whose studies the archive did not name.
    not_in_archive: u64,
    archive_ended: bool,
    last_line: Instant,
}

/// A study in flight, and its place in the window.
struct StudyInFlight {
    spec: StudySpec,
    /// Its tasks are published; before that the state need not know it.
    begun: bool,
    counts: StageCounts,
    _place: OwnedSemaphorePermit,
}

impl RunLedger {
    /// Reads what earlier sessions wrote.
    pub(crate) fn open(out: &OutputDirectory) -> Result<Self, CoordinatorError> {
        let (mut studies, mut counts) = (StudySet::default(), RunCounts::default());
        let journal = Journal::open(out.path(), |record| {
            studies.mark_written(&record.study);
            counts.add(&record);
        })?;
        counts.resumed = counts.studies();
        Ok(Self {
            journal,
            studies,
            order: StudyOrder::default(),
            in_flight: HashMap::new(),
            counts,
            problems: ProblemList::new(out.path()),
            stamps: StampFile::new(out.path()),
            early: HashMap::new(),
            folder: out.path().to_owned(),
            not_in_archive: ArchiveSize::read(out.path())
                .ok()
                .flatten()
                .map_or(0, |size| size.not_in_archive),
            archive_ended: false,
            last_line: Instant::now(),
        })
    }

    /// Writes the lines of studies that have none yet, and gives their places in the window back.
    pub(crate) fn write(&mut self, lines: &[String]) -> Result<(), CoordinatorError> {
        // A study may have its line from before, or stand twice in one batch.
        let mut fresh = Vec::with_capacity(lines.len());
        let mut ids = HashSet::new();
        for line in lines {
            match serde_json::from_str::<StudyRecord>(line) {
                Ok(record)
                    if self.studies.is_written(&record.study)
                        || !ids.insert(record.study.clone()) =>
                {
                    self.in_flight.remove(&record.study);
                }
                Ok(record) => fresh.push((line.as_str(), record)),
                Err(error) => warn!(%error, "a finished line that is no study record is dropped"),
            }
        }
        self.journal.append(fresh.iter().map(|(line, _)| *line))?;
        for (_, record) in &fresh {
            self.studies.mark_written(&record.study);
            self.early.remove(&record.study);
            self.in_flight.remove(&record.study);
            self.counts.add(record);
            self.last_line = Instant::now();
        }
        Ok(())
    }

    /// Takes in lines that the state had. Those of a study that is not named yet wait until it is, and one that is of another image
    /// or row than the archive has now is dropped: its study begins again.
    pub(crate) fn take_in(&mut self, lines: &[String]) -> Result<(), CoordinatorError> {
        let mut fresh = Vec::with_capacity(lines.len());
        for line in lines {
            let record = match serde_json::from_str::<StudyRecord>(line) {
                Ok(record) if !self.studies.is_written(&record.study) => record,
                _ => {
                    fresh.push(line.clone());
                    continue;
                }
            };
            match self.in_flight.get(&record.study) {
                Some(study) if is_of(&study.spec, &record) => fresh.push(line.clone()),
                Some(_) => dropped(&record),
                None if self.archive_ended => fresh.push(line.clone()),
                None => {
                    let early = (line.clone(), Box::new(record));
                    self.early.insert(early.1.study.clone(), early);
                }
            }
        }
        self.write(&fresh)
    }

    /// Writes the lines that wait for their study to be named.
    pub(crate) fn write_early(&mut self) -> Result<(), CoordinatorError> {
        let early = std::mem::take(&mut self.early);
        let lines: Vec<String> = early.into_values().map(|(line, _)| line).collect();
        self.write(&lines)
    }

    /// Notes the stamps of image files, by which a later session sees whether they are others.
    pub(crate) fn note_stamps<'a>(
        &mut self,
        stamps: impl Iterator<Item = (&'a StudyId, &'a str)>,
    ) -> Result<(), CoordinatorError> {
        self.stamps.append(stamps)
    }

    /// Decides whether the entry is to be run now. The second entry of a study becomes a problem.
    pub(crate) fn admit(&mut self, entry: &StudyEntry) -> Result<Admission, CoordinatorError> {
        if !self.studies.mark_seen(&entry.study) {
            let message = format!(
                "study '{}' was named before; this entry is not run: give it another id, or take it away",
                entry.study
            );
            self.add_problem(EntryProblem::new(
                &entry.place,
                ErrorCode::DuplicateStudy,
                message,
            ))?;
            return Ok(Admission::Duplicate);
        }
        self.order.push(&entry.study);
        Ok(match self.studies.is_written(&entry.study) {
            true => Admission::Written,
            false => Admission::New,
        })
    }

    pub(crate) fn add_problem(&mut self, problem: EntryProblem) -> Result<(), CoordinatorError> {
        self.problems.add(problem)
    }

    /// Takes the study into the window. False where it has its line, from tasks of an earlier session.
    pub(crate) fn begin(
        &mut self,
        spec: &StudySpec,
        place: OwnedSemaphorePermit,
    ) -> Result<bool, CoordinatorError> {
        if self.studies.is_written(&spec.study) {
            return Ok(false);
        }
        if let Some((line, record)) = self.early.remove(&spec.study) {
            if is_of(spec, &record) {
                self.write(&[line])?;
                return Ok(false);
            }
            dropped(&record);
        }
        let in_flight = StudyInFlight {
            spec: spec.clone(),
            begun: false,
            counts: StageCounts::default(),
            _place: place,
        };
        self.in_flight.insert(spec.study.clone(), in_flight);
        Ok(true)
    }

    pub(crate) fn mark_begun(&mut self, studies: &[StudySpec]) {
        for spec in studies {
            if let Some(study) = self.in_flight.get_mut(&spec.study) {
                study.begun = true;
            }
        }
    }

    /// Notes how far a study in flight is.
    pub(crate) fn set_counts(&mut self, study: &StudyId, counts: StageCounts) {
        if let Some(study) = self.in_flight.get_mut(study) {
            study.counts = counts;
        }
    }

    /// Lists the studies whose tasks are published.
    pub(crate) fn in_flight(&self) -> Vec<StudySpec> {
        self.in_flight
            .values()
            .filter(|study| study.begun)
            .map(|study| study.spec.clone())
            .collect()
    }

    pub(crate) fn is_in_flight(&self, study: &StudyId) -> bool {
        self.in_flight.contains_key(study)
    }

    /// Says how long no line was written.
    pub(crate) fn idle(&self) -> Duration {
        self.last_line.elapsed()
    }

    /// Notes the size of the archive as counted in advance.
    pub(crate) fn expect_total(&mut self, total: u64) {
        if self.counts.total.is_none() {
            self.settle_total(total);
        }
    }

    /// Notes the size of the archive as read to its end.
    pub(crate) fn settle_total(&mut self, total: u64) {
        if self.counts.total.replace(total) == Some(total) {
            return;
        }
        self.note_size(total);
    }

    /// Notes how many lines are of studies that the archive does not name.
    pub(crate) fn settle_not_in_archive(&mut self, count: u64) {
        if std::mem::replace(&mut self.not_in_archive, count) != count
            && let Some(total) = self.counts.total
        {
            self.note_size(total);
        }
    }

    fn note_size(&self, studies: u64) {
        let size = ArchiveSize {
            studies,
            not_in_archive: self.not_in_archive,
        };
        // Only who looks at the folder misses it.
        if let Err(error) = size.write(&self.folder) {
            warn!(%error, "the size of the archive is not noted");
        }
    }

    /// What becomes of lines whose studies the archive has not named: where nothing of it that could have them
    /// is unread, it does not.
    pub(crate) fn those_not_in_archive(&self) -> NotInArchive {
        match self.archive_ended && self.problems.hidden() == 0 {
            true => NotInArchive::LeftOut,
            false => NotInArchive::Last,
        }
    }

    /// Lines whose studies the archive does not name: until all of it was read, as many as the session before has found.
    fn lines_of_no_study(&self) -> u64 {
        match self.those_not_in_archive() {
            NotInArchive::Last => self.not_in_archive,
            NotInArchive::LeftOut => {
                let in_flight = self.in_flight.len() as u64;
                let of_studies = self.order.len().saturating_sub(in_flight);
                self.counts.studies().saturating_sub(of_studies)
            }
        }
    }

    /// Notes that every study of the archive has its line or is in flight.
    pub(crate) fn end_of_archive(&mut self) -> Result<(), CoordinatorError> {
        self.archive_ended = true;
        self.write_early()
    }

    pub(crate) fn is_complete(&self) -> bool {
        self.archive_ended && self.in_flight.is_empty()
    }

    pub(crate) fn sync(&mut self) -> Result<(), CoordinatorError> {
        self.journal.sync()
    }

    /// Writes the list of problems.
    pub(crate) fn list_problems(&mut self) -> Result<(), CoordinatorError> {
        self.problems.commit()
    }

    /// The order in which the archive has named its studies so far.
    pub(crate) fn order(&self) -> &StudyOrder {
        &self.order
    }

    pub(crate) fn counts(&self) -> &RunCounts {
        &self.counts
    }

    /// Gives the number of problems, and the first of them.
    pub(crate) fn problems(&self) -> (u64, &[EntryProblem]) {
        self.problems.read()
    }

    /// Gives the number of problems that may hide studies.
    pub(crate) fn unread_problems(&self) -> u64 {
        self.problems.unread()
    }

    pub(crate) fn snapshot(&self, meter: &mut RateMeter) -> RunProgress {
        let in_flight = self
            .in_flight
            .values()
            .fold(StageCounts::default(), |sum, study| sum.plus(&study.counts));
        RunProgress {
            in_flight: self.in_flight.len() as u64,
            problems: self.problems.read().0,
            ..meter.read(&self.counts, &in_flight, self.lines_of_no_study())
        }
    }
}

/// Whether a line is of what the archive has now.
fn is_of(spec: &StudySpec, record: &StudyRecord) -> bool {
    record.input.as_ref() == Some(&spec.input)
        && record.file == spec.file
        && record.other_files == spec.other_files
        && record.reference == spec.reference
        && record.indication == spec.indication
        && record.split == spec.split
        && record.given == spec.given
}

fn dropped(record: &StudyRecord) {
    warn!(
        study = %record.study,
        "a line of an earlier session is of another image or row than the archive has now; the study begins again"
    );
}

/// The decision about an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Admission {
    New,
    Written,
    Duplicate,
}

#[cfg(test)]
mod tests {
    use radialog_schemas::{
        ContentHash, Generation, ObjectKey, PerStage, RunId, RunSpec, SCHEMA_VERSION, Source,
        StageSet,
    };

    use super::*;
    use crate::run::output::{RunFile, journal};
    use crate::run::study_record;

    fn spec(study: &str, image: &[u8]) -> StudySpec {
        StudySpec {
            study: study.into(),
            file: format!("{study}.png"),
            input: ObjectKey::image(&ContentHash::of(image)),
            other_files: Vec::new(),
            reference: None,
            indication: None,
            split: None,
            given: std::collections::BTreeMap::new(),
        }
    }

    /// The line that an earlier session's tasks make.
    fn line(spec: &StudySpec) -> String {
        let failure = radialog_schemas::Failure::new(ErrorCode::Model, "x");
        let image = Err(failure.clone());
        let entry = StudyEntry::new(spec.study.as_str(), spec.file.as_str(), image);
        let mut record = study_record::failed(entry, failure, &ContentHash::of(b"bundle"));
        record.input = Some(spec.input.clone());
        study_record::line(&record)
    }

    fn output(dir: &std::path::Path) -> OutputDirectory {
        let run = RunSpec {
            schema_version: SCHEMA_VERSION,
            run: RunId::from(""),
            source: Source::Image,
            stages: StageSet::all(),
            generation: Generation::default(),
            bundle: ContentHash::of(b"bundle"),
            components: PerStage::from_fn(|_| ContentHash::of(b"bundle")),
            group: None,
            given: std::collections::BTreeMap::new(),
            conversation: None,
        };
        let input = "archive".to_owned();
        OutputDirectory::open(dir, RunFile { input, spec: run }).unwrap()
    }

    #[test]
    fn lines_of_studies_that_are_gone_are_in_no_progress() {
        let dir = tempfile::tempdir().unwrap();
        let out = output(dir.path());
        let [here, gone] = [spec("here", b"1"), spec("gone", b"1")];
        let mut before = RunLedger::open(&out).unwrap();
        before.end_of_archive().unwrap();
        before.take_in(&[line(&here), line(&gone)]).unwrap();
        drop(before);
        let mut ledger = RunLedger::open(&out).unwrap();
        let mut meter = RateMeter::new(RunId::from("run"), StageSet::all());
        let failure = radialog_schemas::Failure::new(ErrorCode::Model, "x");
        let entry = StudyEntry::new("here", "here.png", Err(failure));
        assert_eq!(ledger.admit(&entry).unwrap(), Admission::Written);
        ledger.settle_total(1);
        ledger.end_of_archive().unwrap();
        let progress = ledger.snapshot(&mut meter);
        assert_eq!((progress.failed, progress.not_in_archive), (2, 1));
        assert_eq!((progress.ended(), progress.total), (1, Some(1)));
    }

    #[test]
    fn a_line_of_an_earlier_session_counts_only_for_what_the_archive_has_now() {
        let dir = tempfile::tempdir().unwrap();
        let out = output(dir.path());
        let mut ledger = RunLedger::open(&out).unwrap();
        let window = std::sync::Arc::new(tokio::sync::Semaphore::new(9));
        let place = || window.clone().try_acquire_owned().unwrap();
        let [same, old, now, gone] = [
            spec("same", b"1"),
            spec("replaced", b"1"),
            spec("replaced", b"2"),
            spec("gone", b"1"),
        ];
        // Before the archive names them.
        ledger
            .take_in(&[line(&same), line(&old), line(&gone)])
            .unwrap();
        assert_eq!(ledger.counts().studies(), 0);
        assert!(!ledger.begin(&same, place()).unwrap());
        assert!(ledger.begin(&now, place()).unwrap());
        // One more of the image before, which was in flight.
        ledger.take_in(&[line(&old)]).unwrap();
        assert!(ledger.is_in_flight(&now.study));
        ledger.take_in(&[line(&now)]).unwrap();
        assert!(!ledger.is_in_flight(&now.study));
        ledger.end_of_archive().unwrap();
        let mut written = Vec::new();
        journal::for_each_record(&dir.path().join("results.jsonl"), |record, _| {
            written.push((record.study.0, record.input));
            Ok(())
        })
        .unwrap();
        let line = |spec: &StudySpec| (spec.study.0.clone(), Some(spec.input.clone()));
        assert_eq!(written, [line(&same), line(&now), line(&gone)]);
    }
}
