//! The part of OpenAI's Responses API that the gateway speaks. What a request may say is either done or refused with the
//! field's name: fields that are not known here are refused, too.

use std::collections::BTreeMap;
use std::fmt;

use schemars::JsonSchema;
use serde::de::value::SeqAccessDeserializer;
use serde::de::{self, Deserializer, SeqAccess, Visitor};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::response::{InputPart, InputRole};

/// A field that is not supported: null is the same as leaving it out, anything else is refused.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub enum Unsupported {}

impl<'de> Deserialize<'de> for Unsupported {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        de::IgnoredAny::deserialize(deserializer)?;
        Err(de::Error::custom("this is not supported; leave it out"))
    }
}

/// A request for a response.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct NewResponse {
    /// One of `/v1/models`.
    pub model: String,
    /// What is asked: words, or messages of which the last one is the user's. At most one image.
    pub input: ResponseInput,
    /// Go on from this response: its messages and answer stand before the input. It has to be complete.
    #[serde(default)]
    #[schemars(regex(pattern = "^resp_[0-9a-f]{32}$"))]
    pub previous_response_id: Option<String>,
    /// Answer at once, and go on without a client. Needs `store`.
    #[serde(default)]
    pub background: Option<bool>,
    /// Keep the response for 30 days after its last use; true where nothing is said.
    #[serde(default)]
    pub store: Option<bool>,
    /// Send the events of the answer.
    #[serde(default)]
    pub stream: Option<bool>,
    /// Only with `stream`.
    #[serde(default)]
    pub stream_options: Option<ResponseStreamOptions>,
    /// Stop after this many tokens; 300 where none is given, at most 2048.
    #[serde(default)]
    #[schemars(range(min = 1))]
    pub max_output_tokens: Option<u32>,
    /// None and 0 take the most probable token each time.
    #[serde(default)]
    #[schemars(range(min = 0.0, max = 2.0))]
    pub temperature: Option<f64>,
    /// Sample from the most probable tokens that make up this mass; only with a temperature.
    #[serde(default)]
    #[schemars(range(max = 1.0), extend("exclusiveMinimum" = 0))]
    pub top_p: Option<f64>,
    /// The same seed gives the same answer. This field is ours, and not in OpenAI's API.
    #[serde(default)]
    #[schemars(range(max = 9_007_199_254_740_991_u64))]
    pub seed: Option<u64>,
    /// Up to 16 notes of the client's own, with names of at most 64 and values of at most 512 characters.
    #[serde(default)]
    #[schemars(extend("maxProperties" = 16))]
    pub metadata: Option<BTreeMap<String, String>>,
    /// A label; what a worker remembers of a prompt is found by its content, under any name.
    #[serde(default)]
    #[schemars(length(max = 512))]
    pub prompt_cache_key: Option<String>,
    /// A label.
    #[serde(default)]
    #[schemars(length(max = 512))]
    pub safety_identifier: Option<String>,
    /// A label.
    #[serde(default)]
    #[schemars(length(max = 512))]
    pub user: Option<String>,
    /// Only `auto`: what does not fit into the model's window is left out, from the oldest exchange on but for the first.
    #[serde(default)]
    pub truncation: Option<Truncation>,
    /// Only plain text.
    #[serde(default)]
    pub text: Option<TextOptions>,
    /// Only `auto` or `none`: there are no tools.
    #[serde(default)]
    pub tool_choice: Option<ToolChoice>,
    /// Only an empty list.
    #[serde(default)]
    #[schemars(with = "Option<Vec<Value>>", extend("maxItems" = 0))]
    pub tools: Option<Vec<Value>>,
    /// There are no tools, so that either value is kept to.
    #[serde(default)]
    pub parallel_tool_calls: Option<bool>,
    /// Only an empty list.
    #[serde(default)]
    #[schemars(with = "Option<Vec<Value>>", extend("maxItems" = 0))]
    pub include: Option<Vec<Value>>,
    /// Only `auto` or `default`.
    #[serde(default)]
    pub service_tier: Option<ServiceTier>,
    /// Only 0.
    #[serde(default)]
    #[schemars(range(min = 0, max = 0))]
    pub top_logprobs: Option<u32>,
    /// Not supported: the model was trained with one system text, which its bundle holds.
    #[serde(default)]
    #[schemars(with = "Option<()>")]
    pub instructions: Option<Unsupported>,
    /// Not supported; go on with `previous_response_id`.
    #[serde(default)]
    #[schemars(with = "Option<()>")]
    pub conversation: Option<Unsupported>,
    /// Not supported.
    #[serde(default)]
    #[schemars(with = "Option<()>")]
    pub context_management: Option<Unsupported>,
    /// Not supported.
    #[serde(default)]
    #[schemars(with = "Option<()>")]
    pub max_tool_calls: Option<Unsupported>,
    /// Not supported.
    #[serde(default)]
    #[schemars(with = "Option<()>")]
    pub moderation: Option<Unsupported>,
    /// Not supported.
    #[serde(default)]
    #[schemars(with = "Option<()>")]
    pub prompt: Option<Unsupported>,
    /// Not supported.
    #[serde(default)]
    #[schemars(with = "Option<()>")]
    pub prompt_cache_options: Option<Unsupported>,
    /// Not supported.
    #[serde(default)]
    #[schemars(with = "Option<()>")]
    pub prompt_cache_retention: Option<Unsupported>,
    /// Not supported.
    #[serde(default)]
    #[schemars(with = "Option<()>")]
    pub reasoning: Option<Unsupported>,
}

/// What is asked: words, or messages.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
#[serde(untagged)]
pub enum ResponseInput {
    /// The words of the user's only message.
    Text(String),
    /// Messages in order.
    Items(#[schemars(length(min = 1, max = 1000))] Vec<InputItem>),
}

impl<'de> Deserialize<'de> for ResponseInput {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(TextOrItems(Self::Text, Self::Items))
    }
}

/// One message of the input.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct InputItem {
    /// Only `message`.
    #[serde(default, rename = "type")]
    pub kind: Option<ItemKind>,
    /// The role of whoever says it.
    pub role: InputRole,
    /// What is said.
    pub content: InputContent,
    /// The name that it had in a response; the new response gives it another one.
    #[serde(default)]
    pub id: Option<String>,
    /// The status that it had in a response.
    #[serde(default)]
    pub status: Option<ItemStatus>,
    /// Only null: the model does not think aloud.
    #[serde(default)]
    #[schemars(with = "Option<()>")]
    pub phase: Option<Unsupported>,
}

/// The kind of an item.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ItemKind {
    /// Words, and for a user perhaps an image.
    Message,
}

/// The status of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ItemStatus {
    /// It is being written.
    InProgress,
    /// The message is whole.
    Completed,
    /// It ends before its end.
    Incomplete,
}

/// What a message holds.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
#[serde(untagged)]
pub enum InputContent {
    /// A text of words only.
    Text(String),
    /// Several parts, texts and images.
    Parts(Vec<NewPart>),
}

impl<'de> Deserialize<'de> for InputContent {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(TextOrItems(Self::Text, Self::Parts))
    }
}

/// A part of a message.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
pub enum NewPart {
    /// The user's words.
    InputText {
        /// The words.
        text: String,
    },
    /// An image.
    InputImage {
        /// A PNG or JPEG file as a data URI. Nothing is ever fetched from an address.
        #[schemars(regex(pattern = r"^data:image/(png|jpeg);base64,[A-Za-z0-9+/]+=*$"))]
        image_url: String,
        /// The model sees each image at the one size that it was trained with.
        #[serde(default)]
        detail: Option<ImageDetail>,
        /// Not supported.
        #[serde(default)]
        #[schemars(with = "Option<()>")]
        file_id: Option<Unsupported>,
    },
    /// The model's words in an earlier answer.
    OutputText {
        /// The words.
        text: String,
        /// Only an empty list.
        #[serde(default)]
        #[schemars(with = "Option<Vec<Value>>", extend("maxItems" = 0))]
        annotations: Option<Vec<Value>>,
        /// Only an empty list.
        #[serde(default)]
        #[schemars(with = "Option<Vec<Value>>", extend("maxItems" = 0))]
        logprobs: Option<Vec<Value>>,
        /// Only null, which a Python client leaves in what it gives back.
        #[serde(default)]
        #[schemars(with = "Option<()>")]
        parsed: Option<Unsupported>,
    },
}

/// How closely an image is looked at. Both values mean the same here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs)] // the variants are the API's own names
pub enum ImageDetail {
    Auto,
    High,
}

/// Options of a response's stream.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ResponseStreamOptions {
    /// Only false: nothing is added that hides the lengths of pieces.
    #[serde(default)]
    pub include_obfuscation: Option<bool>,
}

/// What is done where the model's window is too small.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Truncation {
    /// Old exchanges are left out.
    Auto,
}

/// The form of the answer's text.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TextOptions {
    /// The format of the text: plain.
    #[serde(default)]
    pub format: Option<TextFormat>,
    /// Not supported.
    #[serde(default)]
    #[schemars(with = "Option<()>")]
    pub verbosity: Option<Unsupported>,
}

/// A format of the answer's text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
pub enum TextFormat {
    /// Plain text.
    Text,
}

/// Whether the model may use tools, of which there are none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs)] // the variants are the API's own names
pub enum ToolChoice {
    Auto,
    None,
}

/// The service that a request gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs)] // the variants are the API's own names
pub enum ServiceTier {
    Auto,
    Default,
}

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
    /// True, always: there are no tools.
    pub parallel_tool_calls: bool,
    /// The response that this one goes on from.
    pub previous_response_id: Option<String>,
    /// The form of the answer's text.
    pub text: ResponseText,
    /// Whether it is kept.
    pub store: bool,
    /// The temperature; 0 takes the most probable token each time.
    pub temperature: f64,
    /// `auto`, always: there are no tools.
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
    pub labels: crate::response::ResponseLabels,
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

/// A step of a response's answer, as its stream has it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ResponseEvent {
    /// Its place in the stream, from 0 and without a gap: the same for every reader.
    pub sequence_number: u64,
    /// The step.
    #[serde(flatten)]
    pub step: ResponseStep,
}

/// What happened to a response. Their API has no step for a cancellation: it ends with the one of a failure, whose response
/// has the status `cancelled`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "type")]
#[allow(missing_docs)] // the variants and fields are the API's own names
pub enum ResponseStep {
    #[serde(rename = "response.created")]
    Created { response: Box<ModelResponse> },
    #[serde(rename = "response.queued")]
    Queued { response: Box<ModelResponse> },
    #[serde(rename = "response.in_progress")]
    InProgress { response: Box<ModelResponse> },
    #[serde(rename = "response.output_item.added")]
    ItemAdded {
        output_index: u32,
        item: OutputMessage,
    },
    #[serde(rename = "response.content_part.added")]
    PartAdded {
        item_id: String,
        output_index: u32,
        content_index: u32,
        part: OutputText,
    },
    #[serde(rename = "response.output_text.delta")]
    TextDelta {
        item_id: String,
        output_index: u32,
        content_index: u32,
        delta: String,
        logprobs: Vec<Value>,
    },
    #[serde(rename = "response.output_text.done")]
    TextDone {
        item_id: String,
        output_index: u32,
        content_index: u32,
        text: String,
        logprobs: Vec<Value>,
    },
    #[serde(rename = "response.content_part.done")]
    PartDone {
        item_id: String,
        output_index: u32,
        content_index: u32,
        part: OutputText,
    },
    #[serde(rename = "response.output_item.done")]
    ItemDone {
        output_index: u32,
        item: OutputMessage,
    },
    #[serde(rename = "response.completed")]
    Completed { response: Box<ModelResponse> },
    #[serde(rename = "response.incomplete")]
    Incomplete { response: Box<ModelResponse> },
    #[serde(rename = "response.failed")]
    Failed { response: Box<ModelResponse> },
}

impl ResponseStep {
    /// The step's name, which its `type` is.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Created { .. } => "response.created",
            Self::Queued { .. } => "response.queued",
            Self::InProgress { .. } => "response.in_progress",
            Self::ItemAdded { .. } => "response.output_item.added",
            Self::PartAdded { .. } => "response.content_part.added",
            Self::TextDelta { .. } => "response.output_text.delta",
            Self::TextDone { .. } => "response.output_text.done",
            Self::PartDone { .. } => "response.content_part.done",
            Self::ItemDone { .. } => "response.output_item.done",
            Self::Completed { .. } => "response.completed",
            Self::Incomplete { .. } => "response.incomplete",
            Self::Failed { .. } => "response.failed",
        }
    }
}

/// Reads a text or a list, so that what is wrong inside the list keeps its path.
struct TextOrItems<Whole, Item>(fn(String) -> Whole, fn(Vec<Item>) -> Whole);

impl<'de, Whole, Item: Deserialize<'de>> Visitor<'de> for TextOrItems<Whole, Item> {
    type Value = Whole;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a text or a list")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Whole, E> {
        Ok(self.0(text.to_owned()))
    }

    fn visit_string<E: de::Error>(self, text: String) -> Result<Whole, E> {
        Ok(self.0(text))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, items: A) -> Result<Whole, A::Error> {
        Vec::<Item>::deserialize(SeqAccessDeserializer::new(items)).map(self.1)
    }
}
