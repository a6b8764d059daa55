//! Runs over archives that are asked for over HTTP: that of `radialog batch` over a prefix of an object store, in the gateway that
//! was asked. Every gateway can tell how far one is, cancel it and give its results; a gateway that was stopped goes on
//! with its own when it starts again.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures::future::BoxFuture;
use radialog_files::durable;
use radialog_runtime::backends::Backends;
use radialog_runtime::blocking;
use radialog_runtime::objects::ObjectError;
use radialog_runtime::state::StateError;
use radialog_schemas::ObjectKey;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};
use uuid::Uuid;

use super::retry::{AttemptError, RetryUntilShutdown};
use crate::archive::Archive;
use crate::{CoordinatorError, ServedBundles};

mod documents;
mod error;
mod kept_results;
mod result_files;
mod running;
mod view;

use documents::{ArchiveRunDocuments, json, until_known};
pub use error::ArchiveRunsError;
use kept_results::{
    REQUEST_FILE, has_results, keep_results, kept_request, kept_requests, remove_old,
};
use result_files::PartCounts;
pub use result_files::RESULT_FILES;
use view::{ArchiveRunEnd, ArchiveRunRequest};
pub use view::{ArchiveRunStatus, ArchiveRunView, AskedArchiveRun, NewArchiveRun};

/// Runs at a time in one gateway; the others wait.
const RUNNING: usize = 2;
/// A function that opens the archive at an address that is allowed.
pub type OpenArchive = Arc<
    dyn Fn(String) -> BoxFuture<'static, Result<Arc<dyn Archive>, CoordinatorError>> + Send + Sync,
>;

/// The settings of a gateway that runs over archives.
#[derive(Clone)]
pub struct ArchiveRunsSettings {
    /// The directory in which runs keep what they need to go on.
    pub directory: PathBuf,
    /// Archives must lie under one of these, e.g. `s3://archive/cxr`. None allows no run.
    pub prefixes: Vec<String>,
    /// The function that opens an archive.
    pub open: OpenArchive,
}

/// The runs over archives of one gateway, and what it knows of those of others.
pub struct ArchiveRuns {
    backends: Backends,
    documents: ArchiveRunDocuments,
    bundles: ServedBundles,
    settings: ArchiveRunsSettings,
    shutdown: CancellationToken,
    slots: Semaphore,
    /// Held while a run is begun here, so that its folder has one writer.
    beginning: tokio::sync::Mutex<()>,
    /// How to stop the runs that go on or wait here.
    here: Mutex<HashMap<String, CancellationToken>>,
}

/// How many parts each result file has, or how a run ends whose results are not kept.
type StoredResults = Result<PartCounts, (ArchiveRunStatus, ObjectError)>;

impl ArchiveRuns {
    /// Creates a service without runs; [`ArchiveRuns::resume`] takes up earlier ones.
    pub fn new(
        backends: Backends,
        bundles: ServedBundles,
        settings: ArchiveRunsSettings,
        shutdown: CancellationToken,
    ) -> Arc<Self> {
        Arc::new(Self {
            documents: ArchiveRunDocuments(backends.state.clone()),
            backends,
            bundles,
            settings,
            shutdown,
            slots: Semaphore::new(RUNNING),
            beginning: tokio::sync::Mutex::default(),
            here: Mutex::default(),
        })
    }

    /// Goes on with the runs that were going on here when the process stopped.
    ///
    /// # Errors
    /// When the folder cannot be read, or cannot be written although runs over archives are allowed.
    pub async fn resume(self: &Arc<Self>) -> Result<usize, ArchiveRunsError> {
        let directory = self.settings.directory.clone();
        let are_allowed = !self.settings.prefixes.is_empty();
        let looked_in = directory.clone();
        let looking = blocking::io(move || {
            if are_allowed {
                // Now, and not when the first run comes.
                durable::create_directory(&looked_in)?;
                durable::Replacement::create(&looked_in.join(REQUEST_FILE))?;
            }
            kept_requests(&looked_in)
        });
        let kept = looking
            .await
            .map_err(|source| ArchiveRunsError::Directory {
                path: directory.clone(),
                source,
            })?;
        let count = kept.len();
        for requested in kept {
            self.spawn(requested);
        }
        let shutdown = self.shutdown.clone();
        tokio::spawn(shutdown.run_until_cancelled_owned(remove_old(directory)));
        Ok(count)
    }

    /// Starts a run. The same request with the same `id` gives the same run again, also where both come at once, here or
    /// at several gateways: one of them runs it.
    ///
    /// # Errors
    /// When another request has this id, the archive is not allowed or cannot be read, or a store does not answer.
    pub async fn start(
        self: &Arc<Self>,
        id: &str,
        owner: &str,
        created_ms: u64,
        request: NewArchiveRun,
    ) -> Result<ArchiveRunView, ArchiveRunsError> {
        if let Some(known) = self.documents.request(id).await? {
            return self.repeat(known, owner, &request).await;
        }
        self.check(&request.archive)?;
        (self.settings.open)(request.archive.clone())
            .await
            .map_err(ArchiveRunsError::Archive)?;
        let requested = ArchiveRunRequest {
            id: id.to_owned(),
            attempt: Uuid::new_v4().simple().to_string(),
            owner: owner.to_owned(),
            created_ms,
            request,
        };
        // It is done to its end also where the client has gone away.
        let runs = self.clone();
        tokio::spawn(async move { runs.begin(requested).await })
            .await
            .map_err(|error| StateError(format!("the run was not begun: {error}")))?
    }

    /// Keeps a request and runs it, unless another one has its id.
    async fn begin(
        self: &Arc<Self>,
        requested: ArchiveRunRequest,
    ) -> Result<ArchiveRunView, ArchiveRunsError> {
        // Of the requests that come here; what other gateways do is decided in the shared state.
        let _beginning = self.beginning.lock().await;
        let (owner, request) = (&requested.owner, &requested.request);
        if let Some(known) = self.documents.request(&requested.id).await? {
            return self.repeat(known, owner, request).await;
        }
        let file = self.folder(&requested.id).join(REQUEST_FILE);
        let read_from = file.clone();
        let kept = blocking::io(move || kept_request(&read_from)).await;
        if let Some(kept) = kept.map_err(|reason| ArchiveRunsError::Kept { file, reason })? {
            // It runs here, and the state has lost it.
            let known = self.documents.create_request(&kept).await?;
            return self.repeat(known, owner, request).await;
        }
        // In the folder first: where this process ends now, the next one goes on with it.
        self.keep(&requested).await?;
        let known = self.documents.create_request(&requested).await?;
        if known.attempt != requested.attempt {
            self.remove_folder(&requested.id).await?;
            return self.repeat(known, owner, request).await;
        }
        let view = requested.clone().view(ArchiveRunStatus::Queued, None, None);
        self.spawn(requested);
        Ok(view)
    }

    /// The run that another try has begun, where it is the same one.
    async fn repeat(
        &self,
        known: ArchiveRunRequest,
        owner: &str,
        request: &NewArchiveRun,
    ) -> Result<ArchiveRunView, ArchiveRunsError> {
        if known.owner != owner || known.request != *request {
            return Err(ArchiveRunsError::Mismatch);
        }
        self.view_of(known).await
    }

    /// Looks at a run of this owner.
    ///
    /// # Errors
    /// When the state store does not answer, or what it has of the run cannot be read.
    pub async fn view(
        &self,
        owner: &str,
        id: &str,
    ) -> Result<Option<ArchiveRunView>, ArchiveRunsError> {
        let Some(requested) = self.documents.request(id).await? else {
            return Ok(None);
        };
        if requested.owner != owner {
            return Ok(None);
        }
        self.view_of(requested).await.map(Some)
    }

    async fn view_of(
        &self,
        requested: ArchiveRunRequest,
    ) -> Result<ArchiveRunView, ArchiveRunsError> {
        let progress = self.documents.progress(&requested.id).await?;
        let end = self.documents.end(&requested.id).await?;
        let status = match (&end, &progress) {
            (Some(end), _) => end.status,
            (None, _) if self.documents.is_paused(&requested.id).await? => ArchiveRunStatus::Paused,
            (None, Some(_)) => ArchiveRunStatus::Running,
            (None, None) => ArchiveRunStatus::Queued,
        };
        Ok(requested.view(status, progress, end))
    }

    /// Stops a run wherever it runs; its lines so far become its results. False where there is none.
    ///
    /// # Errors
    /// As [`ArchiveRuns::view`].
    pub async fn cancel(&self, owner: &str, id: &str) -> Result<bool, ArchiveRunsError> {
        if self.view(owner, id).await?.is_none() {
            return Ok(false);
        }
        self.documents.cancel(id).await?;
        if let Some(stop) = self.here().get(id) {
            stop.cancel();
        }
        Ok(true)
    }

    /// Lets a run stand still wherever it runs, or go on, and shows it then. None where there is none.
    ///
    /// # Errors
    /// As [`ArchiveRuns::view`].
    pub async fn pause(
        &self,
        owner: &str,
        id: &str,
        paused: bool,
    ) -> Result<Option<ArchiveRunView>, ArchiveRunsError> {
        match self.view(owner, id).await? {
            Some(known) if known.status.is_open() => {}
            known => return Ok(known),
        }
        self.documents.pause(id, paused).await?;
        self.view(owner, id).await
    }

    /// The parts of a result file; none where the run has not ended or has no such file.
    ///
    /// # Errors
    /// As [`ArchiveRuns::view`].
    pub async fn result_parts(
        &self,
        owner: &str,
        id: &str,
        file: &str,
    ) -> Result<Option<Vec<ObjectKey>>, ArchiveRunsError> {
        if self.view(owner, id).await?.is_none() {
            return Ok(None);
        }
        let Some(end) = self.documents.end(id).await? else {
            return Ok(None);
        };
        let key = |part| ObjectKey::archive_run_part(id, file, part);
        let mut written = end.parts.written();
        let parts = written.find(|(name, _)| *name == file);
        Ok(parts.map(|(_, parts)| (0..parts).map(key).collect()))
    }

    fn check(&self, archive: &str) -> Result<(), ArchiveRunsError> {
        let prefixes = &self.settings.prefixes;
        let climbs = archive.split('/').any(|part| part == ".." || part == ".");
        let is_under = |prefix: &String| {
            let prefix = prefix.trim_end_matches('/');
            archive
                .strip_prefix(prefix)
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        };
        if climbs || !prefixes.iter().any(is_under) {
            return Err(ArchiveRunsError::NotAllowed {
                archive: archive.to_owned(),
                prefixes: prefixes.clone(),
            });
        }
        Ok(())
    }

    fn spawn(self: &Arc<Self>, requested: ArchiveRunRequest) {
        let runs = self.clone();
        let stop = self.shutdown.child_token();
        match self.here().entry(requested.id.clone()) {
            // The same request twice at a time: one of them runs.
            Entry::Occupied(_) => return,
            Entry::Vacant(place) => place.insert(stop.clone()),
        };
        tokio::spawn(async move {
            let id = requested.id.clone();
            match runs.run_to_end(requested, &stop).await {
                Ok(()) | Err(ArchiveRunsError::Stopped(CoordinatorError::Stopped)) => {}
                Err(error) => {
                    warn!(run = id, %error, "a run stands still; it goes on when this gateway starts again");
                }
            }
            runs.here().remove(&id);
        });
    }

    /// Takes a run to its end. A state or an object store that does not answer is waited for; a document that cannot be read
    /// is not, since it stays so.
    async fn run_to_end(
        &self,
        requested: ArchiveRunRequest,
        stop: &CancellationToken,
    ) -> Result<(), ArchiveRunsError> {
        let id = &requested.id;
        let (retry, documents) = (self.retry(), &self.documents);
        // An earlier process may have ended before it was decided whose the run is.
        let known = until_known(&retry, || documents.create_request(&requested)).await?;
        if known.attempt != requested.attempt {
            return self.leave_to_another(id).await;
        }
        let mut end = until_known(&retry, || documents.end(id)).await?;
        if end.is_none() {
            let folder = self.folder(id).join("out");
            let ran = self.run_with_pauses(&requested, &folder, stop).await?;
            // The state had lost it meanwhile, and was asked for it at another gateway: the results have one writer.
            if !self.is_own(&requested).await? {
                return self.leave_to_another(id).await;
            }
            let Some((status, error)) = ran else {
                return Ok(());
            };
            let store = || self.try_store(&requested, &folder);
            let Some(stored) = retry.until_settled(store).await? else {
                return self.leave_to_another(id).await;
            };
            let ended = match stored {
                Ok(parts) => ArchiveRunEnd {
                    status,
                    error,
                    parts,
                },
                Err((status, lost)) => {
                    let lost = format!(
                        "its results are not in the store: {lost}. They stay for 30 days with the gateway that ran it; ask its operator"
                    );
                    let errors: Vec<String> = error.into_iter().chain([lost]).collect();
                    ArchiveRunEnd {
                        status,
                        error: Some(errors.join(". ")),
                        parts: PartCounts::default(),
                    }
                }
            };
            let ended = until_known(&retry, || documents.create_end(id, &ended));
            let ended = end.insert(ended.await?);
            info!(run = id, status = ?ended.status, error = ended.error, "a run has ended");
        }
        let folder = self.folder(id);
        let is_stored = end.is_none_or(|end| end.parts.written().next().is_some());
        let left_in = folder.clone();
        let are_kept = blocking::io(move || {
            if is_stored || !has_results(&left_in) {
                return fs::remove_dir_all(&left_in).map(|()| false);
            }
            keep_results(&left_in).map(|()| true)
        });
        let are_kept = are_kept.await;
        let failed = |path| |source| ArchiveRunsError::Directory { path, source };
        if are_kept.map_err(failed(folder.clone()))? {
            warn!(
                run = id,
                folder = %folder.display(),
                "the results of a run are there and nowhere else; fetch them within 30 days, and remove the folder then"
            );
        }
        Ok(())
    }

    /// Stores the result files of a run; an end without them where the store refuses them for good, or where the run is
    /// cancelled while they find no room. A store that does not answer is waited for, whatever becomes of the run. None where
    /// another gateway has begun it meanwhile: before each attempt, and behind the last one, which may take long.
    async fn try_store(
        &self,
        requested: &ArchiveRunRequest,
        folder: &Path,
    ) -> Result<Option<StoredResults>, AttemptError<ObjectError, ArchiveRunsError>> {
        let id = &requested.id;
        let is_own = self.is_own(requested).await;
        if !is_own.map_err(|error| AttemptError::Fatal(error.into()))? {
            return Ok(None);
        }
        let stored = match result_files::store(&*self.backends.objects, id, folder).await {
            Ok(parts) => Ok(parts),
            Err(ArchiveRunsError::Objects(error)) => {
                let is_refused = matches!(error, ObjectError::Refused { .. });
                let is_full = matches!(error, ObjectError::Full(_));
                let is_cancelled = self.is_cancelled(id).await;
                match is_cancelled.map_err(|error| AttemptError::Fatal(error.into()))? {
                    true if is_full || is_refused => Err((ArchiveRunStatus::Cancelled, error)),
                    false if is_refused => Err((ArchiveRunStatus::Failed, error)),
                    _ => return Err(AttemptError::Unavailable(error)),
                }
            }
            Err(error) => return Err(AttemptError::Fatal(error)),
        };
        let is_own = self.is_own(requested).await;
        let is_own = is_own.map_err(|error| AttemptError::Fatal(error.into()))?;
        Ok(is_own.then_some(stored))
    }

    /// Waits for what does not answer, until this gateway stops.
    fn retry(&self) -> RetryUntilShutdown {
        RetryUntilShutdown::new(self.shutdown.clone())
    }

    /// Whether no other gateway has begun the run since. It is known for as long again then.
    async fn is_own(&self, requested: &ArchiveRunRequest) -> Result<bool, CoordinatorError> {
        let keep = || self.documents.keep(requested);
        self.retry().until_success(keep).await
    }

    async fn is_cancelled(&self, id: &str) -> Result<bool, CoordinatorError> {
        let is_cancelled = || self.documents.is_cancelled(id);
        self.retry().until_success(is_cancelled).await
    }

    fn folder(&self, id: &str) -> PathBuf {
        self.settings.directory.join(id)
    }

    /// Writes a request where the next process finds it.
    async fn keep(&self, requested: &ArchiveRunRequest) -> Result<(), ArchiveRunsError> {
        let (path, content) = (self.folder(&requested.id), json(requested));
        let folder = path.clone();
        let keeping = blocking::io(move || {
            durable::create_directory(&folder)?;
            durable::replace(&folder.join(REQUEST_FILE), content.as_bytes())
        });
        let failed = |source| ArchiveRunsError::Directory { path, source };
        keeping.await.map_err(failed)
    }

    /// Leaves a run to the gateway that has begun it.
    async fn leave_to_another(&self, id: &str) -> Result<(), ArchiveRunsError> {
        info!(run = id, "another gateway has begun this run");
        self.remove_folder(id).await
    }

    async fn remove_folder(&self, id: &str) -> Result<(), ArchiveRunsError> {
        let path = self.folder(id);
        let folder = path.clone();
        let removing = blocking::io(move || fs::remove_dir_all(folder));
        let failed = |source| ArchiveRunsError::Directory { path, source };
        removing.await.map_err(failed)
    }

    fn here(&self) -> MutexGuard<'_, HashMap<String, CancellationToken>> {
        self.here.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
