//! The queue contract. Delivery is at least once: a delivery that is neither acknowledged nor handed back comes again
//! when its consumer goes away, marked as redelivered.

use std::time::SystemTime;

use async_trait::async_trait;
use bytes::Bytes;

pub mod memory;
pub mod rabbitmq;

/// What goes wrong with a queue. All of it may work later.
#[derive(Debug, thiserror::Error)]
pub enum QueueError {
    /// No connection, or it broke.
    #[error(
        "the message broker is unreachable: {0}. Check --amqp, and that RabbitMQ runs and accepts this user"
    )]
    Unreachable(String),
    /// The broker did not confirm a message.
    #[error("the broker did not take a message for queue '{queue}': {reason}")]
    NotConfirmed {
        /// The queue it was for.
        queue: String,
        /// The broker's words.
        reason: String,
    },
    /// The broker refused, e.g. a queue that exists with other arguments.
    #[error("the broker refused: {0}")]
    Refused(String),
}

/// A body with its headers.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Message {
    /// JSON.
    pub body: Bytes,
    /// How often it was tried before.
    pub attempt: u32,
    /// When it was published; the adapter sets it where it is none.
    pub published: Option<SystemTime>,
    /// W3C trace context.
    pub traceparent: Option<String>,
    /// Why it was dead-lettered.
    pub death: Option<Death>,
}

/// Why a message could not be done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Death {
    /// The stable error code.
    pub code: String,
    /// What happened.
    pub reason: String,
    /// The queue that it was taken from.
    pub source: String,
    /// The worker that gave up.
    pub worker: String,
}

/// How a consumer settles one delivery.
#[async_trait]
pub trait Receipt: Send + Sync {
    /// The message is done with.
    async fn ack(self: Box<Self>) -> Result<(), QueueError>;
    /// Somebody else should have it, soon; not a failure.
    async fn requeue(self: Box<Self>) -> Result<(), QueueError>;
}

/// One message given to one consumer.
pub struct Delivery {
    /// The message.
    pub message: Message,
    /// True when an earlier consumer had it and went away or handed it back.
    pub redelivered: bool,
    /// How often that happened, as far as the broker counts it.
    pub delivery_count: u32,
    /// How to settle it.
    pub receipt: Box<dyn Receipt>,
}

/// A subscription to one queue. It survives the loss of its connection: it subscribes again, with its prefetch, and
/// goes on. Dropping it ends the subscription and gives back what was not settled.
#[async_trait]
pub trait Consumer: Send {
    /// The next delivery; waits as long as it takes. Cancel-safe.
    async fn next(&mut self) -> Delivery;

    /// Changes the prefetch from now on; 0 stops new deliveries. What was delivered stays the consumer's to settle.
    async fn set_prefetch(&mut self, prefetch: u16);
}

/// A message broker. One conformance suite, in the tests crate, holds every implementation to this contract.
#[async_trait]
pub trait Queue: Send + Sync + 'static {
    /// Creates every queue of [`radialog_schemas::queues`] that is not there: work, retry steps and dead letters.
    async fn declare(&self) -> Result<(), QueueError>;

    /// Returns when the broker has made the message durable. To a queue that does not exist it is an error.
    async fn publish(&self, queue: &str, message: Message) -> Result<(), QueueError>;

    /// At most `prefetch` deliveries are unsettled at a time.
    async fn consume(&self, queue: &str, prefetch: u16) -> Result<Box<dyn Consumer>, QueueError>;

    /// One message if there is one, e.g. to look at dead letters. Dropping the receipt hands it back.
    async fn take(&self, queue: &str) -> Result<Option<Delivery>, QueueError>;

    /// How many messages wait, without those that a consumer holds.
    async fn depth(&self, queue: &str) -> Result<u64, QueueError>;
}
