//! Confirmed publishing: what comes of a message, and what is done then. A confirm that a broken connection took with it means
//! publishing again, because a duplicate does no harm and a loss does.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use lapin::BasicProperties;
use lapin::types::ShortString;
use radialog_schemas::queues;
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep, timeout_at};

use super::confirms::{PublishOutcome, PublishRequest};
use super::connection::{ALARM, Session, SupervisedConnection};
use super::{properties, topology};
use crate::queue::{Message, QueueError};

/// A broker that refuses a message, e.g. because a quorum queue elects its leader, is asked again after this.
const REFUSAL_PAUSE: Duration = Duration::from_millis(200);

/// Publishes until the broker confirms, on new connections where need be, until `deadline`.
pub(super) async fn publish(
    connection: &SupervisedConnection,
    queue: &ShortString,
    message: Message,
    deadline: Instant,
) -> Result<(), QueueError> {
    let not_confirmed = |reason: &str| {
        Err(QueueError::NotConfirmed {
            queue: queue.to_string(),
            reason: reason.to_owned(),
        })
    };
    let mut is_declared = false;
    loop {
        let session = connection.session(deadline).await?;
        let properties = properties::to_properties(&message, &next_id());
        match session
            .publish_once(queue, message.body.clone(), properties, deadline)
            .await
        {
            PublishOutcome::Confirmed => return Ok(()),
            // Somebody has deleted it.
            PublishOutcome::NoRoute
                if !is_declared && let Some(base) = queues::base(queue.as_str()) =>
            {
                tracing::warn!(%queue, "the queue is gone; declaring it again");
                topology::declare(&session, &[base.to_owned()], deadline).await?;
                is_declared = true;
            }
            PublishOutcome::NoRoute => {
                return Err(QueueError::NoQueue(format!(
                    "'{queue}'; start a coordinator to declare it"
                )));
            }
            PublishOutcome::Unknown => {}
            PublishOutcome::Refused if Instant::now() + REFUSAL_PAUSE < deadline => {
                sleep(REFUSAL_PAUSE).await
            }
            PublishOutcome::Refused => return not_confirmed("the queue refuses messages"),
            PublishOutcome::Broken(error) => {
                tracing::debug!(?error, "a publish broke off; publishing again");
                session.report_broken();
            }
            PublishOutcome::TimedOut if session.is_blocked() => return not_confirmed(ALARM),
            PublishOutcome::TimedOut => {
                return not_confirmed(
                    "no answer in time; the broker may be short of memory or disk",
                );
            }
        }
    }
}

impl Session {
    async fn publish_once(
        &self,
        queue: &ShortString,
        body: Bytes,
        properties: BasicProperties,
        deadline: Instant,
    ) -> PublishOutcome {
        let (answer, outcome) = oneshot::channel();
        let request = PublishRequest {
            queue: queue.clone(),
            body,
            properties,
            answer,
        };
        // Where nobody takes it, nobody answers.
        drop(self.publishing.send(request));
        match timeout_at(deadline, outcome).await {
            Ok(outcome) => outcome.unwrap_or(PublishOutcome::Broken(None)),
            Err(_) => PublishOutcome::TimedOut,
        }
    }
}

/// Unique in this process, which is as far as a returned message travels.
fn next_id() -> String {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    NEXT.fetch_add(1, Ordering::Relaxed).to_string()
}
