//! Errors of the gateway: problem details (RFC 9457) with codes that stay stable.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The body of every error, as `application/problem+json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Problem {
    /// A name for this kind of problem, e.g. `urn:radialog:problem:not_found`.
    #[serde(rename = "type")]
    pub kind: String,
    /// The kind in words.
    pub title: String,
    /// The HTTP status.
    #[schemars(range(min = 400, max = 599))]
    pub status: u16,
    /// What happened here and what to do.
    pub detail: String,
    /// The stable code.
    pub code: ProblemCode,
}

/// The stable name of a problem.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ProblemCode {
    /// The body is not JSON.
    InvalidJson,
    /// The body, or a text in it, is not UTF-8.
    InvalidUtf8,
    /// The form cannot be read.
    InvalidMultipart,
    /// The connection or the request broke off.
    IncompleteBody,
    /// The body came too slowly.
    SlowBody,
    /// No key, or one that is not known.
    Unauthorized,
    /// The page that asks is not one that may.
    ForbiddenOrigin,
    /// The archive is not under a prefix that may be read.
    ArchiveNotAllowed,
    /// There is no such thing, or it is somebody else's.
    NotFound,
    /// There is no model of this name here.
    ModelNotFound,
    /// This path does not do that.
    MethodNotAllowed,
    /// The turn is not over yet.
    TurnNotFinal,
    /// The turn has ended without an answer.
    NoAnswer,
    /// The conversation has as many turns as it may have.
    ConversationFull,
    /// What was to be replaced is another one now.
    PreconditionFailed,
    /// What would be replaced must be named.
    PreconditionRequired,
    /// The body is over its limit.
    BodyTooLarge,
    /// The image is over its limit of bytes or pixels.
    ImageTooLarge,
    /// The body is of a type that this path does not read.
    UnsupportedMediaType,
    /// The image is neither PNG nor JPEG.
    ImageFormatUnsupported,
    /// The image is truncated or corrupt.
    ImageCorrupt,
    /// A side is too short.
    ImageDimensions,
    /// A field is missing, or not what it must be.
    InvalidRequest,
    /// A text says nothing.
    TextEmpty,
    /// A text is over its limit.
    TextTooLong,
    /// Something was to be fetched from an address, which never happens.
    RemoteUrl,
    /// The same idempotency key came with another request.
    IdempotencyMismatch,
    /// The key has asked too often.
    RateLimited,
    /// The key has too many requests or streams open.
    TooManyRequests,
    /// A fault of the gateway.
    Internal,
    /// Too many turns wait already.
    Busy,
    /// Broker, store or state do not answer.
    Unavailable,
    /// The request took too long.
    Timeout,
}

impl ProblemCode {
    /// The HTTP status.
    pub fn status(self) -> u16 {
        match self {
            Self::InvalidJson
            | Self::InvalidUtf8
            | Self::InvalidMultipart
            | Self::IncompleteBody => 400,
            Self::Unauthorized => 401,
            Self::ForbiddenOrigin | Self::ArchiveNotAllowed => 403,
            Self::NotFound | Self::ModelNotFound => 404,
            Self::MethodNotAllowed => 405,
            Self::SlowBody => 408,
            Self::TurnNotFinal | Self::NoAnswer | Self::ConversationFull => 409,
            Self::PreconditionFailed => 412,
            Self::BodyTooLarge | Self::ImageTooLarge => 413,
            Self::UnsupportedMediaType | Self::ImageFormatUnsupported => 415,
            Self::ImageCorrupt
            | Self::ImageDimensions
            | Self::InvalidRequest
            | Self::TextEmpty
            | Self::TextTooLong
            | Self::RemoteUrl
            | Self::IdempotencyMismatch => 422,
            Self::PreconditionRequired => 428,
            Self::RateLimited | Self::TooManyRequests => 429,
            Self::Internal => 500,
            Self::Busy | Self::Unavailable | Self::Timeout => 503,
        }
    }

    /// The kind in words.
    pub fn title(self) -> &'static str {
        match self {
            Self::InvalidJson => "the body is not JSON",
            Self::InvalidUtf8 => "the body is not UTF-8",
            Self::InvalidMultipart => "the form cannot be read",
            Self::IncompleteBody => "the request broke off",
            Self::SlowBody => "the body came too slowly",
            Self::Unauthorized => "a valid API key is needed",
            Self::ForbiddenOrigin => "this web page may not ask",
            Self::ArchiveNotAllowed => "this archive may not be read",
            Self::NotFound => "there is no such thing",
            Self::ModelNotFound => "there is no such model",
            Self::MethodNotAllowed => "this path does not do that",
            Self::TurnNotFinal => "the turn is not over yet",
            Self::NoAnswer => "the turn has no answer",
            Self::ConversationFull => "the conversation is full",
            Self::PreconditionFailed => "it was changed meanwhile",
            Self::PreconditionRequired => "what is replaced must be named",
            Self::BodyTooLarge => "the body is too large",
            Self::ImageTooLarge => "the image is too large",
            Self::UnsupportedMediaType => "the body's type is not read here",
            Self::ImageFormatUnsupported => "the image is neither PNG nor JPEG",
            Self::ImageCorrupt => "the image is truncated or corrupt",
            Self::ImageDimensions => "the image's sides are too short",
            Self::InvalidRequest => "the request is not valid",
            Self::TextEmpty => "the text is empty",
            Self::TextTooLong => "the text is too long",
            Self::RemoteUrl => "nothing is fetched from an address",
            Self::IdempotencyMismatch => "the idempotency key belongs to another request",
            Self::RateLimited => "too many requests in a short time",
            Self::TooManyRequests => "too many requests at once",
            Self::Internal => "the gateway failed",
            Self::Busy => "too many turns wait",
            Self::Unavailable => "a service behind the gateway does not answer",
            Self::Timeout => "the request took too long",
        }
    }

    /// The code as in JSON, e.g. `not_found`.
    pub fn as_str(self) -> String {
        match serde_json::to_value(self) {
            Ok(serde_json::Value::String(text)) => text,
            _ => format!("{self:?}"),
        }
    }
}

impl fmt::Display for ProblemCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.as_str())
    }
}

impl Problem {
    /// A problem of this code.
    pub fn new(code: ProblemCode, detail: impl fmt::Display) -> Self {
        Self {
            kind: format!("urn:radialog:problem:{code}"),
            title: code.title().to_owned(),
            status: code.status(),
            detail: detail.to_string(),
            code,
        }
    }
}
