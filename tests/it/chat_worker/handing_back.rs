//! While turns wait, a worker gives back what its model has not begun with.

use std::collections::BTreeSet;
use std::sync::atomic::AtomicBool;

use async_trait::async_trait;
use radialog_runtime::objects::Objects;
use radialog_runtime::stage::{Feed, OpenTurn, PreparedTurn, WorkItem};
use radialog_schemas::{Failure, Outcome, Task, Work};
use radialog_tests::fake_stage::FakeInput;

use super::*;
use crate::adapters::on_each_adapter;

on_each_adapter! { memory, services: {
    while_a_turn_waits_another_worker_gets_the_tasks_that_the_model_has_not_begun_with,
    turns_that_nobody_waits_for_go_behind_all_others_and_are_handed_back_for_them,
}}

/// A fake stage whose model has room for one turn, which it keeps until it is let go.
struct Full {
    fake: FakeStage,
    is_taken: AtomicBool,
    may_go: AtomicBool,
}

impl Full {
    fn new() -> Self {
        Self {
            fake: fake_stage().batch_limit(4),
            is_taken: AtomicBool::new(false),
            may_go: AtomicBool::new(false),
        }
    }
}

#[async_trait]
impl StageWork for Full {
    type Input = FakeInput;

    fn stage(&self) -> Stage {
        self.fake.stage()
    }

    fn component(&self) -> &ContentHash {
        self.fake.component()
    }

    fn batch_limit(&self) -> usize {
        StageWork::batch_limit(&self.fake)
    }

    async fn fetch(&self, task: &Task, objects: &dyn Objects) -> Result<FakeInput, Failure> {
        self.fake.fetch(task, objects).await
    }

    fn run(&self, feed: &mut dyn Feed<FakeInput>) {
        let first = feed.wait(1);
        self.is_taken.store(true, Ordering::Relaxed);
        while !self.may_go.load(Ordering::Relaxed) {
            assert!(feed.ready(0, 0).is_empty());
            std::thread::sleep(Duration::from_millis(2));
        }
        self.fake.run(&mut WithFirst { first, feed });
    }
}

#[async_trait]
impl ChatWork for Full {
    type Input = FakeInput;

    fn turn_limit(&self) -> usize {
        1
    }

    async fn prepare(
        &self,
        turn: OpenTurn<'_>,
        objects: &dyn Objects,
    ) -> Result<PreparedTurn<FakeInput>, Failure> {
        self.fake.prepare(turn, objects).await
    }
}

/// A feed with items that were taken from it before.
struct WithFirst<'a> {
    first: Vec<WorkItem<FakeInput>>,
    feed: &'a mut dyn Feed<FakeInput>,
}

impl Feed<FakeInput> for WithFirst<'_> {
    fn wait(&mut self, limit: usize) -> Vec<WorkItem<FakeInput>> {
        match self.first.is_empty() {
            true => self.feed.wait(limit),
            false => std::mem::take(&mut self.first),
        }
    }

    fn ready(&mut self, limit: usize, urgent: usize) -> Vec<WorkItem<FakeInput>> {
        self.feed.ready(limit, urgent)
    }
}

impl ChatHarness {
    /// Publishes the task of an answer to a text of its own.
    async fn send_answer(&self, study: &str) {
        let content = Bytes::from(format!("{}-{study}", self.number));
        let prompt = ObjectKey::text(&ContentHash::of(&content));
        self.tasks.objects.put(&prompt, content).await.unwrap();
        let generation = Generation::default();
        let output = ObjectKey::answer(&self.component, &prompt, &generation);
        let work = Work::Answer { prompt, generation };
        let task = Task::new(&"run".into(), &study.into(), &self.component, output, work);
        self.tasks.send(&task).await.unwrap();
    }

    /// Begins a conversation that answers a line of a batch of requests.
    async fn begin_line(&self, name: &str) -> ConversationId {
        let conversation = Conversation {
            of_batch: true,
            ..self.conversation(name)
        };
        let asked = [question(name)];
        let created = self.conversations.create(&conversation, &asked).await;
        let ready = created.unwrap().ready().unwrap();
        self.publish_task(&conversation.task(ready), 0).await;
        conversation.id
    }

    /// A worker that is full, since its model has the first turn of this conversation.
    async fn busy(&self) -> (Arc<Full>, WorkerHandle, ConversationId) {
        let full = Arc::new(Full::new());
        let worker = self.start(&full, settings());
        let first = self.begin("first", &[question("one")]).await;
        let is_taken = || async { full.is_taken.load(Ordering::Relaxed) };
        until("the turn in the model", is_taken).await;
        (full, worker, first)
    }

    async fn depth(&self) -> u64 {
        let queue = queues::work(Stage::Language);
        self.tasks.queue.depth(queue).await.unwrap()
    }
}

async fn while_a_turn_waits_another_worker_gets_the_tasks_that_the_model_has_not_begun_with(
    harness: ChatHarness,
) {
    let (full, worker, first) = harness.busy().await;
    let studies = ["a", "b", "c", "d", "e"];
    for study in studies {
        harness.send_answer(study).await;
    }
    until("the tasks at the worker", || async {
        harness.depth().await == 0
    })
    .await;
    let second = harness.begin("second", &[question("two")]).await;
    until("the tasks in their queue", || async {
        harness.depth().await == studies.len() as u64
    })
    .await;
    // As if nobody had had them.
    let look = harness.tasks.queue.take(queues::work(Stage::Language));
    let look = look.await.unwrap().unwrap();
    assert!(!look.redelivered && look.message.attempt == 0);
    look.receipt.requeue().await.unwrap();

    let other = harness.start(&Arc::new(fake_stage()), settings());
    let results = harness.tasks.results(studies.len()).await.unwrap();
    assert!(
        results
            .iter()
            .all(|result| matches!(result.outcome, Outcome::Done { .. }))
    );
    let done: BTreeSet<_> = results.iter().map(|result| result.study.as_str()).collect();
    assert_eq!(done, studies.into());
    assert_eq!(harness.depth().await, 0);
    full.may_go.store(true, Ordering::Relaxed);
    assert_eq!(harness.text(&first, 1).await, fake_text("one", 0));
    assert_eq!(harness.text(&second, 1).await, fake_text("two", 0));
    // What comes afterwards is done again.
    other.stop().await.unwrap();
    harness.send_answer("f").await;
    assert_eq!(harness.tasks.results(1).await.unwrap().len(), 1);
    worker.stop().await.unwrap();
}

async fn turns_that_nobody_waits_for_go_behind_all_others_and_are_handed_back_for_them(
    harness: ChatHarness,
) {
    let (full, worker, first) = harness.busy().await;
    let names = ["a", "b", "c"];
    let mut lines = Vec::new();
    for name in names {
        lines.push(harness.begin_line(name).await);
    }
    until("the turns at the worker", || async {
        harness.depth().await == 0
    })
    .await;
    for id in &lines {
        let place = harness.conversations.position(id, 1).await.unwrap();
        assert_eq!(place, None, "they are in nobody's way");
    }
    let second = harness.begin("second", &[question("two")]).await;
    until("the turns in the queue of tasks", || async {
        harness.depth().await == names.len() as u64
    })
    .await;
    // Others answer them, and this worker the one that somebody waits for.
    let other = harness.start(&Arc::new(fake_stage()), settings());
    for (id, name) in lines.iter().zip(names) {
        assert_eq!(harness.text(id, 1).await, fake_text(name, 0));
    }
    other.stop().await.unwrap();
    full.may_go.store(true, Ordering::Relaxed);
    assert_eq!(harness.text(&first, 1).await, fake_text("one", 0));
    assert_eq!(harness.text(&second, 1).await, fake_text("two", 0));
    let last = harness.begin_line("last").await;
    assert_eq!(harness.text(&last, 1).await, fake_text("last", 0));
    assert_eq!(harness.depth().await, 0);
    worker.stop().await.unwrap();
}
