//! What people think of answers: data for evaluation and for the next training.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{Ask, ConversationId, ObjectKey};

/// What a person thinks of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Rating {
    /// It is right and of use.
    Good,
    /// It is wrong, or of no use.
    Bad,
}

/// An answer with what a person thinks of it. It is kept as an object until its conversation is deleted.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct RatedAnswer {
    /// [`crate::SCHEMA_VERSION`] of the writer.
    pub schema_version: u32,
    /// The conversation that it is of.
    pub conversation: ConversationId,
    /// The turn whose answer was rated.
    pub turn: u32,
    /// The X-ray, where there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<ObjectKey>,
    /// The findings as they stand in the prompt, where there is an image.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub findings: Option<String>,
    /// What was asked.
    pub ask: Ask,
    /// The question as the model reads it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub asked: Option<String>,
    /// The model's own answer.
    pub answer: String,
    /// What the person thinks of it.
    pub rating: Rating,
    /// The time of the rating, in milliseconds since 1970.
    pub noted_ms: u64,
}
