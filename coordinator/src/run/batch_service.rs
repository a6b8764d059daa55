//! Batches that are asked for over HTTP: the run of `radialog batch` over a prefix of an object store, in the gateway that
//! was asked. Every gateway can tell how far one is, cancel it and give its results; a gateway that was stopped goes on
//! with its own when it starts again.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::future::BoxFuture;
use radialog_files::durable;
use radialog_runtime::backends::Backends;
use radialog_runtime::objects::ObjectError;
use radialog_runtime::state::StateError;
use radialog_schemas::{Generation, ObjectKey, Source, StageSet};
use tokio::sync::{Semaphore, SemaphorePermit, watch};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};
use uuid::Uuid;

use super::archive_run::{
    ArchiveRun, DEFAULT_IMAGE_LIMIT, DEFAULT_STALL, DEFAULT_WINDOW, RunOptions,
};
use super::progress::RunProgress;
use super::retry::{AttemptError, RetryUntilShutdown};
use crate::archive::Archive;
use crate::run::output::{PROBLEMS_FILE, SUMMARY_FILE};
use crate::{CoordinatorError, ServedBundles};

mod documents;
mod error;
mod kept_results;
mod result_files;
mod view;

use documents::{BatchDocuments, json};
pub use error::BatchError;
use kept_results::{REQUEST_FILE, has_results, keep_results, remove_old};
pub use result_files::RESULT_FILES;
use view::{BatchEnd, BatchRequest};
pub use view::{BatchStatus, BatchView, NewBatch};

/// Batches that run at a time in one gateway; the others wait.
const RUNNING: usize = 2;
/// The time after which progress is shared and a cancellation looked for again.
const SHARE_EVERY: Duration = Duration::from_secs(1);
/// A function that opens the archive at an address that is allowed.
pub type OpenArchive = Arc<
    dyn Fn(String) -> BoxFuture<'static, Result<Arc<dyn Archive>, CoordinatorError>> + Send + Sync,
>;

/// The settings of a gateway that runs batches.
#[derive(Clone)]
pub struct BatchServiceSettings {
    /// The directory in which running batches keep what they need to go on.
    pub directory: PathBuf,
    /// Archives must lie under one of these, e.g. `s3://archive/cxr`. None allows no batch.
    pub prefixes: Vec<String>,
    /// The function that opens an archive.
    pub open: OpenArchive,
}

/// The batches of one gateway, and what it knows of those of others.
pub struct BatchService {
    backends: Backends,
    documents: BatchDocuments,
    bundles: ServedBundles,
    settings: BatchServiceSettings,
    shutdown: CancellationToken,
    slots: Semaphore,
    /// Held while a batch is begun here, so that its folder has one writer.
    beginning: tokio::sync::Mutex<()>,
    /// How to stop the batches that run or wait here.
    here: Mutex<HashMap<String, CancellationToken>>,
}

/// The end of a run that did not fail.
enum RunEnd {
    /// Every study has its line. With what the results lack, where they lack something.
    Complete(Option<String>),
    /// It was stopped, and can go on.
    Interrupted,
}

/// How many parts each result file has, or how a batch ends whose results are not kept.
type StoredResults = Result<Vec<u32>, (BatchStatus, ObjectError)>;

impl BatchService {
    /// Creates a service without batches; [`BatchService::resume`] takes up earlier ones.
    pub fn new(
        backends: Backends,
        bundles: ServedBundles,
        settings: BatchServiceSettings,
        shutdown: CancellationToken,
    ) -> Arc<Self> {
        Arc::new(Self {
            documents: BatchDocuments(backends.state.clone()),
            backends,
            bundles,
            settings,
            shutdown,
            slots: Semaphore::new(RUNNING),
            beginning: tokio::sync::Mutex::default(),
            here: Mutex::default(),
        })
    }

    /// Goes on with the batches that were running here when the process stopped.
    ///
    /// # Errors
    /// When the folder cannot be read, or cannot be written although batches are allowed.
    pub fn resume(self: &Arc<Self>) -> Result<usize, BatchError> {
        let directory = &self.settings.directory;
        let failed = |source| BatchError::Directory {
            path: directory.clone(),
            source,
        };
        if !self.settings.prefixes.is_empty() {
            // Now, and not when the first batch comes.
            durable::create_directory(directory)
                .and_then(|()| durable::Replacement::create(&directory.join(REQUEST_FILE)))
                .map_err(failed)?;
        }
        if !directory.exists() {
            return Ok(0);
        }
        let mut count = 0;
        for entry in fs::read_dir(directory).map_err(failed)? {
            let folder = entry.map_err(failed)?.path();
            let file = folder.join(REQUEST_FILE);
            match kept(&file) {
                Some(requested) => {
                    self.spawn(requested);
                    count += 1;
                }
                None if has_results(&folder) => info!(
                    folder = %folder.display(),
                    "the results of a run are here and nowhere else; they go after 30 days, or when you remove the folder"
                ),
                None => {
                    warn!(file = %file.display(), "not the request of a batch; remove its folder")
                }
            }
        }
        let (directory, shutdown) = (directory.clone(), self.shutdown.clone());
        tokio::spawn(shutdown.run_until_cancelled_owned(remove_old(directory)));
        Ok(count)
    }

    /// Starts a batch. The same request with the same `id` gives the same batch again, also where both come at once, here or
    /// at several gateways: one of them runs it.
    ///
    /// # Errors
    /// When another request has this id, the archive is not allowed or cannot be read, or a store does not answer.
    pub async fn start(
        self: &Arc<Self>,
        id: &str,
        owner: &str,
        created_ms: u64,
        request: NewBatch,
    ) -> Result<BatchView, BatchError> {
        if let Some(known) = self.documents.request(id).await? {
            return self.repeat(known, owner, &request).await;
        }
        self.check(&request.archive)?;
        (self.settings.open)(request.archive.clone())
            .await
            .map_err(BatchError::Archive)?;
        let requested = BatchRequest {
            id: id.to_owned(),
            attempt: Uuid::new_v4().simple().to_string(),
            owner: owner.to_owned(),
            created_ms,
            request,
        };
        // It is done to its end also where the client has gone away.
        let batches = self.clone();
        tokio::spawn(async move { batches.begin(requested).await })
            .await
            .map_err(|error| StateError(format!("the batch was not begun: {error}")))?
    }

    /// Keeps a request and runs it, unless another one has its id.
    async fn begin(self: &Arc<Self>, requested: BatchRequest) -> Result<BatchView, BatchError> {
        // Of the requests that come here; what other gateways do is decided in the shared state.
        let _beginning = self.beginning.lock().await;
        let (owner, request) = (&requested.owner, &requested.request);
        if let Some(known) = self.documents.request(&requested.id).await? {
            return self.repeat(known, owner, request).await;
        }
        if let Some(kept) = self.kept(&requested.id) {
            // It runs here, and the state has lost it.
            let known = self.documents.create_request(&kept).await?;
            return self.repeat(known, owner, request).await;
        }
        // In the folder first: where this process ends now, the next one goes on with it.
        self.keep(&requested)?;
        let known = self.documents.create_request(&requested).await?;
        if known.attempt != requested.attempt {
            self.remove_folder(&requested.id)?;
            return self.repeat(known, owner, request).await;
        }
        let view = requested.clone().view(BatchStatus::Queued, None, None);
        self.spawn(requested);
        Ok(view)
    }

    /// The batch that another try has begun, where it is the same one.
    async fn repeat(
        &self,
        known: BatchRequest,
        owner: &str,
        request: &NewBatch,
    ) -> Result<BatchView, BatchError> {
        if known.owner != owner || known.request != *request {
            return Err(BatchError::Mismatch);
        }
        Ok(self.view_of(known).await?)
    }

    /// Looks at a batch of this owner.
    ///
    /// # Errors
    /// When the state store does not answer.
    pub async fn view(&self, owner: &str, id: &str) -> Result<Option<BatchView>, StateError> {
        let Some(requested) = self.documents.request(id).await? else {
            return Ok(None);
        };
        if requested.owner != owner {
            return Ok(None);
        }
        self.view_of(requested).await.map(Some)
    }

    async fn view_of(&self, requested: BatchRequest) -> Result<BatchView, StateError> {
        let progress = self.documents.progress(&requested.id).await?;
        let end = self.documents.end(&requested.id).await?;
        let status = match (&end, &progress) {
            (Some(end), _) => end.status,
            (None, _) if self.documents.is_paused(&requested.id).await? => BatchStatus::Paused,
            (None, Some(_)) => BatchStatus::Running,
            (None, None) => BatchStatus::Queued,
        };
        Ok(requested.view(status, progress, end))
    }

    /// Stops a batch wherever it runs; its lines so far become its results. False where there is none.
    ///
    /// # Errors
    /// When the state store does not answer.
    pub async fn cancel(&self, owner: &str, id: &str) -> Result<bool, StateError> {
        if self.view(owner, id).await?.is_none() {
            return Ok(false);
        }
        self.documents.cancel(id).await?;
        if let Some(stop) = self.here().get(id) {
            stop.cancel();
        }
        Ok(true)
    }

    /// Lets a batch stand still wherever it runs, or go on, and shows it then. None where there is none.
    ///
    /// # Errors
    /// When the state store does not answer.
    pub async fn pause(
        &self,
        owner: &str,
        id: &str,
        paused: bool,
    ) -> Result<Option<BatchView>, StateError> {
        match self.view(owner, id).await? {
            Some(known) if known.status.is_open() => {}
            known => return Ok(known),
        }
        self.documents.pause(id, paused).await?;
        self.view(owner, id).await
    }

    /// The parts of a result file; none where the batch has not ended or has no such file.
    ///
    /// # Errors
    /// When the state store does not answer.
    pub async fn result_parts(
        &self,
        owner: &str,
        id: &str,
        file: &str,
    ) -> Result<Option<Vec<ObjectKey>>, StateError> {
        let Some(place) = RESULT_FILES.iter().position(|name| *name == file) else {
            return Ok(None);
        };
        if self.view(owner, id).await?.is_none() {
            return Ok(None);
        }
        let Some(end) = self.documents.end(id).await? else {
            return Ok(None);
        };
        let key = |part| ObjectKey::batch_part(id, RESULT_FILES[place], part);
        let parts = end.parts.get(place).copied().unwrap_or(0);
        Ok((parts > 0).then(|| (0..parts).map(key).collect()))
    }

    fn check(&self, archive: &str) -> Result<(), BatchError> {
        let prefixes = &self.settings.prefixes;
        let climbs = archive.split('/').any(|part| part == ".." || part == ".");
        let is_under = |prefix: &String| {
            let prefix = prefix.trim_end_matches('/');
            archive
                .strip_prefix(prefix)
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        };
        if climbs || !prefixes.iter().any(is_under) {
            return Err(BatchError::NotAllowed {
                archive: archive.to_owned(),
                prefixes: prefixes.clone(),
            });
        }
        Ok(())
    }

    fn spawn(self: &Arc<Self>, requested: BatchRequest) {
        let batches = self.clone();
        let stop = self.shutdown.child_token();
        match self.here().entry(requested.id.clone()) {
            // The same request twice at a time: one of them runs.
            Entry::Occupied(_) => return,
            Entry::Vacant(place) => place.insert(stop.clone()),
        };
        tokio::spawn(async move {
            let id = requested.id.clone();
            match batches.run_to_end(requested, &stop).await {
                Ok(()) | Err(BatchError::Stopped(CoordinatorError::Stopped)) => {}
                Err(error) => {
                    warn!(batch = id, %error, "a batch stands still; it goes on when this gateway starts again");
                }
            }
            batches.here().remove(&id);
        });
    }

    /// Runs a batch to its end. A state or an object store that does not answer is waited for.
    async fn run_to_end(
        &self,
        requested: BatchRequest,
        stop: &CancellationToken,
    ) -> Result<(), BatchError> {
        let BatchRequest { id, request, .. } = &requested;
        let (retry, documents) = (self.retry(), &self.documents);
        // An earlier process may have ended before it was decided whose the batch is.
        let known = retry
            .until_success(|| documents.create_request(&requested))
            .await?;
        if known.attempt != requested.attempt {
            info!(batch = id, "another gateway has begun this batch");
            return self.remove_folder(id);
        }
        let mut end = retry.until_success(|| documents.end(id)).await?;
        if end.is_none() {
            let folder = self.folder(id).join("out");
            let ran = self.run_with_pauses(id, request, &folder, stop).await?;
            let Some((status, error)) = ran else {
                return Ok(());
            };
            let store = || self.try_store(id, &folder);
            let ended = match retry.until_settled(store).await? {
                Ok(parts) => BatchEnd {
                    status,
                    error,
                    parts,
                },
                Err((status, error)) => BatchEnd {
                    status,
                    error: Some(format!(
                        "its results are not in the store: {error}. They stay for 30 days with the gateway that ran it; ask its operator"
                    )),
                    parts: Vec::new(),
                },
            };
            let ended = retry.until_success(|| documents.create_end(id, &ended));
            let ended = end.insert(ended.await?);
            info!(batch = id, status = ?ended.status, error = ended.error, "a batch has ended");
        }
        let folder = self.folder(id);
        let is_stored = end.is_none_or(|end| end.parts.iter().any(|&parts| parts > 0));
        if is_stored || !has_results(&folder) {
            return self.remove_folder(id);
        }
        warn!(
            batch = id,
            folder = %folder.display(),
            "the results of a run are there and nowhere else; fetch them within 30 days, and remove the folder then"
        );
        keep_results(&folder).map_err(|source| BatchError::Directory {
            path: folder,
            source,
        })
    }

    /// Stores the result files of a batch; an end without them where the store refuses them for good, or where the batch is
    /// cancelled while they find no room. A store that does not answer is waited for, whatever becomes of the batch.
    async fn try_store(
        &self,
        id: &str,
        folder: &Path,
    ) -> Result<StoredResults, AttemptError<ObjectError, BatchError>> {
        let error = match result_files::store(&*self.backends.objects, id, folder).await {
            Ok(parts) => return Ok(Ok(parts)),
            Err(BatchError::Objects(error)) => error,
            Err(error) => return Err(AttemptError::Fatal(error)),
        };
        let is_refused = matches!(error, ObjectError::Refused { .. });
        let is_full = matches!(error, ObjectError::Full(_));
        let is_cancelled = self.is_cancelled(id).await;
        let end = match is_cancelled.map_err(|error| AttemptError::Fatal(error.into()))? {
            true if is_full || is_refused => Some(BatchStatus::Cancelled),
            false if is_refused => Some(BatchStatus::Failed),
            _ => None,
        };
        match end {
            Some(end) => Ok(Err((end, error))),
            None => Err(AttemptError::Unavailable(error)),
        }
    }

    /// Waits for what does not answer, until this gateway stops.
    fn retry(&self) -> RetryUntilShutdown {
        RetryUntilShutdown::new(self.shutdown.clone())
    }

    async fn is_cancelled(&self, id: &str) -> Result<bool, CoordinatorError> {
        let is_cancelled = || self.documents.is_cancelled(id);
        self.retry().until_success(is_cancelled).await
    }

    /// Runs a batch to its end, and lets it stand still where it is paused; none where this gateway stops first.
    async fn run_with_pauses(
        &self,
        id: &str,
        request: &NewBatch,
        out: &Path,
        stop: &CancellationToken,
    ) -> Result<Option<(BatchStatus, Option<String>)>, BatchError> {
        loop {
            // None where it is stopped while it waits.
            let slot = tokio::select! {
                slot = self.slot(id) => Some(slot?),
                () = stop.cancelled() => None,
            };
            if slot.is_none() && !self.is_cancelled(id).await? {
                return Ok(None);
            }
            let end = match self.run(id, request, out, stop).await {
                Ok(RunEnd::Complete(lacks)) => (BatchStatus::Done, lacks),
                Ok(RunEnd::Interrupted) if self.is_cancelled(id).await? => {
                    (BatchStatus::Cancelled, None)
                }
                Ok(RunEnd::Interrupted) if stop.is_cancelled() => return Ok(None),
                Ok(RunEnd::Interrupted) => continue,
                Err(error) => (BatchStatus::Failed, Some(error.to_string())),
            };
            return Ok(Some(end));
        }
    }

    /// Waits until the batch may run: it is not paused, or is to end, and few others run.
    async fn slot(&self, id: &str) -> Result<Option<SemaphorePermit<'_>>, CoordinatorError> {
        let stands_still = || async {
            let is_paused = self.documents.is_paused(id).await?;
            Ok::<_, StateError>(is_paused && !self.documents.is_cancelled(id).await?)
        };
        while self.retry().until_success(stands_still).await? {
            tokio::time::sleep(SHARE_EVERY).await;
        }
        Ok(self.slots.acquire().await.ok())
    }

    /// Runs a batch until it ends, is stopped, or is paused.
    async fn run(
        &self,
        id: &str,
        request: &NewBatch,
        out: &Path,
        stop: &CancellationToken,
    ) -> Result<RunEnd, CoordinatorError> {
        // Looked for before it was begun; this gateway may have started with other bundles since.
        let model = request.model.as_deref();
        let (bundle, adapter) =
            self.bundles
                .find(model)
                .ok_or_else(|| CoordinatorError::NoModel {
                    model: model.unwrap_or_default().to_owned(),
                    models: self.bundles.names(),
                })?;
        let archive = (self.settings.open)(request.archive.clone()).await?;
        let input = request.archive.clone();
        if archive.entries().await?.next().await.is_none() {
            return Err(CoordinatorError::NoImage { input });
        }
        let stages = if request.stages.is_empty() {
            StageSet::all()
        } else {
            StageSet::closure(&request.stages)
        };
        let max_new_tokens = request
            .max_new_tokens
            .unwrap_or(Generation::default().max_new_tokens);
        let options = RunOptions {
            archive,
            out: out.to_owned(),
            source: Source::Image,
            stages,
            generation: Generation {
                max_new_tokens,
                adapter: adapter.cloned(),
                ..Generation::default()
            },
            bundle: bundle.hashes.bundle.clone(),
            components: bundle.hashes.components.clone(),
            group: bundle.group.clone(),
            given: None,
            window: DEFAULT_WINDOW,
            limit: request.limit,
            image_limit: DEFAULT_IMAGE_LIMIT,
            stall: DEFAULT_STALL,
            retry_failed: false,
        };
        let (sender, mut progress) = watch::channel(RunProgress::default());
        let pause = stop.child_token();
        let batch = ArchiveRun::new(options, self.backends.clone()).run(pause.clone(), sender);
        let sharing = async {
            loop {
                let snapshot = json(&*progress.borrow_and_update());
                if let Err(error) = self.share(id, snapshot, stop, &pause).await {
                    warn!(batch = id, %error, "progress is not shown to other gateways");
                }
                tokio::time::sleep(SHARE_EVERY).await;
            }
        };
        let summary = tokio::select! {
            summary = batch => summary,
            never = sharing => never,
        };
        let snapshot = json(&*progress.borrow());
        if let Err(error) = self.share(id, snapshot, stop, &pause).await {
            warn!(batch = id, %error, "the last progress is not shown to other gateways");
        }
        let summary = summary?;
        if summary.interrupted {
            return Ok(RunEnd::Interrupted);
        }
        if summary.studies == 0 {
            return Err(CoordinatorError::NoStudy { input });
        }
        let unread = (summary.unread_count > 0).then(|| {
            let count = summary.unread_count;
            format!("{count} parts of the archive could not be read, so that studies may be missing; {PROBLEMS_FILE} names them")
        });
        let not_compared = (summary.not_compared.studies > 0).then(|| {
            let count = summary.not_compared.studies;
            format!("{count} studies of before the pause could not be compared with the archive as it is now; {SUMMARY_FILE} names them")
        });
        let lacks: Vec<String> = unread.into_iter().chain(not_compared).collect();
        Ok(RunEnd::Complete(
            (!lacks.is_empty()).then(|| lacks.join(". ")),
        ))
    }

    /// Shows the progress to other gateways, and hears whether one of them was told to cancel or to pause.
    async fn share(
        &self,
        id: &str,
        snapshot: String,
        stop: &CancellationToken,
        pause: &CancellationToken,
    ) -> Result<(), StateError> {
        self.documents.put_progress(id, snapshot).await?;
        if self.documents.is_cancelled(id).await? {
            stop.cancel();
        }
        if self.documents.is_paused(id).await? {
            pause.cancel();
        }
        Ok(())
    }

    fn folder(&self, id: &str) -> PathBuf {
        self.settings.directory.join(id)
    }

    /// Writes a request where the next process finds it.
    fn keep(&self, requested: &BatchRequest) -> Result<(), BatchError> {
        let path = self.folder(&requested.id);
        durable::create_directory(&path)
            .and_then(|()| durable::replace(&path.join(REQUEST_FILE), json(requested).as_bytes()))
            .map_err(|source| BatchError::Directory { path, source })
    }

    /// The request that is kept here under this id.
    fn kept(&self, id: &str) -> Option<BatchRequest> {
        kept(&self.folder(id).join(REQUEST_FILE))
    }

    fn remove_folder(&self, id: &str) -> Result<(), BatchError> {
        let path = self.folder(id);
        fs::remove_dir_all(&path).map_err(|source| BatchError::Directory { path, source })
    }

    fn here(&self) -> MutexGuard<'_, HashMap<String, CancellationToken>> {
        self.here.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The request in this file; none where it has none.
fn kept(file: &Path) -> Option<BatchRequest> {
    serde_json::from_slice(&fs::read(file).ok()?).ok()
}
