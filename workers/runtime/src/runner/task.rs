//! One delivery from arrival to settlement.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::FutureExt;
use prometheus::IntGauge;
use radialog_schemas::{ContentHash, ErrorCode, Failure, ObjectKey, StageTimings, Task};
use tokio_util::sync::CancellationToken;
use tracing::Instrument;

use super::RunError;
use super::held::Held;
use super::message::{self, NotATask};
use super::model::Model;
use super::pace::Pace;
use super::patience::{GivenUp, Patience};
use super::settle::Verdict;
use super::single::SingleFlight;
use crate::metrics::StageMetrics;
use crate::objects::{ObjectError, Objects};
use crate::queue::{Delivery, Queue};
use crate::stage::{StageOutput, StageWork};

/// What all deliveries of a worker share.
pub(super) struct Worker<W: StageWork> {
    pub(super) work: Arc<W>,
    pub(super) model: Model<W::Input>,
    pub(super) queue: Arc<dyn Queue>,
    pub(super) objects: Arc<dyn Objects>,
    pub(super) metrics: Arc<StageMetrics>,
    pub(super) pace: Pace,
    pub(super) patience: Patience,
    pub(super) single: SingleFlight<ObjectKey>,
    /// Held while a suspect runs.
    pub(super) suspects: tokio::sync::Mutex<()>,
    /// Set when the worker stops: what is not in the model goes back.
    pub(super) stopping: CancellationToken,
    pub(super) name: String,
    /// The queue of the worker's tasks.
    pub(super) source: &'static str,
}

/// Why a task has no output.
pub(super) enum Setback {
    Failure(Failure),
    HandBack(&'static str),
    StoreFull(ObjectError),
}

impl From<GivenUp> for Setback {
    fn from(given_up: GivenUp) -> Self {
        match given_up {
            GivenUp::Failure(failure) => Setback::Failure(failure),
            GivenUp::StoreAway => Setback::HandBack("the object store is away"),
        }
    }
}

impl<W: StageWork> Worker<W> {
    /// Does the delivered task, if it is one, and settles the delivery.
    pub(super) async fn handle(self: Arc<Self>, delivery: Delivery) -> Result<(), RunError> {
        let _in_flight = InFlight::enter(&self.metrics.in_flight);
        let mut held = Held::new(delivery, self.source);
        let parsed = message::parse(&held.message.body, self.work.stage());
        let (run, study) = match &parsed {
            Ok(task) => (Some(&task.run), Some(&task.study)),
            Err(not) => (
                not.study.as_ref().map(|ids| &ids.0),
                not.study.as_ref().map(|ids| &ids.1),
            ),
        };
        let span = tracing::info_span!(
            "task",
            stage = %self.work.stage(),
            run = run.map(tracing::field::display),
            study = study.map(tracing::field::display),
            attempt = held.message.attempt,
            trace = format_args!("{:032x}", held.trace.trace),
        );
        async {
            let waited = held.waited();
            self.metrics.queue_wait.observe(waited.as_secs_f64());
            let (attempt, queue_ms) = (held.message.attempt, milliseconds(waited));
            let mut timings = StageTimings {
                attempt,
                queue_ms,
                worker: self.name.clone(),
                ..Default::default()
            };
            let mut outcome = Ok(());
            let verdict = match parsed {
                Err(NotATask { failure, study }) => Verdict::Failed { failure, study },
                Ok(task) => match self.perform(&task, &mut held, &mut timings).await {
                    Ok(()) => Verdict::Done(task),
                    Err(Setback::Failure(failure)) => Verdict::Failed {
                        failure,
                        study: Some((task.run, task.study)),
                    },
                    Err(Setback::HandBack(reason)) => Verdict::HandBack(reason),
                    Err(Setback::StoreFull(error)) => {
                        outcome = Err(RunError::StoreFull(error.to_string()));
                        Verdict::HandBack("the object store is full")
                    }
                },
            };
            self.settle(held, verdict, timings).await;
            outcome
        }
        .instrument(span)
        .await
    }

    /// Sees to it that the task's output is in the store.
    async fn perform(
        &self,
        task: &Task,
        held: &mut Held,
        timings: &mut StageTimings,
    ) -> Result<(), Setback> {
        self.check_component(&task.component)
            .map_err(Setback::Failure)?;
        let _flight = self
            .unless_stopping(self.single.enter(&task.output))
            .await?;
        let stored = self
            .patience
            .wait(|| async { Ok(self.objects.has_output(&task.output).await?) });
        if self.unless_stopping(stored).await?? {
            timings.reused = true;
            self.metrics.reused.inc();
            return Ok(());
        }
        let _turn = self.suspect_turn(held).await?;
        let output = self.compute(task, held.redelivered, timings).await?;
        self.pace.record(output.model_time);
        timings.model_ms = milliseconds(output.model_time);
        timings.batch = output.batch;
        self.metrics
            .model_time
            .observe(output.model_time.as_secs_f64());
        self.metrics.batch.observe(f64::from(output.batch));
        self.metrics.tokens.inc_by(u64::from(output.tokens));

        let started = Instant::now();
        let stored = self.patience.wait(|| async {
            match self.objects.put(&task.output, output.content.clone()).await {
                Err(full @ ObjectError::Full(_)) => Ok(Err(full)),
                other => other.map(Ok).map_err(Failure::from),
            }
        });
        stored.await?.map_err(Setback::StoreFull)?;
        timings.store_ms = milliseconds(started.elapsed());
        self.metrics.store.observe(started.elapsed().as_secs_f64());
        self.metrics.computed.inc();
        Ok(())
    }

    /// Fetches and runs the model. What was in the model when it panicked runs again alone; who panics alone did it.
    async fn compute(
        &self,
        task: &Task,
        redelivered: bool,
        timings: &mut StageTimings,
    ) -> Result<StageOutput, Setback> {
        let mut alone = redelivered;
        loop {
            let started = Instant::now();
            let input = self
                .unless_stopping(self.patience.wait(|| self.fetch(task)))
                .await??;
            timings.fetch_ms = milliseconds(started.elapsed());
            self.metrics.fetch.observe(started.elapsed().as_secs_f64());
            match self.model.ask(input, alone, false).await {
                Ok(answer) => return answer.map_err(Setback::Failure),
                Err(_) => alone = self.alone_after_silence(alone)?,
            }
        }
    }

    /// The model did not answer because it panicked, or was closed: whether to ask again, with the item alone.
    pub(super) fn alone_after_silence(&self, alone: bool) -> Result<bool, Setback> {
        if self.stopping.is_cancelled() {
            return Err(Setback::HandBack("the worker stops"));
        }
        if alone {
            let message = "the model panicked on this task alone; see the worker's log";
            return Err(Setback::Failure(Failure::new(ErrorCode::Crash, message)));
        }
        Ok(true)
    }

    /// Whether this worker holds what the task was made for.
    pub(super) fn check_component(&self, wanted: &ContentHash) -> Result<(), Failure> {
        let component = self.work.component();
        if wanted == component {
            return Ok(());
        }
        let message = format!(
            "the task is for bundle component {}, this worker has {}; start workers with the run's bundle",
            wanted.short(),
            component.short()
        );
        Err(Failure::new(ErrorCode::BundleMismatch, message))
    }

    async fn fetch(&self, task: &Task) -> Result<W::Input, Failure> {
        let fetch = AssertUnwindSafe(self.work.fetch(task, self.objects.as_ref())).catch_unwind();
        fetch.await.unwrap_or_else(|_| {
            Err(Failure::new(
                ErrorCode::Crash,
                "decoding the inputs panicked; see the log",
            ))
        })
    }

    /// The outcome of `work`, unless the worker is asked to stop before.
    pub(super) async fn unless_stopping<T>(
        &self,
        work: impl Future<Output = T>,
    ) -> Result<T, Setback> {
        tokio::select! {
            biased;
            () = self.stopping.cancelled() => Err(Setback::HandBack("the worker stops")),
            done = work => Ok(done),
        }
    }

    /// Reads the depth of the queue for the metrics.
    pub(super) async fn observe(self: Arc<Self>) {
        match self.queue.depth(self.source).await {
            Ok(depth) => self.metrics.waiting(depth, self.pace.service_time()),
            Err(error) => tracing::debug!(%error, "the depth of the queue is unknown"),
        }
    }
}

/// Counts a task as in flight for as long as it lives, also where its future is dropped.
pub(super) struct InFlight<'a>(&'a IntGauge);

impl<'a> InFlight<'a> {
    pub(super) fn enter(gauge: &'a IntGauge) -> Self {
        gauge.inc();
        Self(gauge)
    }
}

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        self.0.dec();
    }
}

fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}
