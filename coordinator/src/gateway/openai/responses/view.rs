//! A response as its client sees it.

use radialog_runtime::conversations::ConversationSnapshot;
use radialog_schemas::http::responses::{
    IncompleteDetails, InputTokensDetails, ItemKind, ItemStatus, ModelResponse, OutputMessage,
    OutputText, OutputTokensDetails, ResponseError, ResponseStatus, ResponseText, ResponseUsage,
    TextFormat,
};
use radialog_schemas::response::InputRole;
use radialog_schemas::{Answer, ConversationId, ErrorCode, Failure, TurnOutcome, TurnStatus};

use super::lookup::{self, TURN};
use crate::gateway::app_state::AppState;
use crate::gateway::problem::{ApiError, ApiResult};
use crate::gateway::view;

/// A response as it stands, with what is written so far.
pub(super) async fn response(
    app: &AppState,
    snapshot: &ConversationSnapshot,
) -> ApiResult<ModelResponse> {
    let turn = snapshot.turns.first().ok_or_else(ApiError::no_turn)?;
    let response = queued(snapshot, true)?;
    let id = &snapshot.conversation.id;
    let text = match &turn.outcome {
        Some(TurnOutcome::Done(_)) => String::new(),
        _ if turn.events > 0 => view::written(app, id, TURN).await?.0,
        _ => String::new(),
    };
    Ok(match (&turn.outcome, turn.status) {
        (Some(outcome), _) => ended(response, id, outcome, text),
        (None, TurnStatus::Queued) => response,
        (None, _) => ModelResponse {
            status: ResponseStatus::InProgress,
            output: match text.is_empty() {
                true => Vec::new(),
                false => vec![message(id, ItemStatus::InProgress, Some(text))],
            },
            ..response
        },
    })
}

/// A response as it was before anybody has answered it.
pub(super) fn queued(snapshot: &ConversationSnapshot, store: bool) -> ApiResult<ModelResponse> {
    let request = lookup::request(snapshot)?;
    let conversation = &snapshot.conversation;
    Ok(ModelResponse {
        id: lookup::response_id(&conversation.id),
        object: "response".to_owned(),
        created_at: conversation.created_ms / 1000,
        status: ResponseStatus::Queued,
        background: request.background,
        error: None,
        incomplete_details: None,
        instructions: None,
        max_output_tokens: request.max_output_tokens,
        model: request.model.clone(),
        output: Vec::new(),
        parallel_tool_calls: true,
        previous_response_id: request.previous_response_id.clone(),
        text: ResponseText {
            format: TextFormat::Text,
        },
        store,
        temperature: request.temperature.unwrap_or(0.0),
        tool_choice: "auto".to_owned(),
        tools: Vec::new(),
        top_p: request.top_p.unwrap_or(1.0),
        truncation: "auto".to_owned(),
        service_tier: "default".to_owned(),
        usage: None,
        metadata: request.metadata.clone(),
        labels: request.labels.clone(),
    })
}

/// A response at its end; `written` is what there is of an answer that is not whole.
pub(super) fn ended(
    response: ModelResponse,
    id: &ConversationId,
    outcome: &TurnOutcome,
    written: String,
) -> ModelResponse {
    let output = |text: String, status| match text.is_empty() {
        true => Vec::new(),
        false => vec![message(id, status, Some(text))],
    };
    match outcome {
        TurnOutcome::Done(answer) => ModelResponse {
            status: match answer.complete {
                true => ResponseStatus::Completed,
                false => ResponseStatus::Incomplete,
            },
            incomplete_details: (!answer.complete).then(|| IncompleteDetails {
                reason: "max_output_tokens".to_owned(),
            }),
            output: vec![message(
                id,
                answer_status(answer),
                Some(answer.text.trim_start().to_owned()),
            )],
            usage: Some(usage(answer)),
            ..response
        },
        TurnOutcome::Failed(failure) => ModelResponse {
            status: ResponseStatus::Failed,
            error: Some(error(failure)),
            output: output(written, ItemStatus::Incomplete),
            ..response
        },
        TurnOutcome::Cancelled => ModelResponse {
            status: ResponseStatus::Cancelled,
            output: output(written, ItemStatus::Incomplete),
            ..response
        },
    }
}

pub(super) fn answer_status(answer: &Answer) -> ItemStatus {
    match answer.complete {
        true => ItemStatus::Completed,
        false => ItemStatus::Incomplete,
    }
}

/// The model's message, without a part where nothing is said yet.
pub(super) fn message(
    id: &ConversationId,
    status: ItemStatus,
    text: Option<String>,
) -> OutputMessage {
    OutputMessage {
        id: lookup::answer_id(id),
        kind: ItemKind::Message,
        status,
        role: InputRole::Assistant,
        content: text.map(part).into_iter().collect(),
    }
}

pub(super) fn part(text: String) -> OutputText {
    OutputText {
        kind: "output_text".to_owned(),
        text,
        annotations: Vec::new(),
        logprobs: Vec::new(),
    }
}

fn usage(answer: &Answer) -> ResponseUsage {
    ResponseUsage {
        input_tokens: answer.prompt_tokens,
        input_tokens_details: InputTokensDetails {
            cached_tokens: answer.cached_tokens,
        },
        output_tokens: answer.tokens,
        output_tokens_details: OutputTokensDetails {
            reasoning_tokens: 0,
        },
        total_tokens: answer.prompt_tokens.saturating_add(answer.tokens),
    }
}

/// A failure under the code that OpenAI's clients know; the message begins with our own.
fn error(failure: &Failure) -> ResponseError {
    let code = match failure.code {
        ErrorCode::ContextLength | ErrorCode::MessageInvalid => "invalid_prompt",
        code if code.as_str().starts_with("image_") => "invalid_image",
        _ => "server_error",
    };
    ResponseError {
        code: code.to_owned(),
        message: format!("{}: {}", failure.code.as_str(), failure.message),
    }
}
