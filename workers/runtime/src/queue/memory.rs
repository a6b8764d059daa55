//! The queue of the embedded mode: same contract, same topology, no broker. It redelivers like one, so that the tests of
//! everything above it mean something.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicU16, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, Weak};
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use radialog_schemas::QueueGroup;
use radialog_schemas::queues::{self, RETRY_DELAYS};
use tokio::sync::Notify;

use super::{Consumer, Delivery, Message, Queue, QueueError, Receipt};

/// Queues in this process's memory; what is in them is lost with it.
#[derive(Default)]
pub struct MemoryQueue {
    queues: RwLock<BTreeMap<String, Arc<OneQueue>>>,
}

impl MemoryQueue {
    fn line(&self, queue: &str) -> Result<Arc<OneQueue>, QueueError> {
        let lines = self.queues.read().unwrap_or_else(PoisonError::into_inner);
        lines
            .get(queue)
            .cloned()
            .ok_or_else(|| QueueError::NoQueue(queue.to_owned()))
    }

    /// Creates a queue with its retry steps and dead letters, unless it is there.
    fn create(&self, name: &str) {
        let mut lines = self.queues.write().unwrap_or_else(PoisonError::into_inner);
        let work = lines.entry(name.to_owned()).or_default().clone();
        lines.entry(queues::dead(name)).or_default();
        for (step, delay) in RETRY_DELAYS.into_iter().enumerate() {
            let line = || {
                Arc::new(OneQueue {
                    expires: Some((delay, work.clone())),
                    ..OneQueue::default()
                })
            };
            lines.entry(queues::retry(name, step)).or_insert_with(line);
        }
    }
}

#[async_trait]
impl Queue for MemoryQueue {
    async fn declare(&self) -> Result<(), QueueError> {
        queues::all().for_each(|name| self.create(name));
        Ok(())
    }

    async fn declare_group(&self, group: &QueueGroup) -> Result<(), QueueError> {
        queues::of_group(Some(group)).for_each(|name| self.create(&name));
        Ok(())
    }

    async fn publish(&self, queue: &str, mut message: Message) -> Result<(), QueueError> {
        message.published.get_or_insert_with(SystemTime::now);
        let line = self.line(queue)?;
        line.ready().push_back(WaitingMessage {
            message,
            delivery_count: 0,
        });
        line.changed.notify_waiters();
        if let Some((delay, work)) = &line.expires {
            // All messages of a retry queue wait equally long, so the timer that rings first belongs to the oldest.
            let (delay, work, line) = (*delay, Arc::downgrade(work), Arc::downgrade(&line));
            tokio::spawn(async move {
                tokio::time::sleep(delay).await;
                expire_oldest(&line, &work);
            });
        }
        Ok(())
    }

    async fn consume(&self, queue: &str, prefetch: u16) -> Result<Box<dyn Consumer>, QueueError> {
        Ok(Box::new(MemoryConsumer(Arc::new(Subscription::new(
            self.line(queue)?,
            prefetch,
        )))))
    }

    async fn take(&self, queue: &str) -> Result<Option<Delivery>, QueueError> {
        let subscription = Arc::new(Subscription::new(self.line(queue)?, 1));
        let own = Some(subscription.clone());
        Ok(subscription.take(own))
    }

    async fn depth(&self, queue: &str) -> Result<u64, QueueError> {
        Ok(self.line(queue)?.ready().len() as u64)
    }
}

/// One named queue.
#[derive(Default)]
struct OneQueue {
    ready: Mutex<VecDeque<WaitingMessage>>,
    changed: Notify,
    /// A retry queue: where its messages go, and after how long.
    expires: Option<(Duration, Arc<OneQueue>)>,
}

struct WaitingMessage {
    message: Message,
    delivery_count: u32,
}

impl OneQueue {
    fn ready(&self) -> MutexGuard<'_, VecDeque<WaitingMessage>> {
        self.ready.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn requeue(&self, stored: WaitingMessage) {
        self.ready().push_front(WaitingMessage {
            delivery_count: stored.delivery_count + 1,
            ..stored
        });
        self.changed.notify_waiters();
    }
}

fn expire_oldest(line: &Weak<OneQueue>, work: &Weak<OneQueue>) {
    if let (Some(line), Some(work)) = (line.upgrade(), work.upgrade()) {
        let expired = line.ready().pop_front();
        work.ready().extend(expired);
        work.changed.notify_waiters();
    }
}

/// One consumer with its deliveries in flight; those that it did not settle are requeued when it is dropped.
struct Subscription {
    queue: Arc<OneQueue>,
    prefetch: AtomicU16,
    in_flight: Mutex<BTreeMap<u64, WaitingMessage>>,
    next_tag: AtomicU64,
    settled: Notify,
}

impl Subscription {
    fn new(queue: Arc<OneQueue>, prefetch: u16) -> Self {
        let (in_flight, next_tag, settled) = Default::default();
        Self {
            queue,
            prefetch: AtomicU16::new(prefetch),
            in_flight,
            next_tag,
            settled,
        }
    }

    fn in_flight(&self) -> MutexGuard<'_, BTreeMap<u64, WaitingMessage>> {
        self.in_flight
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// The oldest message, if there is one and the prefetch allows it. `own` keeps the subscription alive with the receipt.
    fn take(self: &Arc<Self>, own: Option<Arc<Self>>) -> Option<Delivery> {
        let mut in_flight = self.in_flight();
        if in_flight.len() >= usize::from(self.prefetch.load(Ordering::Relaxed)) {
            return None;
        }
        let stored = self.queue.ready().pop_front()?;
        let tag = self.next_tag.fetch_add(1, Ordering::Relaxed);
        let (message, delivery_count) = (stored.message.clone(), stored.delivery_count);
        in_flight.insert(tag, stored);
        let receipt = MemoryReceipt {
            subscription: Arc::downgrade(self),
            tag,
            _own: own,
        };
        Some(Delivery {
            message,
            redelivered: delivery_count > 0,
            delivery_count,
            receipt: Box::new(receipt),
        })
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        let in_flight = std::mem::take(&mut *self.in_flight());
        in_flight
            .into_values()
            .rev()
            .for_each(|stored| self.queue.requeue(stored));
    }
}

struct MemoryConsumer(Arc<Subscription>);

#[async_trait]
impl Consumer for MemoryConsumer {
    async fn next(&mut self) -> Delivery {
        loop {
            let (mut arrived, mut settled) = (
                std::pin::pin!(self.0.queue.changed.notified()),
                std::pin::pin!(self.0.settled.notified()),
            );
            arrived.as_mut().enable();
            settled.as_mut().enable();
            if let Some(delivery) = self.0.take(None) {
                return delivery;
            }
            tokio::select! { () = arrived => {}, () = settled => {} }
        }
    }

    async fn set_prefetch(&mut self, prefetch: u16) {
        self.0.prefetch.store(prefetch, Ordering::Relaxed);
    }
}

struct MemoryReceipt {
    subscription: Weak<Subscription>,
    tag: u64,
    _own: Option<Arc<Subscription>>,
}

impl MemoryReceipt {
    /// The message, unless its consumer is gone: then it is back in its queue already.
    fn settle(&self) -> Result<(Arc<Subscription>, WaitingMessage), QueueError> {
        let settled = self.subscription.upgrade().and_then(|subscription| {
            let stored = subscription.in_flight().remove(&self.tag)?;
            Some((subscription, stored))
        });
        if let Some((subscription, _)) = &settled {
            subscription.settled.notify_waiters();
        }
        settled
            .ok_or_else(|| QueueError::Unreachable("the consumer of this delivery is gone".into()))
    }
}

#[async_trait]
impl Receipt for MemoryReceipt {
    async fn ack(self: Box<Self>) -> Result<(), QueueError> {
        self.settle().map(|_| ())
    }

    async fn requeue(self: Box<Self>) -> Result<(), QueueError> {
        let (subscription, stored) = self.settle()?;
        subscription.queue.requeue(stored);
        Ok(())
    }
}
