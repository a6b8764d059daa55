//! The events of a turn as Server-Sent Events. Their ids are the events' numbers, so that a reader goes on anywhere, at
//! any gateway, with the last id it has seen.

use std::convert::Infallible;

use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, StatusCode, Uri, header};
use axum::response::sse::{Event, Sse};
use axum::response::{IntoResponse, Response};
use futures::Stream;
use futures::stream;
use radialog_runtime::metrics::metrics;
use radialog_schemas::http::{ProblemCode, QueuedEvent, StartedEvent, TokenEvent, TurnError};
use radialog_schemas::{ConversationId, TurnEvent};
use serde::Serialize;
use tokio::sync::OwnedSemaphorePermit;

use super::app_state::AppState;
use super::auth::Caller;
use super::problem::{ApiError, ApiResult};
use super::query::{pairs, parsed, unsupported};
use super::request_path::OwnTurn;
use super::turn_follower::{TurnFollower, TurnUpdate};
use super::view;

const LAST_EVENT_ID: &str = "last-event-id";

pub(super) async fn follow(
    State(app): State<AppState>,
    caller: Caller,
    at: OwnTurn,
    headers: HeaderMap,
    uri: Uri,
) -> ApiResult<Response> {
    let after = after(&headers, &uri)?;
    let turn = at.state()?;
    if turn.status.is_final() && after >= turn.events {
        // Everything was read. This status tells a browser not to come back.
        return Ok(StatusCode::NO_CONTENT.into_response());
    }
    if after > turn.events {
        let detail = format!(
            "the turn has {} events so far; go on after one that you have read",
            turn.events
        );
        return Err(ApiError::new(ProblemCode::InvalidRequest, detail));
    }
    let open = OpenStream::new(caller.quota.stream()?);
    let reader = TurnFollower::open(&app, at.id(), at.turn, after).await?;
    let stream = EventStream {
        app,
        id: at.id().clone(),
        turn: at.turn,
        reader,
        _open: open,
    };
    Ok(sse_response(events(stream)))
}

/// Answers with a stream that no proxy may hold back.
pub(super) fn sse_response<S>(events: S) -> Response
where
    S: Stream<Item = Result<Event, Infallible>> + Send + 'static,
{
    let mut response = Sse::new(events).into_response();
    response
        .headers_mut()
        .insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
        .headers_mut()
        .insert("x-accel-buffering", HeaderValue::from_static("no"));
    response
}

/// An event stream that is open, and counted as such.
pub(super) struct OpenStream(
    #[expect(dead_code, reason = "held while the stream is open")] OwnedSemaphorePermit,
);

impl OpenStream {
    pub(super) fn new(permit: OwnedSemaphorePermit) -> Self {
        metrics().http_streams.inc();
        Self(permit)
    }
}

impl Drop for OpenStream {
    fn drop(&mut self) {
        metrics().http_streams.dec();
    }
}

/// The event that was read last: by the header, or by the query of clients that cannot set headers, some of which
/// (event-source-polyfill) write `lastEventId` behind it when they come back.
fn after(headers: &HeaderMap, uri: &Uri) -> ApiResult<u64> {
    let what = "the id of an event";
    let (mut after, mut last) = (None, None);
    for (name, value) in pairs(uri)? {
        match name.as_str() {
            "after" if after.is_none() => after = Some(parsed(&name, &value, what)?),
            "lastEventId" if last.is_none() => last = Some(parsed(&name, &value, what)?),
            _ => return Err(unsupported(&name)),
        }
    }
    match headers.get(LAST_EVENT_ID) {
        Some(id) => parsed("Last-Event-ID", id.to_str().unwrap_or_default(), what),
        None => Ok(last.or(after).unwrap_or(0)),
    }
}

struct EventStream {
    app: AppState,
    id: ConversationId,
    turn: u32,
    reader: TurnFollower,
    _open: OpenStream,
}

fn events(stream: EventStream) -> impl Stream<Item = Result<Event, Infallible>> {
    stream::unfold(stream, |mut stream| async move {
        let update = match stream.reader.next().await {
            Some(update) => update,
            None if stream.reader.take_gone() => return Some((Ok(deleted()), stream)),
            None => return None,
        };
        let event = match update {
            TurnUpdate::Alive => Event::default().comment(""),
            TurnUpdate::Queued(position) => event("queued", None, &QueuedEvent { position }),
            TurnUpdate::Event(number, TurnEvent::Findings(findings)) => {
                event("findings", Some(number), &findings)
            }
            TurnUpdate::Event(number, TurnEvent::Started { asked }) => {
                event("started", Some(number), &StartedEvent { asked })
            }
            TurnUpdate::Event(number, TurnEvent::Token { text, .. }) => {
                event("token", Some(number), &TokenEvent { text })
            }
            TurnUpdate::Event(number, TurnEvent::Ended(outcome)) => {
                match view::outcome_error(&outcome) {
                    Some(error) => event("error", Some(number), &error),
                    None => stream.done(number).await?,
                }
            }
        };
        Some((Ok(event), stream))
    })
}

impl EventStream {
    /// Makes the last event, which is the whole turn; none where it cannot be read, so that the reader comes back for it.
    async fn done(&mut self, number: u64) -> Option<Event> {
        let conversations = &self.app.backends.conversations;
        let Some(snapshot) = conversations.snapshot(&self.id).await.ok()? else {
            return Some(deleted());
        };
        let view = view::turn(&self.app, &snapshot, self.turn).await.ok()?;
        Some(event("done", Some(number), &view))
    }
}

/// The last event of a turn that is gone, by which its end is no lost connection. It has no number: nothing comes after it.
fn deleted() -> Event {
    let error = TurnError {
        code: ProblemCode::NotFound.as_str(),
        message: "the conversation was deleted".into(),
    };
    event("error", None, &error)
}

fn event(name: &str, number: Option<u64>, data: &impl Serialize) -> Event {
    let data = serde_json::to_string(data).expect("plain data with text keys");
    let event = Event::default().event(name).data(data);
    match number {
        Some(number) => event.id(number.to_string()),
        None => event,
    }
}
