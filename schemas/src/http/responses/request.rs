//! A request for a response.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;

use crate::http::fields::{
    FromObject, ObjectOfFields, TextOrItems, Unsupported, optional_object, values,
};
use crate::response::InputRole;

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
    #[serde(default, deserialize_with = "optional_object")]
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
    #[serde(default, deserialize_with = "optional_object")]
    pub text: Option<TextOptions>,
    /// Only `auto` or `none`: the model calls no tool.
    #[serde(default)]
    pub tool_choice: Option<ToolChoice>,
    /// Functions that the model may call. It calls none, whatever is offered, as `auto` and `none` allow; the header
    /// `radialog-warning` says so. Of each, only the kind and the name are read.
    #[serde(default)]
    pub tools: Option<Vec<Value>>,
    /// No tool is called, so that either value is kept to.
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
        deserializer.deserialize_any(TextOrItems(Self::Text, |items| Self::Items(values(items))))
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

impl ObjectOfFields for InputItem {
    const EXPECTED: &'static str = "an object with `role` and `content`";
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
        deserializer.deserialize_any(TextOrItems(Self::Text, |parts| Self::Parts(values(parts))))
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

impl ObjectOfFields for NewPart {
    const EXPECTED: &'static str = "an object with `type`";
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

impl ObjectOfFields for ResponseStreamOptions {
    const EXPECTED: &'static str = "an object with `include_obfuscation`";
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

impl ObjectOfFields for TextOptions {
    const EXPECTED: &'static str = "an object with `format`";
}

/// A format of the answer's text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
pub enum TextFormat {
    /// Plain text.
    Text,
}

/// The members of a [`TextFormat`].
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TextFormatFields {
    #[serde(rename = "type")]
    kind: TextFormatKind,
}

impl ObjectOfFields for TextFormatFields {
    const EXPECTED: &'static str = "an object with `type`";
}

#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
enum TextFormatKind {
    Text,
}

// serde takes any member beside the tag of a variant that has none, whatever is denied.
impl<'de> Deserialize<'de> for TextFormat {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let FromObject(fields) = FromObject::<TextFormatFields>::deserialize(deserializer)?;
        match fields.kind {
            TextFormatKind::Text => Ok(Self::Text),
        }
    }
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
