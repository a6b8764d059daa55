//! Ratings as data: kept beside the corrections, one object for each, until their conversation is deleted.

use radialog_runtime::conversations::ConversationSnapshot;
use radialog_runtime::objects::{ObjectError, Objects};
use radialog_schemas::{ConversationId, ObjectKey, RatedAnswer, SCHEMA_VERSION};

use super::corrections;

/// Makes data of what a person thinks of an answer; none where nothing is rated, or there is no whole answer.
pub fn of_turn(snapshot: &ConversationSnapshot, turn: u32, noted_ms: u64) -> Option<RatedAnswer> {
    let at = snapshot.turns.get((turn as usize).checked_sub(1)?)?;
    let conversation = &snapshot.conversation;
    let image = conversation.image.as_ref();
    let findings = snapshot
        .prepared
        .as_ref()
        .and_then(|outcome| outcome.as_ref().ok());
    Some(RatedAnswer {
        schema_version: SCHEMA_VERSION,
        conversation: conversation.id.clone(),
        turn,
        image: image.map(|image| image.image.clone()),
        findings: findings.map(|findings| findings.text.clone()),
        ask: at.request.ask.clone(),
        asked: at.asked.clone(),
        answer: corrections::answer(at)?.to_owned(),
        rating: at.rating?,
        noted_ms,
    })
}

/// Stores a rated answer; a later rating of the same answer replaces it.
///
/// # Errors
/// When the store does not take it.
pub async fn store(objects: &dyn Objects, rated: &RatedAnswer) -> Result<(), ObjectError> {
    let content = serde_json::to_vec(rated).expect("a rated answer has string keys only");
    let key = ObjectKey::rating(&rated.conversation, rated.turn);
    objects.put(&key, content.into()).await
}

/// Deletes the rating of an answer, if there is one.
///
/// # Errors
/// When the store does not answer.
pub async fn delete(
    objects: &dyn Objects,
    conversation: &ConversationId,
    turn: u32,
) -> Result<(), ObjectError> {
    objects.delete(&ObjectKey::rating(conversation, turn)).await
}

/// Reads all rated answers in the order of their keys, and names the keys of those that cannot be read.
///
/// # Errors
/// When the store does not answer.
pub async fn list(
    objects: &dyn Objects,
) -> Result<(Vec<RatedAnswer>, Vec<ObjectKey>), ObjectError> {
    corrections::kept(objects, ObjectKey::RATINGS, |rated: &RatedAnswer| {
        rated.schema_version
    })
    .await
}
