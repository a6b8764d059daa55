//! Turns of a conversation: asking, looking, cancelling, rewriting, rating.

use axum::Json;
use axum::extract::State;
use axum::http::{HeaderName, StatusCode, header};
use radialog_runtime::clock;
use radialog_runtime::conversations::{AddTurnOutcome, ConversationSnapshot, ReplaceOutcome};
use radialog_runtime::objects::{ObjectError, Objects};
use radialog_schemas::http::{AnswerRating, EditedAnswer, NewTurn, ProblemCode, TurnView};
use radialog_schemas::{Ask, Finding, Generation, Rating};

use super::app_state::AppState;
use super::auth::Caller;
use super::body::{JsonBody, check_text};
use super::create::{self, Accepted};
use super::precondition::{IfMatch, tag};
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
    // Another gateway may serve a group that this one does not.
    if let Some(group) = &conversation.group
        && app.bundles.of_group(Some(group)).is_none()
        && !app.backends.state.is_served(group).await?
    {
        // It was given up: a turn would wait for ever, in queues that it makes anew.
        let detail = "the bundle of this conversation is not served here any more; begin a new one";
        return Err(ApiError::new(ProblemCode::ModelNotFound, detail));
    }
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
    // The question has every finding in words, a repeated one twice, and no words for `No Finding`.
    let named: [&[Finding]; 2] = match ask {
        Ask::Correction { add, remove } => [add.as_slice(), remove.as_slice()],
        Ask::Reasons { findings } => [findings.as_slice(), &[]],
        _ => [&[], &[]],
    };
    for findings in named {
        for (place, finding) in findings.iter().enumerate() {
            if findings[..place].contains(finding) {
                return invalid(&format!(
                    "'{}' is named twice; name it once",
                    finding.name()
                ));
            }
        }
    }
    let all = named.concat();
    if !all.is_empty() && all.iter().all(|finding| *finding == Finding::NoFinding) {
        return invalid("'No Finding' is nothing to change or to give reasons for; name a finding");
    }
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
    versions: IfMatch,
    JsonBody(edited): JsonBody<EditedAnswer>,
) -> ApiResult<([(HeaderName, String); 1], Json<TurnView>)> {
    check_text("text", &edited.text)?;
    let tag = rewrite(&app, &caller, &at, Some(&edited.text), &versions).await?;
    let after = store_data(&app, &caller, &at, Kept::Correction).await?;
    Ok((tag, Json(view::turn(&app, &after, at.turn).await?)))
}

pub(super) async fn forget_edit(
    State(app): State<AppState>,
    caller: Caller,
    at: OwnTurn,
    versions: IfMatch,
) -> ApiResult<(StatusCode, [(HeaderName, String); 1])> {
    let tag = rewrite(&app, &caller, &at, None, &versions).await?;
    store_data(&app, &caller, &at, Kept::Correction).await?;
    Ok((StatusCode::NO_CONTENT, tag))
}

pub(super) async fn rate(
    State(app): State<AppState>,
    caller: Caller,
    at: OwnTurn,
    JsonBody(given): JsonBody<AnswerRating>,
) -> ApiResult<Json<TurnView>> {
    let turn = at.state()?;
    if !turn.status.is_final() {
        return Err(not_final("rate"));
    }
    // Whatever ended without one stays so.
    if corrections::answer(turn).is_none() {
        let detail = "the turn has no answer to rate: it was cancelled, or has failed; ask again, and rate that answer";
        return Err(ApiError::new(ProblemCode::NoAnswer, detail));
    }
    keep_rating(&app, &caller, &at, Some(given.rating)).await?;
    let after = store_data(&app, &caller, &at, Kept::Rating).await?;
    Ok(Json(view::turn(&app, &after, at.turn).await?))
}

pub(super) async fn forget_rating(
    State(app): State<AppState>,
    caller: Caller,
    at: OwnTurn,
) -> ApiResult<StatusCode> {
    keep_rating(&app, &caller, &at, None).await?;
    store_data(&app, &caller, &at, Kept::Rating).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// What is kept as data of an answer, each in an object of its own: a rating says nothing of the correction beside it.
#[derive(Clone, Copy)]
enum Kept {
    Correction,
    Rating,
}

impl Kept {
    /// Makes what is stored of a turn that of the turn as it stands; nothing stays of one that is not there.
    async fn store(
        self,
        objects: &dyn Objects,
        at: &OwnTurn,
        now: Option<&ConversationSnapshot>,
    ) -> Result<(), ObjectError> {
        let (id, number, now_ms) = (at.id(), at.turn, clock::now_ms());
        match self {
            Self::Correction => {
                let edited = now.and_then(|now| {
                    let turn = request_path::turn(now, number).ok()?;
                    corrections::from_edit(now, number, turn.edited.as_deref()?, now_ms)
                });
                match edited {
                    Some(correction) => corrections::store(objects, &correction).await,
                    None => corrections::delete(objects, id, number).await,
                }
            }
            Self::Rating => match now.and_then(|now| ratings::of_turn(now, number, now_ms)) {
                Some(rated) => ratings::store(objects, &rated).await,
                None => ratings::delete(objects, id, number).await,
            },
        }
    }

    /// Whether what is kept of a turn is the same in both.
    fn is_same(
        self,
        turn: u32,
        before: &ConversationSnapshot,
        after: &ConversationSnapshot,
    ) -> bool {
        let turns = [before, after].map(|snapshot| request_path::turn(snapshot, turn).ok());
        let is_same = match self {
            Self::Correction => {
                let [before, after] = turns.map(|turn| turn?.edited.as_deref());
                before == after
            }
            Self::Rating => {
                let [before, after] = turns.map(|turn| turn?.rating);
                before == after
            }
        };
        is_same && before.conversation == after.conversation
    }
}

/// Makes what is stored of an answer that of the answer as it stands. Where it is rewritten or rated meanwhile, it is done again,
/// and so it is where the conversation is removed, or another one begins under its name: what is stored is the latest one's.
async fn store_data(
    app: &AppState,
    caller: &Caller,
    at: &OwnTurn,
    kept: Kept,
) -> ApiResult<ConversationSnapshot> {
    let objects = &*app.backends.objects;
    let first = request_path::own(app, caller, at.id()).await?;
    let mut before = Some(first.clone());
    let after = loop {
        kept.store(objects, at, before.as_ref()).await?;
        let after = app.backends.conversations.snapshot(at.id()).await?;
        match (&before, &after) {
            (None, None) => break None,
            (Some(before), Some(now)) if kept.is_same(at.turn, before, now) => break after,
            _ => before = after,
        }
    };
    after
        .filter(|after| after.conversation == first.conversation)
        .ok_or_else(ApiError::no_conversation)
}

async fn keep_rating(
    app: &AppState,
    caller: &Caller,
    at: &OwnTurn,
    rating: Option<Rating>,
) -> ApiResult<()> {
    let conversations = &app.backends.conversations;
    if conversations.rate(at.id(), at.turn, rating).await? {
        return Ok(());
    }
    // It is not final, or its conversation has gone since it was looked up.
    request_path::own(app, caller, at.id()).await?;
    Err(not_final("rate"))
}

fn not_final(verb: &str) -> ApiError {
    let detail = format!(
        "the turn is still being answered; wait for its end, or cancel it, and then {verb} the answer"
    );
    ApiError::new(ProblemCode::TurnNotFinal, detail)
}

/// Keeps a person's version or forgets it; returns its tag, whatever has come after it since.
async fn rewrite(
    app: &AppState,
    caller: &Caller,
    at: &OwnTurn,
    text: Option<&str>,
    versions: &IfMatch,
) -> ApiResult<[(HeaderName, String); 1]> {
    let (conversations, turn) = (&app.backends.conversations, at.state()?);
    if turn.status.is_final() {
        let replaces = versions.replaces_named(turn.edited.as_deref(), text)?;
        match conversations.edit(at.id(), at.turn, text, replaces).await? {
            ReplaceOutcome::Replaced => return Ok([(header::ETAG, tag(text))]),
            ReplaceOutcome::Other => return Err(versions.refusal()),
            ReplaceOutcome::Missing => {}
        }
    }
    request_path::own(app, caller, at.id()).await?;
    Err(not_final("rewrite"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn findings_are_named_once_and_no_finding_is_none_to_name_alone() {
        let asked = |ask: Ask| check(&ask, true).map_err(|error| error.problem.detail);
        let correction = |add: &[Finding]| Ask::Correction {
            add: add.to_vec(),
            remove: vec![],
        };
        let reasons = |findings: &[Finding]| Ask::Reasons {
            findings: findings.to_vec(),
        };
        let twice = [Finding::Edema, Finding::Edema];
        for ask in [correction(&twice), reasons(&twice)] {
            assert!(asked(ask).unwrap_err().contains("'Edema' is named twice"));
        }
        let nothing = Finding::NoFinding;
        for ask in [correction(&[nothing]), reasons(&[nothing])] {
            assert!(asked(ask).unwrap_err().contains("'No Finding' is nothing"));
        }
        assert_eq!(asked(correction(&[nothing, Finding::Edema])), Ok(()));
        // The original has this question.
        let presence = Ask::Presence { finding: nothing };
        assert_eq!(asked(presence), Ok(()));
    }
}
