//! The end of a run over the one image of a conversation: where an archive's study gets its line in the results, this
//! one's findings become known to the conversation.

use radialog_runtime::backends::Backends;
use radialog_runtime::objects::ObjectError;
use radialog_schemas::{
    ChatTask, ConversationId, ErrorCode, Failure, FindingsReport, RunSpec, Stage,
};

use super::pipeline::{OutputKeys, StudyFacts};
use super::publish::publish_turn;
use super::study_record::{self, StageOutputState};
use crate::conversation::retention;
use crate::error::BackendError;

/// Ends the preparation of an image: its findings become known to the conversation, and the first turn starts.
///
/// # Errors
/// When broker, store or state do not answer; the call may be repeated. [`BackendError::Unreadable`] where the conversation
/// cannot be read, which no repetition changes.
pub(crate) async fn finish_preparation(
    backends: &Backends,
    conversation: &ConversationId,
    run: &RunSpec,
    facts: &StudyFacts,
) -> Result<(), BackendError> {
    let outcome = match facts.failure() {
        Some((_, failure)) => Err(failure.clone()),
        None => match load_findings(backends, run, facts).await? {
            StageOutputState::Loaded(findings) => Ok(findings),
            StageOutputState::Lost(failure) => Err(failure),
            StageOutputState::NotComputed => Err(Failure::new(
                ErrorCode::ObjectMissing,
                "the image's findings are not in the store; start anew",
            )),
        },
    };
    let ready = backends
        .conversations
        .image_prepared(conversation, &facts.spec.input, &outcome)
        .await?;
    // Deleted while the stages worked: what they have stored since has no owner, also where one has begun under its name.
    let ids = std::slice::from_ref(conversation);
    let known = backends.conversations.beginnings(ids).await?.pop();
    let known = known.transpose()?.flatten().filter(|known| {
        let image = known.image.as_ref();
        image.is_some_and(|image| image.image == facts.spec.input)
    });
    match (known, ready) {
        (Some(known), Some(turn)) => {
            let task = ChatTask {
                group: run.group.clone(),
                of_batch: known.of_batch,
                ..ChatTask::new(conversation, turn, run.component(Stage::Language))
            };
            publish_turn(backends, &task).await?;
        }
        (Some(_), None) => {}
        (None, _) => {
            retention::remove_objects(backends, conversation).await?;
        }
    }
    // Nobody collects a line of it, so that none is written.
    let study = &facts.spec.study;
    Ok(backends.state.forget(&run.run, study).await?)
}

async fn load_findings(
    backends: &Backends,
    run: &RunSpec,
    facts: &StudyFacts,
) -> Result<StageOutputState<FindingsReport>, ObjectError> {
    let keys = OutputKeys::of_facts(run, facts);
    study_record::load(facts, &keys, Stage::Findings, &*backends.objects).await
}
