//! What of an archive is not what it was when its line was written: another image under the same name, another row of a
//! table, or an image that was refused and that the run's options allow now. A resumed run would keep the old line for it, so that
//! such studies lose theirs and are run again; what is computed for the same content is reused.
//!
//! A file with the stamp that was noted when it was read is taken for the same; any other is read and compared by its hash.

use std::collections::HashSet;
use std::path::Path;
use std::time::Duration;

use futures::stream::{FuturesUnordered, TryStreamExt};
use radialog_schemas::{ContentHash, ErrorCode, ObjectKey, RunSpec, StudyId, StudyRecord};
use tracing::warn;

use super::given;
use super::output::stamps::{StampFile, Stamps};
use super::output::{OrderedRecords, RESULTS_FILE, blocking, journal};
use crate::CoordinatorError;
use crate::archive::{Archive, ImageReadError, ImageSource, StudyEntry};

/// Images looked at side by side.
const AT_ONCE: usize = 16;
/// Pause before a store that does not answer is asked again.
const RETRY_PAUSE: Duration = Duration::from_secs(2);
/// Studies that are named.
const NAMED: usize = 5;

/// The studies whose entry is another than that of their line.
#[derive(Default)]
pub(crate) struct ChangedInputs {
    pub(crate) studies: HashSet<StudyId>,
    /// Stamps of files that were read, and are the same as they were.
    stamps: Vec<(StudyId, String)>,
}

/// What became of one study.
enum Comparison {
    Same,
    /// The same content under another stamp.
    SameAgain(StudyId, String),
    Changed(StudyId),
}

impl ChangedInputs {
    /// Compares the entries of the archive, as many as are taken, with the lines of its run in `dir`. Of an image no more
    /// than `image_limit` bytes are read.
    ///
    /// # Errors
    /// When the archive or the results cannot be read.
    pub(crate) async fn find(
        archive: &dyn Archive,
        limit: Option<u64>,
        image_limit: u64,
        spec: &RunSpec,
        dir: &Path,
    ) -> Result<Self, CoordinatorError> {
        let folder = dir.to_owned();
        let stamps = blocking(move || {
            let results = std::fs::metadata(folder.join(RESULTS_FILE));
            let is_new = results.map_or(true, |results| results.len() == 0);
            (!is_new).then(|| Stamps::read(&folder)).transpose()
        });
        let Some(stamps) = stamps.await? else {
            return Ok(Self::default());
        };
        let noted = Noted {
            spec,
            stamps: &stamps,
            image_limit,
        };
        let records = OrderedRecords::open(archive, dir).await?;
        let mut records = records.limited(limit);
        let (mut found, mut ended) = (Self::default(), false);
        let mut comparing = FuturesUnordered::new();
        loop {
            while !ended && comparing.len() < AT_ONCE {
                match records.next_with_entry().await? {
                    Some((entry, record)) => {
                        comparing.push(compare(&noted, entry, record));
                    }
                    None => ended = true,
                }
            }
            match comparing.try_next().await? {
                Some(Comparison::Same) => {}
                Some(Comparison::SameAgain(study, stamp)) => found.stamps.push((study, stamp)),
                Some(Comparison::Changed(study)) => {
                    found.studies.insert(study);
                }
                None => break,
            }
        }
        Ok(found)
    }

    /// Takes the lines of such studies out of the results, all or none, and tells which; returns how many there were.
    pub(crate) fn remove_lines(&self, dir: &Path) -> Result<u64, CoordinatorError> {
        let stamps = self.stamps.iter().map(|(study, stamp)| (study, &**stamp));
        StampFile::new(dir).append(stamps)?;
        if self.studies.is_empty() {
            return Ok(0);
        }
        let mut named: Vec<&str> = self.studies.iter().map(StudyId::as_str).collect();
        named.sort_unstable();
        named.truncate(NAMED);
        let count = self.studies.len() as u64;
        warn!(
            studies = count,
            first = named.join(", "),
            "studies have another image or row now, or one that is allowed now; they are run again"
        );
        journal::remove(dir, |record| self.studies.contains(&record.study))?;
        Ok(count)
    }
}

/// What the run has noted, and may read.
struct Noted<'a> {
    spec: &'a RunSpec,
    stamps: &'a Stamps,
    image_limit: u64,
}

async fn compare(
    noted: &Noted<'_>,
    entry: StudyEntry,
    record: StudyRecord,
) -> Result<Comparison, CoordinatorError> {
    let study = entry.study.clone();
    // One whose image could not be read is told by its failure, and run again by --retry-failed.
    let Some(input) = &record.input else {
        return Ok(match is_allowed_now(noted, &entry, &record).await {
            true => Comparison::Changed(study),
            false => Comparison::Same,
        });
    };
    if !is_same_row(&entry, &record) {
        return Ok(Comparison::Changed(study));
    }
    // What is given is part of what the run is.
    if given::spare_images(&noted.spec.given, &noted.spec.stages) {
        return Ok(Comparison::Same);
    }
    let Ok(source) = &entry.image else {
        return Ok(Comparison::Changed(study));
    };
    loop {
        match compare_image(noted, &entry, source, input).await {
            Ok(comparison) => return Ok(comparison),
            // It could be read then, and cannot be now.
            Err(ImageReadError::Study(_)) => return Ok(Comparison::Changed(study)),
            Err(ImageReadError::Store(error)) => {
                warn!(%error, "an image of an earlier session cannot be compared; trying again");
                tokio::time::sleep(RETRY_PAUSE).await;
            }
        }
    }
}

/// Whether an option refused the image of a failed study, and allows it now: one outside of the archive, or a large one.
async fn is_allowed_now(noted: &Noted<'_>, entry: &StudyEntry, record: &StudyRecord) -> bool {
    let refused = record.error.as_ref().map(|error| error.code);
    if !matches!(
        refused,
        Some(ErrorCode::ArchiveEntry | ErrorCode::ImageTooLarge)
    ) {
        return false;
    }
    let Ok(source) = &entry.image else {
        return false;
    };
    // A place that is not allowed has no size. What cannot be looked at is told by its failure as before.
    let size = source.size(&entry.file).await;
    size.is_ok_and(|size| size <= noted.image_limit)
}

/// Whether the archive says the same of the study as its line, but for the content of its image.
fn is_same_row(entry: &StudyEntry, record: &StudyRecord) -> bool {
    let reference = entry
        .reference
        .as_ref()
        .map(|text| ObjectKey::reference(&ContentHash::of(text.as_bytes())));
    entry.file == record.file
        && entry.other_files == record.other_files
        && entry.indication == record.indication
        && entry.split == record.split
        && reference == record.reference
}

async fn compare_image(
    noted: &Noted<'_>,
    entry: &StudyEntry,
    source: &ImageSource,
    input: &ObjectKey,
) -> Result<Comparison, ImageReadError> {
    let stamp = source.stamp(&entry.file).await?;
    let is_as_noted = |stamp: &String| noted.stamps.has(&entry.study, stamp);
    if stamp.as_ref().is_some_and(is_as_noted) {
        return Ok(Comparison::Same);
    }
    let content = source.read(&entry.file, noted.image_limit).await?;
    let hashing = tokio::task::spawn_blocking(move || ContentHash::of(&content));
    let hash = hashing
        .await
        .unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()));
    Ok(match (noted.spec.source.key(&hash) == *input, stamp) {
        (false, _) => Comparison::Changed(entry.study.clone()),
        (true, Some(stamp)) => Comparison::SameAgain(entry.study.clone(), stamp),
        (true, None) => Comparison::Same,
    })
}
