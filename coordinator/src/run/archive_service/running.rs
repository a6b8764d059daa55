//! A run from its place on to its end: it waits for a place, stands still where it is paused, and shares its progress with other gateways, from which
//! it hears that it is to stop.

use std::path::Path;
use std::pin::pin;
use std::time::Duration;

use radialog_runtime::state::StateError;
use radialog_schemas::{Generation, StageSet, counted};
use tokio::sync::{SemaphorePermit, watch};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::documents::json;
use super::view::{ArchiveRunRequest, ArchiveRunStatus};
use super::{ArchiveRuns, ArchiveRunsError};
use crate::CoordinatorError;
use crate::run::archive_run::{ArchiveRun, RunOptions};
use crate::run::output::{PROBLEMS_FILE, SUMMARY_FILE};
use crate::run::progress::RunProgress;

/// The time after which progress is shared and a cancellation looked for again.
const SHARE_EVERY: Duration = Duration::from_secs(1);

/// The end of a run that did not fail.
enum RunEnd {
    /// Every study has its line. With what the results lack, where they lack something.
    Complete(Option<String>),
    /// It was stopped, and can go on.
    Interrupted,
}

impl ArchiveRuns {
    /// Takes a run to its end, and lets it stand still where it is paused; none where this gateway stops first, or another one
    /// has the run.
    pub(super) async fn run_with_pauses(
        &self,
        requested: &ArchiveRunRequest,
        out: &Path,
        stop: &CancellationToken,
    ) -> Result<Option<(ArchiveRunStatus, Option<String>)>, ArchiveRunsError> {
        let id = &requested.id;
        loop {
            // None where it is stopped or cancelled while it waits, or another gateway's.
            let slot = tokio::select! {
                slot = self.slot(requested) => slot?,
                () = stop.cancelled() => None,
            };
            if slot.is_none() {
                if !self.is_cancelled(id).await? {
                    return Ok(None);
                }
                // Perhaps at another gateway. What it has so far becomes its results.
                stop.cancel();
            }
            let end = match self.run(requested, out, stop).await {
                Ok(RunEnd::Complete(lacks)) => (ArchiveRunStatus::Done, lacks),
                Ok(RunEnd::Interrupted) if self.is_cancelled(id).await? => {
                    (ArchiveRunStatus::Cancelled, None)
                }
                Ok(RunEnd::Interrupted) if stop.is_cancelled() => return Ok(None),
                Ok(RunEnd::Interrupted) => continue,
                // Also where its model or archive is gone by now, or what it has could not be written.
                Err(error) if self.is_cancelled(id).await? => {
                    (ArchiveRunStatus::Cancelled, Some(error.to_string()))
                }
                Err(error) => (ArchiveRunStatus::Failed, Some(error.to_string())),
            };
            return Ok(Some(end));
        }
    }

    /// Waits until the run may go on: it is not paused, or is to end, and few others run. None where it is cancelled before it has
    /// a place, or another gateway has it.
    async fn slot(
        &self,
        requested: &ArchiveRunRequest,
    ) -> Result<Option<SemaphorePermit<'_>>, CoordinatorError> {
        let (id, retry) = (&requested.id, self.retry());
        let stands_still = || async {
            let is_own = self.documents.keep(requested).await?;
            let is_paused = self.documents.is_paused(id).await?;
            Ok::<_, StateError>(is_own && is_paused && !self.documents.is_cancelled(id).await?)
        };
        while retry.until_success(stands_still).await? {
            tokio::time::sleep(SHARE_EVERY).await;
        }
        let is_over_here = || async {
            let is_own = self.documents.keep(requested).await?;
            Ok::<_, StateError>(!is_own || self.documents.is_cancelled(id).await?)
        };
        let mut place = pin!(self.slots.acquire());
        loop {
            tokio::select! {
                biased;
                place = &mut place => return Ok(place.ok()),
                () = tokio::time::sleep(SHARE_EVERY) => {}
            }
            if retry.until_success(is_over_here).await? {
                return Ok(None);
            }
        }
    }

    /// Takes a run on until it ends, is stopped, or is paused.
    async fn run(
        &self,
        requested: &ArchiveRunRequest,
        out: &Path,
        stop: &CancellationToken,
    ) -> Result<RunEnd, CoordinatorError> {
        let ArchiveRunRequest { id, request, .. } = requested;
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
        let hashes = bundle.hashes.clone();
        let options = RunOptions {
            stages,
            generation: Generation {
                max_new_tokens,
                adapter: adapter.cloned(),
                ..Generation::default()
            },
            group: bundle.group.clone(),
            limit: request.limit,
            ..RunOptions::new(archive, out, hashes.bundle, hashes.components)
        };
        let (sender, mut progress) = watch::channel(RunProgress::default());
        let pause = stop.child_token();
        let running = ArchiveRun::new(options, self.backends.clone()).run(pause.clone(), sender);
        let sharing = async {
            loop {
                let snapshot = json(&*progress.borrow_and_update());
                if let Err(error) = self.share(requested, snapshot, stop, &pause).await {
                    warn!(run = id, %error, "progress is not shown to other gateways");
                }
                tokio::time::sleep(SHARE_EVERY).await;
            }
        };
        let summary = tokio::select! {
            summary = running => summary,
            never = sharing => never,
        };
        let snapshot = json(&*progress.borrow());
        if let Err(error) = self.share(requested, snapshot, stop, &pause).await {
            warn!(run = id, %error, "the last progress is not shown to other gateways");
        }
        let summary = summary?;
        if summary.interrupted {
            return Ok(RunEnd::Interrupted);
        }
        if summary.studies == 0 {
            return Err(CoordinatorError::NoStudy { input });
        }
        let unread = (summary.unread_count > 0).then(|| {
            let count = counted(summary.unread_count, "part", "parts");
            format!("{count} of the archive could not be read, or have the id of another study, so that studies may be missing; {PROBLEMS_FILE} names them")
        });
        let not_compared = (summary.not_compared.studies > 0).then(|| {
            let count = counted(summary.not_compared.studies, "study", "studies");
            format!("{count} of before the pause could not be compared with the archive as it is now; {SUMMARY_FILE} names them")
        });
        let lacks: Vec<String> = unread.into_iter().chain(not_compared).collect();
        Ok(RunEnd::Complete(
            (!lacks.is_empty()).then(|| lacks.join(". ")),
        ))
    }

    /// Shows the progress to other gateways, and hears whether one of them was told to cancel or to pause, or has the run itself.
    async fn share(
        &self,
        requested: &ArchiveRunRequest,
        snapshot: String,
        stop: &CancellationToken,
        pause: &CancellationToken,
    ) -> Result<(), StateError> {
        let id = &requested.id;
        if !self.documents.keep(requested).await? {
            stop.cancel();
            return Ok(());
        }
        self.documents.put_progress(id, snapshot).await?;
        if self.documents.is_cancelled(id).await? {
            stop.cancel();
        }
        if self.documents.is_paused(id).await? {
            pause.cancel();
        }
        Ok(())
    }
}
