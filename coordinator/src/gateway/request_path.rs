//! What a request names by its path and headers: a conversation of the caller, one of its turns, an idempotency key.
//! Names that cannot exist, do not exist, or are somebody else's get the same answer.

use axum::extract::{FromRequestParts, RawPathParams};
use axum::http::HeaderMap;
use axum::http::request::Parts;
use radialog_runtime::conversations::{ConversationSnapshot, TurnSnapshot};
use radialog_schemas::ConversationId;
use radialog_schemas::http::ProblemCode;

use super::app_state::AppState;
use super::auth::Caller;
use super::problem::{ApiError, ApiResult};

/// Digits of a conversation's id: 122 random bits, or a hash.
pub(super) const ID_LENGTH: usize = 32;
const IDEMPOTENCY_KEY: &str = "idempotency-key";
const LONGEST_KEY: usize = 255;

/// A conversation of the caller as it stands.
pub(super) struct OwnConversation(pub(super) ConversationSnapshot);

/// One turn of [`OwnConversation`].
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

    pub(super) fn state(&self) -> ApiResult<&TurnSnapshot> {
        turn(&self.snapshot, self.turn)
    }
}

/// Finds a turn by its number.
pub(super) fn turn(snapshot: &ConversationSnapshot, number: u32) -> ApiResult<&TurnSnapshot> {
    let place = (number as usize).checked_sub(1);
    place
        .and_then(|place| snapshot.turns.get(place))
        .ok_or_else(ApiError::no_turn)
}

/// Reads a conversation, which must be the caller's.
pub(super) async fn own(
    app: &AppState,
    caller: &Caller,
    id: &ConversationId,
) -> ApiResult<ConversationSnapshot> {
    let snapshot = app.backends.conversations.snapshot(id).await?;
    snapshot
        .filter(|snapshot| *snapshot.conversation.owner == *caller.owner)
        .ok_or_else(ApiError::no_conversation)
}

impl FromRequestParts<AppState> for Caller {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &AppState) -> ApiResult<Self> {
        let caller = parts.extensions.get::<Caller>().cloned();
        caller.ok_or_else(ApiError::not_admitted)
    }
}

impl FromRequestParts<AppState> for OwnConversation {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, app: &AppState) -> ApiResult<Self> {
        let caller = Caller::from_request_parts(parts, app).await?;
        let id = parameter(parts, app, "id")
            .await
            .filter(|id| is_id(id))
            .ok_or_else(ApiError::no_conversation)?;
        Ok(Self(own(app, &caller, &ConversationId(id)).await?))
    }
}

impl FromRequestParts<AppState> for OwnTurn {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, app: &AppState) -> ApiResult<Self> {
        let OwnConversation(snapshot) = OwnConversation::from_request_parts(parts, app).await?;
        let number = parameter(parts, app, "turn").await;
        let is_number = |text: &String| text.bytes().all(|byte| byte.is_ascii_digit());
        let number = number
            .filter(is_number)
            .and_then(|text| text.parse().ok())
            .ok_or_else(ApiError::no_turn)?;
        turn(&snapshot, number)?;
        Ok(Self {
            snapshot,
            turn: number,
        })
    }
}

impl FromRequestParts<AppState> for IdempotencyKey {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &AppState) -> ApiResult<Self> {
        let mut values = parts.headers.get_all(IDEMPOTENCY_KEY).iter();
        let Some(value) = values.next() else {
            return Ok(Self(None));
        };
        if values.next().is_some() {
            let detail = "there are several Idempotency-Keys; send one";
            return Err(ApiError::new(ProblemCode::InvalidRequest, detail));
        }
        let key = value
            .to_str()
            .ok()
            .filter(|key| (1..=LONGEST_KEY).contains(&key.len()))
            .filter(|key| key.bytes().all(|byte| matches!(byte, b' '..=b'~')));
        let key = key.ok_or_else(|| {
            let detail = format!(
                "an Idempotency-Key has 1 to {LONGEST_KEY} printable ASCII characters; a UUID will do"
            );
            ApiError::new(ProblemCode::InvalidRequest, detail)
        })?;
        Ok(Self(Some(key.to_owned())))
    }
}

/// Refuses an idempotency key where nothing is remembered by it; `instead` says what to do.
pub(super) fn refuse_idempotency_key(headers: &HeaderMap, instead: &str) -> ApiResult<()> {
    if !headers.contains_key(IDEMPOTENCY_KEY) {
        return Ok(());
    }
    let detail = format!("an Idempotency-Key is not taken here: {instead}");
    Err(ApiError::new(ProblemCode::InvalidRequest, detail))
}

pub(super) async fn parameter(parts: &mut Parts, app: &AppState, name: &str) -> Option<String> {
    let parameters = RawPathParams::from_request_parts(parts, app).await.ok()?;
    parameters
        .iter()
        .find(|(known, _)| *known == name)
        .map(|(_, value)| value.to_owned())
}

pub(super) fn is_id(text: &str) -> bool {
    text.len() == ID_LENGTH
        && text
            .bytes()
            .all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte))
}
