//! How a conversation begins: its image goes through the same pipeline as a study of a batch, as a run of its own with
//! two stages, whose end starts the first turn. What it leaves in the store belongs to it ([`retention`]).

use bytes::Bytes;
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
pub mod retention;

/// The one study of a conversation's run.
const STUDY: &str = "image";

/// Begins a conversation, or begins it again: nothing happens twice. `image` is the content of its image, where this request
/// brought it. It is stored once the conversation is there to own it: a request that makes none stores nothing.
///
/// # Errors
/// When broker, store or state do not answer; the call may be repeated.
pub async fn begin(
    backends: &Backends,
    bundle: &BundleHashes,
    conversation: &Conversation,
    turns: &[TurnRequest],
    image: Option<&Bytes>,
) -> Result<(), BackendError> {
    let ready = backends.conversations.create(conversation, turns).await?;
    if let (Some(ChatImage { image: key, .. }), Some(content)) = (&conversation.image, image) {
        backends.objects.ensure(key, content).await?;
    }
    if let Some(turn) = ready {
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
