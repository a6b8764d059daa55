//! An answer in pieces: chunks as Server-Sent Events without names, and `[DONE]` at the end.

use std::collections::VecDeque;
use std::convert::Infallible;

use axum::response::Response;
use axum::response::sse::Event;
use futures::stream;
use radialog_schemas::http::openai::{
    ChatCompletionChunk, ChunkChoice, Delta, ErrorBody, ErrorDetail, Role, Usage,
};
use radialog_schemas::{TurnEvent, TurnOutcome};
use serde::Serialize;

use super::completion::{CompletionHead, PendingCompletion, finish_reason, usage};
use super::errors::{self, detail, stopped};
use crate::gateway::events;
use crate::gateway::turn_follower::TurnUpdate;

const DONE: &str = "[DONE]";

struct CompletionStream {
    head: CompletionHead,
    following: PendingCompletion,
    include_usage: bool,
    /// Whether a word was sent: white space before it is the tokenizer's.
    begun: bool,
    ready: VecDeque<Event>,
    over: bool,
}

pub(super) fn answer(
    head: CompletionHead,
    following: PendingCompletion,
    include_usage: bool,
) -> Response {
    let mut streaming = CompletionStream {
        head,
        following,
        include_usage,
        begun: false,
        ready: VecDeque::new(),
        over: false,
    };
    let first = Delta {
        role: Some(Role::Assistant),
        content: Some(String::new()),
    };
    streaming.push(Some((first, None)), None);
    let pieces = stream::unfold(streaming, |mut streaming| async move {
        let event = streaming.next().await?;
        Some((Ok::<_, Infallible>(event), streaming))
    });
    events::sse_response(pieces)
}

impl CompletionStream {
    async fn next(&mut self) -> Option<Event> {
        while self.ready.is_empty() && !self.over {
            match self.following.reader.next().await {
                None => self.fail(detail(503, &stopped().problem.detail, None)),
                Some(TurnUpdate::Alive | TurnUpdate::Queued(_)) => {
                    return Some(Event::default().comment(""));
                }
                Some(TurnUpdate::Event(_, TurnEvent::Token { text, .. })) => self.write(text),
                Some(TurnUpdate::Event(_, TurnEvent::Ended(outcome))) => self.end(outcome),
                Some(TurnUpdate::Event(..)) => {}
            }
        }
        self.ready.pop_front()
    }

    fn write(&mut self, text: String) {
        let text = match self.begun {
            true => text,
            false => text.trim_start().to_owned(),
        };
        if text.is_empty() {
            return;
        }
        self.begun = true;
        let delta = Delta {
            role: None,
            content: Some(text),
        };
        self.push(Some((delta, None)), None);
    }

    fn end(&mut self, outcome: TurnOutcome) {
        match outcome {
            TurnOutcome::Done(answer) => {
                self.push(Some((Delta::default(), Some(finish_reason(&answer)))), None);
                if self.include_usage {
                    self.push(None, Some(usage(&answer)));
                }
                self.ready.push_back(Event::default().data(DONE));
                self.over = true;
            }
            TurnOutcome::Failed(failure) => {
                self.fail(errors::failure(&failure).1);
            }
            TurnOutcome::Cancelled => {
                self.fail(detail(503, &stopped().problem.detail, None));
            }
        }
    }

    fn fail(&mut self, error: ErrorDetail) {
        self.ready.push_back(data(&ErrorBody { error }));
        self.over = true;
    }

    fn push(&mut self, choice: Option<(Delta, Option<String>)>, usage: Option<Usage>) {
        let choice = choice.map(|(delta, finish_reason)| ChunkChoice {
            index: 0,
            delta,
            finish_reason,
        });
        self.ready.push_back(data(&ChatCompletionChunk {
            id: self.head.id.clone(),
            object: "chat.completion.chunk".into(),
            created: self.head.created,
            model: self.head.model.clone(),
            choices: choice.into_iter().collect(),
            usage,
        }));
    }
}

fn data(value: &impl Serialize) -> Event {
    Event::default().data(serde_json::to_string(value).expect("plain data with text keys"))
}
