//! The owner of a run: keeps a bounded window of studies in flight, writes what comes back, and notices what got lost.
//! Three things go on at a time: the intake reads the archive and begins studies, the result consumer moves them on,
//! and the dispatcher's own loop collects finished lines, which lets the window advance.

use std::convert::Infallible;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use radialog_runtime::state::{Fact, StateError};
use radialog_schemas::{RunSpec, StudySpec};
use tokio::sync::{Notify, Semaphore, watch};
use tracing::warn;

use super::executor::{Executor, StudyStep};
use super::given::ArchiveOutputs;
use super::pipeline::{StudyEvent, StudyFacts, next_commands};
use super::progress::{RateMeter, RunProgress, StageCounts};
use super::retry::AttemptError;
use super::run_state::{PROGRESS_DOCUMENT, announce_again, announce_run, study_fact};
use crate::CoordinatorError;
use crate::archive::Archive;

use ledger::RunLedger;

mod intake;
pub(crate) mod ledger;

/// Finished lines collected in one round trip.
const COLLECT_LIMIT: usize = 64;
/// The time that a line finished by another coordinator may lie.
const POLL_EVERY: Duration = Duration::from_millis(100);
const SWEEP_EVERY: Duration = Duration::from_secs(1);
const REPORT_EVERY: Duration = Duration::from_millis(250);

/// What bounds a run.
#[derive(Clone, Debug)]
pub(crate) struct RunLimits {
    /// Studies of the archive, from its start.
    pub(crate) studies: Option<u64>,
    /// Bytes of an image file.
    pub(crate) image: u64,
    /// The time without any line after which tasks are taken for lost and published again; doubled each time in vain,
    /// since a model may be that slow. A task that runs twice finds its output stored.
    pub(crate) stall: Duration,
}

/// The owner of one run in this process.
pub(crate) struct Dispatcher {
    pub(crate) executor: Executor,
    pub(crate) archive: Arc<dyn Archive>,
    /// Files that stand in for image stages.
    pub(crate) given: Option<ArchiveOutputs>,
    pub(crate) spec: Arc<RunSpec>,
    pub(crate) limits: RunLimits,
    pub(crate) window: Arc<Semaphore>,
    /// Notified when lines are there to be collected.
    pub(crate) wake: Arc<Notify>,
    pub(crate) ledger: Mutex<RunLedger>,
}

impl Dispatcher {
    pub(crate) fn ledger(&self) -> MutexGuard<'_, RunLedger> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Collects lines and looks after studies in flight until the intake has ended and all of them have their line.
    pub(crate) async fn follow(
        &self,
        progress: &watch::Sender<RunProgress>,
    ) -> Result<(), CoordinatorError> {
        let mut swept = Instant::now();
        let mut stall = self.limits.stall;
        loop {
            if self.collect().await? > 0 {
                stall = self.limits.stall;
            }
            if self.ledger().is_complete() {
                let state = &self.executor.backends.state;
                let end = || state.end_run(&self.spec.run);
                return self.executor.retry.until_success(end).await;
            }
            if swept.elapsed() >= SWEEP_EVERY {
                if self.ledger().idle() > stall {
                    stall *= 2;
                    self.republish().await?;
                }
                self.sweep(progress).await?;
                swept = Instant::now();
            }
            tokio::select! {
                () = self.executor.retry.shutdown().cancelled() => return Err(CoordinatorError::Stopped),
                () = self.wake.notified() => {}
                () = tokio::time::sleep(POLL_EVERY) => {}
            }
        }
    }

    /// Moves all finished lines into the journal; returns how many there were.
    async fn collect(&self) -> Result<usize, CoordinatorError> {
        let mut collected = 0;
        loop {
            // Reading again is part of every attempt: a discard whose answer was lost must not be repeated blindly.
            let count: usize = self
                .executor
                .retry
                .until_settled(|| self.collect_once())
                .await?;
            collected += count;
            if count < COLLECT_LIMIT {
                return Ok(collected);
            }
        }
    }

    /// Collects after a stop, without waiting for a state that does not answer: what stays there waits for the next run.
    pub(crate) async fn collect_last(&self) -> Result<(), CoordinatorError> {
        loop {
            match self.collect_once().await {
                Ok(COLLECT_LIMIT) => {}
                Ok(_) | Err(AttemptError::Unavailable(_)) => return Ok(()),
                Err(AttemptError::Fatal(error)) => return Err(error),
            }
        }
    }

    /// Moves up to [`COLLECT_LIMIT`] finished lines into the journal; returns how many there were.
    async fn collect_once(&self) -> Result<usize, AttemptError<StateError, CoordinatorError>> {
        let (state, run) = (&self.executor.backends.state, &self.spec.run);
        let lines = state
            .finished(run, COLLECT_LIMIT)
            .await
            .map_err(AttemptError::Unavailable)?;
        if lines.is_empty() {
            return Ok(0);
        }
        self.ledger().take_in(&lines).map_err(AttemptError::Fatal)?;
        state
            .discard_finished(run, lines.len())
            .await
            .map_err(AttemptError::Unavailable)?;
        Ok(lines.len())
    }

    /// Counts how far the studies in flight are, and begins again those that the state has lost.
    async fn sweep(&self, progress: &watch::Sender<RunProgress>) -> Result<(), CoordinatorError> {
        let studies = self.ledger().in_flight();
        let known = self.facts(&studies).await?;
        let mut lost = Vec::new();
        {
            let mut ledger = self.ledger();
            for (spec, facts) in studies.into_iter().zip(known) {
                match facts {
                    Some(facts) => {
                        let mut counts = StageCounts::default();
                        counts.add_facts(&facts);
                        ledger.set_counts(&spec.study, counts);
                    }
                    None => lost.push(spec),
                }
            }
        }
        if !lost.is_empty() {
            self.collect().await?;
            lost.retain(|spec| self.ledger().is_in_flight(&spec.study));
        }
        if !lost.is_empty() {
            warn!(
                studies = lost.len(),
                "the state store has lost studies; they begin again"
            );
            self.announce().await?;
            self.dispatch(&lost).await?;
        }
        // A state that has lost the run, and none of its studies since none was begun, has it again: without it no result counts.
        let state = &self.executor.backends.state;
        self.executor
            .retry
            .until_success(|| announce_again(&**state, &self.spec))
            .await?;
        self.executor
            .retry
            .until_success(|| self.publish_progress(progress))
            .await
    }

    /// Publishes whatever the studies in flight wait for once more.
    async fn republish(&self) -> Result<(), CoordinatorError> {
        let studies = self.ledger().in_flight();
        warn!(
            studies = studies.len(),
            "no study has finished for a long time; tasks are published again"
        );
        self.dispatch(&studies).await
    }

    /// Tells all coordinators what the run is.
    pub(crate) async fn announce(&self) -> Result<(), CoordinatorError> {
        let state = &self.executor.backends.state;
        self.executor
            .retry
            .until_success(|| announce_run(&**state, &self.spec))
            .await
    }

    /// Begins studies, or takes them up where an earlier process left them.
    async fn dispatch(&self, studies: &[StudySpec]) -> Result<(), CoordinatorError> {
        let facts = self.study_facts(studies);
        let state = &self.executor.backends.state;
        self.executor
            .retry
            .until_success(|| state.begin(&facts))
            .await?;
        let step = |facts: StudyFacts| {
            let commands = next_commands(&self.spec, &facts, StudyEvent::Begun);
            StudyStep {
                run: self.spec.clone(),
                facts,
                commands,
            }
        };
        let steps: Vec<StudyStep> = self
            .facts(studies)
            .await?
            .into_iter()
            .flatten()
            .map(step)
            .collect();
        self.executor.execute(&steps).await
    }

    /// What is known about studies: recording a fact that is there tells and changes nothing.
    async fn facts(
        &self,
        studies: &[StudySpec],
    ) -> Result<Vec<Option<StudyFacts>>, CoordinatorError> {
        let facts = self.study_facts(studies);
        let state = &self.executor.backends.state;
        let known = self
            .executor
            .retry
            .until_success(|| state.record(&facts))
            .await?;
        Ok(known
            .into_iter()
            .map(|facts| StudyFacts::parse(&facts?).ok())
            .collect())
    }

    fn study_facts(&self, studies: &[StudySpec]) -> Vec<Fact> {
        studies
            .iter()
            .map(|spec| study_fact(&self.spec.run, spec))
            .collect()
    }

    /// Counts the archive, so that the time left can be told.
    pub(crate) async fn count_archive(&self) -> Result<(), CoordinatorError> {
        let count = self.archive.count().await?;
        self.ledger()
            .expect_total(self.limits.studies.map_or(count, |limit| limit.min(count)));
        Ok(())
    }

    /// Sends snapshots, for ever.
    pub(crate) async fn report(
        &self,
        meter: &mut RateMeter,
        progress: &watch::Sender<RunProgress>,
    ) -> Infallible {
        loop {
            progress.send_replace(self.snapshot(meter));
            tokio::time::sleep(REPORT_EVERY).await;
        }
    }

    /// Says how far the run is.
    pub(crate) fn snapshot(&self, meter: &mut RateMeter) -> RunProgress {
        RunProgress {
            paused: self.executor.retry.last_error(),
            ..self.ledger().snapshot(meter)
        }
    }

    /// Shows a snapshot to other processes.
    pub(crate) async fn publish_progress(
        &self,
        progress: &watch::Sender<RunProgress>,
    ) -> Result<(), StateError> {
        let snapshot =
            serde_json::to_string(&*progress.borrow()).expect("a snapshot has string keys only");
        self.executor
            .backends
            .state
            .put_document(&self.spec.run, PROGRESS_DOCUMENT, snapshot)
            .await
    }
}
