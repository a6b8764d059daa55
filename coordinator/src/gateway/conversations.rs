//! Looking at conversations, and removing them.

use axum::Json;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use futures::StreamExt;
use futures::stream;
use radialog_runtime::objects::ObjectError;
use radialog_schemas::ConversationId;
use radialog_schemas::http::{
    ConversationList, ConversationTitle, ConversationView, MAX_TITLE, ProblemCode,
};

use super::app_state::AppState;
use super::auth::Caller;
use super::body::{JsonBody, check_text};
use super::body_memory::{BodyKind, HeldMemory};
use super::problem::{ApiError, ApiResult};
use super::request_path::OwnConversation;
use super::view;
use crate::conversation::retention;

/// The largest number of conversations in a list.
const LISTED: usize = 200;
/// Snapshots read at a time.
const AT_ONCE: usize = 16;

pub(super) async fn list(
    State(app): State<AppState>,
    caller: Caller,
) -> ApiResult<Json<ConversationList>> {
    let ids = app
        .backends
        .conversations
        .list(&caller.owner, LISTED)
        .await?;
    let look = |id: ConversationId| {
        let conversations = app.backends.conversations.clone();
        async move { conversations.snapshot(&id).await }
    };
    let snapshots: Vec<_> = stream::iter(ids)
        .map(look)
        .buffered(AT_ONCE)
        .collect()
        .await;
    let mut conversations = Vec::with_capacity(snapshots.len());
    for snapshot in snapshots {
        // One that was removed meanwhile is not there.
        conversations.extend(snapshot?.as_ref().map(view::entry));
    }
    Ok(Json(ConversationList { conversations }))
}

pub(super) async fn get(
    State(app): State<AppState>,
    OwnConversation(snapshot): OwnConversation,
) -> ApiResult<Json<ConversationView>> {
    Ok(Json(view::conversation(&app, &snapshot).await?))
}

pub(super) async fn rename(
    State(app): State<AppState>,
    OwnConversation(snapshot): OwnConversation,
    JsonBody(asked): JsonBody<ConversationTitle>,
) -> ApiResult<StatusCode> {
    let title = checked_title(&asked.title)?;
    let id = &snapshot.conversation.id;
    if !app.backends.conversations.rename(id, &title).await? {
        return Err(ApiError::no_conversation());
    }
    Ok(StatusCode::NO_CONTENT)
}

/// Makes a title one line, and refuses an empty or a long one.
pub(super) fn checked_title(text: &str) -> ApiResult<String> {
    check_text("title", text)?;
    let title = text.split_whitespace().collect::<Vec<_>>().join(" ");
    if title.chars().count() > MAX_TITLE {
        let detail = format!("'title' is over the limit of {MAX_TITLE} characters; shorten it");
        return Err(ApiError::new(ProblemCode::TextTooLong, detail));
    }
    Ok(title)
}

pub(super) async fn delete(
    State(app): State<AppState>,
    OwnConversation(snapshot): OwnConversation,
) -> ApiResult<StatusCode> {
    retention::remove(&app.backends, &snapshot.conversation.id).await?;
    Ok(StatusCode::NO_CONTENT)
}

pub(super) async fn image(
    State(app): State<AppState>,
    caller: Caller,
    OwnConversation(snapshot): OwnConversation,
    headers: HeaderMap,
) -> ApiResult<Response> {
    let none = || {
        ApiError::new(
            ProblemCode::NotFound,
            "the conversation has no image, or it is not stored any more",
        )
    };
    let image = snapshot.conversation.image.ok_or_else(none)?;
    let tag = format!(
        "\"{}\"",
        image.image.as_str().rsplit('/').next().unwrap_or_default()
    );
    let tag = HeaderValue::from_str(&tag).map_err(|_| none())?;
    // Private: it is a patient's. For ever: the tag is the content's hash.
    let cache = (
        header::CACHE_CONTROL,
        HeaderValue::from_static("private, max-age=31536000, immutable"),
    );
    if headers.get(header::IF_NONE_MATCH) == Some(&tag) {
        return Ok((StatusCode::NOT_MODIFIED, [(header::ETAG, tag), cache]).into_response());
    }
    let objects = &app.backends.objects;
    let length = objects.size(&image.image).await?.ok_or_else(none)?;
    let mut memory = HeldMemory::new(app.bodies.clone(), caller.quota.bodies(), BodyKind::Upload);
    memory.take(length)?;
    let content = match objects.get(&image.image).await {
        Err(ObjectError::NotFound(_)) => return Err(none()),
        content => memory.with(content?),
    };
    let media_type = HeaderValue::from_str(&image.media_type).map_err(|_| none())?;
    Ok((
        [
            (header::CONTENT_TYPE, media_type),
            (header::ETAG, tag),
            cache,
        ],
        content,
    )
        .into_response())
}
