//! The steps of a response as Server-Sent Events, from the beginning or behind the last one that was read.

use std::convert::Infallible;

use axum::response::sse::Event;
use axum::response::{IntoResponse, Response};
use futures::stream;
use radialog_runtime::conversations::ConversationSnapshot;
use radialog_schemas::TurnEvent;
use radialog_schemas::http::ProblemCode;

use super::following::Following;
use super::lookup::TURN;
use super::steps::Steps;
use crate::gateway::app_state::AppState;
use crate::gateway::events;
use crate::gateway::problem::{ApiError, ApiResult};
use crate::gateway::turn_follower::TurnUpdate;

/// Events read at a time.
const PAGE: usize = 64;

struct ResponseStream {
    following: Following,
    steps: Steps,
    /// Steps up to this number were read.
    after: Option<u64>,
    over: bool,
}

/// Answers with the steps behind number `after`.
pub(super) fn answer(following: Following, store: bool, after: Option<u64>) -> Response {
    let steps = match Steps::of(&following.snapshot, store) {
        Ok(steps) => steps,
        Err(error) => return error.into_response(),
    };
    let streaming = ResponseStream {
        following,
        steps,
        after,
        over: false,
    };
    let pieces = stream::unfold(streaming, |mut streaming| async move {
        let event = streaming.next().await?;
        Some((Ok::<_, Infallible>(event), streaming))
    });
    events::sse_response(pieces)
}

/// Refuses to go on after a step that nobody has read yet: what comes up to it would be left out without a word.
pub(super) async fn require_step(
    app: &AppState,
    snapshot: &ConversationSnapshot,
    number: u64,
) -> ApiResult<()> {
    let mut steps = Steps::of(snapshot, true)?;
    let (id, mut last) = (&snapshot.conversation.id, 0);
    while steps.count() <= number {
        let conversations = &app.backends.conversations;
        let events = conversations.events(id, TURN, last, PAGE).await?;
        if events.is_empty() {
            let newest = steps.count().saturating_sub(1);
            let detail = format!(
                "'starting_after' is {number}, and the last event so far has the sequence number {newest}; send the one that was read \
                 last, or leave it out"
            );
            let error = ApiError::new(ProblemCode::InvalidRequest, detail);
            return Err(error.at("starting_after"));
        }
        for (place, event) in events {
            last = place;
            steps.take(event);
        }
    }
    Ok(())
}

impl ResponseStream {
    async fn next(&mut self) -> Option<Event> {
        loop {
            while let Some(event) = self.steps.pop() {
                if self.after.is_none_or(|after| event.sequence_number > after) {
                    let data = serde_json::to_string(&event).expect("plain data with text keys");
                    return Some(Event::default().event(event.step.name()).data(data));
                }
            }
            if self.over {
                return None;
            }
            // None where this gateway stops or the response is deleted: without a last step, so that its reader knows.
            match self.following.reader.next().await? {
                TurnUpdate::Alive | TurnUpdate::Queued(_) => {
                    return Some(Event::default().comment(""));
                }
                TurnUpdate::Event(_, event) => {
                    self.over = matches!(event, TurnEvent::Ended(_));
                    self.steps.take(event);
                }
            }
        }
    }
}
