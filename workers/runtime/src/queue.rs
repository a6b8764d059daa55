//! The queue contract. Delivery is at least once: a delivery that is neither acknowledged nor requeued comes again
//! when its consumer goes away, marked as redelivered.

use std::time::SystemTime;

use async_trait::async_trait;
use bytes::Bytes;
use radialog_schemas::{ErrorCode, QueueGroup};

pub mod memory;
pub mod rabbitmq;

/// What goes wrong with a queue. All of it is transient.
#[derive(Debug, thiserror::Error)]
pub enum QueueError {
    /// There is no connection, or it broke.
    #[error(
        "the message broker is unreachable: {0}. Check --amqp (RADIALOG_AMQP_URL), and that RabbitMQ runs and accepts \
         this user"
    )]
    Unreachable(String),
    /// The broker has an alarm: on a connection that has published it reads nothing, and so answers nothing, until it is over.
    #[error("the message broker does not answer: {0}")]
    Alarm(&'static str),
    /// The broker did not confirm a message.
    #[error("the broker did not take a message for queue '{queue}': {reason}")]
    NotConfirmed {
        /// The queue it was for.
        queue: String,
        /// The broker's words.
        reason: String,
    },
    /// There is no such queue.
    #[error("the broker has no such queue: {0}")]
    NoQueue(String),
    /// The broker refused, e.g. a queue that exists with other arguments.
    #[error("the broker refused: {0}")]
    Refused(String),
}

/// A message: a body with its headers.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Message {
    /// The task, turn or result in JSON.
    pub body: Bytes,
    /// The number of attempts before this one; our own count, not the broker's.
    pub attempt: u32,
    /// How often, since the last attempt, it was passed on to wait for a worker of another release or bundle.
    pub passed_on: u32,
    /// The time at which it was published; the adapter sets it where it is none.
    pub published: Option<SystemTime>,
    /// The W3C trace context.
    pub traceparent: Option<String>,
    /// The reason why it was dead-lettered; none for every other message.
    pub death: Option<Death>,
}

impl Message {
    /// How often it came back before because of such a failure, which [`ErrorCode::retries`] limits.
    pub fn tries(&self, code: ErrorCode) -> usize {
        let tries = match code.is_for_another_worker() {
            true => self.passed_on,
            false => self.attempt,
        };
        tries as usize
    }

    /// The same message for its next try after such a failure. One that waits for another worker keeps its attempts for that one;
    /// after an attempt it may wait anew, since its worker is there.
    pub fn next_try(&self, code: ErrorCode) -> Self {
        let (attempt, passed_on) = match code.is_for_another_worker() {
            true => (self.attempt, self.passed_on.saturating_add(1)),
            false => (self.attempt.saturating_add(1), 0),
        };
        Self {
            body: self.body.clone(),
            attempt,
            passed_on,
            traceparent: self.traceparent.clone(),
            ..Self::default()
        }
    }
}

/// The reason why a message was dead-lettered.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Death {
    /// The stable error code.
    pub code: String,
    /// What happened, for people.
    pub reason: String,
    /// The queue that it was taken from.
    pub source: String,
    /// The worker that gave up.
    pub worker: String,
}

/// The right to settle one delivery, once.
#[async_trait]
pub trait Receipt: Send + Sync {
    /// Acknowledges the message: it is done with, and the broker forgets it.
    async fn ack(self: Box<Self>) -> Result<(), QueueError>;
    /// Requeues the message: somebody else should have it, soon. That is not a failure, and no attempt is counted.
    async fn requeue(self: Box<Self>) -> Result<(), QueueError>;
}

/// A message that was given to one consumer and is not settled yet.
pub struct Delivery {
    /// What was delivered.
    pub message: Message,
    /// True when an earlier consumer had it and went away or requeued it.
    pub redelivered: bool,
    /// The number of times that this happened, as far as the broker counts it (`x-delivery-count`).
    pub delivery_count: u32,
    /// Settles it.
    pub receipt: Box<dyn Receipt>,
}

/// A subscription to one queue. It survives the loss of its connection: it subscribes again, with its prefetch, and
/// goes on. Dropping it ends the subscription and requeues what was not settled.
#[async_trait]
pub trait Consumer: Send {
    /// Waits for the next delivery, as long as it takes. Cancel-safe.
    async fn next(&mut self) -> Delivery;

    /// Changes the prefetch from now on; 0 stops new deliveries. What was delivered stays the consumer's to settle.
    async fn set_prefetch(&mut self, prefetch: u16);
}

/// A message broker. One conformance suite, in the tests crate, holds every implementation to this contract.
#[async_trait]
pub trait Queue: Send + Sync + 'static {
    /// Creates every queue of [`radialog_schemas::queues`] that is not there: work, retry steps and dead letters.
    async fn declare(&self) -> Result<(), QueueError>;

    /// Creates every queue of this group that is not there, likewise. Results have no group.
    async fn declare_group(&self, group: &QueueGroup) -> Result<(), QueueError>;

    /// Publishes a message, and returns when the broker has confirmed that it is durable. A queue that does not exist is an
    /// error.
    async fn publish(&self, queue: &str, message: Message) -> Result<(), QueueError>;

    /// Subscribes to a queue that is there; while the broker does not answer, tries again until the start timeout. At most `prefetch` deliveries are in flight, delivered and not settled, at a time.
    async fn consume(&self, queue: &str, prefetch: u16) -> Result<Box<dyn Consumer>, QueueError>;

    /// Takes one message if there is one, without a subscription, e.g. to look at dead letters. Dropping the receipt
    /// requeues it.
    async fn take(&self, queue: &str) -> Result<Option<Delivery>, QueueError>;

    /// Counts the messages that wait, without those in flight. A broker that does not answer is an error in time.
    async fn depth(&self, queue: &str) -> Result<u64, QueueError>;
}
