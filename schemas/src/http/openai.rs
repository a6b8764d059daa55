//! The part of OpenAI's chat completions API that the gateway speaks, so that its clients work unchanged.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;

use super::fields::{
    ObjectOfFields, TextOrItems, Unsupported, object, objects, optional_object, values,
};
use super::responses::{ImageDetail, ServiceTier, TextFormat, ToolChoice};
use crate::{AdapterName, ContentHash, OptionalTask};

/// A request for one answer. The client keeps the conversation and sends all of it each time. What is not listed here is
/// refused.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ChatCompletionRequest {
    /// One of `/v1/models`.
    pub model: String,
    /// The conversation; the last message is the user's. At most one image, in any of the user's messages.
    #[serde(deserialize_with = "objects")]
    #[schemars(length(min = 1, max = 1000))]
    pub messages: Vec<ChatMessage>,
    /// Send the answer piece by piece.
    #[serde(default)]
    pub stream: Option<bool>,
    /// This field is allowed only with `stream`.
    #[serde(default, deserialize_with = "optional_object")]
    pub stream_options: Option<StreamOptions>,
    /// Older name of `max_completion_tokens`.
    #[serde(default)]
    #[schemars(range(min = 1, max = 2048))]
    pub max_tokens: Option<u32>,
    /// Stop after this many tokens; 300 where none is given, at most 2048.
    #[serde(default)]
    #[schemars(range(min = 1, max = 2048))]
    pub max_completion_tokens: Option<u32>,
    /// None and 0 take the most probable token each time.
    #[serde(default)]
    #[schemars(range(min = 0.0, max = 2.0))]
    pub temperature: Option<f64>,
    /// Sample from the most probable tokens that make up this mass; only with a temperature.
    #[serde(default)]
    #[schemars(range(max = 1.0), extend("exclusiveMinimum" = 0))]
    pub top_p: Option<f64>,
    /// The same seed gives the same answer.
    #[serde(default)]
    #[schemars(range(min = 0, max = 9_007_199_254_740_991_u64))]
    pub seed: Option<i64>,
    /// End the answer before the first of these texts: one, or a list of up to 4.
    #[serde(default)]
    pub stop: Option<StopTexts>,
    /// Fail with `deadline_exceeded` when no worker has begun the answer after so many seconds. This field is ours.
    #[serde(default)]
    #[schemars(range(min = 1, max = 604_800))]
    pub deadline_seconds: Option<u32>,
    /// What the caller calls its user. Taken and not used.
    #[serde(default)]
    pub user: Option<String>,
    /// What the caller calls its user. Taken and not used.
    #[serde(default)]
    pub safety_identifier: Option<String>,
    /// What the caller calls its cache. Taken and not used: prompts with a common beginning share it anyway.
    #[serde(default)]
    pub prompt_cache_key: Option<String>,
    /// The number of answers: only 1 is given.
    #[serde(default)]
    #[schemars(range(min = 1, max = 1))]
    pub n: Option<u32>,
    /// Only plain text.
    #[serde(default)]
    pub response_format: Option<TextFormat>,
    /// Functions that the model may call. It calls none, whatever is offered, as `auto` and `none` allow; the header
    /// `radialog-warning` says so. Of each, only the kind and the name are read.
    #[serde(default)]
    pub tools: Option<Vec<Value>>,
    /// Only `auto` or `none`: the model calls no tool.
    #[serde(default)]
    pub tool_choice: Option<ToolChoice>,
    /// No tool is called, so that either value is kept to.
    #[serde(default)]
    pub parallel_tool_calls: Option<bool>,
    /// Only an empty list.
    #[serde(default)]
    #[schemars(with = "Option<Vec<Value>>", extend("maxItems" = 0))]
    pub functions: Option<Vec<Value>>,
    /// Only `auto` or `none`: there are no functions.
    #[serde(default)]
    pub function_call: Option<ToolChoice>,
    /// Only false.
    #[serde(default)]
    #[schemars(with = "Option<bool>", extend("enum" = [false, null]))]
    pub logprobs: Option<bool>,
    /// Only 0.
    #[serde(default)]
    #[schemars(range(min = 0, max = 0))]
    pub top_logprobs: Option<u32>,
    /// Only 0.
    #[serde(default)]
    #[schemars(range(min = 0.0, max = 0.0))]
    pub frequency_penalty: Option<f64>,
    /// Only 0.
    #[serde(default)]
    #[schemars(range(min = 0.0, max = 0.0))]
    pub presence_penalty: Option<f64>,
    /// Only 0: turns are answered in the order in which they are asked.
    #[serde(default)]
    #[schemars(range(min = 0, max = 0))]
    pub priority: Option<i64>,
    /// Only an empty object.
    #[serde(default)]
    #[schemars(extend("maxProperties" = 0))]
    pub logit_bias: Option<BTreeMap<String, f64>>,
    /// Only an empty object: nothing is kept.
    #[serde(default)]
    #[schemars(extend("maxProperties" = 0))]
    pub metadata: Option<BTreeMap<String, String>>,
    /// Only false: nothing is kept.
    #[serde(default)]
    #[schemars(with = "Option<bool>", extend("enum" = [false, null]))]
    pub store: Option<bool>,
    /// Only `text`.
    #[serde(default)]
    pub modalities: Option<Vec<Modality>>,
    /// Only `auto` or `default`.
    #[serde(default)]
    pub service_tier: Option<ServiceTier>,
    /// Not supported.
    #[serde(default)]
    #[schemars(with = "Option<()>")]
    pub audio: Option<Unsupported>,
    /// Not supported.
    #[serde(default)]
    #[schemars(with = "Option<()>")]
    pub moderation: Option<Unsupported>,
    /// Not supported.
    #[serde(default)]
    #[schemars(with = "Option<()>")]
    pub prediction: Option<Unsupported>,
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
    pub reasoning_effort: Option<Unsupported>,
    /// Not supported.
    #[serde(default)]
    #[schemars(with = "Option<()>")]
    pub verbosity: Option<Unsupported>,
    /// Not supported.
    #[serde(default)]
    #[schemars(with = "Option<()>")]
    pub web_search_options: Option<Unsupported>,
}

/// What an answer may be made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Modality {
    /// Words.
    Text,
}

/// Texts at which an answer ends.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(untagged)]
pub enum StopTexts {
    /// One text.
    One(#[schemars(length(min = 1, max = 256))] String),
    /// Several texts.
    Several(#[schemars(length(max = 4), inner(length(min = 1, max = 256)))] Vec<String>),
}

impl<'de> Deserialize<'de> for StopTexts {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(TextOrItems(Self::One, Self::Several))
    }
}

impl StopTexts {
    /// All of them: none of the empty text, which is what some clients send where nothing was asked for.
    pub fn into_list(self) -> Vec<String> {
        match self {
            Self::One(text) if text.is_empty() => Vec::new(),
            Self::One(text) => vec![text],
            Self::Several(texts) => texts,
        }
    }
}

/// Options of a stream.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct StreamOptions {
    /// End with a chunk that has the usage and no choice.
    #[serde(default)]
    pub include_usage: Option<bool>,
    /// Only false: nothing is added that hides the lengths of pieces.
    #[serde(default)]
    #[schemars(with = "Option<bool>", extend("enum" = [false, null]))]
    pub include_obfuscation: Option<bool>,
}

impl ObjectOfFields for StreamOptions {
    const EXPECTED: &'static str = "an object with `include_usage`";
}

/// One message. Those of the assistant may come back as clients keep them, with fields that say nothing.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ChatMessage {
    /// The role of whoever says it.
    pub role: Role,
    /// The words, and for a user perhaps an image; null says nothing.
    #[serde(default)]
    pub content: Option<Content>,
    /// The name of whoever says it. Taken and not used, since the model knows two sides; the header `radialog-warning` says so.
    #[serde(default)]
    pub name: Option<String>,
    /// Only an empty list.
    #[serde(default)]
    #[schemars(with = "Option<Vec<Value>>", extend("maxItems" = 0))]
    pub annotations: Option<Vec<Value>>,
    /// Only an empty list: no tool is ever called.
    #[serde(default)]
    #[schemars(with = "Option<Vec<Value>>", extend("maxItems" = 0))]
    pub tool_calls: Option<Vec<Value>>,
    /// Not supported.
    #[serde(default)]
    #[schemars(with = "Option<()>")]
    pub audio: Option<Unsupported>,
    /// Not supported.
    #[serde(default)]
    #[schemars(with = "Option<()>")]
    pub function_call: Option<Unsupported>,
    /// Not supported.
    #[serde(default)]
    #[schemars(with = "Option<()>")]
    pub refusal: Option<Unsupported>,
}

impl ObjectOfFields for ChatMessage {
    const EXPECTED: &'static str = "an object with `role` and `content`";
}

impl ChatMessage {
    /// A message that has nothing but its content.
    pub fn new(role: Role, content: Content) -> Self {
        Self {
            role,
            content: Some(content),
            name: None,
            annotations: None,
            tool_calls: None,
            audio: None,
            function_call: None,
            refusal: None,
        }
    }
}

/// The role of whoever says it. The words of `system` and `developer` are taken and not used: the model was trained with
/// one system text, which its bundle holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs)] // the variants are the API's own names
pub enum Role {
    System,
    Developer,
    User,
    Assistant,
}

/// What a message holds.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
#[serde(untagged)]
pub enum Content {
    /// A text of words only.
    Text(String),
    /// Several parts, texts and images.
    Parts(Vec<Part>),
}

impl<'de> Deserialize<'de> for Content {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(TextOrItems(Self::Text, |parts| Self::Parts(values(parts))))
    }
}

/// A part of a message.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
pub enum Part {
    /// A part that is words.
    Text {
        /// The words.
        text: String,
    },
    /// An image.
    ImageUrl {
        /// The place of the image.
        #[serde(deserialize_with = "object")]
        image_url: ImageUrl,
    },
}

impl ObjectOfFields for Part {
    const EXPECTED: &'static str = "an object with `type`";
}

/// An image in a message.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ImageUrl {
    /// A PNG or JPEG file as a data URI. Nothing is ever fetched from an address.
    #[schemars(regex(pattern = r"^data:image/(png|jpeg);base64,[A-Za-z0-9+/]+=*$"))]
    pub url: String,
    /// How closely it is looked at: always in the one way that the model knows.
    #[serde(default)]
    pub detail: Option<ImageDetail>,
}

impl ObjectOfFields for ImageUrl {
    // The path to a field of a part ends at the part.
    const EXPECTED: &'static str = "`image_url` as an object with `url`";
}

/// A whole answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ChatCompletion {
    /// The id of this answer.
    pub id: String,
    /// The kind of this object: `chat.completion`.
    pub object: String,
    /// The time of the answer, in seconds since 1970.
    pub created: u64,
    /// The model that answers.
    pub model: String,
    /// The answers, of which there is always one.
    pub choices: Vec<Choice>,
    /// What the answer took.
    pub usage: Usage,
}

/// The answer of a [`ChatCompletion`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Choice {
    /// The place in the list: 0.
    pub index: u32,
    /// The assistant's words.
    pub message: AnswerMessage,
    /// `stop` where the model ended it, `length` where the limit did.
    pub finish_reason: String,
}

/// The assistant's words.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct AnswerMessage {
    /// The role of the speaker: `assistant`.
    pub role: Role,
    /// The words.
    pub content: String,
}

/// A piece of a streamed answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ChatCompletionChunk {
    /// The id of the answer, the same in all pieces.
    pub id: String,
    /// The kind of this object: `chat.completion.chunk`.
    pub object: String,
    /// The time of the answer, in seconds since 1970.
    pub created: u64,
    /// The model that answers.
    pub model: String,
    /// One choice, or none beside the usage.
    pub choices: Vec<ChunkChoice>,
    /// What the answer took: in the last piece, where it was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub usage: Option<Usage>,
}

/// The piece itself.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ChunkChoice {
    /// The place in the list: 0.
    pub index: u32,
    /// What the piece adds.
    pub delta: Delta,
    /// The reason of the end, in the last piece that has a choice.
    pub finish_reason: Option<String>,
}

/// What a piece adds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Delta {
    /// The role of the speaker, in the first piece.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub role: Option<Role>,
    /// The words that the piece adds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub content: Option<String>,
}

/// What an answer took.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Usage {
    /// Tokens of the prompt, the 32 image tokens included.
    pub prompt_tokens: u32,
    /// The number of generated tokens.
    pub completion_tokens: u32,
    /// The sum of both.
    pub total_tokens: u32,
    /// More about the tokens of the prompt.
    pub prompt_tokens_details: PromptTokensDetails,
}

/// More about the prompt.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PromptTokensDetails {
    /// Tokens that were in the worker's cache.
    pub cached_tokens: u32,
}

/// What there is to ask.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ModelList {
    /// The kind of this object: `list`.
    pub object: String,
    /// The models: each bundle, and each of its adapters. The first one answers where a request of ours names none.
    pub data: Vec<Model>,
}

/// One model.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Model {
    /// Its name in requests.
    pub id: String,
    /// The kind of this object: `model`.
    pub object: String,
    /// The time at which its bundle was written, in seconds since 1970; 0 where it is not known.
    pub created: u64,
    /// The owner: `radialog`.
    pub owned_by: String,
    /// The name of the bundle that answers. This and what follows is ours, and not in OpenAI's API.
    pub bundle: String,
    /// The version of its weights.
    pub version: String,
    /// The hash of the bundle.
    pub hash: ContentHash,
    /// The adapter that answers; none is the bundle's own for each task.
    pub adapter: Option<AdapterName>,
    /// The licence and origin of the weights.
    pub license: String,
    /// Whether the weights are random, so that answers mean nothing.
    pub random_weights: bool,
    /// Tokens that prompt and answer may have together, where that is known.
    pub context_tokens: Option<u32>,
    /// The tasks that it was trained for beside those that every model knows.
    pub tasks: Vec<OptionalTask>,
    /// What this gateway takes and gives.
    pub limits: ModelLimits,
}

/// What a gateway takes and gives at most.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ModelLimits {
    /// Tokens of an answer.
    pub max_new_tokens: u32,
    /// Bytes of an image file.
    pub max_image_bytes: u64,
    /// Pixels of an image.
    pub max_image_pixels: u64,
    /// Turns of a conversation.
    pub max_turns: u32,
}

/// The body of every error on these paths.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ErrorBody {
    /// What happened.
    pub error: ErrorDetail,
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ErrorDetail {
    /// A message for people.
    pub message: String,
    /// The kind, e.g. `invalid_request_error`.
    #[serde(rename = "type")]
    pub kind: String,
    /// The field at fault, where it is known.
    pub param: Option<String>,
    /// The stable code, as in problems elsewhere.
    pub code: Option<String>,
}
