//! Errors in OpenAI's format.

use axum::Json;
use axum::extract::Request;
use axum::http::{HeaderValue, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use radialog_schemas::http::ProblemCode;
use radialog_schemas::http::openai::{ErrorBody, ErrorDetail};
use radialog_schemas::{ErrorClass, ErrorCode, Failure};

use crate::gateway::problem::ApiError;

pub(super) fn stopped() -> ApiError {
    ApiError::new(
        ProblemCode::Unavailable,
        "the gateway stopped before the answer's end; ask again",
    )
    .after(1)
}

/// Their code of a dialog that is longer than the model reads.
const CONTEXT_LENGTH: &str = "context_length_exceeded";

/// Where OpenAI's clients ask.
const PATHS: [&str; 5] = [
    "/v1/batches",
    "/v1/chat",
    "/v1/files",
    "/v1/models",
    "/v1/responses",
];

/// Puts errors at and below OpenAI's paths into its format, whoever made them.
pub(in crate::gateway) async fn rewrite_errors(request: Request, next: Next) -> Response {
    let path = request.uri().path();
    let is_below = |start: &&str| {
        let rest = path.strip_prefix(*start);
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    };
    let speaks = PATHS.iter().any(is_below);
    let response = next.run(request).await;
    if !speaks {
        return response;
    }
    let Some(api_error) = response.extensions().get::<ApiError>() else {
        return response;
    };
    let (status, error) = described(api_error);
    let mut rewritten = respond(status, error);
    for name in [header::RETRY_AFTER, header::WWW_AUTHENTICATE, header::ALLOW] {
        if let Some(value) = response.headers().get(&name) {
            rewritten.headers_mut().insert(name, value.clone());
        }
    }
    rewritten
}

/// An error's status and words as OpenAI's clients know them.
pub(super) fn described(error: &ApiError) -> (u16, ErrorDetail) {
    let problem = &error.problem;
    let param = match problem.code {
        ProblemCode::ModelNotFound => Some("model".to_owned()),
        _ => error.param.clone(),
    };
    // Their API has no 422.
    let status = match problem.status {
        422 => 400,
        status => status,
    };
    let code = problem_code(problem.code, param.as_deref());
    let detail = ErrorDetail {
        param,
        ..detail(status, &problem.detail, Some(code))
    };
    (status, detail)
}

/// A problem's code as OpenAI's API has it, by which clients tell what to do: theirs where there is one, else ours.
fn problem_code(code: ProblemCode, param: Option<&str>) -> String {
    match code {
        ProblemCode::Unauthorized => "invalid_api_key".into(),
        ProblemCode::RateLimited | ProblemCode::TooManyRequests => "rate_limit_exceeded".into(),
        // All messages together; else it is one text.
        ProblemCode::TextTooLong if param == Some("messages") => CONTEXT_LENGTH.into(),
        ProblemCode::TextTooLong => "string_above_max_length".into(),
        code => code.as_str(),
    }
}

/// A failure's status and words as OpenAI's clients know them.
pub(super) fn failure(failure: &Failure) -> (u16, ErrorDetail) {
    let status = failure_status(failure);
    let too_long = failure.code == ErrorCode::ContextLength;
    let code = match too_long {
        true => CONTEXT_LENGTH.to_owned(),
        false => failure.code.as_str(),
    };
    let detail = ErrorDetail {
        param: too_long.then(|| "messages".to_owned()),
        ..detail(status, &failure.message, Some(code))
    };
    (status, detail)
}

pub(super) fn failed(failed: &Failure) -> Response {
    let (status, error) = failure(failed);
    respond(status, error)
}

fn failure_status(failure: &Failure) -> u16 {
    match (failure.code, failure.class()) {
        (ErrorCode::DeadlineExceeded, _) => 503,
        (_, ErrorClass::Permanent) => 400,
        _ => 500,
    }
}

fn respond(status: u16, error: ErrorDetail) -> Response {
    let body = Json(ErrorBody { error });
    let mut response = body.into_response();
    *response.status_mut() =
        StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    response
        .headers_mut()
        .insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

pub(super) fn detail(status: u16, message: &str, code: Option<String>) -> ErrorDetail {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_know_the_codes_that_they_act_on() {
        let code = |error: ApiError| described(&error).1.code.unwrap_or_default();
        for (problem, expected) in [
            (ProblemCode::Unauthorized, "invalid_api_key"),
            (ProblemCode::RateLimited, "rate_limit_exceeded"),
            (ProblemCode::TooManyRequests, "rate_limit_exceeded"),
            (ProblemCode::ModelNotFound, "model_not_found"),
            (ProblemCode::TextTooLong, "string_above_max_length"),
            (ProblemCode::Busy, "busy"),
        ] {
            assert_eq!(code(ApiError::new(problem, "x")), expected);
        }
        let whole = ApiError::new(ProblemCode::TextTooLong, "x").at("messages");
        assert_eq!(code(whole), "context_length_exceeded");
        let (status, error) = failure(&Failure::new(ErrorCode::ContextLength, "x"));
        assert_eq!(status, 400);
        assert_eq!(error.code.as_deref(), Some("context_length_exceeded"));
        assert_eq!(error.param.as_deref(), Some("messages"));
    }
}
