//! The loop that every worker is: take a task, fetch its inputs, feed the model, store the output, publish the result,
//! acknowledge. Delivery is at least once and effects are once, because outputs are content-addressed and the
//! acknowledgement comes last.

use std::sync::Arc;
use std::time::Duration;

use radialog_schemas::queues;
use tokio::sync::watch;
use tokio::task::{JoinError, JoinSet};
use tokio::time::{Interval, MissedTickBehavior};
use tokio_util::sync::CancellationToken;

pub use crate::config::RunnerSettings;
use crate::conversations::Conversations;
use crate::metrics::metrics;
use crate::objects::Objects;
use crate::queue::{Consumer, Delivery, Queue};
use crate::stage::{ChatWork, StageWork};
use chat::ChatWorker;
use chat_priority::ChatPriority;
pub use error::RunError;
use model::Model;
use service_time::ServiceTime;
use single_flight::SingleFlight;
use store_retry::StoreRetry;
use worker::Worker;

mod chat;
mod chat_priority;
mod delivery;
mod error;
mod message;
mod model;
mod poison;
mod service_time;
mod settle;
mod single_flight;
mod store_retry;
mod task;
mod worker;

/// The time after which the queue's depth is read again and the prefetch reconsidered.
const OBSERVE_QUEUE_EVERY: Duration = Duration::from_secs(5);

/// The time after which the worker looks again whether turns of conversations wait for its model.
const CHECK_TURNS_EVERY: Duration = Duration::from_millis(250);

/// The end of one delivery's handling: an error ends the worker.
type DeliveryEnd = Result<(), RunError>;

/// A worker of one stage, not yet running.
pub struct Runner<W: StageWork> {
    work: Arc<W>,
    queue: Arc<dyn Queue>,
    objects: Arc<dyn Objects>,
    settings: RunnerSettings,
    chat: Option<ChatSetup<W::Input>>,
}

/// What a worker needs to answer turns of conversations.
struct ChatSetup<I> {
    work: Arc<dyn ChatWork<Input = I>>,
    conversations: Arc<dyn Conversations>,
}

impl<W: StageWork> Runner<W> {
    /// Sets up a worker of this stage over these adapters.
    pub fn new(
        work: Arc<W>,
        queue: Arc<dyn Queue>,
        objects: Arc<dyn Objects>,
        settings: RunnerSettings,
    ) -> Self {
        Self {
            work,
            queue,
            objects,
            settings,
            chat: None,
        }
    }

    /// Sets the worker up to answer the turns of these conversations as well, before its tasks.
    pub fn with_chat(mut self, conversations: Arc<dyn Conversations>) -> Self
    where
        W: ChatWork<Input = <W as StageWork>::Input>,
    {
        self.chat = Some(ChatSetup {
            work: self.work.clone(),
            conversations,
        });
        self
    }

    /// Works until `shutdown`; then finishes what is in the model within the grace period and requeues the rest.
    ///
    /// # Errors
    /// Where it cannot subscribe, or the object store is full.
    pub async fn run(self, shutdown: CancellationToken) -> Result<(), RunError> {
        let stage = self.work.stage();
        let group = self.settings.group.as_ref();
        let source: Arc<str> = queues::in_group(queues::work(stage), group).into();
        let turn_source: Arc<str> = queues::in_group(queues::CHAT, group).into();
        let service_time = ServiceTime::default();
        let mut prefetch = service_time.prefetch(self.work.batch_limit());
        let mut consumer = self.queue.consume(&source, prefetch).await?;

        let mut turns = None;
        let chat = match self.chat {
            Some(ChatSetup {
                work,
                conversations,
            }) => {
                let store_retry =
                    StoreRetry::new("the conversations' store", self.settings.store_patience);
                let chat = ChatWorker::new(work, conversations, store_retry, metrics().chat(stage));
                turns = Some(self.queue.consume(&turn_source, chat.prefetch()).await?);
                Some(Arc::new(chat))
            }
            None => None,
        };

        let metrics = Arc::new(metrics().stage(stage, group));
        let worker = Arc::new(Worker {
            model: Model::start(self.work.clone(), metrics.clone())?,
            reading: StoreRetry::new("the object store", self.settings.store_patience),
            writing: StoreRetry::new("the object store to write", self.settings.store_patience),
            outputs: SingleFlight::default(),
            poison_lock: tokio::sync::Mutex::default(),
            is_batch_paused: watch::Sender::new(false),
            stopping: CancellationToken::new(),
            survives_full_store: self.settings.survives_full_store,
            name: self.settings.worker.clone(),
            work: self.work,
            queue: self.queue,
            objects: self.objects,
            metrics,
            source: source.clone(),
            service_time,
        });
        tracing::info!(%stage, queue = %source, chat = chat.is_some(), prefetch, worker = worker.name, "worker ready");

        let mut tasks = JoinSet::new();
        let mut observe = ticks(OBSERVE_QUEUE_EVERY);
        let mut look = ticks(CHECK_TURNS_EVERY);
        let mut chat_priority = ChatPriority::default();
        let outcome = loop {
            tokio::select! {
                biased;
                () = shutdown.cancelled() => break Ok(()),
                Some(ended) = tasks.join_next() => if let Err(error) = end_of(ended) {
                    break Err(error);
                },
                (chat, delivery) = next_turn(&chat, &mut turns) => {
                    tasks.spawn(chat::handle(worker.clone(), chat, delivery, turn_source.clone()));
                }
                _ = look.tick(), if chat.is_some() => if let Some(paused) = chat_priority.update(worker.model.has_urgent_waiting()) {
                    tracing::debug!(%stage, paused, "batch work makes room for conversations, or goes on");
                    // Tasks go back while none comes, or they would come here again.
                    if paused {
                        consumer.set_prefetch(0).await;
                    }
                    worker.is_batch_paused.send_replace(paused);
                    if !paused {
                        consumer.set_prefetch(prefetch).await;
                    }
                },
                _ = observe.tick() => {
                    tokio::spawn(worker.clone().observe_queue());
                    if let Some(wanted) = worker.service_time.changed_prefetch(prefetch, worker.work.batch_limit()) {
                        tracing::info!(%stage, from = prefetch, to = wanted, "prefetch follows the measured time of a task");
                        prefetch = wanted;
                        if !chat_priority.is_batch_paused() {
                            consumer.set_prefetch(prefetch).await;
                        }
                    }
                }
                delivery = consumer.next() => match &chat {
                    Some(chat) if chat::is_of_batch(&delivery) => {
                        tasks.spawn(chat::handle(worker.clone(), chat.clone(), delivery, source.clone()));
                    }
                    _ => {
                        tasks.spawn(task::handle(worker.clone(), delivery));
                    }
                }
            }
        };
        let drained = stop(
            &worker,
            consumer.as_mut(),
            turns.as_deref_mut(),
            &mut tasks,
            self.settings.grace,
        )
        .await;
        tracing::info!(%stage, "worker stopped");
        outcome.and(drained)
    }
}

fn ticks(period: Duration) -> Interval {
    let mut ticks = tokio::time::interval(period);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks
}

/// Waits for the next turn; never returns for a stage that has no conversations.
async fn next_turn<I>(
    chat: &Option<Arc<ChatWorker<I>>>,
    turns: &mut Option<Box<dyn Consumer>>,
) -> (Arc<ChatWorker<I>>, Delivery) {
    match (chat, turns) {
        (Some(chat), Some(turns)) => (chat.clone(), turns.next().await),
        _ => std::future::pending().await,
    }
}

/// Stops consuming and waits for the tasks in the model. What is not settled when the consumer is dropped is requeued.
async fn stop<W: StageWork>(
    worker: &Worker<W>,
    consumer: &mut dyn Consumer,
    turns: Option<&mut (dyn Consumer + 'static)>,
    tasks: &mut JoinSet<DeliveryEnd>,
    grace: Duration,
) -> Result<(), RunError> {
    worker.stopping.cancel();
    worker.model.close();
    let drain = async {
        consumer.set_prefetch(0).await;
        if let Some(turns) = turns {
            turns.set_prefetch(0).await;
        }
        let mut outcome = Ok(());
        while let Some(ended) = tasks.join_next().await {
            outcome = outcome.and(end_of(ended));
        }
        outcome
    };
    match tokio::time::timeout(grace, drain).await {
        Ok(outcome) => outcome,
        Err(_) => {
            tracing::warn!(
                unfinished = tasks.len(),
                "the grace period is over; requeueing what is not done"
            );
            tasks.shutdown().await;
            Ok(())
        }
    }
}

/// The end of a delivery's task; one that could not be joined is a defect.
fn end_of(joined: Result<DeliveryEnd, JoinError>) -> DeliveryEnd {
    joined.unwrap_or_else(|error| Err(RunError::Task(error)))
}
