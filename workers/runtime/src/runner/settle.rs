//! The end of every delivery: what is published, and then how the delivery is settled. Whatever must not be lost is
//! published and confirmed before the acknowledgement.

use std::time::Duration;

use radialog_schemas::queues::{self, RETRY_DELAYS};
use radialog_schemas::{
    ErrorClass, ErrorCode, Failure, Outcome, RunId, SCHEMA_VERSION, StageResult, StageTimings,
    StudyId, Task,
};

use super::held::Held;
use super::task::Worker;
use crate::queue::{Death, Message, QueueError};
use crate::stage::StageWork;

const REFUSAL_PAUSE: Duration = Duration::from_secs(1);

/// What came of a delivery.
pub(super) enum Verdict {
    /// The task's output is in the store.
    Done(Task),
    /// It could not be done.
    Failed {
        failure: Failure,
        /// Whose study it was, where that is known.
        study: Option<(RunId, StudyId)>,
    },
    /// Somebody else should do it.
    HandBack(&'static str),
}

impl<W: StageWork> Worker<W> {
    /// Publishes what follows from the verdict, then settles. A broker that does not take the messages gets the
    /// delivery back: it comes again, and finds the output stored.
    pub(super) async fn settle(&self, held: Held, verdict: Verdict, timings: StageTimings) {
        let published = self.publish_verdict(&held, verdict, timings).await;
        self.conclude(held, published).await;
    }

    /// Acknowledges a delivery that is done with, and hands back every other.
    pub(super) async fn conclude(&self, mut held: Held, published: Result<bool, QueueError>) {
        let done = match published {
            Ok(done) => done,
            Err(error) => {
                tracing::warn!(%error, "the outcome could not be published; handing the task back");
                // A refusal comes at once; without a pause the task would go in circles.
                let _ = self
                    .unless_stopping(tokio::time::sleep(REFUSAL_PAUSE))
                    .await;
                false
            }
        };
        let Some(receipt) = held.receipt.take() else {
            return;
        };
        let settled = if done {
            receipt.ack().await
        } else {
            receipt.requeue().await
        };
        if let Err(error) = settled {
            tracing::debug!(%error, "the delivery went with its connection; the broker delivers it again");
        }
    }

    /// True where the delivery is done with.
    async fn publish_verdict(
        &self,
        held: &Held,
        verdict: Verdict,
        timings: StageTimings,
    ) -> Result<bool, QueueError> {
        match verdict {
            Verdict::Done(task) => {
                let outcome = Outcome::Done {
                    output: task.output,
                };
                self.publish_result(held, (task.run, task.study), outcome, timings)
                    .await?;
            }
            Verdict::HandBack(reason) => {
                tracing::debug!(reason, "handing the task back");
                return Ok(false);
            }
            Verdict::Failed { failure, study } => {
                self.metrics.failure(failure.code);
                let retry = held.message.attempt as usize;
                match failure.class() {
                    ErrorClass::Transient if held.is_insured() => {
                        tracing::warn!(%failure, "the suspect failed; its next attempt is queued already");
                    }
                    ErrorClass::Transient if retry < RETRY_DELAYS.len() => {
                        tracing::warn!(%failure, delay_s = RETRY_DELAYS[retry].as_secs(), "the task failed; trying again");
                        self.metrics.retries.inc();
                        self.queue
                            .publish(&queues::retry(held.source, retry), held.again())
                            .await?;
                    }
                    ErrorClass::Permanent if lies_in_the_study(failure.code) => {
                        tracing::info!(%failure, "the study cannot be done");
                        self.publish_failure(held, study, failure, timings).await?;
                    }
                    ErrorClass::Transient | ErrorClass::Permanent => {
                        tracing::error!(%failure, "the task is given up and dead-lettered");
                        self.publish_dead_letter(held, &failure).await?;
                        self.publish_failure(held, study, failure, timings).await?;
                    }
                    ErrorClass::Cancelled => {
                        tracing::debug!(%failure, "nobody wants the task any more")
                    }
                }
            }
        }
        Ok(true)
    }

    async fn publish_failure(
        &self,
        held: &Held,
        study: Option<(RunId, StudyId)>,
        failure: Failure,
        timings: StageTimings,
    ) -> Result<(), QueueError> {
        match study {
            Some(study) => {
                self.publish_result(held, study, Outcome::Failed(failure), timings)
                    .await
            }
            None => Ok(()),
        }
    }

    async fn publish_result(
        &self,
        held: &Held,
        (run, study): (RunId, StudyId),
        outcome: Outcome,
        timings: StageTimings,
    ) -> Result<(), QueueError> {
        let stage = self.work.stage();
        let result = StageResult {
            schema_version: SCHEMA_VERSION,
            run,
            study,
            stage,
            outcome,
            timings,
        };
        let body = serde_json::to_vec(&result).expect("a result is plain data with text keys");
        let traceparent = Some(held.trace.child().to_string());
        let message = Message {
            body: body.into(),
            traceparent,
            ..Message::default()
        };
        self.queue.publish(queues::RESULTS, message).await
    }

    pub(super) async fn publish_dead_letter(
        &self,
        held: &Held,
        failure: &Failure,
    ) -> Result<(), QueueError> {
        self.metrics.dead_letter(failure.code);
        let death = Death {
            code: failure.code.as_str(),
            reason: failure.message.clone(),
            source: held.source.to_owned(),
            worker: self.name.clone(),
        };
        let message = Message {
            published: None,
            death: Some(death),
            ..held.message.clone()
        };
        self.queue
            .publish(&queues::dead(held.source), message)
            .await
    }
}

/// Whether the failure is all there is to say: the study's own input is at fault, and no operator could repair it by
/// sending the task again.
fn lies_in_the_study(code: ErrorCode) -> bool {
    !matches!(
        code,
        ErrorCode::MessageInvalid
            | ErrorCode::SchemaVersion
            | ErrorCode::ObjectMissing
            | ErrorCode::ObjectCorrupt
    )
}
