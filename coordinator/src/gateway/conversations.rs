//! Looking at conversations, and removing them.

use std::sync::LazyLock;

use axum::Json;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use futures::StreamExt;
use futures::stream;
use radialog_runtime::conversations::ReplaceOutcome;
use radialog_runtime::objects::ObjectError;
use radialog_schemas::ConversationId;
use radialog_schemas::http::{
    ConversationList, ConversationTitle, ConversationView, MAX_TITLE, ProblemCode,
};
use regex::Regex;

use super::app_state::AppState;
use super::auth::Caller;
use super::body::{JsonBody, UNSEEN, check_text};
use super::body_memory::{BodyKind, HeldMemory};
use super::precondition::{IfMatch, tag};
use super::problem::{ApiError, ApiResult};
use super::request_path::OwnConversation;
use super::view;
use crate::conversation::retention;

/// The largest number of conversations in a list.
const LISTED: usize = 200;
/// Zero-width joiners, marks of a direction and of a letter's or an emoji's form: parts of words in some scripts, and nothing
/// alone.
const JOINERS: &str = r"\u{200c}-\u{200f}\u{61c}\p{Variation_Selector}";
/// Matches characters that are no part of a word and have no shape: they hide a title, or turn its direction round.
static HIDING: LazyLock<Regex> =
    LazyLock::new(|| Regex::new(&format!("[{UNSEEN}--[{JOINERS}]]")).expect("the class is one"));
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
    versions: IfMatch,
    JsonBody(asked): JsonBody<ConversationTitle>,
) -> ApiResult<(StatusCode, [(HeaderName, String); 1])> {
    let title = checked_title(&asked.title)?;
    let replaces = versions.replaces(snapshot.title.as_deref(), Some(&title))?;
    let conversations = &app.backends.conversations;
    let renamed = conversations.rename(&snapshot.conversation.id, &title, replaces);
    match renamed.await? {
        ReplaceOutcome::Replaced => {
            let tag = [(header::ETAG, tag(Some(&title)))];
            Ok((StatusCode::NO_CONTENT, tag))
        }
        ReplaceOutcome::Other => Err(versions.refusal()),
        ReplaceOutcome::Missing => Err(ApiError::no_conversation()),
    }
}

/// Makes a title one line, and refuses an empty or a long one, and characters that would hide or turn what others read.
pub(super) fn checked_title(text: &str) -> ApiResult<String> {
    let title = text.split_whitespace().collect::<Vec<_>>().join(" ");
    check_text("title", &title)?;
    let hidden = HIDING.find(&title);
    if let Some(hidden) = hidden.and_then(|hidden| hidden.as_str().chars().next()) {
        let detail = format!(
            "'title' has a character that cannot be seen (U+{:04X}); leave it out",
            u32::from(hidden)
        );
        return Err(ApiError::new(ProblemCode::InvalidRequest, detail).at("title"));
    }
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
