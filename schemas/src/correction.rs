//! Corrections of reports that people accepted or typed: data for the next training.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{ConversationId, ObjectKey};

/// A report as a person wants it. It is kept as an object until its conversation is deleted.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Correction {
    /// [`crate::SCHEMA_VERSION`] of the writer.
    pub schema_version: u32,
    /// The conversation in which the correction was made.
    pub conversation: ConversationId,
    /// The turn whose answer was corrected.
    pub turn: u32,
    /// The X-ray.
    pub image: ObjectKey,
    /// The findings as they stand in the prompt.
    pub findings: String,
    /// The report before.
    pub report: String,
    /// The request to correct it, as the model reads it; none where the person typed the correction.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub asked: Option<String>,
    /// The report after.
    pub corrected: String,
    /// The time of the correction, in milliseconds since 1970.
    pub noted_ms: u64,
}
