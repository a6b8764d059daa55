//! How errors leave the gateway: always with a stable code, and with what the caller can do. What happened inside goes to
//! the log, without any text of a conversation.

use std::fmt::Display;

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use radialog_runtime::objects::ObjectError;
use radialog_runtime::queue::QueueError;
use radialog_runtime::state::StateError;
use radialog_schemas::http::{Problem, ProblemCode};

use crate::BackendError;
use crate::run::ArchiveRunsError;

/// The seconds after which to ask again when a service was away.
const UNAVAILABLE_RETRY: u64 = 5;

/// An error as the API answers it.
#[derive(Clone, Debug)]
pub(super) struct ApiError {
    pub(super) problem: Problem,
    /// Seconds after which the same request may work.
    pub(super) retry_after: Option<u64>,
    /// The field of the request that is at fault, as OpenAI's errors name it.
    pub(super) param: Option<String>,
}

pub(super) type ApiResult<T> = Result<T, ApiError>;

impl ApiError {
    pub(super) fn new(code: ProblemCode, detail: impl Display) -> Self {
        Self {
            problem: Problem::new(code, detail),
            retry_after: None,
            param: None,
        }
    }

    pub(super) fn after(self, seconds: u64) -> Self {
        Self {
            retry_after: Some(seconds.max(1)),
            ..self
        }
    }

    /// Names the field that is at fault, unless one is named already.
    pub(super) fn at(mut self, param: &str) -> Self {
        self.param.get_or_insert_with(|| param.to_owned());
        self
    }

    /// Says that there is no such conversation; the same for what is not there and for what is somebody else's.
    pub(super) fn no_conversation() -> Self {
        Self::new(
            ProblemCode::NotFound,
            "there is no such conversation; GET /v1/conversations lists yours",
        )
    }

    /// Says that a handler stands outside of the guard, which is a fault of ours.
    pub(super) fn not_admitted() -> Self {
        Self::new(ProblemCode::Internal, "the request was not admitted")
    }

    pub(super) fn no_turn() -> Self {
        Self::new(
            ProblemCode::NotFound,
            "the conversation has no such turn; its view lists all turns",
        )
    }

    fn unavailable(error: &dyn Display) -> Self {
        tracing::warn!(%error, "a request could not be answered");
        let detail = "broker, object store or state store do not answer; ask again, with the same Idempotency-Key where \
                      something was to be made";
        Self::new(ProblemCode::Unavailable, detail).after(UNAVAILABLE_RETRY)
    }
}

impl From<StateError> for ApiError {
    fn from(error: StateError) -> Self {
        Self::unavailable(&error)
    }
}

impl From<QueueError> for ApiError {
    fn from(error: QueueError) -> Self {
        Self::unavailable(&error)
    }
}

impl From<ObjectError> for ApiError {
    fn from(error: ObjectError) -> Self {
        if matches!(error, ObjectError::Full(_)) {
            tracing::error!(%error, "a request could not be answered");
            let detail = "there is no room left to store what is sent; ask again when the gateway's operator has made some";
            return Self::new(ProblemCode::Unavailable, detail).after(UNAVAILABLE_RETRY);
        }
        Self::unavailable(&error)
    }
}

impl From<BackendError> for ApiError {
    fn from(error: BackendError) -> Self {
        match error {
            BackendError::Objects(error) => error.into(),
            error => Self::unavailable(&error),
        }
    }
}

impl From<ArchiveRunsError> for ApiError {
    fn from(error: ArchiveRunsError) -> Self {
        match error {
            ArchiveRunsError::Mismatch => Self::new(ProblemCode::IdempotencyMismatch, error),
            ArchiveRunsError::NotAllowed { .. } => Self::new(ProblemCode::ArchiveNotAllowed, error),
            ArchiveRunsError::Archive(_) => Self::new(ProblemCode::InvalidRequest, error),
            ArchiveRunsError::State(error) => error.into(),
            ArchiveRunsError::Objects(error) => error.into(),
            ArchiveRunsError::Directory { .. }
            | ArchiveRunsError::Kept { .. }
            | ArchiveRunsError::Unreadable { .. }
            | ArchiveRunsError::Stopped(_) => Self::unavailable(&error),
        }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let status =
            StatusCode::from_u16(self.problem.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut response = (status, Json(&self.problem)).into_response();
        let headers = response.headers_mut();
        headers.insert(
            header::CONTENT_TYPE,
            HeaderValue::from_static("application/problem+json"),
        );
        if let Some(seconds) = self.retry_after {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        if status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        // Paths with another format of errors write it again.
        response.extensions_mut().insert(self);
        response
    }
}
