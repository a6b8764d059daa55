//! OpenAI's chat completions over a conversation that lasts for one answer: made from the messages, followed to its end,
//! and removed, also where the client has gone away.

use axum::Json;
use axum::extract::rejection::PathRejection;
use axum::extract::{FromRequest, Path, Request, State};
use axum::response::Response;
use radialog_runtime::conversations::ConversationSnapshot;
use radialog_schemas::http::openai::{
    ChatCompletionRequest, Model, ModelLimits, ModelList, StopTexts,
};
use radialog_schemas::http::{MAX_NEW_TOKENS, MAX_SEED, ProblemCode, TurnOptions};
use radialog_schemas::{ConversationId, Generation, TurnRequest};

use tracing::Instrument;

use self::completion::{CompletionHead, EphemeralConversation, PendingCompletion};
pub(super) use self::errors::rewrite_errors;
use self::messages::ParsedMessages;
pub(super) use self::warning::HEADER as WARNING;
use self::warning::Unused;
use super::app_state::AppState;
use super::auth::Caller;
use super::body::{self, ReadBody};
use super::body_memory::HeldMemory;
use super::create::{self, ChosenModel, ConversationDraft};
use super::events::OpenStream;
use super::image::CheckedImage;
use super::problem::{ApiError, ApiResult};
use super::request_path::refuse_idempotency_key;
use crate::{ALIAS, ServedBundle, ServedModel};

pub(super) mod batches;
mod completion;
mod errors;
mod form_body;
mod messages;
pub(super) mod request_files;
pub(super) mod responses;
mod stream;
mod warning;

/// The most texts at which an answer ends, and the characters of each.
const MOST_STOPS: usize = 4;
const LONGEST_STOP: usize = 256;

/// A completion is removed with its last byte. Where its gateway has died before, it ends by itself so many seconds after
/// it was queued or begun, which is longer than both take.
const LIFETIME_SECONDS: u32 = 6 * 3600;

/// A request's body; images make it large.
pub(super) struct CompletionRequest(ChatCompletionRequest, HeldMemory);

impl FromRequest<AppState> for CompletionRequest {
    type Rejection = ApiError;

    async fn from_request(request: Request, app: &AppState) -> ApiResult<Self> {
        let instead = "nothing is kept of an answer. POST /v1/responses takes one";
        if let Err(refused) = refuse_idempotency_key(request.headers(), instead) {
            body::discard(request).await;
            return Err(refused);
        }
        let limit = app.config.body_limit();
        let ReadBody { content, memory } = body::read_json(request, app, limit).await?;
        body::beside(move || Ok(Self(parse(&content)?, memory))).await
    }
}

/// Parses a request for a completion.
fn parse(content: &[u8]) -> ApiResult<ChatCompletionRequest> {
    body::parse(content).map_err(describe_parts)
}

/// Says what a message may hold where that is what is wrong.
fn describe_parts(mut error: ApiError) -> ApiError {
    let is_content = |param: &String| param.starts_with("messages[") && param.contains(".content");
    if error.param.as_ref().is_some_and(is_content) {
        error.problem.detail += ". Content is a text or a list of {\"type\": \"text\", \"text\": \"...\"} and \
             {\"type\": \"image_url\", \"image_url\": {\"url\": \"data:image/png;base64,...\"}}";
    }
    error
}

pub(super) async fn models(State(app): State<AppState>) -> Json<ModelList> {
    let models = app.bundles.models();
    Json(ModelList {
        object: "list".into(),
        data: models
            .map(|(model, bundle)| described(&app, model, bundle))
            .collect(),
    })
}

/// One of the list, by the name that it has there or by its alias.
pub(super) async fn model(
    State(app): State<AppState>,
    path: Result<Path<String>, PathRejection>,
) -> ApiResult<Json<Model>> {
    let name = path.map(|Path(name)| name).unwrap_or_default();
    let chosen = ChosenModel::find(&app, Some(&name))?;
    let mut models = app.bundles.models();
    let found = models.find(|(model, bundle)| {
        bundle.hashes.bundle == chosen.bundle.hashes.bundle && model.adapter == chosen.adapter
    });
    let found = found.map(|(model, bundle)| described(&app, model, bundle));
    found.map(Json).ok_or_else(|| {
        ApiError::new(
            ProblemCode::ModelNotFound,
            "there is no such model; GET /v1/models lists them",
        )
    })
}

fn described(app: &AppState, model: &ServedModel, bundle: &ServedBundle) -> Model {
    Model {
        id: model.id.clone(),
        object: "model".to_owned(),
        created: bundle.created,
        owned_by: ALIAS.to_owned(),
        bundle: bundle.hashes.name.clone(),
        version: bundle.version.clone(),
        hash: bundle.hashes.bundle.clone(),
        adapter: model.adapter.clone(),
        license: bundle.license.clone(),
        random_weights: bundle.random_weights,
        context_tokens: bundle.context_tokens,
        tasks: bundle.tasks.clone(),
        limits: ModelLimits {
            max_new_tokens: MAX_NEW_TOKENS,
            max_image_bytes: app.config.max_image_bytes,
            max_image_pixels: app.config.max_image_pixels,
            max_turns: app.config.max_turns,
        },
    }
}

pub(super) async fn complete(
    State(app): State<AppState>,
    caller: Caller,
    CompletionRequest(asked, memory): CompletionRequest,
) -> ApiResult<Response> {
    let include_usage = asked
        .stream_options
        .as_ref()
        .and_then(|options| options.include_usage)
        .unwrap_or(false);
    let is_stream = asked.stream.unwrap_or(false);
    let model = asked.model.clone();
    let (draft, mut unused) = draft(&app, &caller.owner, create::new_id(), asked).await?;
    let open = OpenStream::new(caller.quota.stream()?);
    let head = CompletionHead::of(&draft.id, model);
    let conversation = EphemeralConversation::begin(&app, draft).await?;
    drop(memory);
    let following = PendingCompletion::of(&app, conversation, open).await?;
    let mut answer = if is_stream {
        stream::answer(head, following, include_usage)
    } else {
        let (answer, of_image) = following.whole(head).await?;
        unused.of_image = of_image;
        answer
    };
    unused.tell(&mut answer);
    Ok(answer)
}

/// The conversation of this name that a completion's request is answered by, and what of the request is not used.
async fn draft(
    app: &AppState,
    owner: &str,
    id: ConversationId,
    asked: ChatCompletionRequest,
) -> ApiResult<(ConversationDraft, Unused)> {
    let chosen = ChosenModel::find(app, Some(&asked.model))?;
    let options = options(&asked)?;
    let tools = asked.tools.as_ref().map_or(0, Vec::len);
    let stop = stop_texts(asked.stop)?;
    let (messages, most) = (asked.messages, app.config.max_opening_chars);
    let dialog = body::beside(move || ParsedMessages::new(messages, most)).await?;
    let image = match dialog.image {
        Some(content) => {
            let checked = CheckedImage::new(content, &app.config).await;
            Some(checked.map_err(|error| error.at(&dialog.image_param))?)
        }
        None => None,
    };
    let generation = Generation {
        adapter: chosen.adapter.clone(),
        ..create::generation(&options)?
    };
    let turn = TurnRequest {
        stop,
        ..create::turn_request(app, dialog.ask, &generation, &options)
    };
    let draft = ConversationDraft {
        id,
        owner: unlisted_owner(owner),
        model: chosen,
        image,
        known_image: None,
        indication: None,
        lifetime_seconds: Some(LIFETIME_SECONDS),
        opening: dialog.opening,
        response: None,
        of_batch: false,
        title: None,
        turns: vec![turn],
    };
    let unused = Unused {
        tools,
        list: "messages",
        places: dialog.unused,
        named: dialog.named,
        files: dialog.files,
        of_image: None,
    };
    Ok((draft, unused))
}

/// The owner of conversations that end with their answer. No key can have this name, so that nobody lists these
/// conversations or reads them otherwise.
fn unlisted_owner(owner: &str) -> String {
    format!("{owner} (completions)")
}

/// Begins the conversation. What guards it is given back: where the client goes away meanwhile, the guard is dropped once
/// the conversation has begun, not before.
async fn begin<Guard: Send + 'static>(
    app: &AppState,
    draft: ConversationDraft,
    guard: Guard,
) -> ApiResult<(ConversationSnapshot, Guard)> {
    let app = app.clone();
    let beginning = async move {
        let begun = create::begin(&app, draft).await;
        begun.map(|snapshot| (snapshot, guard))
    };
    tokio::spawn(beginning.in_current_span())
        .await
        .map_err(|error| {
            tracing::error!(%error, "a completion was not begun");
            ApiError::new(ProblemCode::Internal, "the completion was not begun")
        })?
}

/// How the answer is decoded. What a client sends and cannot be done is refused with the field's name.
fn options(asked: &ChatCompletionRequest) -> ApiResult<TurnOptions> {
    let neutral = "is not supported with this value; leave it out";
    let is_filled =
        |list: &Option<Vec<serde_json::Value>>| list.as_ref().is_some_and(|list| !list.is_empty());
    let is_set = |number: Option<f64>| number.is_some_and(|number| number != 0.0);
    let stream_options = asked.stream_options.as_ref();
    let refusals = [
        ("n", asked.n.is_some_and(|n| n != 1), neutral),
        ("functions", is_filled(&asked.functions), neutral),
        ("logprobs", asked.logprobs == Some(true), neutral),
        (
            "top_logprobs",
            asked.top_logprobs.is_some_and(|count| count > 0),
            neutral,
        ),
        (
            "frequency_penalty",
            is_set(asked.frequency_penalty),
            neutral,
        ),
        ("presence_penalty", is_set(asked.presence_penalty), neutral),
        (
            "logit_bias",
            asked
                .logit_bias
                .as_ref()
                .is_some_and(|bias| !bias.is_empty()),
            neutral,
        ),
        (
            "priority",
            asked.priority.is_some_and(|priority| priority != 0),
            neutral,
        ),
        (
            "store",
            asked.store == Some(true),
            "is not supported: POST /v1/responses keeps answers; leave it out",
        ),
        (
            "metadata",
            asked
                .metadata
                .as_ref()
                .is_some_and(|notes| !notes.is_empty()),
            "is not supported: POST /v1/responses keeps it; leave it out",
        ),
        (
            "stream_options",
            stream_options.is_some() && asked.stream != Some(true),
            "is only for 'stream': true",
        ),
        (
            "stream_options.include_obfuscation",
            stream_options.and_then(|options| options.include_obfuscation) == Some(true),
            neutral,
        ),
    ];
    if let Some((param, _, detail)) = refusals.into_iter().find(|(_, is_wrong, _)| *is_wrong) {
        let error = ApiError::new(ProblemCode::InvalidRequest, format!("'{param}' {detail}"));
        return Err(error.at(param));
    }
    check_tools(asked.tools.as_deref(), ToolForm::Nested)?;
    for (param, most) in [
        ("max_completion_tokens", asked.max_completion_tokens),
        ("max_tokens", asked.max_tokens),
    ] {
        if most.is_some_and(|most| !(1..=MAX_NEW_TOKENS).contains(&most)) {
            return Err(create::outside(
                param,
                format!("from 1 to {MAX_NEW_TOKENS}"),
            ));
        }
    }
    let most = asked.max_completion_tokens.or(asked.max_tokens);
    if asked.max_tokens.is_some_and(|older| Some(older) != most) {
        let detail = "'max_tokens' and 'max_completion_tokens' differ; leave out 'max_tokens'";
        return Err(ApiError::new(ProblemCode::InvalidRequest, detail).at("max_tokens"));
    }
    let seed = asked.seed.map(u64::try_from).transpose();
    Ok(TurnOptions {
        max_new_tokens: most,
        temperature: asked.temperature,
        top_p: asked.top_p,
        seed: seed.map_err(|_| create::outside("seed", format!("from 0 to {MAX_SEED}")))?,
        deadline_seconds: asked.deadline_seconds,
    })
}

/// Where a tool has its name.
#[derive(Clone, Copy)]
enum ToolForm {
    /// In the member that its kind names, as in chat completions.
    Nested,
    /// Beside its kind, as in responses.
    Flat,
}

/// Refuses what is no tool that a model could call.
fn check_tools(tools: Option<&[serde_json::Value]>, form: ToolForm) -> ApiResult<()> {
    let example = match form {
        ToolForm::Nested => r#"{"type": "function", "function": {"name": "..."}}"#,
        ToolForm::Flat => r#"{"type": "function", "name": "..."}"#,
    };
    for (place, tool) in tools.unwrap_or_default().iter().enumerate() {
        if !is_tool(tool, form) {
            let param = format!("tools[{place}]");
            let detail = format!(
                "'{param}' is not supported: tools are taken as {example}, and the model calls none; leave it out"
            );
            return Err(ApiError::new(ProblemCode::InvalidRequest, detail).at(&param));
        }
    }
    Ok(())
}

/// Whether it is a tool that a model could call.
fn is_tool(tool: &serde_json::Value, form: ToolForm) -> bool {
    let kind = tool["type"].as_str().unwrap_or_default();
    let name = match form {
        ToolForm::Nested => &tool[kind]["name"],
        ToolForm::Flat => &tool["name"],
    };
    let is_known = matches!(kind, "function" | "custom");
    is_known && name.as_str().is_some_and(|name| !name.is_empty())
}

/// The texts at which the answer ends.
fn stop_texts(asked: Option<StopTexts>) -> ApiResult<Vec<String>> {
    let texts = asked.map(StopTexts::into_list).unwrap_or_default();
    let is_usable = |text: &String| (1..=LONGEST_STOP).contains(&text.chars().count());
    if texts.len() > MOST_STOPS || !texts.iter().all(is_usable) {
        let detail =
            format!("'stop' has up to {MOST_STOPS} texts of 1 to {LONGEST_STOP} characters");
        return Err(ApiError::new(ProblemCode::InvalidRequest, detail).at("stop"));
    }
    Ok(texts)
}
