//! From the events of a turn to the steps of a response. The steps follow from the events alone, so that every reader sees
//! the same ones under the same numbers, live or later, at any gateway.

use std::collections::VecDeque;

use radialog_runtime::conversations::ConversationSnapshot;
use radialog_schemas::http::responses::{
    ItemStatus, ModelResponse, ResponseEvent, ResponseStatus, ResponseStep,
};
use radialog_schemas::{ConversationId, TurnEvent, TurnOutcome};

use super::{lookup, view};
use crate::gateway::problem::ApiResult;

/// The steps of one response, as far as its turn's events were taken.
pub(super) struct Steps {
    id: ConversationId,
    /// As it stands after the events.
    response: ModelResponse,
    /// The number of the next step.
    next: u64,
    ready: VecDeque<ResponseEvent>,
    /// A worker has begun.
    begun: bool,
    /// The answer so far.
    text: String,
}

impl Steps {
    /// Begins before the first event, with the steps that need none.
    pub(super) fn of(snapshot: &ConversationSnapshot, store: bool) -> ApiResult<Self> {
        let mut steps = Self {
            id: snapshot.conversation.id.clone(),
            response: view::queued(snapshot, store)?,
            next: 0,
            ready: VecDeque::new(),
            begun: false,
            text: String::new(),
        };
        let response = Box::new(steps.response.clone());
        steps.push(ResponseStep::Created {
            response: response.clone(),
        });
        steps.push(ResponseStep::Queued { response });
        Ok(steps)
    }

    /// The next step that follows from the events so far.
    pub(super) fn pop(&mut self) -> Option<ResponseEvent> {
        self.ready.pop_front()
    }

    /// How many steps follow from the events so far.
    pub(super) fn count(&self) -> u64 {
        self.next
    }

    /// The response after the events so far.
    pub(super) fn response(self) -> ModelResponse {
        self.response
    }

    /// Takes the turn's next event.
    pub(super) fn take(&mut self, event: TurnEvent) {
        match event {
            TurnEvent::Findings(_) => {}
            TurnEvent::Started { .. } => self.begin(),
            TurnEvent::Token { mut text, .. } => {
                // White space before the first word is the tokenizer's.
                if self.text.is_empty() {
                    text = text.trim_start().to_owned();
                }
                if !text.is_empty() {
                    self.begin();
                    self.text.push_str(&text);
                    self.push(ResponseStep::TextDelta {
                        item_id: lookup::answer_id(&self.id),
                        output_index: 0,
                        content_index: 0,
                        delta: text,
                        logprobs: Vec::new(),
                    });
                }
            }
            TurnEvent::Ended(outcome) => self.end(&outcome),
        }
    }

    /// A worker may begin again where another one has left: for a reader nothing new has begun then.
    fn begin(&mut self) {
        if std::mem::replace(&mut self.begun, true) {
            return;
        }
        self.response.status = ResponseStatus::InProgress;
        self.push(ResponseStep::InProgress {
            response: Box::new(self.response.clone()),
        });
        self.push(ResponseStep::ItemAdded {
            output_index: 0,
            item: view::message(&self.id, ItemStatus::InProgress, None),
        });
        self.push(ResponseStep::PartAdded {
            item_id: lookup::answer_id(&self.id),
            output_index: 0,
            content_index: 0,
            part: view::part(String::new()),
        });
    }

    fn end(&mut self, outcome: &TurnOutcome) {
        let status = match outcome {
            TurnOutcome::Done(answer) => {
                self.begin();
                self.text = answer.text.trim_start().to_owned();
                view::answer_status(answer)
            }
            TurnOutcome::Failed(_) | TurnOutcome::Cancelled => ItemStatus::Incomplete,
        };
        if self.begun {
            self.end_item(status);
        }
        let response = self.response.clone();
        self.response = view::ended(response, &self.id, outcome, self.text.clone());
        let response = Box::new(self.response.clone());
        self.push(match outcome {
            TurnOutcome::Done(answer) if answer.complete => ResponseStep::Completed { response },
            TurnOutcome::Done(_) => ResponseStep::Incomplete { response },
            // OpenAI's clients know no step for a cancellation; the status tells the two apart.
            TurnOutcome::Failed(_) | TurnOutcome::Cancelled => ResponseStep::Failed { response },
        });
    }

    fn end_item(&mut self, status: ItemStatus) {
        let (item_id, text) = (lookup::answer_id(&self.id), self.text.clone());
        self.push(ResponseStep::TextDone {
            item_id: item_id.clone(),
            output_index: 0,
            content_index: 0,
            text: text.clone(),
            logprobs: Vec::new(),
        });
        self.push(ResponseStep::PartDone {
            item_id,
            output_index: 0,
            content_index: 0,
            part: view::part(text.clone()),
        });
        self.push(ResponseStep::ItemDone {
            output_index: 0,
            item: view::message(&self.id, status, Some(text)),
        });
    }

    fn push(&mut self, step: ResponseStep) {
        self.ready.push_back(ResponseEvent {
            sequence_number: self.next,
            step,
        });
        self.next += 1;
    }
}

#[cfg(test)]
mod tests {
    use radialog_runtime::conversations::ConversationSnapshot;
    use radialog_schemas::{
        Answer, ContentHash, Conversation, ErrorCode, Failure, ResponseRequest,
    };

    use super::*;

    fn steps() -> Steps {
        let request = ResponseRequest {
            fingerprint: ContentHash::of(b"request"),
            model: "fake".into(),
            input: Vec::new(),
            background: false,
            previous_response_id: None,
            max_output_tokens: None,
            temperature: None,
            top_p: None,
            metadata: Default::default(),
            labels: Default::default(),
        };
        let conversation = Conversation {
            response: Some(request),
            ..Conversation::new(
                "a".into(),
                "ward (responses)",
                1000,
                &ContentHash::of(b"language"),
            )
        };
        let snapshot = ConversationSnapshot {
            conversation,
            prepared: None,
            turns: Vec::new(),
            title: None,
        };
        Steps::of(&snapshot, true).unwrap()
    }

    fn token(text: &str) -> TurnEvent {
        TurnEvent::Token {
            id: 1,
            text: text.into(),
        }
    }

    fn started() -> TurnEvent {
        TurnEvent::Started { asked: "x".into() }
    }

    fn names(events: Vec<TurnEvent>) -> Vec<&'static str> {
        let mut steps = steps();
        events.into_iter().for_each(|event| steps.take(event));
        let mut names = Vec::new();
        while let Some(event) = steps.pop() {
            assert_eq!(event.sequence_number, names.len() as u64);
            names.push(event.step.name().trim_start_matches("response."));
        }
        names
    }

    #[test]
    fn another_worker_and_half_characters_leave_no_trace_in_the_steps() {
        let answer = Answer {
            text: "No edema.".into(),
            lead: String::new(),
            prompt_tokens: 5,
            cached_tokens: 0,
            tokens: 3,
            complete: true,
            dropped_turns: Vec::new(),
            comparisons: Vec::new(),
        };
        let end = TurnEvent::Ended(TurnOutcome::Done(answer));
        let begun = [
            "created",
            "queued",
            "in_progress",
            "output_item.added",
            "content_part.added",
            "output_text.delta",
            "output_text.delta",
            "output_text.done",
            "content_part.done",
            "output_item.done",
            "completed",
        ];
        let (no, edema) = (token("No "), token("edema."));
        let half = token("");
        assert_eq!(
            names(vec![started(), no, half, started(), edema, end]),
            begun
        );
    }

    #[test]
    fn an_end_without_a_beginning_has_no_item_and_one_after_it_has_what_was_written() {
        let failed = TurnEvent::Ended(TurnOutcome::Failed(Failure::new(ErrorCode::Model, "x")));
        assert_eq!(names(vec![failed]), ["created", "queued", "failed"]);
        let cancelled = || TurnEvent::Ended(TurnOutcome::Cancelled);
        assert_eq!(names(vec![cancelled()]), ["created", "queued", "failed"]);
        let mut steps = steps();
        for event in [started(), token("No "), cancelled()] {
            steps.take(event);
        }
        let response = steps.response();
        assert_eq!(response.status, ResponseStatus::Cancelled);
        assert_eq!(response.output[0].content[0].text, "No ");
        assert_eq!(response.output[0].status, ItemStatus::Incomplete);
    }
}
