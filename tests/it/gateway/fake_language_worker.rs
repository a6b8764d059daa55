//! A language worker without a model: it writes an answer word by word, as fast as it is allowed to, and goes on where
//! another one stopped.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::Result;
use radialog_coordinator::run::publish_turn;
use radialog_models::comparisons::comparison_marks;
use radialog_runtime::backends::Backends;
use radialog_runtime::conversations::{AppendOutcome, TurnClaim};
use radialog_schemas::{
    Answer, Ask, ChatTask, ErrorCode, Failure, Stage, TurnEvent, TurnOutcome, queues,
};
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// Questions that contain this fail.
pub(crate) const FAILS: &str = "fails";

/// Questions that contain this are answered without a look at the second turn.
pub(crate) const FORGETS: &str = "forgets";

/// Answers that contain this compare with an earlier image, as only reports do elsewhere.
pub(crate) const COMPARES: &str = "unchanged";

/// Answers that contain this are written behind [`LEAD`].
pub(crate) const LEADS: &str = "leads";

/// White space that a model writes in front of its words.
pub(crate) const LEAD: &str = " \n";

/// Questions that contain this are answered only after [`FakeLanguageWorker::unblock`].
pub(crate) const BLOCKS: &str = "blocks";

/// A worker and the words that it may still write.
pub(crate) struct FakeLanguageWorker {
    words: Arc<Semaphore>,
    gate: Arc<Gate>,
    running: JoinHandle<Result<()>>,
}

/// Where blocked turns wait.
#[derive(Default)]
struct Gate {
    waiting: AtomicUsize,
    open: CancellationToken,
}

impl Gate {
    async fn pass(&self) {
        self.waiting.fetch_add(1, Ordering::SeqCst);
        self.open.cancelled().await;
        self.waiting.fetch_sub(1, Ordering::SeqCst);
    }
}

impl FakeLanguageWorker {
    /// Starts a worker that may write so many words.
    pub(crate) fn start(backends: &Backends, words: usize) -> Self {
        let words = Arc::new(Semaphore::new(words));
        let gate = Arc::new(Gate::default());
        let running = tokio::spawn(work(backends.clone(), words.clone(), gate.clone()));
        Self {
            words,
            gate,
            running,
        }
    }

    /// Number of the turns that have begun and are blocked.
    pub(crate) fn blocked(&self) -> usize {
        self.gate.waiting.load(Ordering::SeqCst)
    }

    /// Lets all blocked turns go on.
    pub(crate) fn unblock(&self) {
        self.gate.open.cancel();
    }

    /// Lets it write so many words more.
    pub(crate) fn allow(&self, words: usize) {
        self.words.add_permits(words);
    }
}

impl Drop for FakeLanguageWorker {
    fn drop(&mut self) {
        self.running.abort();
    }
}

/// What is answered to a request.
pub(crate) fn answer(ask: &Ask) -> String {
    match ask {
        Ask::Report => "The lungs are clear. No pleural effusion.".to_owned(),
        Ask::Question { text } => format!("You asked: {text}"),
        other => format!(
            "Task {}.",
            serde_json::to_value(other).unwrap()["task"]
                .as_str()
                .unwrap()
        ),
    }
}

fn tokens(text: &str) -> Vec<TurnEvent> {
    let words = text.split_inclusive(' ').enumerate();
    words
        .map(|(id, word)| TurnEvent::Token {
            id: u32::try_from(id).unwrap(),
            text: word.to_owned(),
        })
        .collect()
}

async fn work(backends: Backends, words: Arc<Semaphore>, gate: Arc<Gate>) -> Result<()> {
    let mut turns = backends.queue.consume(queues::CHAT, 64).await?;
    let tasks = queues::work(Stage::Language);
    let mut tasks = backends.queue.consume(tasks, 64).await?;
    loop {
        let delivery = tokio::select! {
            biased;
            delivery = turns.next() => delivery,
            delivery = tasks.next() => delivery,
        };
        let Ok(task) = serde_json::from_slice::<ChatTask>(&delivery.message.body) else {
            // A task, which is another worker's.
            delivery.receipt.requeue().await?;
            tokio::time::sleep(Duration::from_millis(1)).await;
            continue;
        };
        let (backends, words, gate) = (backends.clone(), words.clone(), gate.clone());
        tokio::spawn(async move {
            write(&backends, &task, &words, &gate).await.unwrap();
            // Lost only when the test is over.
            let _ = delivery.receipt.ack().await;
        });
    }
}

async fn write(backends: &Backends, task: &ChatTask, words: &Semaphore, gate: &Gate) -> Result<()> {
    let (id, turn) = (&task.conversation, task.turn);
    let conversations = &backends.conversations;
    let (epoch, snapshot, events) = match conversations.claim_turn(id, turn).await? {
        TurnClaim::Granted {
            epoch,
            snapshot,
            events,
        } => (epoch, snapshot, events),
        TurnClaim::NotRunnable { next } => return next_turn(backends, task, next).await,
        TurnClaim::NotFound => return Ok(()),
    };
    let request = &snapshot.turns[turn as usize - 1].request;
    let text = answer(&request.ask);
    if text.contains(BLOCKS) {
        gate.pass().await;
    }
    let written = events
        .iter()
        .filter(|event| matches!(event, TurnEvent::Token { .. }))
        .count();
    let mut last = events.len() as u64;
    let mut outcome = match text.contains(FAILS) {
        true => TurnOutcome::Failed(Failure::new(ErrorCode::Model, "told to fail")),
        false => TurnOutcome::Done(Answer {
            prompt_tokens: 50,
            cached_tokens: 10,
            tokens: u32::try_from(tokens(&text).len())? + 1,
            complete: true,
            dropped_turns: text.contains(FORGETS).then_some(2).into_iter().collect(),
            comparisons: match text.contains(COMPARES) {
                true => comparison_marks(&text),
                false => Vec::new(),
            },
            lead: match text.contains(LEADS) {
                true => LEAD.to_owned(),
                false => String::new(),
            },
            text: text.clone(),
        }),
    };
    let started = TurnEvent::Started {
        asked: format!("{:?}", request.ask),
    };
    for event in std::iter::once(started).chain(tokens(&text).into_iter().skip(written)) {
        if matches!(event, TurnEvent::Token { .. }) {
            words.acquire().await?.forget();
        }
        match conversations
            .append(id, turn, epoch, last, &[event])
            .await?
        {
            AppendOutcome::Done => last += 1,
            AppendOutcome::Cancelled => {
                outcome = TurnOutcome::Cancelled;
                break;
            }
            AppendOutcome::Fenced => return Ok(()),
        }
    }
    let next = conversations.finish(id, turn, epoch, &outcome).await?;
    next_turn(backends, task, next).await
}

async fn next_turn(backends: &Backends, task: &ChatTask, next: Option<u32>) -> Result<()> {
    if let Some(next) = next {
        publish_turn(
            backends,
            &ChatTask::new(&task.conversation, next, &task.component),
        )
        .await?;
    }
    Ok(())
}
