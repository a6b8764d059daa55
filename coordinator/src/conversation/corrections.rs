//! Corrections as data: kept beside the images, one object for each, until their conversation is deleted.

use radialog_runtime::conversations::{ConversationSnapshot, TurnSnapshot};
use radialog_runtime::objects::{ObjectError, Objects};
use radialog_schemas::{Ask, ConversationId, Correction, ObjectKey, SCHEMA_VERSION, TurnOutcome};
use serde::de::DeserializeOwned;

/// Objects listed at a time.
const PAGE: usize = 1000;

/// Makes training data of a person's version of an answer: of a report that was typed, or of a correction that was
/// accepted as it is or rewritten. Other answers, and those without an image, give none.
pub fn from_edit(
    snapshot: &ConversationSnapshot,
    turn: u32,
    corrected: &str,
    noted_ms: u64,
) -> Option<Correction> {
    let image = snapshot.conversation.image.as_ref()?.image.clone();
    let findings = snapshot.prepared.as_ref()?.as_ref().ok()?.text.clone();
    let at = (turn as usize).checked_sub(1)?;
    let this = snapshot.turns.get(at)?;
    let (report, asked) = match this.request.ask {
        Ask::Report => (answer(this)?, None),
        Ask::Correction { .. } => (
            report_before(&snapshot.turns[..at])?,
            Some(this.asked.clone()?),
        ),
        _ => return None,
    };
    let unchanged = asked.is_none() && report == corrected;
    (!unchanged).then(|| Correction {
        schema_version: SCHEMA_VERSION,
        conversation: snapshot.conversation.id.clone(),
        turn,
        image,
        findings,
        report: report.to_owned(),
        asked,
        corrected: corrected.to_owned(),
        noted_ms,
    })
}

/// Finds the latest report, as the later turns read it.
fn report_before(turns: &[TurnSnapshot]) -> Option<&str> {
    let is_report =
        |turn: &&TurnSnapshot| matches!(turn.request.ask, Ask::Report | Ask::Correction { .. });
    turns
        .iter()
        .rev()
        .filter(is_report)
        .find_map(|turn| turn.edited.as_deref().or_else(|| answer(turn)))
}

/// The model's own answer, where there is a whole one.
pub(crate) fn answer(turn: &TurnSnapshot) -> Option<&str> {
    match turn.outcome.as_ref()? {
        TurnOutcome::Done(answer) => Some(&answer.text),
        _ => None,
    }
}

/// Stores a correction; a later one of the same answer replaces it.
///
/// # Errors
/// When the store does not take it.
pub async fn store(objects: &dyn Objects, correction: &Correction) -> Result<(), ObjectError> {
    let content = serde_json::to_vec(correction).expect("a correction has string keys only");
    objects
        .put(
            &ObjectKey::correction(&correction.conversation, correction.turn),
            content.into(),
        )
        .await
}

/// Deletes the correction of an answer, if there is one.
///
/// # Errors
/// When the store does not answer.
pub async fn delete(
    objects: &dyn Objects,
    conversation: &ConversationId,
    turn: u32,
) -> Result<(), ObjectError> {
    objects
        .delete(&ObjectKey::correction(conversation, turn))
        .await
}

/// Reads all corrections in the order of their keys, and names the keys of those that cannot be read.
///
/// # Errors
/// When the store does not answer.
pub async fn list(objects: &dyn Objects) -> Result<(Vec<Correction>, Vec<ObjectKey>), ObjectError> {
    kept(
        objects,
        ObjectKey::CORRECTIONS,
        |correction: &Correction| correction.schema_version,
    )
    .await
}

/// Reads all objects of one kind, and names the keys of those that are not of this kind or of another schema version.
pub(super) async fn kept<T: DeserializeOwned>(
    objects: &dyn Objects,
    prefix: &str,
    version: impl Fn(&T) -> u32,
) -> Result<(Vec<T>, Vec<ObjectKey>), ObjectError> {
    let (mut read, mut unreadable) = (Vec::new(), Vec::new());
    let mut after = None;
    loop {
        let page = objects.list(prefix, after.as_ref(), PAGE).await?;
        for entry in &page.entries {
            match objects.get(&entry.key).await {
                Ok(content) => match serde_json::from_slice::<T>(&content) {
                    Ok(object) if version(&object) == SCHEMA_VERSION => read.push(object),
                    _ => unreadable.push(entry.key.clone()),
                },
                // Deleted since it was listed.
                Err(ObjectError::NotFound(_)) => {}
                Err(error) => return Err(error),
            }
        }
        after = page.next;
        if after.is_none() {
            return Ok((read, unreadable));
        }
    }
}

#[cfg(test)]
mod tests {
    use radialog_schemas::{
        Answer, ChatImage, ContentHash, Conversation, Finding, FindingsReport, Generation,
        TurnRequest, TurnStatus,
    };

    use super::*;

    fn turn(ask: Ask, text: &str, edited: Option<&str>) -> TurnSnapshot {
        let (prompt_tokens, cached_tokens, tokens, complete, dropped_turns) = Default::default();
        let text = text.to_owned();
        let answer = Answer {
            text,
            lead: String::new(),
            prompt_tokens,
            cached_tokens,
            tokens,
            complete,
            dropped_turns,
            comparisons: Vec::new(),
        };
        TurnSnapshot {
            request: TurnRequest {
                ask,
                generation: Generation::default(),
                asked_ms: 0,
                deadline_ms: None,
                stop: Vec::new(),
            },
            status: TurnStatus::Done,
            cancelling: false,
            asked: Some("Correct it.".into()),
            outcome: Some(TurnOutcome::Done(answer)),
            edited: edited.map(str::to_owned),
            rating: None,
            events: 1,
        }
    }

    fn snapshot(turns: Vec<TurnSnapshot>) -> ConversationSnapshot {
        let image = ObjectKey::image(&ContentHash::of(b"x"));
        let chat_image = ChatImage {
            embedding: image.clone(),
            findings: image.clone(),
            image,
            media_type: "image/png".into(),
        };
        let conversation = Conversation {
            image: Some(chat_image),
            ..Conversation::new("c".into(), "local", 0, &ContentHash::of(b"language"))
        };
        let findings = FindingsReport {
            findings: Vec::new(),
            text: "edema".into(),
            warnings: Vec::new(),
            input_gate: None,
        };
        ConversationSnapshot {
            conversation,
            prepared: Some(Ok(findings)),
            turns,
            title: None,
        }
    }

    #[test]
    fn a_typed_report_and_an_accepted_correction_are_data_and_other_answers_are_not() {
        let correction = Ask::Correction {
            add: vec![Finding::Fracture],
            remove: Vec::new(),
        };
        let turns = vec![
            turn(Ask::Report, "Clear.", Some("Clear lungs.")),
            turn(Ask::Summary, "All well.", None),
            turn(correction, "Clear lungs. Fracture.", None),
        ];
        let snapshot = snapshot(turns);
        let data = |number, text| {
            from_edit(&snapshot, number, text, 7).map(|c| (c.report, c.asked, c.corrected))
        };
        let text = |text: &str| text.to_owned();
        assert_eq!(
            data(1, "Clear lungs."),
            Some((text("Clear."), None, text("Clear lungs.")))
        );
        assert_eq!(data(1, "Clear."), None, "nothing was changed");
        assert_eq!(data(2, "Well."), None);
        let accepted = (
            text("Clear lungs."),
            Some(text("Correct it.")),
            text("Clear lungs. Fracture."),
        );
        assert_eq!(data(3, "Clear lungs. Fracture."), Some(accepted));
        assert_eq!(data(4, "x"), None);
    }
}
