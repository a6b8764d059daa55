//! What must be true of every turn of a conversation, whatever goes wrong: it ends, once, in its place, and its reader
//! sees every token once.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use radialog_runtime::conversations::memory::MemoryConversations;
use radialog_runtime::conversations::{ConversationSnapshot, Conversations, TurnSnapshot};
use radialog_runtime::queue::{Message, Queue};
use radialog_runtime::runner::{Runner, RunnerSettings};
use radialog_runtime::stage::{ChatWork, StageWork};
use radialog_schemas::{
    Ask, ChatImage, ChatTask, ContentHash, Conversation, ConversationId, ErrorCode, FindingsReport,
    Generation, ObjectKey, Stage, TurnEvent, TurnOutcome, TurnRequest, TurnStatus, queues,
};
use radialog_tests::fake_stage::FakeStage;
use radialog_tests::task_harness::{TaskHarness, WorkerHandle};
use radialog_tests::waiting;
use tokio_util::sync::CancellationToken;

mod cancelling;
mod faults;
mod handing_back;
mod model;
mod order;

/// Longer than anything here takes, on a machine that others keep busy, too.
const SOON: Duration = Duration::from_secs(180);
/// Words of a fake stage's answer.
const WORDS: usize = 12;

mod adapters {
    use std::sync::Arc;

    use radialog_runtime::conversations::memory::MemoryConversations;
    use radialog_runtime::queue::memory::MemoryQueue;

    use super::ChatHarness;

    pub(super) async fn memory() -> ChatHarness {
        ChatHarness::new(
            Arc::new(MemoryQueue::default()),
            Arc::new(MemoryConversations::default()),
        )
        .await
    }

    /// RabbitMQ and Redis.
    pub(super) async fn services() -> ChatHarness {
        ChatHarness::new(
            crate::adapters::rabbitmq().await,
            crate::adapters::redis_conversations().await,
        )
        .await
    }
}

/// The gateway's end: asks, and sees what comes.
#[derive(Clone)]
struct ChatHarness {
    tasks: TaskHarness,
    conversations: Arc<dyn Conversations>,
    component: ContentHash,
    /// Keeps conversations of other tests apart: they share their Redis.
    number: u64,
}

impl ChatHarness {
    async fn new(queue: Arc<dyn Queue>, conversations: Arc<dyn Conversations>) -> Self {
        static HARNESSES: AtomicU64 = AtomicU64::new(0);
        let (component, number) = (
            FakeStage::component_of(Stage::Language),
            HARNESSES.fetch_add(1, Ordering::Relaxed),
        );
        Self {
            tasks: TaskHarness::new(queue).await.unwrap(),
            conversations,
            component,
            number,
        }
    }

    /// Starts a worker with this model.
    fn start<W>(&self, stage: &Arc<W>, settings: RunnerSettings) -> WorkerHandle
    where
        W: StageWork + ChatWork<Input = <W as StageWork>::Input>,
    {
        let runner = Runner::new(
            stage.clone(),
            self.tasks.queue.clone(),
            self.tasks.objects.clone(),
            settings,
        );
        let runner = runner.with_chat(self.conversations.clone());
        WorkerHandle::spawn(|shutdown: CancellationToken| runner.run(shutdown))
    }

    /// Begins a conversation without an image, with these questions, and publishes its first turn.
    async fn begin(&self, name: &str, questions: &[TurnRequest]) -> ConversationId {
        self.begin_with(self.conversation(name), questions).await
    }

    async fn begin_with(
        &self,
        conversation: Conversation,
        questions: &[TurnRequest],
    ) -> ConversationId {
        let ready = self
            .conversations
            .create(&conversation, questions)
            .await
            .unwrap()
            .ready();
        self.publish(&conversation.id, ready).await;
        conversation.id
    }

    fn conversation(&self, name: &str) -> Conversation {
        Conversation::new(
            ConversationId(format!("harness-{}-{name}", self.number)),
            "local",
            1,
            &self.component,
        )
    }

    /// The same with an image whose embedding has this content; its findings are there already.
    async fn begin_with_image(
        &self,
        name: &str,
        embedding: Bytes,
        questions: &[TurnRequest],
    ) -> ConversationId {
        let image = ObjectKey::image(&ContentHash::of(&embedding));
        let key = ObjectKey::embedding(&self.component, &image);
        self.tasks.objects.put(&key, embedding).await.unwrap();
        let findings = ObjectKey::findings(&self.component, &image);
        let image = ChatImage {
            image,
            media_type: "image/png".into(),
            embedding: key,
            findings,
        };
        let conversation = Conversation {
            image: Some(image),
            ..self.conversation(name)
        };
        assert_eq!(
            self.conversations
                .create(&conversation, questions)
                .await
                .unwrap()
                .ready(),
            None,
            "it is not prepared"
        );
        let key = &conversation.image.as_ref().unwrap().image;
        let findings = edema();
        let ready = self
            .conversations
            .image_prepared(&conversation.id, key, &Ok(findings))
            .await
            .unwrap();
        self.publish(&conversation.id, ready).await;
        conversation.id
    }

    async fn ask(&self, id: &ConversationId, request: TurnRequest) -> u32 {
        let added = self
            .conversations
            .add_turn(id, &request, None, u32::MAX)
            .await
            .unwrap()
            .added()
            .unwrap();
        self.publish(id, added.ready.then_some(added.turn)).await;
        added.turn
    }

    async fn publish(&self, id: &ConversationId, turn: Option<u32>) {
        if let Some(turn) = turn {
            self.publish_task(&ChatTask::new(id, turn, &self.component), 0)
                .await;
        }
    }

    async fn publish_task(&self, task: &ChatTask, attempt: u32) {
        self.publish_tried(task, attempt, 0).await;
    }

    /// Publishes a turn that was tried so often before, and passed on so often since, to wait for another worker.
    async fn publish_tried(&self, task: &ChatTask, attempt: u32, passed_on: u32) {
        let body = serde_json::to_vec(task).unwrap().into();
        self.tasks
            .queue
            .publish(
                &task.queue(),
                Message {
                    body,
                    attempt,
                    passed_on,
                    ..Message::default()
                },
            )
            .await
            .unwrap();
    }

    async fn snapshot(&self, id: &ConversationId) -> ConversationSnapshot {
        self.conversations.snapshot(id).await.unwrap().unwrap()
    }

    async fn turn(&self, id: &ConversationId, turn: u32) -> TurnSnapshot {
        self.snapshot(id).await.turns[turn as usize - 1].clone()
    }

    async fn events(&self, id: &ConversationId, turn: u32) -> Vec<TurnEvent> {
        let events = self
            .conversations
            .events(id, turn, 0, 100_000)
            .await
            .unwrap();
        assert!(
            events
                .iter()
                .map(|(number, _)| *number)
                .eq(1..=events.len() as u64),
            "numbers have no gap"
        );
        events.into_iter().map(|(_, event)| event).collect()
    }

    /// The tokens of a turn so far.
    async fn tokens(&self, id: &ConversationId, turn: u32) -> Vec<(u32, String)> {
        let events = self.events(id, turn).await;
        let token = |event| {
            if let TurnEvent::Token { id, text } = event {
                Some((id, text))
            } else {
                None
            }
        };
        events.into_iter().filter_map(token).collect()
    }

    /// Waits until a turn has so many tokens.
    async fn until_tokens(&self, id: &ConversationId, turn: u32, count: usize) {
        until("tokens", || async {
            self.tokens(id, turn).await.len() >= count
        })
        .await;
    }

    /// Waits until a turn has ended; whatever it says was said once, and its last event is its end.
    async fn ended(&self, id: &ConversationId, turn: u32) -> TurnOutcome {
        until("the end of a turn", || async {
            self.turn(id, turn).await.status.is_final()
        })
        .await;
        let outcome = self.turn(id, turn).await.outcome.unwrap();
        let events = self.events(id, turn).await;
        assert_eq!(events.last(), Some(&TurnEvent::Ended(outcome.clone())));
        assert_eq!(
            events
                .iter()
                .filter(|event| matches!(event, TurnEvent::Ended(_)))
                .count(),
            1
        );
        if let TurnOutcome::Done(answer) = &outcome {
            let said: String = self
                .tokens(id, turn)
                .await
                .into_iter()
                .map(|(_, text)| text)
                .collect();
            assert_eq!(said, answer.text, "what was streamed is what was answered");
        }
        outcome
    }

    async fn text(&self, id: &ConversationId, turn: u32) -> String {
        match self.ended(id, turn).await {
            TurnOutcome::Done(answer) => answer.text,
            other => panic!("no answer: {other:?}"),
        }
    }

    async fn code(&self, id: &ConversationId, turn: u32) -> ErrorCode {
        match self.ended(id, turn).await {
            TurnOutcome::Failed(failure) => failure.code,
            other => panic!("no failure: {other:?}"),
        }
    }
}

async fn until<F: Future<Output = bool>>(what: &str, is_so: impl Fn() -> F) {
    let waited = waiting::until(what, SOON, || async { Ok(is_so().await) });
    waited.await.unwrap();
}

fn question(text: &str) -> TurnRequest {
    request(Ask::Question { text: text.into() })
}

fn request(ask: Ask) -> TurnRequest {
    TurnRequest {
        ask,
        generation: Generation::default(),
        asked_ms: 1,
        deadline_ms: None,
        stop: Vec::new(),
    }
}

/// What the fake stage answers when nothing goes wrong.
fn fake_text(asked: &str, answered_before: usize) -> String {
    radialog_tests::fake_stage::chat::words(asked, answered_before, WORDS).concat()
}

fn fake_stage() -> FakeStage {
    FakeStage::new(Stage::Language).chat_answers(WORDS, Duration::ZERO)
}

/// A fake stage whose answer takes a second or more.
fn slow_stage() -> FakeStage {
    fake_stage().chat_answers(WORDS, Duration::from_millis(100))
}

fn settings() -> RunnerSettings {
    RunnerSettings {
        grace: Duration::from_secs(30),
        ..RunnerSettings::default()
    }
}

/// Findings whose text is one word.
fn edema() -> FindingsReport {
    FindingsReport {
        findings: Vec::new(),
        text: "edema".into(),
        warnings: Vec::new(),
        input_gate: None,
    }
}
