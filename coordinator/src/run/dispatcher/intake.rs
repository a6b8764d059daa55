//! From the archive into the window: entries are read in order, their images stored side by side, and studies begun in
//! batches.

use bytes::Bytes;
use futures::FutureExt;
use futures::stream::{self, StreamExt};
use radialog_runtime::objects::ObjectError;
use radialog_schemas::{ContentHash, Failure, ObjectKey, StudySpec};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

use super::Dispatcher;
use super::ledger::Admission;
use crate::CoordinatorError;
use crate::archive::{ImageReadError, StudyEntries, StudyEntry};
use crate::run::study_record;

/// Images read and stored at a time.
const UPLOADS: usize = 16;
/// Studies begun in one round trip.
const BEGIN: usize = 64;
/// Image bytes in memory at a time, in KiB; a larger image has it for itself.
const ROOM: u32 = 256 << 10;

/// An entry whose image was looked at.
enum PreparedEntry {
    Study(StudySpec),
    /// The line of a study that failed before any stage.
    Failed(String),
}

impl Dispatcher {
    /// Reads the archive to its end or limit.
    pub(crate) async fn feed(&self) -> Result<(), CoordinatorError> {
        let entries = self.archive.entries().await?;
        let (sender, receiver) = mpsc::channel(1);
        let ((), ()) = tokio::try_join!(self.read(entries, sender), self.take_in(receiver))?;
        self.ledger().end_of_archive();
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
            && let Some(entry) = self.admit(&mut *entries, &mut taken).await
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
        let room = Semaphore::new(ROOM as usize);
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

    /// The next entry that has no line yet; at the end, notes the true size of the archive.
    async fn admit(&self, entries: &mut dyn StudyEntries, taken: &mut u64) -> Option<StudyEntry> {
        while self.limits.studies.is_none_or(|limit| *taken < limit) {
            let Some(entry) = entries.next().await else {
                break;
            };
            let mut ledger = self.ledger();
            let entry = match entry {
                Ok(entry) => entry,
                Err(problem) => {
                    ledger.problem(problem);
                    continue;
                }
            };
            let admission = ledger.admit(&entry);
            *taken += u64::from(admission != Admission::Duplicate);
            if admission == Admission::New {
                return Some(entry);
            }
        }
        self.ledger().settle_total(*taken);
        None
    }

    async fn prepare(
        &self,
        entry: StudyEntry,
        room: &Semaphore,
    ) -> Result<PreparedEntry, CoordinatorError> {
        let source = match &entry.image {
            Ok(source) => source,
            Err(failure) => {
                let failure = failure.clone();
                return Ok(self.failed(entry, failure));
            }
        };
        let size = match self.look(|| source.size(&entry.file)).await? {
            Ok(size) => size,
            Err(failure) => return Ok(self.failed(entry, failure)),
        };
        let wanted = u32::try_from(size.min(self.limits.image) >> 10)
            .unwrap_or(ROOM)
            .clamp(1, ROOM);
        let _held = room.acquire_many(wanted).await;
        let content = match self
            .look(|| source.read(&entry.file, self.limits.image))
            .await?
        {
            Ok(content) => content,
            Err(failure) => return Ok(self.failed(entry, failure)),
        };
        let input = self
            .store(content, |content| self.spec.source.key(content))
            .await?;
        let reference = match &entry.reference {
            Some(text) => Some(
                self.store(Bytes::from(text.clone()), ObjectKey::reference)
                    .await?,
            ),
            None => None,
        };
        Ok(PreparedEntry::Study(StudySpec {
            study: entry.study,
            file: entry.file,
            input,
            other_files: entry.other_files,
            reference,
            indication: entry.indication,
            split: entry.split,
        }))
    }

    /// Waits out the archive's store; what is wrong with the image itself is an answer.
    async fn look<T, F>(
        &self,
        mut attempt: impl FnMut() -> F,
    ) -> Result<Result<T, Failure>, CoordinatorError>
    where
        F: Future<Output = Result<T, ImageReadError>>,
    {
        let once = || {
            let looking = attempt();
            async move {
                match looking.await {
                    Ok(value) => Ok(Ok(value)),
                    Err(ImageReadError::Study(failure)) => Ok(Err(failure)),
                    Err(ImageReadError::Store(error)) => Err(error),
                }
            }
        };
        self.executor.retry.until_success(once).await
    }

    /// Stores content under the key of its hash, where it is not there yet.
    async fn store(
        &self,
        content: Bytes,
        key: impl Fn(&ContentHash) -> ObjectKey,
    ) -> Result<ObjectKey, CoordinatorError> {
        let hashing = {
            let content = content.clone();
            tokio::task::spawn_blocking(move || ContentHash::of(&content))
        };
        let key = key(&hashing.await.map_err(|_| CoordinatorError::Stopped)?);
        let objects = &self.executor.backends.objects;
        let once = || async {
            if objects.size(&key).await? == Some(content.len() as u64) {
                return Ok(Ok(()));
            }
            match objects.put(&key, content.clone()).await {
                Ok(()) => Ok(Ok(())),
                Err(error @ ObjectError::Full(_)) => Ok(Err(error)),
                Err(error) => Err(error),
            }
        };
        self.executor.retry.until_success(once).await??;
        Ok(key)
    }

    fn failed(&self, entry: StudyEntry, failure: Failure) -> PreparedEntry {
        PreparedEntry::Failed(study_record::line(&study_record::failed(
            entry,
            failure,
            &self.spec.bundle,
        )))
    }

    async fn begin(
        &self,
        chunk: Vec<(PreparedEntry, OwnedSemaphorePermit)>,
    ) -> Result<(), CoordinatorError> {
        let (mut studies, mut lines) = (Vec::new(), Vec::new());
        {
            let mut ledger = self.ledger();
            for (prepared, place) in chunk {
                match prepared {
                    PreparedEntry::Study(spec) if ledger.begin(&spec, place) => studies.push(spec),
                    PreparedEntry::Study(_) => {}
                    PreparedEntry::Failed(line) => lines.push(line),
                }
            }
            ledger.write(&lines)?;
        }
        if !studies.is_empty() {
            self.dispatch(&studies).await?;
            self.ledger().begun(&studies);
        }
        Ok(())
    }
}
