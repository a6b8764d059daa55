//! What is kept of a request for a response (OpenAI's Responses API) with the conversation that answers it, so that any
//! gateway shows the response as it was asked for.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::ContentHash;

/// A request for a response; written once, with its conversation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ResponseRequest {
    /// The hash of the request as it came, its image included: another try of it has the same one.
    pub fingerprint: ContentHash,
    /// The name of the model, as it was asked for.
    pub model: String,
    /// The messages of this request, without those of the responses before it and without the bytes of its image.
    pub input: Vec<InputMessage>,
    /// Whether nobody waits for the answer.
    #[serde(default, skip_serializing_if = "is_default")]
    pub background: bool,
    /// The response that this one goes on from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub previous_response_id: Option<String>,
    /// The limit of the answer's tokens, where one was given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_output_tokens: Option<u32>,
    /// The temperature, where one was given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub temperature: Option<f64>,
    /// The mass of the most probable tokens, where one was given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub top_p: Option<f64>,
    /// The client's own notes.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub metadata: BTreeMap<String, String>,
    /// The client's labels of the request.
    #[serde(flatten)]
    pub labels: ResponseLabels,
}

/// Labels that a client gives a request and finds on its response. They change nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ResponseLabels {
    /// A name for requests that begin alike. What a worker remembers of a prompt goes by its content, so that it is found
    /// under any name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 512))]
    pub prompt_cache_key: Option<String>,
    /// A name for the client's own user.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 512))]
    pub safety_identifier: Option<String>,
    /// The older name of `safety_identifier`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 512))]
    pub user: Option<String>,
}

/// A message that was given.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct InputMessage {
    /// The role of whoever says it.
    pub role: InputRole,
    /// The parts of the message.
    pub content: Vec<InputPart>,
}

/// The role of whoever says a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum InputRole {
    /// The person who asks.
    User,
    /// The model, in an earlier answer.
    Assistant,
}

/// A part of a message that was given.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum InputPart {
    /// The user's words.
    InputText {
        /// The words.
        text: String,
    },
    /// The image of the conversation.
    InputImage {
        /// How closely it is looked at: `auto`, always.
        detail: String,
        /// The image as a data URI, where it was asked for.
        image_url: Option<String>,
    },
    /// The model's words in an earlier answer.
    OutputText {
        /// The words.
        text: String,
    },
}

pub(crate) fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}
