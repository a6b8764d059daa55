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
use tokio::time::{Instant, sleep, timeout_at};

use super::link::{Link, Session};
use super::properties;
use crate::queue::{Message, QueueError};

/// A broker that refuses a message, e.g. because a quorum queue elects its leader, is asked again after this.
const REFUSAL_PAUSE: Duration = Duration::from_millis(200);

/// What the broker made of one publish.
enum Answer {
    /// Durable.
    Confirmed,
    /// There is no such queue.
    NoRoute,
    /// Not taken, for now.
    Refused,
    /// Unknown: the message may be there or not.
    Unknown,
}

/// Publishes until the broker confirms, on new connections where need be, until `deadline`.
pub(super) async fn publish(
    link: &Link,
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
    loop {
        let session = link.session(deadline).await?;
        let properties = properties::of(&message, &next_id());
        match timeout_at(deadline, session.publish(queue, &message.body, properties)).await {
            Ok(Ok(Answer::Confirmed)) => return Ok(()),
            Ok(Ok(Answer::NoRoute)) => {
                return not_confirmed("there is no such queue; start a coordinator to declare it");
            }
            Ok(Ok(Answer::Unknown)) => {}
            Ok(Ok(Answer::Refused)) if Instant::now() + REFUSAL_PAUSE < deadline => {
                sleep(REFUSAL_PAUSE).await
            }
            Ok(Ok(Answer::Refused)) => return not_confirmed("the queue refuses messages"),
            Ok(Err(error)) => {
                tracing::debug!(%error, "a publish broke off; publishing again");
                session.report_broken();
            }
            Err(_) => {
                return not_confirmed(
                    "no answer in time; the broker may be short of memory or disk",
                );
            }
        }
    }
}

impl Session {
    async fn publish(
        &self,
        queue: &ShortString,
        body: &[u8],
        properties: BasicProperties,
    ) -> Result<Answer, Error> {
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
            Confirmation::Ack(None) => Answer::Confirmed,
            // The client gives a returned message to the next confirm of the channel, which may be another message's.
            Confirmation::Ack(Some(returned)) | Confirmation::Nack(Some(returned)) => {
                if returned.properties.message_id() == &id {
                    Answer::NoRoute
                } else {
                    Answer::Unknown
                }
            }
            Confirmation::Nack(None) => Answer::Refused,
            Confirmation::NotRequested => Answer::Unknown,
        })
    }
}

/// Unique in this process, which is as far as a returned message travels.
fn next_id() -> String {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    NEXT.fetch_add(1, Ordering::Relaxed).to_string()
}
