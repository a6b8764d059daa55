//! A response, and what is said about it.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::request::{ItemKind, ItemStatus, TextFormat};
use crate::response::{InputPart, InputRole, ResponseLabels};

/// A response as it stands.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ModelResponse {
    /// Its name.
    pub id: String,
    /// The kind of this object: `response`.
    pub object: String,
    /// The time at which it was asked for, in seconds since 1970.
    pub created_at: u64,
    /// The state of the response.
    pub status: ResponseStatus,
    /// Whether nobody waits for it.
    pub background: bool,
    /// The reason why there is no answer.
    pub error: Option<ResponseError>,
    /// The reason why the answer ends before its end.
    pub incomplete_details: Option<IncompleteDetails>,
    /// None, always.
    pub instructions: Option<String>,
    /// The limit of the answer's tokens, where one was given.
    pub max_output_tokens: Option<u32>,
    /// The model that answers, as it was asked for.
    pub model: String,
    /// The answer, once some of it is there.
    pub output: Vec<OutputMessage>,
    /// True, always: no tool is ever called.
    pub parallel_tool_calls: bool,
    /// The response that this one goes on from.
    pub previous_response_id: Option<String>,
    /// The form of the answer's text.
    pub text: ResponseText,
    /// Whether it is kept.
    pub store: bool,
    /// The temperature; 0 takes the most probable token each time.
    pub temperature: f64,
    /// `auto`, always: no tool is ever called.
    pub tool_choice: String,
    /// Empty, always.
    pub tools: Vec<Value>,
    /// The mass of the most probable tokens.
    pub top_p: f64,
    /// `auto`, always.
    pub truncation: String,
    /// `default`, always.
    pub service_tier: String,
    /// What the answer took, once it is complete.
    pub usage: Option<ResponseUsage>,
    /// The client's own notes.
    pub metadata: BTreeMap<String, String>,
    /// The client's labels.
    #[serde(flatten)]
    pub labels: ResponseLabels,
}

/// The state of a response.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ResponseStatus {
    /// Waits for the image's outputs or a worker.
    Queued,
    /// A worker answers it.
    InProgress,
    /// The answer is there.
    Completed,
    /// The answer is there as far as its limit lets it.
    Incomplete,
    /// It has no answer.
    Failed,
    /// Nobody wanted the answer any more; what was written until then stays.
    Cancelled,
}

/// The reason why there is no answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ResponseError {
    /// OpenAI's code: `invalid_image`, `invalid_prompt` or `server_error`.
    pub code: String,
    /// Our own stable code, and what happened.
    pub message: String,
}

/// The reason why an answer ends before its end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct IncompleteDetails {
    /// `max_output_tokens`, always.
    pub reason: String,
}

/// The form of an answer's text.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ResponseText {
    /// Plain text, always.
    pub format: TextFormat,
}

/// The model's message.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct OutputMessage {
    /// Its name.
    pub id: String,
    /// The kind of this item: `message`.
    #[serde(rename = "type")]
    pub kind: ItemKind,
    /// How far it is written.
    pub status: ItemStatus,
    /// The role of the speaker: `assistant`.
    pub role: InputRole,
    /// One part, once some of it is there.
    pub content: Vec<OutputText>,
}

/// The words of the model's message.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct OutputText {
    /// The kind of this part: `output_text`.
    #[serde(rename = "type")]
    pub kind: String,
    /// The words.
    pub text: String,
    /// Empty, always.
    pub annotations: Vec<Value>,
    /// Empty, always.
    pub logprobs: Vec<Value>,
}

/// What an answer took.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ResponseUsage {
    /// Tokens of the prompt, image tokens included.
    pub input_tokens: u32,
    /// More about the tokens of the prompt.
    pub input_tokens_details: InputTokensDetails,
    /// The number of generated tokens.
    pub output_tokens: u32,
    /// More about the generated tokens.
    pub output_tokens_details: OutputTokensDetails,
    /// The sum of both.
    pub total_tokens: u32,
}

/// More about the tokens of a prompt.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct InputTokensDetails {
    /// Tokens that were in the worker's cache.
    pub cached_tokens: u32,
}

/// More about generated tokens.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct OutputTokensDetails {
    /// 0, always: the model does not reason aside.
    pub reasoning_tokens: u32,
}

/// What is said of a response that was removed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct DeletedResponse {
    /// The name that it had.
    pub id: String,
    /// The kind of this object: `response`.
    pub object: String,
    /// True, always.
    pub deleted: bool,
}

/// Messages of a request, a page at a time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct InputItemList {
    /// The kind of this object: `list`.
    pub object: String,
    /// The messages.
    pub data: Vec<ListedItem>,
    /// The name of the first one here.
    pub first_id: Option<String>,
    /// The name of the last one here, to go on after.
    pub last_id: Option<String>,
    /// Whether there are more behind it.
    pub has_more: bool,
}

/// A message of a request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ListedItem {
    /// Its name.
    pub id: String,
    /// The kind of this item: `message`.
    #[serde(rename = "type")]
    pub kind: ItemKind,
    /// `completed`, always.
    pub status: ItemStatus,
    /// The role of whoever says it.
    pub role: InputRole,
    /// The parts of the message.
    pub content: Vec<InputPart>,
}
