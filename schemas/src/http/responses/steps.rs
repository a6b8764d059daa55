//! The steps of a response's answer, as its stream has them.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::object::{ModelResponse, OutputMessage, OutputText};

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
