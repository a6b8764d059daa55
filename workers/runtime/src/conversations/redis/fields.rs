//! A conversation's hash, read.

use std::collections::HashMap;

use radialog_schemas::{Conversation, TurnStatus};
use serde::de::DeserializeOwned;

use crate::conversations::{ConversationSnapshot, TurnSnapshot, Unreadable};
use crate::state::StateError;

/// What was written when it began.
pub(super) const CONVERSATION: &str = "conversation";

/// The types that Redis names: that of a conversation, and that of what is not there.
pub(super) const HASH: &str = "hash";
pub(super) const NOTHING: &str = "none";

/// What was written when a conversation began, by the type of what is stored under its name, and this field of it.
pub(super) fn beginning(
    kind: &str,
    written: Option<&[u8]>,
) -> Result<Option<Conversation>, Unreadable> {
    match (kind, written) {
        (_, Some(written)) => serde_json::from_slice(written)
            .map(Some)
            .map_err(|error| Unreadable(error.to_string())),
        (NOTHING, None) => Ok(None),
        (HASH, None) => Err(Unreadable(format!("it has no field '{CONVERSATION}'"))),
        (other, None) => Err(Unreadable(format!(
            "what is stored under its name in Redis is of the type '{other}' and not a '{HASH}'"
        ))),
    }
}

/// The conversation in all fields of its hash; none where there are none.
pub(super) fn snapshot(
    fields: &HashMap<String, String>,
) -> Result<Option<ConversationSnapshot>, StateError> {
    let Some(conversation) = optional(fields, CONVERSATION)? else {
        return Ok(None);
    };
    let turns = optional(fields, "turns")?.unwrap_or(0);
    let turns: Result<Vec<TurnSnapshot>, StateError> = (1..=turns)
        .map(|number: u32| turn(fields, number))
        .collect();
    Ok(Some(ConversationSnapshot {
        conversation,
        prepared: optional(fields, "prepared")?,
        turns: turns?,
        title: fields.get("title").cloned(),
    }))
}

fn turn(fields: &HashMap<String, String>, number: u32) -> Result<TurnSnapshot, StateError> {
    let field = |name: &str| format!("{number}:{name}");
    let text = |name: &str| fields.get(&field(name)).cloned();
    let status = text("status").unwrap_or_default();
    let status: TurnStatus =
        serde_json::from_value(status.into()).map_err(|error| damaged(&field("status"), &error))?;
    Ok(TurnSnapshot {
        request: required(fields, &field("request"))?,
        status,
        cancelling: text("cancelling").is_some(),
        asked: text("asked"),
        outcome: optional(fields, &field("outcome"))?,
        edited: text("edited"),
        rating: text("rating")
            .map(|rating| serde_json::from_value(rating.into()))
            .transpose()
            .map_err(|error| damaged(&field("rating"), &error))?,
        events: optional(fields, &field("events"))?.unwrap_or(0),
    })
}

fn optional<T: DeserializeOwned>(
    fields: &HashMap<String, String>,
    name: &str,
) -> Result<Option<T>, StateError> {
    fields
        .get(name)
        .map(|text| serde_json::from_str(text).map_err(|error| damaged(name, &error)))
        .transpose()
}

fn required<T: DeserializeOwned>(
    fields: &HashMap<String, String>,
    name: &str,
) -> Result<T, StateError> {
    optional(fields, name)?
        .ok_or_else(|| StateError(format!("a conversation has no field '{name}'")))
}

fn damaged(name: &str, error: &serde_json::Error) -> StateError {
    StateError(format!(
        "field '{name}' of a conversation is damaged: {error}"
    ))
}
