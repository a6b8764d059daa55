//! What of an archive is not what it was when its line was written: another image under the same name, another row of a
//! table, or an image that was refused and that the run's options allow now. A resumed run would keep the old line for it, so that
//! such studies lose theirs and are run again; what is computed for the same content is reused.
//!
//! A file with the stamp that was noted when it was read is taken for the same; any other is read and compared by its hash.
//! One that cannot be read now, as on a disk that is not mounted, says nothing of what was done: its line stays, and it is told.

use std::collections::HashSet;
use std::path::Path;
use std::time::Duration;

use futures::stream::{FuturesUnordered, TryStreamExt};
use radialog_runtime::objects::ObjectError;
use radialog_schemas::{ContentHash, ErrorCode, Failure, ObjectKey, RunSpec, StudyId, StudyRecord};
use tracing::warn;

use super::given;
use super::output::stamps::{StampFile, Stamps};
use super::output::{NotCompared, OrderedRecords, RESULTS_FILE, blocking, journal};
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
    /// Those of which nobody can say it; their lines stay.
    pub(crate) not_compared: NotCompared,
    /// Stamps of files that were read, and are the same as they were.
    stamps: Vec<(StudyId, String)>,
}

/// What became of one study.
enum Comparison {
    Same,
    /// The same content under another stamp.
    SameAgain(StudyId, String),
    Changed(StudyId),
    /// What the archive has of it cannot be looked at now.
    Unknown(StudyId, Failure),
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
                Some(Comparison::Unknown(study, failure)) => {
                    found.not_compared.add(study, failure);
                }
                None => break,
            }
        }
        found.not_compared.sort();
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
    let needs_no_image = given::spare_images(&noted.spec.given, &noted.spec.stages);
    let Some(input) = &record.input else {
        return Ok(match is_same_place(&entry, &record) {
            true if needs_no_image => Comparison::Same,
            true => compare_unread(noted, &entry, &record).await,
            false => Comparison::Changed(study),
        });
    };
    if let Err(failure) = &entry.image
        && failure.code == ErrorCode::ArchiveEntry
        && !needs_no_image
    {
        // Of a row that is broken, or names a file that may not be read, no column says what is the study's now.
        return Ok(Comparison::Unknown(study, failure.clone()));
    }
    if !is_same_row(&entry, &record) {
        return Ok(Comparison::Changed(study));
    }
    // What is given is part of what the run is.
    if needs_no_image {
        return Ok(Comparison::Same);
    }
    loop {
        let compared = match &entry.image {
            Ok(source) => compare_image(noted, &entry, source, input).await,
            Err(failure) => Err(failure.clone().into()),
        };
        match compared {
            Ok(comparison) => return Ok(comparison),
            Err(ImageReadError::Study(failure)) => {
                return Ok(match is_of_content(&failure) {
                    true => Comparison::Changed(study),
                    false => Comparison::Unknown(study, failure),
                });
            }
            Err(ImageReadError::Store(error)) => wait_for_store(&error).await,
        }
    }
}

/// Compares what is seen of the file of a study whose image has not come to any stage with what was seen of it then. What an
/// option refused and allows now is another, too.
async fn compare_unread(noted: &Noted<'_>, entry: &StudyEntry, record: &StudyRecord) -> Comparison {
    if is_small_enough_now(noted, entry, record).await {
        return Comparison::Changed(entry.study.clone());
    }
    loop {
        match entry.seen().await {
            Ok(Some(seen)) if !noted.stamps.has(&entry.study, &seen) => {
                return Comparison::Changed(entry.study.clone());
            }
            // Where a store tells no versions, --retry-failed looks again.
            Ok(_) => return Comparison::Same,
            Err(error) => wait_for_store(&error).await,
        }
    }
}

/// Whether the image of a failed study was too large, and is not for the limit of this session.
async fn is_small_enough_now(noted: &Noted<'_>, entry: &StudyEntry, record: &StudyRecord) -> bool {
    let code = record.error.as_ref().map(|error| error.code);
    let (Some(ErrorCode::ImageTooLarge), Ok(source)) = (code, &entry.image) else {
        return false;
    };
    let size = source.size(&entry.file).await;
    size.is_ok_and(|size| size <= noted.image_limit)
}

async fn wait_for_store(error: &ObjectError) {
    warn!(%error, "an image of an earlier session cannot be compared; trying again");
    tokio::time::sleep(RETRY_PAUSE).await;
}

/// Whether the reason why an image cannot be read was found in its bytes: they are others than those that were read before.
fn is_of_content(failure: &Failure) -> bool {
    matches!(
        failure.code,
        ErrorCode::ImageEmpty | ErrorCode::ImageFormatUnsupported
    )
}

/// Whether the archive has the study's files at the same place as its line.
fn is_same_place(entry: &StudyEntry, record: &StudyRecord) -> bool {
    entry.file == record.file
        && entry.other_files == record.other_files
        && entry.indication == record.indication
        && entry.split == record.split
}

/// Whether the archive says the same of the study as its line, but for the content of its image.
fn is_same_row(entry: &StudyEntry, record: &StudyRecord) -> bool {
    let reference = entry
        .reference
        .as_ref()
        .map(|text| ObjectKey::reference(&ContentHash::of(text.as_bytes())));
    is_same_place(entry, record) && reference == record.reference
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
