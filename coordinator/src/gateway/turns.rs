//! Turns of a conversation: asking, looking, cancelling, rewriting, rating.

use axum::Json;
use axum::extract::State;
use axum::http::{StatusCode, header};
use radialog_runtime::clock;
use radialog_runtime::conversations::{AddTurnOutcome, ConversationSnapshot};
use radialog_schemas::http::{AnswerRating, EditedAnswer, NewTurn, ProblemCode, TurnView};
use radialog_schemas::{Ask, Generation, Rating};

use super::app_state::AppState;
use super::auth::Caller;
use super::body::{JsonBody, check_text};
use super::create::{self, Accepted};
use super::problem::{ApiError, ApiResult};
use super::queue_place::QueuePlaces;
use super::request_path::{self, IdempotencyKey, OwnConversation, OwnTurn};
use super::{publish, view};
use crate::conversation::{corrections, ratings};

pub(super) async fn add(
    State(app): State<AppState>,
    caller: Caller,
    OwnConversation(before): OwnConversation,
    IdempotencyKey(key): IdempotencyKey,
    JsonBody(asked): JsonBody<NewTurn>,
) -> ApiResult<Accepted<TurnView>> {
    let conversation = before.conversation;
    check(&asked.ask, conversation.image.is_some())?;
    let generation = Generation {
        adapter: conversation.adapter.clone(),
        ..create::generation(&asked.options)?
    };
    let request = create::turn_request(&app, asked.ask, &generation, &asked.options);
    let places = QueuePlaces::take(&app, &caller.owner, 1).await?;
    let (id, max_turns) = (&conversation.id, app.config.max_turns);
    let added = app
        .backends
        .conversations
        .add_turn(id, &request, key.as_deref(), max_turns)
        .await?;
    let added = match added {
        AddTurnOutcome::Added(added) => added,
        AddTurnOutcome::Full => {
            let detail = format!("a conversation has at most {max_turns} turns; start a new one");
            return Err(ApiError::new(ProblemCode::ConversationFull, detail));
        }
        AddTurnOutcome::Mismatch => {
            let detail = "this Idempotency-Key asked another turn; give each new turn a new key";
            return Err(ApiError::new(ProblemCode::IdempotencyMismatch, detail));
        }
        AddTurnOutcome::NotFound => return Err(ApiError::no_conversation()),
    };
    places.free().await;
    publish::publish_ready(&app, &conversation, added.ready.then_some(added.turn)).await;
    let after = request_path::own(&app, &caller, id).await?;
    let location = [(header::LOCATION, view::turn_path(id, added.turn))];
    Ok((
        StatusCode::ACCEPTED,
        location,
        Json(view::turn(&app, &after, added.turn).await?),
    ))
}

fn check(ask: &Ask, has_image: bool) -> ApiResult<()> {
    let invalid = |detail: &str| Err(ApiError::new(ProblemCode::InvalidRequest, detail));
    match ask {
        Ask::Question { text } => check_text("text", text),
        Ask::Correction { add, remove } if add.is_empty() && remove.is_empty() => {
            invalid("a correction adds or removes at least one finding")
        }
        Ask::Correction { add, remove } if add.iter().any(|finding| remove.contains(finding)) => {
            invalid("a correction cannot both add and remove the same finding")
        }
        Ask::Reasons { findings } if findings.is_empty() => {
            invalid("name at least one finding to give reasons for")
        }
        Ask::Report if !has_image => {
            invalid("the conversation has no image to report on; start a new one with an image")
        }
        _ => Ok(()),
    }
}

pub(super) async fn get(State(app): State<AppState>, at: OwnTurn) -> ApiResult<Json<TurnView>> {
    Ok(Json(view::turn(&app, &at.snapshot, at.turn).await?))
}

pub(super) async fn cancel(State(app): State<AppState>, at: OwnTurn) -> ApiResult<StatusCode> {
    let ready = app.backends.conversations.cancel(at.id(), at.turn).await?;
    publish::publish_ready(&app, &at.snapshot.conversation, ready).await;
    Ok(StatusCode::NO_CONTENT)
}

pub(super) async fn edit(
    State(app): State<AppState>,
    caller: Caller,
    at: OwnTurn,
    JsonBody(edited): JsonBody<EditedAnswer>,
) -> ApiResult<Json<TurnView>> {
    check_text("text", &edited.text)?;
    rewrite(&app, &at, Some(&edited.text)).await?;
    let after = store_data(&app, &caller, &at).await?;
    Ok(Json(view::turn(&app, &after, at.turn).await?))
}

pub(super) async fn forget_edit(
    State(app): State<AppState>,
    caller: Caller,
    at: OwnTurn,
) -> ApiResult<StatusCode> {
    rewrite(&app, &at, None).await?;
    store_data(&app, &caller, &at).await?;
    Ok(StatusCode::NO_CONTENT)
}

pub(super) async fn rate(
    State(app): State<AppState>,
    caller: Caller,
    at: OwnTurn,
    JsonBody(given): JsonBody<AnswerRating>,
) -> ApiResult<Json<TurnView>> {
    keep_rating(&app, &at, Some(given.rating)).await?;
    let after = store_data(&app, &caller, &at).await?;
    Ok(Json(view::turn(&app, &after, at.turn).await?))
}

pub(super) async fn forget_rating(
    State(app): State<AppState>,
    caller: Caller,
    at: OwnTurn,
) -> ApiResult<StatusCode> {
    keep_rating(&app, &at, None).await?;
    store_data(&app, &caller, &at).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Makes the stored correction and rating those of the answer as it stands. Where it is rewritten or rated meanwhile, it is
/// done again; where the conversation is removed, nothing stays.
async fn store_data(
    app: &AppState,
    caller: &Caller,
    at: &OwnTurn,
) -> ApiResult<ConversationSnapshot> {
    let objects = &*app.backends.objects;
    let mut before = request_path::own(app, caller, at.id()).await?;
    loop {
        let now = request_path::turn(&before, at.turn)?;
        let edited = now.edited.as_deref();
        let correction =
            edited.and_then(|text| corrections::from_edit(&before, at.turn, text, clock::now_ms()));
        match correction {
            Some(correction) => corrections::store(objects, &correction).await?,
            None => corrections::delete(objects, at.id(), at.turn).await?,
        }
        match ratings::of_turn(&before, at.turn, clock::now_ms()) {
            Some(rated) => ratings::store(objects, &rated).await?,
            None => ratings::delete(objects, at.id(), at.turn).await?,
        }
        let Some(after) = app.backends.conversations.snapshot(at.id()).await? else {
            corrections::delete(objects, at.id(), at.turn).await?;
            ratings::delete(objects, at.id(), at.turn).await?;
            return Err(ApiError::no_conversation());
        };
        let then = request_path::turn(&after, at.turn)?;
        if then.edited.as_deref() == edited && then.rating == now.rating {
            return Ok(after);
        }
        before = after;
    }
}

async fn keep_rating(app: &AppState, at: &OwnTurn, rating: Option<Rating>) -> ApiResult<()> {
    let conversations = &app.backends.conversations;
    if !conversations.rate(at.id(), at.turn, rating).await? {
        let detail = "the turn is still being answered; wait for its end, or cancel it, and then rate the answer";
        return Err(ApiError::new(ProblemCode::TurnNotFinal, detail));
    }
    Ok(())
}

async fn rewrite(app: &AppState, at: &OwnTurn, text: Option<&str>) -> ApiResult<()> {
    if !at.state()?.status.is_final()
        || !app
            .backends
            .conversations
            .edit(at.id(), at.turn, text)
            .await?
    {
        let detail = "the turn is still being answered; wait for its end, or cancel it, and then rewrite the answer";
        return Err(ApiError::new(ProblemCode::TurnNotFinal, detail));
    }
    Ok(())
}
