//! The steps of a response as Server-Sent Events, from the beginning or behind the last one that was read.

use std::convert::Infallible;

use axum::response::sse::Event;
use axum::response::{IntoResponse, Response};
use futures::stream;
use radialog_schemas::TurnEvent;

use super::following::Following;
use super::steps::Steps;
use crate::gateway::events;
use crate::gateway::turn_follower::TurnUpdate;

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
