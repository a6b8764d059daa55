//! OpenAI's chat completions over a conversation that lasts for one answer: made from the messages, followed to its end,
//! and removed, also where the client has gone away.

use std::time::Duration;

use axum::Json;
use axum::extract::{Request, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use radialog_schemas::http::openai::{
    AnswerMessage, ChatCompletion, ChatCompletionRequest, Choice, ErrorBody, ErrorDetail, Model,
    ModelList, PromptTokensDetails, Role, Usage,
};
use radialog_schemas::http::{MAX_NEW_TOKENS, MAX_SEED, ProblemCode, TurnOptions};
use radialog_schemas::{
    Answer as TurnAnswer, ConversationId, ErrorClass, ErrorCode, Failure, TurnEvent, TurnOutcome,
};
use tokio::time::sleep;

use self::messages::ParsedMessages;
use super::auth::Caller;
use super::body::{self, is_json, media_type, unsupported};
use super::create::{self, ConversationDraft, now_ms};
use super::events::Open;
use super::image::CheckedImage;
use super::problem::{ApiError, ApiResult};
use super::turn_follower::{TurnFollower, TurnUpdate};
use super::{AppState, conversations, upload};

mod messages;
mod stream;

/// The name under which any bundle answers.
const ALIAS: &str = "radialog";
/// Pause between attempts to remove a conversation, and how many there are.
const REMOVE_PAUSE: Duration = Duration::from_secs(5);
const REMOVE_ATTEMPTS: u32 = 12;

/// A request's body; images make it large.
pub(super) struct CompletionRequest(ChatCompletionRequest);

impl axum::extract::FromRequest<AppState> for CompletionRequest {
    type Rejection = ApiError;

    async fn from_request(request: Request, app: &AppState) -> ApiResult<Self> {
        let kind = media_type(request.headers());
        if !is_json(&kind) {
            body::discard(request).await;
            return Err(unsupported(&kind, "application/json"));
        }
        let limit = upload::body_limit(app.config.max_image_bytes);
        body::parse(&body::read(request, limit).await?).map(Self)
    }
}

pub(super) async fn models(State(app): State<AppState>) -> Json<ModelList> {
    let (object, owned_by) = ("model".to_owned(), ALIAS.to_owned());
    let model = Model {
        id: app.bundle.name.clone(),
        object,
        created: 0,
        owned_by,
    };
    Json(ModelList {
        object: "list".into(),
        data: vec![model],
    })
}

pub(super) async fn complete(
    State(app): State<AppState>,
    caller: Caller,
    CompletionRequest(asked): CompletionRequest,
) -> ApiResult<Response> {
    let options = options(&app, &asked)?;
    let include_usage = asked
        .stream_options
        .as_ref()
        .and_then(|options| options.include_usage)
        .unwrap_or(false);
    let is_stream = asked.stream.unwrap_or(false);
    let (model, dialog) = (asked.model, ParsedMessages::new(asked.messages)?);
    let image = match dialog.image {
        Some(content) => Some(CheckedImage::new(content, &app.config).await?),
        None => None,
    };
    let turn = create::request(&app, dialog.ask, &create::generation(&options)?, &options);
    let open = Open::new(caller.quota.stream()?);
    let beginning = ConversationDraft {
        id: create::new_id(),
        // No key can have this name, so that nobody lists these conversations or reads them otherwise.
        owner: format!("{} (completions)", caller.owner),
        image,
        indication: None,
        opening: dialog.opening,
        turns: vec![turn],
    };
    // From here on: it may exist even where beginning it fails or is abandoned half way.
    let conversation = Ephemeral {
        app: app.clone(),
        id: beginning.id.clone(),
    };
    create::begin(&app, beginning).await?;
    let reader = TurnFollower::open(&app, &conversation.id, 1, 0).await?;
    let head = Head {
        id: format!("chatcmpl-{}", conversation.id),
        created: now_ms() / 1000,
        model,
    };
    let following = Following {
        reader,
        conversation,
        _open: open,
    };
    if is_stream {
        Ok(stream::answer(head, following, include_usage))
    } else {
        following.whole(head).await
    }
}

/// What all pieces of an answer say.
struct Head {
    id: String,
    created: u64,
    model: String,
}

/// An answer being waited for.
struct Following {
    reader: TurnFollower,
    #[expect(dead_code, reason = "removed when nobody follows it any more")]
    conversation: Ephemeral,
    _open: Open,
}

impl Following {
    async fn whole(mut self, head: Head) -> ApiResult<Response> {
        while let Some(news) = self.reader.next().await {
            if let TurnUpdate::Event(_, TurnEvent::Ended(outcome)) = news {
                return match outcome {
                    TurnOutcome::Done(answer) => Ok(Json(completion(head, answer)).into_response()),
                    TurnOutcome::Failed(failure) => Ok(failed(&failure)),
                    TurnOutcome::Cancelled => Err(stopped()),
                };
            }
        }
        Err(stopped())
    }
}

fn stopped() -> ApiError {
    ApiError::new(
        ProblemCode::Unavailable,
        "the gateway stopped before the answer's end; ask again",
    )
    .after(1)
}

fn completion(head: Head, answer: TurnAnswer) -> ChatCompletion {
    let (usage, finish_reason) = (usage(&answer), finish_reason(&answer));
    let message = AnswerMessage {
        role: Role::Assistant,
        content: answer.text,
    };
    ChatCompletion {
        id: head.id,
        object: "chat.completion".into(),
        created: head.created,
        model: head.model,
        choices: vec![Choice {
            index: 0,
            message,
            finish_reason,
        }],
        usage,
    }
}

fn finish_reason(answer: &TurnAnswer) -> String {
    if answer.complete { "stop" } else { "length" }.to_owned()
}

fn usage(answer: &TurnAnswer) -> Usage {
    Usage {
        prompt_tokens: answer.prompt_tokens,
        completion_tokens: answer.tokens,
        total_tokens: answer.prompt_tokens.saturating_add(answer.tokens),
        prompt_tokens_details: PromptTokensDetails {
            cached_tokens: answer.cached_tokens,
        },
    }
}

fn options(app: &AppState, asked: &ChatCompletionRequest) -> ApiResult<TurnOptions> {
    if asked.model != ALIAS && asked.model != app.bundle.name {
        let detail = format!(
            "there is no model of this name; this gateway has '{}'",
            app.bundle.name
        );
        return Err(ApiError::new(ProblemCode::NotFound, detail));
    }
    let unsupported = [
        ("n", asked.n.is_some_and(|n| n != 1)),
        ("stop", asked.stop.is_some()),
        ("tools", asked.tools.is_some()),
        ("response_format", asked.response_format.is_some()),
        ("logprobs", asked.logprobs == Some(true)),
    ];
    if let Some((field, _)) = unsupported.into_iter().find(|(_, is_set)| *is_set) {
        let detail = format!("'{field}' is not supported with this value; leave it out");
        return Err(ApiError::new(ProblemCode::InvalidRequest, detail));
    }
    Ok(TurnOptions {
        max_new_tokens: asked
            .max_completion_tokens
            .or(asked.max_tokens)
            .map(|most| most.min(MAX_NEW_TOKENS)),
        temperature: asked.temperature,
        top_p: asked.top_p,
        seed: asked.seed.map(|seed| seed.unsigned_abs() & MAX_SEED),
        deadline_seconds: None,
    })
}

/// A conversation that ends with its only answer.
struct Ephemeral {
    app: AppState,
    id: ConversationId,
}

impl Drop for Ephemeral {
    fn drop(&mut self) {
        let (app, id) = (self.app.clone(), self.id.clone());
        tokio::spawn(async move {
            for _ in 0..REMOVE_ATTEMPTS {
                if conversations::remove(&app, &id).await.is_ok() {
                    return;
                }
                sleep(REMOVE_PAUSE).await;
            }
        });
    }
}

/// Errors in OpenAI's format, whoever made them.
pub(super) async fn errors(request: Request, next: Next) -> Response {
    let response = next.run(request).await;
    let Some(refusal) = response.extensions().get::<ApiError>() else {
        return response;
    };
    let problem = &refusal.problem;
    let mut rewritten = error(problem.status, &problem.detail, Some(problem.code.as_str()));
    for name in [header::RETRY_AFTER, header::WWW_AUTHENTICATE, header::ALLOW] {
        if let Some(value) = response.headers().get(&name) {
            rewritten.headers_mut().insert(name, value.clone());
        }
    }
    rewritten
}

fn failed(failure: &Failure) -> Response {
    error(
        failure_status(failure),
        &failure.message,
        Some(failure.code.as_str()),
    )
}

fn failure_status(failure: &Failure) -> u16 {
    match (failure.code, failure.class()) {
        (ErrorCode::DeadlineExceeded, _) => 503,
        (_, ErrorClass::Permanent) => 400,
        _ => 500,
    }
}

fn error(status: u16, message: &str, code: Option<String>) -> Response {
    // Their API has no 422.
    let status = if status == 422 { 400 } else { status };
    let body = Json(ErrorBody {
        error: detail(status, message, code),
    });
    let mut response = body.into_response();
    *response.status_mut() =
        StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    response
        .headers_mut()
        .insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

fn detail(status: u16, message: &str, code: Option<String>) -> ErrorDetail {
    let kind = match status {
        401 | 403 => "authentication_error",
        429 => "rate_limit_error",
        500.. => "server_error",
        _ => "invalid_request_error",
    };
    ErrorDetail {
        message: message.to_owned(),
        kind: kind.to_owned(),
        param: None,
        code,
    }
}
