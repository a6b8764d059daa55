//! The coordinator's end of the queues, for tests of a single worker: tasks out, results in.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use bytes::Bytes;
use radialog_runtime::backends::Backends;
use radialog_runtime::conversations::memory::MemoryConversations;
use radialog_runtime::objects::Objects;
use radialog_runtime::objects::filesystem::FilesystemObjects;
use radialog_runtime::queue::{Message, Queue};
use radialog_runtime::runner::{RunError, Runner, RunnerSettings};
use radialog_runtime::state::memory::MemoryState;
use radialog_schemas::{ContentHash, ObjectKey, RunId, Stage, StageResult, Task, Work, queues};
use tempfile::TempDir;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::fake_stage::FakeStage;
use crate::waiting;

/// Longer than anything in a test takes, also where a broker's nodes find each other again on a machine that others keep busy.
const LIMIT: Duration = Duration::from_secs(180);

/// Sends tasks to one stage and reads what its workers say.
#[derive(Clone)]
pub struct TaskHarness {
    /// The broker.
    pub queue: Arc<dyn Queue>,
    /// The store.
    pub objects: Arc<dyn Objects>,
    run: RunId,
    _directory: Arc<TempDir>,
}

/// A running worker.
pub struct WorkerHandle {
    shutdown: CancellationToken,
    running: JoinHandle<Result<(), RunError>>,
}

impl TaskHarness {
    /// Makes a harness over this broker and a directory of its own, and declares the queues.
    pub async fn new(queue: Arc<dyn Queue>) -> Result<Self> {
        let directory = Arc::new(tempfile::tempdir()?);
        let objects = Arc::new(FilesystemObjects::open(directory.path())?);
        queue.declare().await?;
        Ok(Self {
            queue,
            objects,
            run: "run".into(),
            _directory: directory,
        })
    }

    /// Returns the same harness over another connection or store, e.g. one that fails.
    pub fn with(&self, queue: Arc<dyn Queue>, objects: Arc<dyn Objects>) -> Self {
        Self {
            queue,
            objects,
            ..self.clone()
        }
    }

    /// Returns all that a worker needs, with state and conversations of its own.
    pub fn backends(&self) -> Backends {
        Backends {
            queue: self.queue.clone(),
            objects: self.objects.clone(),
            state: Arc::new(MemoryState::default()),
            conversations: Arc::new(MemoryConversations::default()),
        }
    }

    /// Returns a findings task of this study, and stores its image.
    pub async fn task(&self, study: &str) -> Result<Task> {
        let task = self.task_without_image(study);
        if let Work::Findings { image } = &task.work {
            self.objects
                .put(image, Bytes::from(study.to_owned()))
                .await?;
        }
        Ok(task)
    }

    /// Returns the same task without storing its image.
    pub fn task_without_image(&self, study: &str) -> Task {
        let image = ObjectKey::image(&ContentHash::of_parts([
            self.run.as_str().as_bytes(),
            study.as_bytes(),
        ]));
        let component = FakeStage::component_of(Stage::Findings);
        let output = ObjectKey::findings(&component, &image);
        Task::new(
            &self.run,
            &study.into(),
            &component,
            output,
            Work::Findings { image },
        )
    }

    /// Publishes a task as its first attempt.
    pub async fn send(&self, task: &Task) -> Result<()> {
        self.send_attempt(task, 0).await
    }

    /// Publishes a task that was tried before.
    pub async fn send_attempt(&self, task: &Task, attempt: u32) -> Result<()> {
        self.send_tried(task, attempt, 0).await
    }

    /// Publishes a task that was tried so often before, and passed on so often since, to wait for another worker.
    pub async fn send_tried(&self, task: &Task, attempt: u32, passed_on: u32) -> Result<()> {
        let body = serde_json::to_vec(task)?.into();
        let message = Message {
            body,
            attempt,
            passed_on,
            ..Message::default()
        };
        Ok(self
            .queue
            .publish(queues::work(task.work.stage()), message)
            .await?)
    }

    /// Publishes any bytes to the findings stage.
    pub async fn send_bytes(&self, body: &[u8]) -> Result<()> {
        let message = Message {
            body: Bytes::copy_from_slice(body),
            ..Message::default()
        };
        Ok(self
            .queue
            .publish(queues::work(Stage::Findings), message)
            .await?)
    }

    /// Takes the next `count` results from their queue.
    pub async fn results(&self, count: usize) -> Result<Vec<StageResult>> {
        let read = async {
            let mut consumer = self.queue.consume(queues::RESULTS, 100).await?;
            let mut results = Vec::new();
            while results.len() < count {
                let delivery = consumer.next().await;
                results.push(serde_json::from_slice(&delivery.message.body)?);
                delivery.receipt.ack().await?;
            }
            anyhow::Ok(results)
        };
        tokio::time::timeout(LIMIT, read)
            .await
            .with_context(|| format!("fewer than {count} results"))?
    }

    /// Takes the next dead letter of the findings stage from its queue.
    pub async fn dead_letter(&self) -> Result<Message> {
        let dead = queues::dead(queues::work(Stage::Findings));
        let look = || async { Ok(self.queue.take(&dead).await?) };
        let delivery = waiting::found("no dead letter came", LIMIT, look).await?;
        delivery.receipt.ack().await?;
        Ok(delivery.message)
    }

    /// Starts a worker.
    pub fn start(&self, stage: &Arc<FakeStage>, settings: RunnerSettings) -> WorkerHandle {
        let runner = Runner::new(
            stage.clone(),
            self.queue.clone(),
            self.objects.clone(),
            settings,
        );
        WorkerHandle::spawn(|shutdown| runner.run(shutdown))
    }
}

impl WorkerHandle {
    /// Runs a worker that ends with the token.
    pub fn spawn<F>(run: impl FnOnce(CancellationToken) -> F) -> Self
    where
        F: Future<Output = Result<(), RunError>> + Send + 'static,
    {
        let shutdown = CancellationToken::new();
        let running = tokio::spawn(run(shutdown.clone()));
        Self { shutdown, running }
    }

    /// Asks the worker to stop and waits until it has.
    pub async fn stop(self) -> Result<()> {
        self.shutdown.cancel();
        let stopped = tokio::time::timeout(LIMIT, self.running).await;
        Ok(stopped.context("the worker does not stop")???)
    }

    /// Ends the worker as a crash does: nothing is settled.
    pub async fn crash(self) {
        self.running.abort();
        // Over when the future and everything it held are dropped.
        drop(self.running.await);
    }

    /// Waits for the worker to end by itself, and returns why it did.
    pub async fn ended(self) -> Result<RunError> {
        let ended = tokio::time::timeout(LIMIT, self.running).await;
        let ended = ended.context("the worker does not end")??;
        ended.err().context("the worker ended without an error")
    }
}
