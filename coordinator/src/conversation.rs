//! How a conversation begins: its image goes through the same pipeline as a study of a batch, as a run of its own with
//! two stages, whose end starts the first turn.

use radialog_runtime::backends::Backends;
use radialog_schemas::{
    ChatImage, Conversation, Generation, RunId, RunSpec, SCHEMA_VERSION, Source, Stage, StageSet,
    StudyId, StudySpec, TurnRequest,
};

use crate::bundle_hashes::BundleHashes;
use crate::error::BackendError;
use crate::run::pipeline::{StudyCommand, StudyEvent, StudyFacts, next_commands};
use crate::run::{announce_run, finish_preparation, publish_task, publish_turn, study_fact};

pub mod corrections;

/// The one study of a conversation's run.
const STUDY: &str = "image";

/// Begins a conversation whose image is stored, or begins it again: nothing happens twice.
///
/// # Errors
/// When broker or state do not answer; the call may be repeated.
pub async fn begin(
    backends: &Backends,
    bundle: &BundleHashes,
    conversation: &Conversation,
    turns: &[TurnRequest],
) -> Result<(), BackendError> {
    if let Some(turn) = backends.conversations.create(conversation, turns).await? {
        publish_turn(backends, &conversation.id, turn, &conversation.component).await?;
    } else if let Some(image) = &conversation.image {
        prepare(backends, bundle, conversation, image).await?;
    }
    Ok(())
}

/// Gives the image to its two stages.
async fn prepare(
    backends: &Backends,
    bundle: &BundleHashes,
    conversation: &Conversation,
    image: &ChatImage,
) -> Result<(), BackendError> {
    let run = RunSpec {
        schema_version: SCHEMA_VERSION,
        run: RunId(format!("chat-{}", conversation.id)),
        source: Source::Image,
        stages: StageSet::closure(&[Stage::Embedding, Stage::Findings]),
        generation: Generation::default(),
        bundle: bundle.bundle.clone(),
        components: bundle.components.clone(),
        conversation: Some(conversation.id.clone()),
    };
    let spec = StudySpec {
        study: StudyId::from(STUDY),
        file: STUDY.to_owned(),
        input: image.image.clone(),
        other_files: Vec::new(),
        reference: None,
        indication: None,
        split: None,
    };
    announce_run(&*backends.state, &run).await?;
    let fact = study_fact(&run.run, &spec);
    backends.state.begin(std::slice::from_ref(&fact)).await?;
    let known = backends.state.record(&[fact]).await?.pop().flatten();
    let Some(facts) = known.and_then(|facts| StudyFacts::parse(&facts).ok()) else {
        return Ok(());
    };
    for command in next_commands(&run, &facts, StudyEvent::Begun) {
        match command {
            StudyCommand::Publish(task) => publish_task(&*backends.queue, &task).await?,
            StudyCommand::Finish => {
                finish_preparation(backends, &conversation.id, &run, &facts).await?;
            }
        }
    }
    Ok(())
}
