//! Names of responses, and finding one of the caller. Names that cannot exist, do not exist, or are somebody else's get the same answer.

use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use radialog_runtime::conversations::ConversationSnapshot;
use radialog_schemas::http::ProblemCode;
use radialog_schemas::{ConversationId, ResponseRequest};

use crate::gateway::app_state::AppState;
use crate::gateway::auth::Caller;
use crate::gateway::problem::{ApiError, ApiResult};
use crate::gateway::request_path::{is_id, parameter};

/// What the names of responses begin with, before their conversation's.
const PREFIX: &str = "resp_";
/// The only turn of a response's conversation.
pub(super) const TURN: u32 = 1;

/// A response of the caller as it stands.
pub(in crate::gateway) struct OwnResponse(pub(super) ConversationSnapshot);

/// The owner of responses that are kept. No key can have this name: they are no conversations of the key's own list.
pub(super) fn owner(key: &str) -> String {
    format!("{key} (responses)")
}

/// The name of a response.
pub(super) fn response_id(id: &ConversationId) -> String {
    format!("{PREFIX}{id}")
}

/// The name of a response's answer.
pub(super) fn answer_id(id: &ConversationId) -> String {
    format!("msg_{id}")
}

/// Reads a response by its name.
pub(super) async fn own(
    app: &AppState,
    caller: &Caller,
    id: &str,
) -> ApiResult<ConversationSnapshot> {
    let id = id
        .strip_prefix(PREFIX)
        .filter(|id| is_id(id))
        .ok_or_else(no_response)?;
    let id = ConversationId(id.to_owned());
    let snapshot = app.backends.conversations.snapshot(&id).await?;
    snapshot
        .filter(|snapshot| snapshot.conversation.owner == owner(&caller.owner))
        .ok_or_else(no_response)
}

/// What was asked for.
pub(super) fn request(snapshot: &ConversationSnapshot) -> ApiResult<&ResponseRequest> {
    let request = snapshot.conversation.response.as_ref();
    request.ok_or_else(no_response)
}

fn no_response() -> ApiError {
    ApiError::new(
        ProblemCode::NotFound,
        "there is no such response; it was not kept, was deleted, or has ended 30 days after its last use",
    )
}

impl FromRequestParts<AppState> for OwnResponse {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, app: &AppState) -> ApiResult<Self> {
        let caller = Caller::from_request_parts(parts, app).await?;
        let id = parameter(parts, app, "response").await;
        let id = id.ok_or_else(no_response)?;
        Ok(Self(own(app, &caller, &id).await?))
    }
}
