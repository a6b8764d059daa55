//! What the gateway takes and gives over HTTP; `openapi.json` is generated from these types. Fields that a client does not
//! know may come with any version, so clients ignore them. The gateway refuses them: a misspelled indication would be a prompt
//! without one.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{Ask, ComparisonMark, ConversationId, FindingsReport, Rating, TurnRequest, TurnStatus};

mod fields;
mod flat_bodies;
pub mod openai;
pub mod openai_batches;
mod problem;
pub mod responses;

pub use problem::{Problem, ProblemCode};

/// Longest question, indication or rewritten report, in characters.
pub const MAX_TEXT: usize = 16_000;
/// Longest title of a conversation, in characters.
pub const MAX_TITLE: usize = 200;
/// Longest answer that may be asked for, in tokens.
pub const MAX_NEW_TOKENS: u32 = 2048;
/// Largest seed: what every JSON reader keeps exactly.
pub const MAX_SEED: u64 = (1 << 53) - 1;
/// Longest wait for an answer to begin, in seconds.
pub const MAX_DEADLINE_SECONDS: u32 = 7 * 24 * 3600;

/// The settings with which one answer is decoded, and the time that it may wait.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct TurnOptions {
    /// Stop after this many tokens; 300 where none is given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 2048))]
    pub max_new_tokens: Option<u32>,
    /// None and 0 take the most probable token each time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0.0, max = 2.0))]
    pub temperature: Option<f64>,
    /// Sample from the most probable tokens that make up this mass; only with a temperature.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(max = 1.0), extend("exclusiveMinimum" = 0))]
    pub top_p: Option<f64>,
    /// The same seed gives the same answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(max = 9_007_199_254_740_991_u64))]
    pub seed: Option<u64>,
    /// Fail the turn with `deadline_exceeded` when no worker has begun it after so many seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 604_800))]
    pub deadline_seconds: Option<u32>,
}

/// A new conversation: an image, a question, or both. With an image the first turn is its report, and the question the
/// second one.
#[derive(Clone, Debug, Default, PartialEq, Serialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct NewConversation {
    /// A PNG or JPEG file as a data URI. Nothing is ever fetched from an address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = r"^data:image/(png|jpeg);base64,[A-Za-z0-9+/]+=*$"))]
    pub image: Option<String>,
    /// The first question.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 16_000))]
    pub question: Option<String>,
    /// The reason why the image was taken.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 16_000))]
    pub indication: Option<String>,
    /// What it is called, e.g. as its image's file; where none is given, lists show the first question.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 200))]
    pub title: Option<String>,
    /// Who answers: one of `/v1/models`; the first of them where none is given. The conversation keeps it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 300))]
    pub model: Option<String>,
    /// The options of all its first turns.
    #[serde(flatten)]
    pub options: TurnOptions,
}

/// The same as a form.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct NewConversationForm {
    /// A PNG or JPEG file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("contentMediaType" = "application/octet-stream"))]
    pub image: Option<String>,
    /// The first question.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 16_000))]
    pub question: Option<String>,
    /// The reason why the image was taken.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 16_000))]
    pub indication: Option<String>,
    /// What it is called, e.g. as its image's file; where none is given, lists show the first question.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 200))]
    pub title: Option<String>,
    /// Who answers: one of `/v1/models`; the first of them where none is given. The conversation keeps it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 300))]
    pub model: Option<String>,
    /// The options of all its first turns, each a part of its own.
    #[serde(flatten)]
    pub options: TurnOptions,
}

/// A new turn of a conversation.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct NewTurn {
    /// What is asked.
    #[serde(flatten)]
    pub ask: Ask,
    /// The options with which it is answered.
    #[serde(flatten)]
    pub options: TurnOptions,
}

/// An answer as a person has rewritten it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct EditedAnswer {
    /// The whole text.
    #[schemars(length(min = 1, max = 16_000))]
    pub text: String,
}

/// What a conversation is called from now on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ConversationTitle {
    /// A line of text.
    #[schemars(length(min = 1, max = 200))]
    pub title: String,
}

/// What a person thinks of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AnswerRating {
    /// Good or bad.
    pub rating: Rating,
}

/// A conversation as it stands.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ConversationView {
    /// Its name.
    pub id: ConversationId,
    /// The time at which it began, in milliseconds since 1970.
    pub created_ms: u64,
    /// The title that it was given; none where it has none of its own.
    #[serde(default)]
    pub title: Option<String>,
    /// The tag of the title that it was given, or of there being none: who renames it sends it as `If-Match`, quotes included.
    #[serde(default)]
    pub title_tag: String,
    /// Another one whenever anything but the text of a running answer has changed.
    #[serde(default)]
    pub revision: String,
    /// The model that answers, as in `/v1/models`; none where its bundle is not served here any more.
    pub model: Option<String>,
    /// The reason why the image was taken.
    pub indication: Option<String>,
    /// The X-ray, where there is one.
    pub image: Option<ImageView>,
    /// What the classifier sees in it; none while that is being computed.
    pub findings: Option<FindingsReport>,
    /// The turns in their order.
    pub turns: Vec<TurnView>,
}

/// The address and the type of an image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ImageView {
    /// A path on this gateway.
    pub href: String,
    /// The media type, `image/png` or `image/jpeg`.
    pub media_type: String,
}

/// A turn as it stands.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct TurnView {
    /// Its number, from 1.
    pub turn: u32,
    /// What was asked.
    pub request: TurnRequest,
    /// The state of the turn.
    pub status: TurnStatus,
    /// The number of turns of all conversations that wait before it for the same bundle's workers, while it is queued.
    pub position: Option<u64>,
    /// The question as the model reads it, once a worker has begun.
    pub asked: Option<String>,
    /// The answer so far.
    pub text: String,
    /// The answer as a person has rewritten it.
    pub edited: Option<String>,
    /// The tag of that version, or of there being none: who rewrites the answer sends it as `If-Match`, quotes included.
    #[serde(default)]
    pub edit_tag: String,
    /// What a person thinks of the answer.
    #[serde(default)]
    pub rating: Option<Rating>,
    /// Earlier turns that were left out of the prompt, because the context window had no room for them.
    pub dropped_turns: Vec<u32>,
    /// Sentences of the model's text that compare with an earlier image, which it has not seen: of turns that ask for a report or
    /// its correction, once they are done.
    #[serde(default)]
    pub comparisons: Vec<ComparisonMark>,
    /// What it took, once it is done.
    pub usage: Option<TurnUsage>,
    /// The reason why it has no (whole) answer.
    pub error: Option<TurnError>,
    /// The address of its events.
    pub events: String,
    /// The last event that is counted in here: go on after it with `Last-Event-ID`.
    pub last_event: u64,
}

/// What an answer took.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct TurnUsage {
    /// Tokens of the prompt.
    pub prompt_tokens: u32,
    /// The number of them that were in the worker's cache from earlier turns.
    pub cached_tokens: u32,
    /// Generated tokens, the end token included.
    pub tokens: u32,
    /// False when the token limit cut the answer.
    pub complete: bool,
}

/// The reason why a turn has no (whole) answer; also the data of an `error` event.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct TurnError {
    /// A stable code, e.g. `image_corrupt`, or `cancelled`.
    pub code: String,
    /// What happened and what to do, for people.
    pub message: String,
}

/// The caller's conversations.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ConversationList {
    /// The latest first.
    pub conversations: Vec<ConversationEntry>,
}

/// One line of the list.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ConversationEntry {
    /// Its name.
    pub id: ConversationId,
    /// The time at which it began, in milliseconds since 1970.
    pub created_ms: u64,
    /// The title that it was given, else the first question, else the indication, else empty.
    pub title: String,
    /// As in the conversation's own view: the tag of the title that it was given.
    #[serde(default)]
    pub title_tag: String,
    /// As in the conversation's own view: another one whenever it has changed.
    #[serde(default)]
    pub revision: String,
    /// The number of its turns.
    pub turns: u32,
    /// The status of the first turn that is not final, else of the last one.
    pub status: TurnStatus,
    /// The X-ray, where there is one.
    pub image: Option<ImageView>,
}

/// Data of a `queued` event, which has no number: it is sent whenever the position changes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct QueuedEvent {
    /// The number of turns that wait before this one for the same bundle's workers.
    pub position: u64,
}

/// Data of a `started` event. It may come again, when another worker continues.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct StartedEvent {
    /// The question as the model reads it.
    pub asked: String,
}

/// Data of a `token` event.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct TokenEvent {
    /// What it adds to the text: empty in the middle of a character.
    pub text: String,
}
