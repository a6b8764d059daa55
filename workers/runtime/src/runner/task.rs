//! One task, from its delivery to its output in the store.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::FutureExt;
use radialog_schemas::{ErrorCode, Failure, StageTimings, Task};
use tracing::Instrument;

use super::delivery::{GaugeGuard, InFlightDelivery};
use super::error::{RunError, TaskError};
use super::message::{self, InvalidMessage};
use super::model::Reply;
use super::poison;
use super::settle::{self, TaskOutcome};
use super::worker::Worker;
use crate::objects::ObjectError;
use crate::queue::Delivery;
use crate::stage::{StageOutput, StageWork};

/// What came of storing an output.
enum Stored {
    Done,
    /// There is no room for it, and none for any other.
    StoreFull(ObjectError),
}

/// Does the delivered task, if it is one, and settles the delivery.
pub(super) async fn handle<W: StageWork>(
    worker: Arc<Worker<W>>,
    delivery: Delivery,
) -> Result<(), RunError> {
    let _counted = GaugeGuard::enter(&worker.metrics.in_flight);
    let mut delivery = InFlightDelivery::new(delivery, &worker.source);
    let parsed = message::parse(&delivery.message.body, worker.work.stage());
    let (run, study) = match &parsed {
        Ok(task) => (Some(&task.run), Some(&task.study)),
        Err(invalid) => (
            invalid.subject.as_ref().map(|subject| &subject.run),
            invalid.subject.as_ref().map(|subject| &subject.study),
        ),
    };
    let span = tracing::info_span!(
        "task",
        stage = %worker.work.stage(),
        run = run.map(tracing::field::display),
        study = study.map(tracing::field::display),
        attempt = delivery.message.attempt,
        trace = format_args!("{:032x}", delivery.trace.trace),
    );
    async {
        let waited = delivery.waited();
        worker.metrics.queue_wait.observe(waited.as_secs_f64());
        let mut timings = StageTimings {
            attempt: delivery.message.attempt,
            queue_ms: milliseconds(waited),
            worker: worker.name.clone(),
            ..Default::default()
        };
        let mut end = Ok(());
        let outcome = match parsed {
            Err(InvalidMessage { failure, subject }) => TaskOutcome::Failed {
                failure,
                subject,
                is_of_conversation: false,
            },
            Ok(task) => match perform(&worker, &task, &mut delivery, &mut timings).await {
                Ok(()) => TaskOutcome::Done(task),
                Err(TaskError::Failed(failure)) => TaskOutcome::Failed {
                    failure,
                    is_of_conversation: task.output.conversation().is_some(),
                    subject: Some(task.into()),
                },
                Err(TaskError::Requeue(reason)) => TaskOutcome::Requeue(reason),
                Err(TaskError::HandBack) => TaskOutcome::HandBack,
                Err(TaskError::StoreFull(error))
                    if worker.survives_full_store || task.output.conversation().is_some() =>
                {
                    tracing::error!(%error, "an output is lost");
                    TaskOutcome::Failed {
                        failure: error.into(),
                        is_of_conversation: task.output.conversation().is_some(),
                        subject: Some(task.into()),
                    }
                }
                Err(TaskError::StoreFull(error)) => {
                    end = Err(RunError::StoreFull(error.to_string()));
                    TaskOutcome::Requeue("the object store is full")
                }
            },
        };
        settle::publish_and_settle(&worker, delivery, outcome, timings).await;
        end
    }
    .instrument(span)
    .await
}

/// Sees to it that the task's output is in the store.
async fn perform<W: StageWork>(
    worker: &Worker<W>,
    task: &Task,
    delivery: &mut InFlightDelivery,
    timings: &mut StageTimings,
) -> Result<(), TaskError> {
    worker
        .check_component(&task.component)
        .and_then(|()| worker.check_revision(task.revision))
        .map_err(TaskError::Failed)?;
    let _flight = worker
        .unless_stopping(worker.outputs.enter(&task.output))
        .await?;
    let has_output = || async { Ok(worker.objects.has_whole_output(&task.output).await?) };
    if worker.retry_unless_stopping(has_output).await? {
        timings.reused = true;
        worker.metrics.reused.inc();
        return Ok(());
    }
    let _isolated = poison::isolate(worker, delivery).await?;
    let output = compute(worker, task, delivery, timings).await?;
    worker.service_time.record(output.model_time);
    timings.model_ms = milliseconds(output.model_time);
    timings.batch = output.batch;
    worker.count_model_run(&output);

    let started = Instant::now();
    // Not cut short by a stop: the model's work is done, and only waits to be kept.
    let stored = worker.writing.run(|| async {
        match worker
            .objects
            .put_output(&task.output, output.content.clone())
            .await
        {
            Ok(()) => Ok(Stored::Done),
            Err(full @ ObjectError::Full(_)) => Ok(Stored::StoreFull(full)),
            Err(other) => Err(Failure::from(other)),
        }
    });
    if let Stored::StoreFull(error) = stored.await? {
        return Err(TaskError::StoreFull(error));
    }
    timings.store_ms = milliseconds(started.elapsed());
    worker
        .metrics
        .store
        .observe(started.elapsed().as_secs_f64());
    worker.metrics.computed.inc();
    Ok(())
}

/// Fetches and runs the model. What was in the model when it panicked runs again alone; who panics alone did it. While batch work
/// is paused, what the model has not begun with is handed back.
async fn compute<W: StageWork>(
    worker: &Worker<W>,
    task: &Task,
    delivery: &InFlightDelivery,
    timings: &mut StageTimings,
) -> Result<StageOutput, TaskError> {
    let mut alone = delivery.redelivered;
    // One whose next attempt is queued has nothing to hand back.
    let may_go_back = !delivery.is_retry_queued();
    loop {
        let started = Instant::now();
        let input = tokio::select! {
            biased;
            input = worker.retry_unless_stopping(|| fetch(worker, task)) => input?,
            () = worker.batch_paused(), if may_go_back => return Err(TaskError::HandBack),
        };
        timings.fetch_ms = milliseconds(started.elapsed());
        worker
            .metrics
            .fetch
            .observe(started.elapsed().as_secs_f64());
        let mut pending = worker.model.ask(input, alone, false);
        let reply = tokio::select! {
            biased;
            reply = &mut pending => reply,
            () = worker.batch_paused(), if may_go_back => match pending.withdraw() {
                true => return Err(TaskError::HandBack),
                false => pending.await,
            },
        };
        match reply {
            Reply::Answer(answer) => return answer.map_err(TaskError::Failed),
            Reply::Silence => worker.may_retry_alone(alone)?,
        }
        alone = true;
    }
}

async fn fetch<W: StageWork>(worker: &Worker<W>, task: &Task) -> Result<W::Input, Failure> {
    let fetch = AssertUnwindSafe(worker.work.fetch(task, worker.objects.as_ref())).catch_unwind();
    fetch.await.unwrap_or_else(|_| {
        Err(Failure::new(
            ErrorCode::Crash,
            "decoding the inputs panicked; see the log",
        ))
    })
}

fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}
