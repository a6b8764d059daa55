//! A subscription that outlives its connection. In the client, a consumer that the broker cancelled looks like a stream
//! that ends; here the end of a stream means subscribing again, with the prefetch.

use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures::StreamExt;
use lapin::options::{BasicCancelOptions, BasicConsumeOptions, BasicQosOptions};
use lapin::types::{FieldTable, ShortString};
use lapin::{Acker, Channel, message};
use radialog_schemas::queues;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until, timeout};

use super::connection::{Session, SupervisedConnection};
use super::receipt::RabbitReceipt;
use super::{QueueError, properties, refused, topology};
use crate::backoff::Backoff;
use crate::queue::{Consumer, Delivery, Receipt};

const BACKOFF: Backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(10));
/// The time that one attempt waits for a connection or a channel before it says so and tries again.
const SESSION_TIMEOUT: Duration = Duration::from_secs(60);
/// A broker that does not answer a cancellation has lost the connection.
const CANCEL_TIMEOUT: Duration = Duration::from_secs(5);

/// A subscription to one queue, on whatever connection there is.
pub(super) struct RabbitConsumer {
    connection: Arc<SupervisedConnection>,
    queue: ShortString,
    /// 0 while nothing more is wanted.
    prefetch: u16,
    subscription: Option<Subscription>,
    /// A subscription in the making, on a task of its own: [`Consumer::next`] may be dropped at any time, and a
    /// subscription that is dropped half made would keep messages that nobody reads.
    opening: Option<JoinHandle<Result<Subscription, QueueError>>>,
    backoff: Backoff,
    next_attempt: Instant,
}

/// One `basic.consume`, on one channel of one connection.
struct Subscription {
    session: Arc<Session>,
    channel: Channel,
    stream: lapin::Consumer,
    prefetch: u16,
    flow: Flow,
}

/// The state of a subscription.
#[derive(Clone, Copy, PartialEq)]
enum Flow {
    /// The broker sends.
    Running,
    /// We asked it to stop; what it sent before still comes.
    Ending,
    /// Everything it sent has come. The channel stays, because its deliveries are settled on it.
    Ended,
}

impl RabbitConsumer {
    /// Subscribes once, so that a missing queue is an error; from then on [`Consumer::next`] sees to it.
    pub(super) async fn subscribe(
        connection: Arc<SupervisedConnection>,
        queue: ShortString,
        prefetch: u16,
    ) -> Result<Self, QueueError> {
        // On a task of its own: a run that ends at once drops whoever subscribes, and one half made would keep messages that
        // nobody reads.
        let opening = tokio::spawn(open(connection.clone(), queue.clone(), prefetch));
        let opened = opening
            .await
            .unwrap_or_else(|panic| Err(QueueError::Unreachable(panic.to_string())));
        Ok(Self {
            connection,
            queue,
            prefetch,
            subscription: Some(opened?),
            opening: None,
            backoff: BACKOFF,
            next_attempt: Instant::now(),
        })
    }

    /// Returns the next message, or none after a step towards it. Every wait can be cut short without losing a message.
    async fn step(&mut self) -> Option<message::Delivery> {
        if self.is_idle() {
            return pending().await;
        }
        if let Some(opening) = &mut self.opening {
            let opened = opening.await;
            self.opening = None;
            self.adopt(
                opened.unwrap_or_else(|panic| Err(QueueError::Unreachable(panic.to_string()))),
            );
            return None;
        }
        match &mut self.subscription {
            None => {
                sleep_until(self.next_attempt).await;
                self.opening = Some(tokio::spawn(open_again(
                    self.connection.clone(),
                    self.queue.clone(),
                    self.prefetch,
                )));
            }
            Some(Subscription {
                flow: Flow::Ended,
                session,
                channel,
                ..
            }) => {
                let opened = Subscription::open(
                    session.clone(),
                    channel.clone(),
                    self.queue.clone(),
                    self.prefetch,
                );
                self.opening = Some(tokio::spawn(opened));
            }
            Some(Subscription {
                flow: Flow::Running,
                prefetch,
                ..
            }) if *prefetch != self.prefetch => {
                self.apply_prefetch().await;
            }
            Some(subscription) => match subscription.stream.next().await {
                Some(Ok(delivery)) => {
                    self.backoff.reset();
                    return Some(delivery);
                }
                None if subscription.flow == Flow::Ending => subscription.flow = Flow::Ended,
                Some(Err(error)) => self.give_up(&error.to_string()),
                None => self.give_up("the broker ended it"),
            },
        }
        None
    }

    fn is_idle(&self) -> bool {
        let drained = self
            .subscription
            .as_ref()
            .is_none_or(|subscription| subscription.flow == Flow::Ended);
        self.prefetch == 0 && drained && self.opening.is_none()
    }

    fn adopt(&mut self, opened: Result<Subscription, QueueError>) {
        match opened {
            Ok(subscription) => {
                tracing::info!(queue = %self.queue, prefetch = self.prefetch, "subscribed again");
                self.subscription = Some(subscription);
            }
            Err(error) => self.give_up(&error.to_string()),
        }
    }

    /// Drops the subscription, and with it the deliveries that were not settled; the broker gives them out again.
    fn give_up(&mut self, reason: &str) {
        let pause = self.backoff.next();
        let pause_ms = pause.as_millis();
        tracing::warn!(reason, queue = %self.queue, pause_ms, "the subscription broke; subscribing again");
        self.subscription = None;
        self.next_attempt = Instant::now() + pause;
    }

    /// Prefetch binds new subscriptions only, so a changed one takes a new subscription on the same channel.
    async fn apply_prefetch(&mut self) {
        let Some(subscription) = &mut self.subscription else {
            return;
        };
        if subscription.flow == Flow::Running {
            subscription.flow = Flow::Ending;
            let cancel = subscription
                .channel
                .basic_cancel(subscription.stream.tag(), BasicCancelOptions::default());
            let cancelled = timeout(CANCEL_TIMEOUT, cancel)
                .await
                .map_err(|_| "the broker does not answer".to_owned())
                .and_then(|cancelled| cancelled.map_err(|error| error.to_string()));
            if let Err(reason) = cancelled {
                self.give_up(&reason);
            }
        }
    }
}

#[async_trait]
impl Consumer for RabbitConsumer {
    async fn next(&mut self) -> Delivery {
        loop {
            if let Some(delivery) = self.step().await {
                return to_delivery(delivery, RabbitReceipt);
            }
        }
    }

    async fn set_prefetch(&mut self, prefetch: u16) {
        self.prefetch = prefetch;
        self.apply_prefetch().await;
    }
}

impl Subscription {
    async fn open(
        session: Arc<Session>,
        channel: Channel,
        queue: ShortString,
        prefetch: u16,
    ) -> Result<Self, QueueError> {
        channel
            .basic_qos(prefetch, BasicQosOptions::default())
            .await
            .map_err(refused)?;
        // Waited for as long as the connection lives: a subscription that nobody knows of would keep messages.
        let (options, arguments) = (BasicConsumeOptions::default(), FieldTable::default());
        let stream = channel
            .basic_consume(queue, ShortString::default(), options, arguments)
            .await;
        Ok(Self {
            stream: stream.map_err(refused)?,
            session,
            channel,
            prefetch,
            flow: Flow::Running,
        })
    }
}

/// As [`open`], and declares a queue of ours that is gone: it was there when this consumer began.
async fn open_again(
    connection: Arc<SupervisedConnection>,
    queue: ShortString,
    prefetch: u16,
) -> Result<Subscription, QueueError> {
    let opened = open(connection.clone(), queue.clone(), prefetch).await;
    let Some(base) = queues::base(queue.as_str()).filter(|_| is_gone(&opened)) else {
        return opened;
    };
    tracing::warn!(%queue, "the queue is gone; declaring it again");
    let deadline = Instant::now() + SESSION_TIMEOUT;
    let session = connection.session(deadline).await?;
    topology::declare(&session, &[base.to_owned()], deadline).await?;
    open(connection, queue, prefetch).await
}

fn is_gone(opened: &Result<Subscription, QueueError>) -> bool {
    matches!(opened, Err(QueueError::NoQueue(_)))
}

async fn open(
    connection: Arc<SupervisedConnection>,
    queue: ShortString,
    prefetch: u16,
) -> Result<Subscription, QueueError> {
    let deadline = Instant::now() + SESSION_TIMEOUT;
    let session = connection.session(deadline).await?;
    let channel = session.channel(deadline).await?;
    Subscription::open(session, channel, queue, prefetch).await
}

/// Converts the client's delivery into one of our contract.
pub(super) fn to_delivery<R: Receipt + 'static>(
    delivery: message::Delivery,
    receipt: impl FnOnce(Acker) -> R,
) -> Delivery {
    let (message, delivery_count) =
        properties::from_properties(delivery.data, &delivery.properties);
    Delivery {
        message,
        redelivered: delivery.redelivered,
        delivery_count,
        receipt: Box::new(receipt(delivery.acker)),
    }
}
