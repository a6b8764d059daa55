//! From the archive into the window: entries are read in order, their images stored side by side, and studies begun in
//! batches.

use std::collections::BTreeMap;

use bytes::Bytes;
use futures::FutureExt;
use futures::stream::{self, StreamExt};
use radialog_runtime::objects::ObjectError;
use radialog_schemas::record::GivenOutput;
use radialog_schemas::{ContentHash, Failure, ObjectKey, Stage, StudyId, StudySpec};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

use super::Dispatcher;
use super::ledger::Admission;
use crate::CoordinatorError;
use crate::archive::{ImageReadError, StudyEntries, StudyEntry};
use crate::run::retry::AttemptError;
use crate::run::{given, study_record};

/// Images read and stored at a time.
const UPLOADS: usize = 16;
/// Studies begun in one round trip.
const BEGIN: usize = 64;
/// Image bytes in memory at a time, in KiB; a larger image has all of it for itself.
const IMAGE_MEMORY: u32 = 256 << 10;

/// An entry whose image was looked at.
enum PreparedEntry {
    /// With the stamp of its image file, where it has one.
    Study(StudySpec, Option<String>),
    /// A study that failed before any stage.
    Failed(UnreadStudy),
}

/// A study whose image has come to no stage.
struct UnreadStudy {
    study: StudyId,
    /// Its line.
    line: String,
    /// What was seen of its file ([`StudyEntry::seen`]), by which a later session knows another one.
    seen: Option<String>,
}

/// What of a study is stored.
struct StoredInputs {
    input: ObjectKey,
    /// The stamp of the image file.
    stamp: Option<String>,
    reference: Option<ObjectKey>,
    given: BTreeMap<Stage, GivenOutput>,
}

/// The reason why an entry does not begin.
enum PrepareError {
    /// Its image cannot be used; the run goes on.
    Image {
        failure: Failure,
        /// What was seen of its file before it was read.
        seen: Option<String>,
    },
    /// The run cannot go on.
    Run(CoordinatorError),
}

impl From<Failure> for PrepareError {
    fn from(failure: Failure) -> Self {
        Self::Image {
            failure,
            seen: None,
        }
    }
}

impl PrepareError {
    /// The same of a file of which nothing else was seen.
    fn without_file(self) -> Self {
        match self {
            Self::Image { failure, .. } => Self::Image {
                seen: Some(failure.code.as_str()),
                failure,
            },
            error => error,
        }
    }

    /// The same of a file with this stamp.
    fn of_file(self, stamp: Option<String>) -> Self {
        match self {
            Self::Image { failure, .. } => Self::Image {
                failure,
                seen: stamp,
            },
            error => error,
        }
    }
}

impl From<CoordinatorError> for PrepareError {
    fn from(error: CoordinatorError) -> Self {
        Self::Run(error)
    }
}

impl Dispatcher {
    /// Reads the archive to its end or limit.
    pub(crate) async fn feed(&self) -> Result<(), CoordinatorError> {
        let entries = self.archive.entries().await?;
        let (sender, receiver) = mpsc::channel(1);
        let ((), ()) = tokio::try_join!(self.read(entries, sender), self.take_in(receiver))?;
        self.ledger().end_of_archive()?;
        self.wake.notify_one();
        Ok(())
    }

    /// Gives each entry a place in the window.
    async fn read(
        &self,
        mut entries: Box<dyn StudyEntries>,
        admitted: mpsc::Sender<(StudyEntry, OwnedSemaphorePermit)>,
    ) -> Result<(), CoordinatorError> {
        let mut taken = 0;
        while let Ok(place) = self.window.clone().acquire_owned().await
            && let Some(entry) = self.admit(&mut *entries, &mut taken).await?
        {
            if admitted.send((entry, place)).await.is_err() {
                break;
            }
        }
        Ok(())
    }

    async fn take_in(
        &self,
        mut admitted: mpsc::Receiver<(StudyEntry, OwnedSemaphorePermit)>,
    ) -> Result<(), CoordinatorError> {
        let room = Semaphore::new(IMAGE_MEMORY as usize);
        let mut prepared = stream::poll_fn(|context| admitted.poll_recv(context))
            .map(|(entry, place)| async { Ok((self.prepare(entry, &room).await?, place)) }.boxed())
            .buffered(UPLOADS)
            .ready_chunks(BEGIN);
        while let Some(chunk) = prepared.next().await {
            self.begin(chunk.into_iter().collect::<Result<_, CoordinatorError>>()?)
                .await?;
        }
        Ok(())
    }

    /// Finds the next entry that has no line yet; at the end, notes the true size of the archive.
    async fn admit(
        &self,
        entries: &mut dyn StudyEntries,
        taken: &mut u64,
    ) -> Result<Option<StudyEntry>, CoordinatorError> {
        while self.limits.studies.is_none_or(|limit| *taken < limit) {
            let Some(entry) = entries.next().await else {
                break;
            };
            let mut ledger = self.ledger();
            let entry = match entry {
                Ok(entry) => entry,
                Err(problem) => {
                    ledger.add_problem(problem)?;
                    continue;
                }
            };
            let admission = ledger.admit(&entry)?;
            *taken += u64::from(admission != Admission::Duplicate);
            if admission == Admission::New {
                return Ok(Some(entry));
            }
        }
        self.ledger().settle_total(*taken);
        Ok(None)
    }

    async fn prepare(
        &self,
        entry: StudyEntry,
        room: &Semaphore,
    ) -> Result<PreparedEntry, CoordinatorError> {
        match self.store_inputs(&entry, room).await {
            Ok(stored) => {
                let spec = StudySpec {
                    given: stored.given,
                    study: entry.study,
                    file: entry.file,
                    input: stored.input,
                    other_files: entry.other_files,
                    reference: stored.reference,
                    indication: entry.indication,
                    split: entry.split,
                };
                Ok(PreparedEntry::Study(spec, stored.stamp))
            }
            Err(PrepareError::Image { failure, seen }) => {
                let seen = match seen {
                    Some(seen) => Some(seen),
                    // The failure is not the file's.
                    None => self.executor.retry.until_success(|| entry.seen()).await?,
                };
                Ok(PreparedEntry::Failed(self.failed(entry, failure, seen)))
            }
            Err(PrepareError::Run(error)) => Err(error),
        }
    }

    /// Stores the image, the reference and what is given of an entry; returns their keys.
    async fn store_inputs(
        &self,
        entry: &StudyEntry,
        room: &Semaphore,
    ) -> Result<StoredInputs, PrepareError> {
        let mut given = BTreeMap::new();
        if let Some(files) = &self.given {
            for (stage, (output, content)) in given::of_study(files, entry).await? {
                self.store(content, |content| ObjectKey::given(stage, content))
                    .await?;
                given.insert(stage, output);
            }
        }
        let first = given.values().next().map(|output| output.object.clone());
        let (input, stamp) = match first {
            Some(first) if given::spare_images(&self.spec.given, &self.spec.stages) => {
                (first, None)
            }
            _ => self.store_image(entry, room).await?,
        };
        let reference = match &entry.reference {
            Some(text) => {
                let text = Bytes::from(text.clone());
                Some(self.store(text, ObjectKey::reference).await?)
            }
            None => None,
        };
        Ok(StoredInputs {
            input,
            stamp,
            reference,
            given,
        })
    }

    /// Stores the image of an entry. Returns the stamp of the file, too, taken before it was read.
    async fn store_image(
        &self,
        entry: &StudyEntry,
        room: &Semaphore,
    ) -> Result<(ObjectKey, Option<String>), PrepareError> {
        let source = entry.image.as_ref().map_err(Failure::clone)?;
        let looking = self.wait_for_archive(|| source.size(&entry.file));
        let size = looking.await.map_err(PrepareError::without_file)?;
        let wanted = u32::try_from(size.min(self.limits.image) >> 10)
            .unwrap_or(IMAGE_MEMORY)
            .clamp(1, IMAGE_MEMORY);
        let _held = room.acquire_many(wanted).await;
        let looking = self.wait_for_archive(|| source.stamp(&entry.file));
        let stamp = looking.await.map_err(PrepareError::without_file)?;
        let storing = async {
            let content = self
                .wait_for_archive(|| source.read(&entry.file, self.limits.image))
                .await?;
            self.store(content, |content| self.spec.source.key(content))
                .await
        };
        match storing.await {
            Ok(input) => Ok((input, stamp)),
            Err(error) => Err(error.of_file(stamp)),
        }
    }

    /// Waits out the archive's store; what is wrong with the image itself ends the attempts.
    async fn wait_for_archive<T, F>(
        &self,
        mut attempt: impl FnMut() -> F,
    ) -> Result<T, PrepareError>
    where
        F: Future<Output = Result<T, ImageReadError>>,
    {
        let once = || {
            let looking = attempt();
            async move {
                looking.await.map_err(|error| match error {
                    ImageReadError::Study(failure) => AttemptError::Fatal(failure.into()),
                    ImageReadError::Store(error) => AttemptError::Unavailable(error),
                })
            }
        };
        self.executor.retry.until_settled(once).await
    }

    /// Stores content under the key of its hash, where it is not there yet.
    async fn store(
        &self,
        content: Bytes,
        key: impl Fn(&ContentHash) -> ObjectKey,
    ) -> Result<ObjectKey, PrepareError> {
        let hashing = {
            let content = content.clone();
            tokio::task::spawn_blocking(move || ContentHash::of(&content))
        };
        let key = key(&hashing.await.map_err(|_| CoordinatorError::Stopped)?);
        let objects = &self.executor.backends.objects;
        let once = || async {
            let stored = objects.ensure(&key, &content).await;
            stored.map_err(|error| match error {
                ObjectError::Full(_) => {
                    AttemptError::Fatal(PrepareError::Run(CoordinatorError::Objects(error)))
                }
                ObjectError::Refused { .. } => AttemptError::Fatal(Failure::from(error).into()),
                error => AttemptError::Unavailable(error),
            })
        };
        self.executor.retry.until_settled(once).await.map(|()| key)
    }

    fn failed(&self, entry: StudyEntry, failure: Failure, seen: Option<String>) -> UnreadStudy {
        UnreadStudy {
            study: entry.study.clone(),
            line: study_record::line(&study_record::failed(entry, failure, &self.spec.bundle)),
            seen,
        }
    }

    async fn begin(
        &self,
        chunk: Vec<(PreparedEntry, OwnedSemaphorePermit)>,
    ) -> Result<(), CoordinatorError> {
        let (mut studies, mut lines) = (Vec::new(), Vec::new());
        {
            let mut ledger = self.ledger();
            let stamps = chunk.iter().filter_map(|(prepared, _)| match prepared {
                PreparedEntry::Study(spec, stamp) => Some((&spec.study, &**stamp.as_ref()?)),
                PreparedEntry::Failed(unread) => Some((&unread.study, &**unread.seen.as_ref()?)),
            });
            ledger.note_stamps(stamps)?;
            for (prepared, place) in chunk {
                match prepared {
                    PreparedEntry::Study(spec, _) => {
                        if ledger.begin(&spec, place)? {
                            studies.push(spec);
                        }
                    }
                    PreparedEntry::Failed(unread) => lines.push(unread.line),
                }
            }
            ledger.write(&lines)?;
        }
        if !studies.is_empty() {
            self.dispatch(&studies).await?;
            self.ledger().mark_begun(&studies);
        }
        Ok(())
    }
}
