//! The loop that every worker is: take a task, fetch its inputs, feed the model, store the output, publish the result,
//! acknowledge. Delivery is at least once and effects are once, because outputs are content-addressed and the
//! acknowledgement comes last.

use std::sync::Arc;
use std::time::Duration;

use radialog_schemas::queues;
use tokio::task::{JoinError, JoinSet};
use tokio::time::{Interval, MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use crate::conversations::Conversations;
use crate::metrics::metrics;
use crate::objects::Objects;
use crate::queue::{Consumer, Delivery, Queue, QueueError};
use crate::stage::{ChatWork, StageWork};
use chat::Chat;
use model::Model;
use pace::Pace;
use patience::Patience;
use task::Worker;
use way::GivingWay;

mod chat;
mod held;
mod message;
mod model;
mod pace;
mod patience;
mod settle;
mod single;
mod suspect;
mod task;
mod way;

/// How often the queue's depth is read and the prefetch reconsidered.
const OBSERVE_EVERY: Duration = Duration::from_secs(5);

/// How often the worker looks whether turns of conversations wait for its model.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// How a runner behaves.
#[derive(Clone, Debug)]
pub struct RunnerSettings {
    /// The worker's name in results and dead letters.
    pub worker: String,
    /// After a stop: how long tasks in the model may take to finish before they are handed back.
    pub grace: Duration,
    /// How long an unreachable object store is waited for in place before tasks are handed back.
    pub store_patience: Duration,
}

impl Default for RunnerSettings {
    fn default() -> Self {
        let host = std::env::var("HOSTNAME").unwrap_or_else(|_| "local".into());
        Self {
            worker: format!("{host}-{}", std::process::id()),
            grace: Duration::from_secs(25),
            store_patience: Duration::from_secs(300),
        }
    }
}

/// Why a worker ended by itself.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The subscription could not be made.
    #[error(transparent)]
    Queue(#[from] QueueError),
    /// Nothing more can be stored: every further task would fail in the same way.
    #[error("{0}")]
    StoreFull(String),
    /// The model's thread could not be started.
    #[error("no thread for the model: {0}; raise the process's limits")]
    Thread(#[from] std::io::Error),
    /// A task of the runner ended in a way that it cannot; a defect.
    #[error("a task ended unexpectedly: {0}; please report this")]
    Task(JoinError),
}

/// A worker of one stage.
pub struct Runner<W: StageWork> {
    work: Arc<W>,
    queue: Arc<dyn Queue>,
    objects: Arc<dyn Objects>,
    settings: RunnerSettings,
    conversations: Option<Talk<W>>,
}

/// Who answers turns, and where conversations are.
type Talk<W> = (
    Arc<dyn ChatWork<Input = <W as StageWork>::Input>>,
    Arc<dyn Conversations>,
);

impl<W: StageWork> Runner<W> {
    /// A worker of this stage over these adapters.
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
            conversations: None,
        }
    }

    /// The same worker, which also answers the turns of these conversations, before its tasks.
    pub fn with_chat(mut self, conversations: Arc<dyn Conversations>) -> Self
    where
        W: ChatWork<Input = <W as StageWork>::Input>,
    {
        self.conversations = Some((self.work.clone(), conversations));
        self
    }

    /// Works until `shutdown`; then finishes what is in the model within the grace period and hands back the rest.
    ///
    /// # Errors
    /// Where it cannot subscribe, or the object store is full.
    pub async fn run(self, shutdown: CancellationToken) -> Result<(), RunError> {
        let stage = self.work.stage();
        let source = queues::work(stage);
        let pace = Pace::default();
        let mut prefetch = pace.prefetch(self.work.batch_limit());
        let mut consumer = self.queue.consume(source, prefetch).await?;

        let mut turns = None;
        let chat = match self.conversations {
            Some((work, conversations)) => {
                turns = Some(
                    self.queue
                        .consume(queues::CHAT, chat::prefetch(work.turn_limit()))
                        .await?,
                );
                let patience = Patience::new(self.settings.store_patience);
                Some(Arc::new(Chat::new(
                    work,
                    conversations,
                    patience,
                    metrics().chat(stage),
                )))
            }
            None => None,
        };

        let metrics = Arc::new(metrics().stage(stage));
        let worker = Arc::new(Worker {
            model: Model::start(self.work.clone(), metrics.clone())?,
            patience: Patience::new(self.settings.store_patience),
            single: single::SingleFlight::default(),
            suspects: tokio::sync::Mutex::default(),
            stopping: CancellationToken::new(),
            name: self.settings.worker.clone(),
            work: self.work,
            queue: self.queue,
            objects: self.objects,
            metrics,
            source,
            pace,
        });
        tracing::info!(%stage, queue = source, chat = chat.is_some(), prefetch, worker = worker.name, "worker ready");

        let mut tasks = JoinSet::new();
        let mut observe = ticks(OBSERVE_EVERY);
        let mut look = ticks(LOOK_EVERY);
        let mut giving_way = GivingWay::default();
        let outcome = loop {
            tokio::select! {
                biased;
                () = shutdown.cancelled() => break Ok(()),
                Some(ended) = tasks.join_next() => if let Err(error) = flatten(ended) {
                    break Err(error);
                },
                (chat, delivery) = next_turn(&chat, &mut turns) => {
                    tasks.spawn(worker.clone().handle_turn(chat, delivery));
                }
                _ = look.tick(), if chat.is_some() => if let Some(gives_way) = giving_way.look(worker.model.is_pressed()) {
                    tracing::debug!(%stage, gives_way, "batch work gives way to conversations, or comes back");
                    consumer.set_prefetch(if gives_way { 0 } else { prefetch }).await;
                },
                _ = observe.tick() => {
                    tokio::spawn(worker.clone().observe());
                    if let Some(wanted) = worker.pace.prefetch_instead_of(prefetch, worker.work.batch_limit()) {
                        tracing::info!(%stage, from = prefetch, to = wanted, "prefetch follows the measured time of a task");
                        prefetch = wanted;
                        if !giving_way.gives() {
                            consumer.set_prefetch(prefetch).await;
                        }
                    }
                }
                delivery = consumer.next() => {
                    tasks.spawn(worker.clone().handle(delivery));
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

/// The next turn; never for a stage that has no conversations.
async fn next_turn<I>(
    chat: &Option<Arc<Chat<I>>>,
    turns: &mut Option<Box<dyn Consumer>>,
) -> (Arc<Chat<I>>, Delivery) {
    match (chat, turns) {
        (Some(chat), Some(turns)) => (chat.clone(), turns.next().await),
        _ => std::future::pending().await,
    }
}

/// Stops consuming and waits for the tasks in the model. What is not settled when the consumer is dropped goes back.
async fn stop<W: StageWork>(
    worker: &Worker<W>,
    consumer: &mut dyn Consumer,
    turns: Option<&mut (dyn Consumer + 'static)>,
    tasks: &mut JoinSet<Result<(), RunError>>,
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
            outcome = outcome.and(flatten(ended));
        }
        outcome
    };
    match tokio::time::timeout(grace, drain).await {
        Ok(outcome) => outcome,
        Err(_) => {
            tracing::warn!(
                unfinished = tasks.len(),
                "the grace period is over; handing back"
            );
            tasks.shutdown().await;
            Ok(())
        }
    }
}

fn flatten(ended: Result<Result<(), RunError>, JoinError>) -> Result<(), RunError> {
    ended.unwrap_or_else(|error| Err(RunError::Task(error)))
}
