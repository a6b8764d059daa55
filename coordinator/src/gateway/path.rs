//! What a request names by its path and headers: a conversation of the caller, one of its turns, an idempotency key.
//! Names that cannot exist, do not exist, or are somebody else's get the same answer.

use axum::extract::{FromRequestParts, RawPathParams};
use axum::http::request::Parts;
use radialog_runtime::conversations::{ConversationSnapshot, TurnSnapshot};
use radialog_schemas::ConversationId;
use radialog_schemas::http::ProblemCode;

use super::Shared;
use super::auth::Caller;
use super::problem::{Answer, Refusal};

/// Digits of a conversation's id: 122 random bits, or a hash.
pub(super) const ID_LENGTH: usize = 32;
const IDEMPOTENCY_KEY: &str = "idempotency-key";
const LONGEST_KEY: usize = 255;

/// A conversation of the caller as it stands.
pub(super) struct Own(pub(super) ConversationSnapshot);

/// One turn of [`Own`].
pub(super) struct OwnTurn {
    pub(super) snapshot: ConversationSnapshot,
    pub(super) turn: u32,
}

/// The header that makes a repeated request the same request.
pub(super) struct IdempotencyKey(pub(super) Option<String>);

impl OwnTurn {
    pub(super) fn id(&self) -> &ConversationId {
        &self.snapshot.conversation.id
    }

    pub(super) fn state(&self) -> Answer<&TurnSnapshot> {
        turn(&self.snapshot, self.turn)
    }
}

/// A turn by its number.
pub(super) fn turn(snapshot: &ConversationSnapshot, number: u32) -> Answer<&TurnSnapshot> {
    let place = (number as usize).checked_sub(1);
    place
        .and_then(|place| snapshot.turns.get(place))
        .ok_or_else(Refusal::no_turn)
}

/// The caller's conversation.
pub(super) async fn own(
    shared: &Shared,
    caller: &Caller,
    id: &ConversationId,
) -> Answer<ConversationSnapshot> {
    let snapshot = shared.backends.conversations.snapshot(id).await?;
    snapshot
        .filter(|snapshot| *snapshot.conversation.owner == *caller.owner)
        .ok_or_else(Refusal::no_conversation)
}

impl FromRequestParts<Shared> for Caller {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, _: &Shared) -> Answer<Self> {
        let caller = parts.extensions.get::<Caller>().cloned();
        caller.ok_or_else(|| Refusal::new(ProblemCode::Internal, "the request was not admitted"))
    }
}

impl FromRequestParts<Shared> for Own {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, shared: &Shared) -> Answer<Self> {
        let caller = Caller::from_request_parts(parts, shared).await?;
        let id = parameter(parts, shared, "id")
            .await
            .filter(|id| is_id(id))
            .ok_or_else(Refusal::no_conversation)?;
        Ok(Self(own(shared, &caller, &ConversationId(id)).await?))
    }
}

impl FromRequestParts<Shared> for OwnTurn {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, shared: &Shared) -> Answer<Self> {
        let Own(snapshot) = Own::from_request_parts(parts, shared).await?;
        let number = parameter(parts, shared, "turn").await;
        let is_number = |text: &String| text.bytes().all(|byte| byte.is_ascii_digit());
        let number = number
            .filter(is_number)
            .and_then(|text| text.parse().ok())
            .ok_or_else(Refusal::no_turn)?;
        turn(&snapshot, number)?;
        Ok(Self {
            snapshot,
            turn: number,
        })
    }
}

impl FromRequestParts<Shared> for IdempotencyKey {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, _: &Shared) -> Answer<Self> {
        let Some(value) = parts.headers.get(IDEMPOTENCY_KEY) else {
            return Ok(Self(None));
        };
        let key = value
            .to_str()
            .ok()
            .filter(|key| (1..=LONGEST_KEY).contains(&key.len()));
        let key = key.ok_or_else(|| {
            let detail = format!(
                "an Idempotency-Key has 1 to {LONGEST_KEY} visible ASCII characters; a UUID will do"
            );
            Refusal::new(ProblemCode::InvalidRequest, detail)
        })?;
        Ok(Self(Some(key.to_owned())))
    }
}

async fn parameter(parts: &mut Parts, shared: &Shared, name: &str) -> Option<String> {
    let parameters = RawPathParams::from_request_parts(parts, shared)
        .await
        .ok()?;
    parameters
        .iter()
        .find(|(known, _)| *known == name)
        .map(|(_, value)| value.to_owned())
}

fn is_id(text: &str) -> bool {
    text.len() == ID_LENGTH
        && text
            .bytes()
            .all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte))
}
