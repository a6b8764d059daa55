//! Turns of conversations without a model: the answer follows from the question and its place in the conversation, word
//! by word, at a pace of one's choice. A question's text can make it misbehave.

use async_trait::async_trait;
use radialog_runtime::objects::Objects;
use radialog_runtime::stage::{ChatWork, OpenTurn, PreparedTurn, StageOutput};
use radialog_schemas::{Answer, Ask, ErrorCode, Failure, TurnEvent, TurnOutcome};
use tokio::sync::mpsc::UnboundedSender;
use tokio::sync::oneshot::Sender;

use super::{CORRUPT, FAILS, FakeInput, FakeStage, PANICS, json};

/// The largest number of turns that are answered at a time; enough for any benchmark.
pub const TURN_LIMIT: usize = 4096;

/// An answer in the making.
pub struct AnswerInProgress {
    words: Vec<String>,
    next: usize,
    panics: bool,
    fails: bool,
    limit: usize,
    events: UnboundedSender<TurnEvent>,
    answer: Option<Sender<Result<StageOutput, Failure>>>,
}

impl AnswerInProgress {
    pub(super) fn answered_by(self, answer: Sender<Result<StageOutput, Failure>>) -> Self {
        Self {
            answer: Some(answer),
            ..self
        }
    }

    /// One more word; none once it has ended, or nobody listens.
    pub(super) fn next_token(mut self) -> Option<Self> {
        let answer = self.answer.take().filter(|answer| !answer.is_closed())?;
        if let Some(word) = self.words.get(self.next).filter(|_| self.next < self.limit) {
            // The runner is there for as long as the answer is wanted.
            let _ = self.events.send(TurnEvent::Token {
                id: self.next as u32,
                text: word.clone(),
            });
            self.next += 1;
            assert!(!self.panics, "told to panic");
            return Some(self.answered_by(answer));
        }
        let output = match self.fails {
            true => Err(Failure::new(ErrorCode::Model, "told to fail")),
            false => Ok(StageOutput {
                content: json(&self.whole()).into(),
                tokens: self.next as u32,
                batch: 1,
                ..StageOutput::default()
            }),
        };
        // Nobody listens any more after a shutdown.
        let _ = answer.send(output);
        None
    }

    fn whole(&self) -> Answer {
        Answer {
            text: self.words[..self.next].concat(),
            lead: String::new(),
            prompt_tokens: 100,
            cached_tokens: 0,
            tokens: self.next as u32,
            complete: self.next == self.words.len(),
            dropped_turns: Vec::new(),
            comparisons: Vec::new(),
        }
    }
}

#[async_trait]
impl ChatWork for FakeStage {
    type Input = FakeInput;

    fn turn_limit(&self) -> usize {
        TURN_LIMIT
    }

    async fn prepare(
        &self,
        turn: OpenTurn<'_>,
        objects: &dyn Objects,
    ) -> Result<PreparedTurn<FakeInput>, Failure> {
        if let Some(image) = &turn.snapshot.conversation.image {
            objects.get(&image.embedding).await?;
        }
        let index = turn.number as usize - 1;
        let asked = asked(&turn.snapshot.turns[index].request.ask);
        if asked.contains(CORRUPT) {
            return Err(Failure::new(
                ErrorCode::ContextLength,
                "told to be too long",
            ));
        }
        let earlier = &turn.snapshot.turns[..index];
        let answered = earlier
            .iter()
            .filter(|turn| matches!(turn.outcome, Some(TurnOutcome::Done(_))))
            .count();
        let in_progress = AnswerInProgress {
            words: words(&asked, answered, self.words),
            next: turn.written.len(),
            panics: asked.contains(PANICS),
            fails: asked.contains(FAILS),
            limit: turn.snapshot.turns[index].request.generation.max_new_tokens as usize,
            events: turn.events,
            answer: None,
        };
        Ok(PreparedTurn {
            input: FakeInput::Turn(in_progress),
            asked,
        })
    }
}

/// The question in words: its own, or what the fake stage says for a task.
fn asked(ask: &Ask) -> String {
    match ask {
        Ask::Question { text } => text.clone(),
        other => format!("{other:?}"),
    }
}

/// The tokens of the fake stage's answer: `count` of them, each with a blank in front. Token ids count from 0.
pub fn words(asked: &str, answered_before: usize, count: usize) -> Vec<String> {
    let start = format!("Answer {} to \"{asked}\":", answered_before + 1);
    let start = start.split_whitespace().map(str::to_owned);
    start
        .chain((1..).map(|number| format!("word{number}")))
        .take(count)
        .map(|word| format!(" {word}"))
        .collect()
}
