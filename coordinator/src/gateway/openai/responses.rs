//! OpenAI's responses: answers that are kept, so that a client may leave and look later, at any gateway. A response is a
//! conversation of one turn. One that goes on from another begins with a copy of what was said and shown before, and so
//! owns all that it needs: each response ends by itself, and nobody else's end touches it.

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use radialog_runtime::conversations::ConversationSnapshot;
use radialog_schemas::http::ProblemCode;
use radialog_schemas::http::responses::{DeletedResponse, ModelResponse};
use radialog_schemas::{ConversationId, Generation, TurnEvent};
use tokio::time::{Duration, timeout};

use self::following::Following;
use self::history::History;
use self::lookup::{OwnResponse, TURN};
use self::request::ResponseBody;
use self::retrieval::Retrieval;
use super::completion::EphemeralConversation;
use super::warning::{self, Unused};
use super::{LIFETIME_SECONDS, begin, unlisted_owner};
use crate::conversation::retention;
use crate::gateway::app_state::AppState;
use crate::gateway::auth::Caller;
use crate::gateway::body_memory::HeldMemory;
use crate::gateway::create::{self, ChosenModel, ConversationDraft};
use crate::gateway::events::OpenStream;
use crate::gateway::image::CheckedImage;
use crate::gateway::problem::{ApiError, ApiResult};
use crate::gateway::publish;
use crate::gateway::request_path::IdempotencyKey;
use crate::gateway::turn_follower::{TurnFollower, TurnUpdate};

mod following;
mod history;
mod input_items;
mod lookup;
mod request;
mod retrieval;
mod steps;
mod stream;
mod view;

pub(super) use self::request::AskedResponse;
pub(in crate::gateway) use input_items::list as input_items;

/// How long a cancellation waits for the worker that writes the answer to see it.
const CANCEL_WAIT: Duration = Duration::from_secs(5);

pub(in crate::gateway) async fn create(
    State(app): State<AppState>,
    caller: Caller,
    IdempotencyKey(key): IdempotencyKey,
    ResponseBody(asked, memory): ResponseBody,
) -> ApiResult<Response> {
    if key.is_some() && !asked.store {
        let detail = "an Idempotency-Key needs a response that is kept; leave out the key, or 'store': false";
        return Err(ApiError::new(ProblemCode::InvalidRequest, detail).at("store"));
    }
    let (is_stream, store) = (asked.stream, asked.store);
    let background = asked.request.background;
    let mut unused = asked.unused();
    let open = match background && !is_stream {
        true => None,
        false => Some(OpenStream::new(caller.quota.stream()?)),
    };
    let (snapshot, ephemeral) = match known(&app, &caller, key.as_deref(), &asked).await? {
        Some(known) => (known, None),
        None => {
            let history = match &asked.request.previous_response_id {
                Some(previous) => History::of(&app, &caller, previous).await?,
                None => History::default(),
            };
            let known_id = |key: &str| create::known_id(KIND, &caller, key);
            let id = key.as_deref().map_or_else(create::new_id, known_id);
            begin_response(&app, (&*caller.owner, id), history, (asked, false), memory).await?
        }
    };
    let mut answer = match open {
        None => Json(view::response(&app, &snapshot).await?).into_response(),
        Some(open) => {
            let following = Following::open(&app, snapshot, ephemeral, Some(open)).await?;
            match is_stream {
                true => stream::answer(following, store, None),
                false => {
                    let (response, of_image) = following.whole(store, || {}).await?;
                    unused.of_image = of_image;
                    Json(response).into_response()
                }
            }
        }
    };
    unused.tell(&mut answer);
    Ok(answer)
}

/// Answers a line of a batch: begins its response under this name, or goes on with it, and waits for its end; `on_asked` is
/// called once its request is published, and `on_event` with each of its events. What people are told of its image is beside the
/// answer.
pub(super) async fn answer_line(
    app: &AppState,
    (owner, id): (&str, ConversationId),
    asked: AskedResponse,
    memory: HeldMemory,
    (on_asked, on_event): (impl FnOnce(), impl Fn()),
) -> ApiResult<(ModelResponse, Option<String>)> {
    let store = asked.store;
    let asked = (asked, true);
    let begun = begin_response(app, (owner, id), History::default(), asked, memory);
    let (snapshot, ephemeral) = begun.await?;
    on_asked();
    let following = Following::open(app, snapshot, ephemeral, None).await?;
    following.whole(store, on_event).await
}

/// Finds the response that the same request has made before, where what it went on from is gone since, so that it cannot
/// be made again. What else an earlier try has left undone is done by beginning it again.
async fn known(
    app: &AppState,
    caller: &Caller,
    key: Option<&str>,
    asked: &AskedResponse,
) -> ApiResult<Option<ConversationSnapshot>> {
    let Some(key) = key else { return Ok(None) };
    let id = create::known_id(KIND, caller, key);
    let Some(known) = app.backends.conversations.snapshot(&id).await? else {
        return Ok(None);
    };
    let request = known.conversation.response.as_ref();
    if request.is_none_or(|request| request.fingerprint != asked.request.fingerprint) {
        let detail = "this Idempotency-Key made another response; give each new request a new key";
        return Err(ApiError::new(ProblemCode::IdempotencyMismatch, detail));
    }
    let Some(previous) = &asked.request.previous_response_id else {
        return Ok(None);
    };
    match lookup::own(app, caller, previous).await {
        Err(gone) if gone.problem.code == ProblemCode::NotFound => Ok(Some(known)),
        Err(error) => Err(error),
        Ok(_) => Ok(None),
    }
}

/// What idempotency keys of responses make.
const KIND: &str = "response";

/// Begins a response; `is_line` says that it is a line of a batch, for which nobody waits.
async fn begin_response(
    app: &AppState,
    (owner, id): (&str, ConversationId),
    mut history: History,
    (asked, is_line): (AskedResponse, bool),
    memory: HeldMemory,
) -> ApiResult<(ConversationSnapshot, Option<EphemeralConversation>)> {
    let model = ChosenModel::find(app, Some(&asked.request.model))?;
    let generation = Generation {
        adapter: model.adapter.clone(),
        ..create::generation(&asked.options)?
    };
    let image = match asked.dialog.image {
        Some(content) => {
            let checked = CheckedImage::new(content, &app.config).await;
            Some(checked.map_err(|error| error.at("input"))?)
        }
        None => None,
    };
    history.go_on(app, asked.dialog.opening, &asked.dialog.ask, image)?;
    let ephemeral = (!asked.store).then(|| EphemeralConversation {
        app: app.clone(),
        id: id.clone(),
    });
    let mut turn = create::turn_request(app, asked.dialog.ask, &generation, &asked.options);
    if is_line {
        // The gateway's own is for those who wait; a batch has its day. A response has no other.
        turn.deadline_ms = None;
    }
    let draft = ConversationDraft {
        id,
        owner: match asked.store {
            true => lookup::owner(owner),
            false => unlisted_owner(owner),
        },
        model,
        image: history.image,
        known_image: history.known_image,
        indication: None,
        lifetime_seconds: (!asked.store).then_some(LIFETIME_SECONDS),
        opening: history.opening,
        turns: vec![turn],
        response: Some(asked.request),
        of_batch: is_line,
        title: None,
    };
    let begun = begin(app, draft, (ephemeral, history.memory, memory)).await;
    begun.map(|(snapshot, (ephemeral, ..))| (snapshot, ephemeral))
}

pub(in crate::gateway) async fn get(
    State(app): State<AppState>,
    caller: Caller,
    OwnResponse(snapshot): OwnResponse,
    retrieval: Retrieval,
) -> ApiResult<Response> {
    if !retrieval.stream {
        let mut answer = Json(view::response(&app, &snapshot).await?).into_response();
        let told = Unused {
            of_image: warning::of_conversation(&snapshot),
            ..Unused::default()
        };
        told.tell(&mut answer);
        return Ok(answer);
    }
    let open = OpenStream::new(caller.quota.stream()?);
    if let Some(number) = retrieval.starting_after {
        stream::require_step(&app, &snapshot, number).await?;
    }
    let following = Following::open(&app, snapshot, None, Some(open)).await?;
    Ok(stream::answer(following, true, retrieval.starting_after))
}

pub(in crate::gateway) async fn cancel(
    State(app): State<AppState>,
    caller: Caller,
    OwnResponse(snapshot): OwnResponse,
) -> ApiResult<Json<ModelResponse>> {
    let id = snapshot.conversation.id.clone();
    if !lookup::request(&snapshot)?.background {
        let detail = "only a response with 'background': true can be cancelled; close the connection of another one";
        return Err(ApiError::new(ProblemCode::InvalidRequest, detail));
    }
    let ready = app.backends.conversations.cancel(&id, TURN).await?;
    publish::publish_ready(&app, &snapshot.conversation, ready).await;
    // Its worker may be writing the last word, so that only its end says how it ended.
    let mut reader = TurnFollower::open(&app, &id, TURN, 0).await?;
    let end = async {
        while let Some(update) = reader.next().await {
            if matches!(update, TurnUpdate::Event(_, TurnEvent::Ended(_))) {
                return;
            }
        }
    };
    // Where no worker has seen it by then, it is said to be in progress, and ends when one does.
    let _ = timeout(CANCEL_WAIT.min(app.config.request_timeout / 2), end).await;
    let after = lookup::own(&app, &caller, &lookup::response_id(&id)).await?;
    Ok(Json(view::response(&app, &after).await?))
}

pub(in crate::gateway) async fn delete(
    State(app): State<AppState>,
    OwnResponse(snapshot): OwnResponse,
) -> ApiResult<Json<DeletedResponse>> {
    let id = &snapshot.conversation.id;
    retention::remove(&app.backends, id).await?;
    Ok(Json(DeletedResponse {
        id: lookup::response_id(id),
        object: "response".to_owned(),
        deleted: true,
    }))
}
