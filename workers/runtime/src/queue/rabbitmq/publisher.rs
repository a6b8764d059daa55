//! Confirmed publishing. Many messages are in flight on one channel, each waited for by its own task; a confirm that a
//! broken connection took with it means publishing again, because a duplicate does no harm and a loss does.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use lapin::options::BasicPublishOptions;
use lapin::types::ShortString;
use lapin::{BasicProperties, Confirmation, Error};
use radialog_schemas::queues;
use tokio::time::{Instant, sleep, timeout_at};

use super::connection::{Session, SupervisedConnection};
use super::{properties, topology};
use crate::queue::{Message, QueueError};

/// A broker that refuses a message, e.g. because a quorum queue elects its leader, is asked again after this.
const REFUSAL_PAUSE: Duration = Duration::from_millis(200);

/// What came of publishing a message once.
enum PublishOutcome {
    /// The broker has confirmed that the message is durable.
    Confirmed,
    /// There is no such queue.
    NoRoute,
    /// The broker does not take it, for now.
    Refused,
    /// The message may be there or not.
    Unknown,
    /// The connection broke; the message may be there or not.
    Broken(Error),
    /// There was no answer until the deadline.
    TimedOut,
}

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
            .publish_once(queue, &message.body, properties, deadline)
            .await
        {
            PublishOutcome::Confirmed => return Ok(()),
            // Somebody has deleted it.
            PublishOutcome::NoRoute
                if !is_declared && let Some(base) = queues::base(queue.as_str()) =>
            {
                tracing::warn!(%queue, "the queue is gone; declaring it again");
                topology::declare(&session, &[base.to_owned()]).await?;
                is_declared = true;
            }
            PublishOutcome::NoRoute => {
                return not_confirmed("there is no such queue; start a coordinator to declare it");
            }
            PublishOutcome::Unknown => {}
            PublishOutcome::Refused if Instant::now() + REFUSAL_PAUSE < deadline => {
                sleep(REFUSAL_PAUSE).await
            }
            PublishOutcome::Refused => return not_confirmed("the queue refuses messages"),
            PublishOutcome::Broken(error) => {
                tracing::debug!(%error, "a publish broke off; publishing again");
                session.report_broken();
            }
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
        body: &[u8],
        properties: BasicProperties,
        deadline: Instant,
    ) -> PublishOutcome {
        match timeout_at(deadline, self.publish(queue, body, properties)).await {
            Ok(confirmed) => confirmed.unwrap_or_else(PublishOutcome::Broken),
            Err(_) => PublishOutcome::TimedOut,
        }
    }

    async fn publish(
        &self,
        queue: &ShortString,
        body: &[u8],
        properties: BasicProperties,
    ) -> Result<PublishOutcome, Error> {
        let id = properties.message_id().clone();
        let mandatory = BasicPublishOptions {
            mandatory: true,
            ..BasicPublishOptions::default()
        };
        let exchange = ShortString::default();
        let mut sending = pin!(self.publishing.basic_publish(
            exchange,
            queue.clone(),
            mandatory,
            body,
            properties
        ));
        // The client numbers a message in one step and queues it in the next. Two threads in between would swap two
        // confirms, so the first poll, which does both, is never run by two at a time.
        let confirm = poll_fn(|context| {
            let _in_order = self.order.lock().unwrap_or_else(PoisonError::into_inner);
            sending.as_mut().poll(context)
        });
        Ok(match confirm.await?.await? {
            Confirmation::Ack(None) => PublishOutcome::Confirmed,
            // The client gives a returned message to the next confirm of the channel, which may be another message's.
            Confirmation::Ack(Some(returned)) | Confirmation::Nack(Some(returned)) => {
                if returned.properties.message_id() == &id {
                    PublishOutcome::NoRoute
                } else {
                    PublishOutcome::Unknown
                }
            }
            Confirmation::Nack(None) => PublishOutcome::Refused,
            Confirmation::NotRequested => PublishOutcome::Unknown,
        })
    }
}

/// Unique in this process, which is as far as a returned message travels.
fn next_id() -> String {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    NEXT.fetch_add(1, Ordering::Relaxed).to_string()
}
