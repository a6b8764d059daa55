//! Turns of a conversation: asking, looking, cancelling, rewriting.

use axum::Json;
use axum::extract::State;
use axum::http::{StatusCode, header};
use radialog_schemas::Ask;
use radialog_schemas::http::{EditedAnswer, NewTurn, ProblemCode, TurnView};

use super::Shared;
use super::auth::Caller;
use super::body::{JsonBody, check_text};
use super::create::{self, Accepted};
use super::path::{self, IdempotencyKey, Own, OwnTurn};
use super::problem::{Answer, Refusal};
use super::{publish, view};
use crate::corrections;

pub(super) async fn add(
    State(shared): State<Shared>,
    caller: Caller,
    Own(before): Own,
    IdempotencyKey(key): IdempotencyKey,
    JsonBody(asked): JsonBody<NewTurn>,
) -> Answer<Accepted<TurnView>> {
    let conversation = before.conversation;
    check(&asked.ask, conversation.image.is_some())?;
    let generation = create::generation(&asked.options)?;
    let request = create::request(&shared, asked.ask, &generation, &asked.options);
    if before.turns.len() >= shared.config.max_turns as usize {
        let detail = format!(
            "a conversation has at most {} turns; start a new one",
            shared.config.max_turns
        );
        return Err(Refusal::new(ProblemCode::ConversationFull, detail));
    }
    create::check_room(&shared).await?;
    let id = &conversation.id;
    let added = shared
        .backends
        .conversations
        .add_turn(id, &request, key.as_deref())
        .await?;
    let added = added.ok_or_else(Refusal::no_conversation)?;
    publish::ready(&shared, id, added.ready.then_some(added.turn)).await;
    let after = path::own(&shared, &caller, id).await?;
    let stored = &path::turn(&after, added.turn)?.request;
    if (&stored.ask, &stored.generation) != (&request.ask, &request.generation) {
        let detail = "this Idempotency-Key asked another turn; give each new turn a new key";
        return Err(Refusal::new(ProblemCode::IdempotencyMismatch, detail));
    }
    let location = [(header::LOCATION, view::turn_path(id, added.turn))];
    Ok((
        StatusCode::ACCEPTED,
        location,
        Json(view::turn(&shared, &after, added.turn).await?),
    ))
}

fn check(ask: &Ask, has_image: bool) -> Answer<()> {
    let invalid = |detail: &str| Err(Refusal::new(ProblemCode::InvalidRequest, detail));
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

pub(super) async fn get(State(shared): State<Shared>, at: OwnTurn) -> Answer<Json<TurnView>> {
    Ok(Json(view::turn(&shared, &at.snapshot, at.turn).await?))
}

pub(super) async fn cancel(State(shared): State<Shared>, at: OwnTurn) -> Answer<StatusCode> {
    let ready = shared
        .backends
        .conversations
        .cancel(at.id(), at.turn)
        .await?;
    publish::ready(&shared, at.id(), ready).await;
    Ok(StatusCode::NO_CONTENT)
}

pub(super) async fn edit(
    State(shared): State<Shared>,
    caller: Caller,
    at: OwnTurn,
    JsonBody(edited): JsonBody<EditedAnswer>,
) -> Answer<Json<TurnView>> {
    check_text("text", &edited.text)?;
    rewrite(&shared, &at, Some(&edited.text)).await?;
    let after = path::own(&shared, &caller, at.id()).await?;
    match corrections::of(&after, at.turn, &edited.text, create::now_ms()) {
        Some(correction) => corrections::keep(&*shared.backends.objects, &correction).await?,
        None => corrections::forget(&*shared.backends.objects, at.id(), at.turn).await?,
    }
    Ok(Json(view::turn(&shared, &after, at.turn).await?))
}

pub(super) async fn forget_edit(State(shared): State<Shared>, at: OwnTurn) -> Answer<StatusCode> {
    rewrite(&shared, &at, None).await?;
    corrections::forget(&*shared.backends.objects, at.id(), at.turn).await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn rewrite(shared: &Shared, at: &OwnTurn, text: Option<&str>) -> Answer<()> {
    if !at.state()?.status.is_final()
        || !shared
            .backends
            .conversations
            .edit(at.id(), at.turn, text)
            .await?
    {
        let detail = "the turn is still being answered; wait for its end, or cancel it, and then rewrite the answer";
        return Err(Refusal::new(ProblemCode::TurnNotFinal, detail));
    }
    Ok(())
}
