//! A dialog about an image that the language model is to go on with, as evaluations ask it: what was asked is named as a task,
//! and the bundle has the wording.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{Ask, ObjectKey};

/// What a study of [`crate::Source::Dialog`] begins with: the image, what was said about it, and the question that is to be
/// answered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct DialogPrompt {
    /// Stored image tokens, which stand in the first message.
    pub embedding: ObjectKey,
    /// The findings as they stand in the first message.
    pub findings: String,
    /// What was asked and answered before, the first message first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub history: Vec<AnsweredAsk>,
    /// The question.
    pub ask: Ask,
    /// The number of blanks between the assistant's name and its earlier answers; 1 as in training.
    #[serde(default = "one", skip_serializing_if = "is_one")]
    pub answer_blanks: u32,
}

/// A question of a [`DialogPrompt`], and what stands as its answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct AnsweredAsk {
    /// What was asked.
    pub ask: Ask,
    /// The answer, as it is written into the prompt.
    pub answer: String,
}

fn one() -> u32 {
    1
}

fn is_one(blanks: &u32) -> bool {
    *blanks == 1
}
