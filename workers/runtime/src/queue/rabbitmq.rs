//! The queue on RabbitMQ 3.10 and newer. Retry, attempt counting and dead-lettering are ours, not the broker's, because
//! brokers of different versions disagree about them; the broker's own limits stand behind as a backstop.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use lapin::ErrorKind;
use lapin::options::{BasicGetOptions, QueueDeclareOptions};
use lapin::protocol::{AMQPErrorKind, AMQPSoftError};
use lapin::types::{FieldTable, ShortString};
use radialog_schemas::{QueueGroup, queues};
use secrecy::ExposeSecret;
use tokio::time::Instant;

use super::{Consumer, Delivery, Message, Queue, QueueError};
use crate::config::AmqpConfig;
use crate::start::{StartError, until_started};
use connection::{ALARM, SupervisedConnection};
use consumer::RabbitConsumer;
use receipt::TakenReceipt;

mod confirms;
mod connection;
mod consumer;
mod properties;
mod publisher;
mod receipt;
mod topology;

/// A queue that somebody uses, or that has messages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UsedQueue {
    /// Its name.
    pub name: String,
    /// Messages that wait in it.
    pub messages: u32,
    /// Those who take from it.
    pub consumers: u32,
}

/// What came of deleting queues that nobody should use any more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum QueueDeletion {
    /// They are deleted, with so many messages that came in just then.
    Deleted(u64),
    /// None is: these are used.
    Used(Vec<UsedQueue>),
}

/// A connection to a broker that is replaced whenever it breaks.
pub struct RabbitQueue {
    connection: Arc<SupervisedConnection>,
    publish_timeout: Duration,
    start_timeout: Duration,
}

impl RabbitQueue {
    /// Connects as `name`, which the broker shows to its operators, and keeps trying for `start_timeout`.
    ///
    /// # Errors
    /// Where no connection was made in that time, with the last reason; at once where the broker refuses the user or the
    /// virtual host.
    pub async fn connect(
        config: &AmqpConfig,
        name: &str,
        start_timeout: Duration,
    ) -> Result<Self, QueueError> {
        let connection =
            SupervisedConnection::start(config.url.expose_secret(), config.heartbeat, name)?;
        connection
            .first_session(Instant::now() + start_timeout)
            .await?;
        Ok(Self {
            connection: Arc::new(connection),
            publish_timeout: config.publish_timeout,
            start_timeout,
        })
    }

    /// Deletes all queues of this system, whatever is in them or taken from them. For those who had the virtual host to
    /// themselves, when they leave it.
    ///
    /// # Errors
    /// When the broker does not answer, or refuses.
    pub async fn delete_queues(&self) -> Result<(), QueueError> {
        let names: Vec<String> = queues::all().map(str::to_owned).collect();
        let deadline = self.deadline();
        topology::delete(&*self.connection.session(deadline).await?, &names, deadline).await
    }

    /// Deletes queues that are there, unless one of them has messages or consumers. A broker compares and deletes in one step only
    /// queues of another kind: what comes in between goes with its queue, and is counted.
    ///
    /// # Errors
    /// When a queue is not there, or the broker does not answer, or refuses.
    pub async fn delete_unused(&self, names: &[String]) -> Result<QueueDeletion, QueueError> {
        let mut used = Vec::new();
        for name in names {
            let seen = self.look_at(name).await?;
            let (messages, consumers) = (seen.message_count(), seen.consumer_count());
            if messages > 0 || consumers > 0 {
                used.push(UsedQueue {
                    name: name.clone(),
                    messages,
                    consumers,
                });
            }
        }
        if !used.is_empty() {
            return Ok(QueueDeletion::Used(used));
        }
        let mut messages = 0;
        for name in names {
            let deadline = self.deadline();
            let session = self.connection.session(deadline).await?;
            messages += topology::delete_one(&session, name, deadline).await?;
        }
        Ok(QueueDeletion::Deleted(messages))
    }

    /// Counts the consumers of all queues of no group: roles that run.
    ///
    /// # Errors
    /// When a queue is not there, or the broker does not answer.
    pub async fn consumers(&self) -> Result<u64, QueueError> {
        let mut consumers = 0;
        for queue in queues::all() {
            consumers += u64::from(self.look_at(queue).await?.consumer_count());
        }
        Ok(consumers)
    }

    /// What the broker says of a queue.
    async fn look_at(&self, queue: &str) -> Result<lapin::Queue, QueueError> {
        let deadline = self.deadline();
        let session = self.connection.session(deadline).await?;
        let channel = session.channel(deadline).await?;
        let passive = QueueDeclareOptions::durable().passive();
        let declared = channel.queue_declare(name(queue)?, passive, FieldTable::default());
        session.answered(deadline, declared).await
    }

    /// Why the broker has not answered until now.
    fn no_answer(&self) -> QueueError {
        match self.connection.is_blocked() {
            true => QueueError::Alarm(ALARM),
            false => QueueError::Unreachable("it does not answer".to_owned()),
        }
    }

    /// When a question that is asked now has no answer: what holds for a publish holds for others.
    fn deadline(&self) -> Instant {
        Instant::now() + self.publish_timeout
    }

    /// Tries again until the start timeout, as [`Queue::consume`] does: a broker that restarts takes a connection and resets
    /// it while the queues are being declared.
    async fn declare_all(&self, names: &[String]) -> Result<(), QueueError> {
        let declare = || async {
            let deadline = self.deadline();
            let session = self.connection.session(deadline).await;
            let session = session.map_err(StartError::Later)?;
            topology::declare(&session, names, deadline)
                .await
                .map_err(start_error)
        };
        until_started(
            "declaring the queues",
            self.start_timeout,
            || self.no_answer(),
            declare,
        )
        .await
    }
}

#[async_trait]
impl Queue for RabbitQueue {
    async fn declare(&self) -> Result<(), QueueError> {
        let names: Vec<String> = queues::all().map(str::to_owned).collect();
        self.declare_all(&names).await
    }

    async fn declare_group(&self, group: &QueueGroup) -> Result<(), QueueError> {
        let names: Vec<String> = queues::of_group(Some(group)).collect();
        self.declare_all(&names).await
    }

    async fn publish(&self, queue: &str, message: Message) -> Result<(), QueueError> {
        publisher::publish(&self.connection, &name(queue)?, message, self.deadline()).await
    }

    async fn consume(&self, queue: &str, prefetch: u16) -> Result<Box<dyn Consumer>, QueueError> {
        let name = name(queue)?;
        let subscribe = || async {
            RabbitConsumer::subscribe(self.connection.clone(), name.clone(), prefetch)
                .await
                .map_err(start_error)
        };
        let what = format!("subscribing to '{queue}'");
        let consumer =
            until_started(&what, self.start_timeout, || self.no_answer(), subscribe).await?;
        Ok(Box::new(consumer))
    }

    async fn take(&self, queue: &str) -> Result<Option<Delivery>, QueueError> {
        let deadline = self.deadline();
        let session = self.connection.session(deadline).await?;
        let (channel, name) = (session.taking(deadline).await?, name(queue)?);
        // On a task of its own: a message that comes when nobody waits any more is dropped there, and so requeued.
        let taking = tokio::spawn(async move {
            let taken = channel.basic_get(name, BasicGetOptions::default()).await?;
            Ok(taken.map(|taken| consumer::to_delivery(taken.delivery, TakenReceipt)))
        });
        let taken = async { taking.await.unwrap_or(Ok(None)) };
        session.answered(deadline, taken).await
    }

    async fn depth(&self, queue: &str) -> Result<u64, QueueError> {
        Ok(u64::from(self.look_at(queue).await?.message_count()))
    }
}

fn name(queue: &str) -> Result<ShortString, QueueError> {
    ShortString::try_new(queue)
        .map_err(|error| QueueError::Refused(format!("the queue name '{queue}': {error}")))
}

/// Whether a start may go on when it tries again: not where the broker has refused.
fn start_error(error: QueueError) -> StartError<QueueError> {
    match error {
        QueueError::Refused(_) | QueueError::NoQueue(_) => StartError::Never(error),
        QueueError::Unreachable(_) | QueueError::Alarm(_) | QueueError::NotConfirmed { .. } => {
            StartError::Later(error)
        }
    }
}

/// The broker's refusal of one request, or the loss of the connection in the middle of it. A broker that stops closes the
/// connection with an error of its own, which is a loss.
fn refused(error: lapin::Error) -> QueueError {
    let not_found = AMQPErrorKind::Soft(AMQPSoftError::NOTFOUND);
    if matches!(error.kind(), ErrorKind::ProtocolError(error) if *error.kind() == not_found) {
        QueueError::NoQueue(error.to_string())
    } else if error.is_amqp_soft_error() {
        QueueError::Refused(error.to_string())
    } else {
        unreachable(error)
    }
}

fn unreachable(error: lapin::Error) -> QueueError {
    QueueError::Unreachable(error.to_string())
}
