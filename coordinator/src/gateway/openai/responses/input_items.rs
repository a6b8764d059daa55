//! The messages of a request for a response, a page at a time.

use axum::Json;
use axum::extract::{FromRequestParts, State};
use axum::http::request::Parts;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use radialog_runtime::conversations::ConversationSnapshot;
use radialog_runtime::objects::ObjectError;
use radialog_schemas::http::responses::{InputItemList, ItemKind, ItemStatus, ListedItem};
use radialog_schemas::response::InputPart;

use super::lookup::{self, OwnResponse};
use crate::gateway::app_state::AppState;
use crate::gateway::auth::Caller;
use crate::gateway::body;
use crate::gateway::body_memory::{BodyKind, HeldMemory};
use crate::gateway::problem::{ApiError, ApiResult};
use crate::gateway::query::{PageQuery, openai_pairs};

/// Messages in a page: as many where nothing is said, and at most.
const PAGE: usize = 20;
const LARGEST_PAGE: usize = 100;
/// What may be included.
const IMAGE: &str = "message.input_image.image_url";
/// How many times an image's bytes are held while its page is written: the file, its base64 text and the JSON.
const COPIES: u64 = 4;

/// Which of the messages are wanted.
pub(in crate::gateway) struct ItemQuery {
    page: PageQuery,
    images: bool,
}

impl FromRequestParts<AppState> for ItemQuery {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &AppState) -> ApiResult<Self> {
        let mut images = false;
        let include = |name: &str, value: &str| {
            let is_image = matches!(name, "include" | "include[]") && value == IMAGE;
            images |= is_image;
            is_image
        };
        let page = PageQuery::read(openai_pairs(&parts.uri)?, PAGE, LARGEST_PAGE, include)?;
        Ok(Self { page, images })
    }
}

pub(in crate::gateway) async fn list(
    State(app): State<AppState>,
    caller: Caller,
    OwnResponse(snapshot): OwnResponse,
    query: ItemQuery,
) -> ApiResult<Json<InputItemList>> {
    let mut items = query.page.rest(items(&snapshot)?, |item| item.id.clone())?;
    let has_more = items.len() > query.page.limit;
    items.truncate(query.page.limit);
    if query.images {
        for part in items.iter_mut().flat_map(|item| &mut item.content) {
            if let InputPart::InputImage { image_url, .. } = part {
                *image_url = image(&app, &caller, &snapshot).await?;
            }
        }
    }
    Ok(Json(InputItemList {
        object: "list".to_owned(),
        first_id: items.first().map(|item| item.id.clone()),
        last_id: items.last().map(|item| item.id.clone()),
        data: items,
        has_more,
    }))
}

fn items(snapshot: &ConversationSnapshot) -> ApiResult<Vec<ListedItem>> {
    let answer = lookup::answer_id(&snapshot.conversation.id);
    let input = lookup::request(snapshot)?.input.iter();
    let item = |(place, message): (usize, &radialog_schemas::response::InputMessage)| ListedItem {
        id: format!("{answer}_{place}"),
        kind: ItemKind::Message,
        status: ItemStatus::Completed,
        role: message.role,
        content: message.content.clone(),
    };
    Ok(input.enumerate().map(item).collect())
}

/// The image as a data URI; none where it is not stored any more.
async fn image(
    app: &AppState,
    caller: &Caller,
    snapshot: &ConversationSnapshot,
) -> ApiResult<Option<String>> {
    let Some(image) = &snapshot.conversation.image else {
        return Ok(None);
    };
    let objects = &app.backends.objects;
    let Some(length) = objects.size(&image.image).await? else {
        return Ok(None);
    };
    let mut memory = HeldMemory::new(app.bodies.clone(), caller.quota.bodies(), BodyKind::Upload);
    memory.take(length * COPIES)?;
    let content = match objects.get(&image.image).await {
        Err(ObjectError::NotFound(_)) => return Ok(None),
        content => content?,
    };
    let media_type = image.media_type.clone();
    let written = body::beside(move || {
        let _memory = memory;
        Ok(format!(
            "data:{media_type};base64,{}",
            STANDARD.encode(content)
        ))
    });
    written.await.map(Some)
}
