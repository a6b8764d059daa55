//! How a conversation begins: its image goes through the same pipeline as a study of a batch, as a run of its own with
//! two stages, whose end starts the first turn.

use radialog_runtime::backends::Backends;
use radialog_runtime::objects::ObjectError;
use radialog_runtime::queue::{Message, QueueError};
use radialog_runtime::state::{Fact, StateError};
use radialog_schemas::PerStage;
use radialog_schemas::{
    ChatImage, ChatTask, ContentHash, Conversation, ConversationId, ErrorCode, Failure,
    FindingsReport, Generation, ObjectKey, RunId, RunSpec, SCHEMA_VERSION, Source, Stage, StageSet,
    StudyId, StudySpec, TurnRequest, queues,
};

use crate::pipeline::{Command, Event, OutputKeys, STUDY_FIELD, StudyFacts, next};
use crate::results::SPEC_DOCUMENT;
use crate::{conductor, record};

/// The one study of a conversation's run.
const STUDY: &str = "image";

/// What a gateway must know of the bundle that its workers hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BundleHashes {
    /// Its name, for people and for clients that choose a model.
    pub name: String,
    /// Hash of the whole bundle.
    pub bundle: ContentHash,
    /// Hash of each stage's component.
    pub components: PerStage<ContentHash>,
}

impl BundleHashes {
    /// The bundle component of a stage.
    pub fn component(&self, stage: Stage) -> &ContentHash {
        self.components.get(stage)
    }

    /// Where the outputs of an image go.
    pub fn image(&self, image: &ObjectKey, media_type: &str) -> ChatImage {
        ChatImage {
            image: image.clone(),
            media_type: media_type.to_owned(),
            embedding: ObjectKey::embedding(self.component(Stage::Embedding), image),
            findings: ObjectKey::findings(self.component(Stage::Findings), image),
        }
    }
}

/// Why a conversation did not begin or go on; the same call may work later.
#[derive(Debug, thiserror::Error)]
pub enum ConversationError {
    /// The broker.
    #[error(transparent)]
    Queue(#[from] QueueError),
    /// The state store.
    #[error(transparent)]
    State(#[from] StateError),
    /// The object store.
    #[error(transparent)]
    Objects(#[from] ObjectError),
}

/// Begins a conversation whose image is stored, or begins it again: nothing happens twice.
///
/// # Errors
/// When broker or state do not answer; the call may be repeated.
pub async fn begin(
    backends: &Backends,
    bundle: &BundleHashes,
    conversation: &Conversation,
    turns: &[TurnRequest],
) -> Result<(), ConversationError> {
    if let Some(turn) = backends.conversations.create(conversation, turns).await? {
        publish(backends, &conversation.id, turn, &conversation.component).await?;
    } else if let Some(image) = &conversation.image {
        prepare(backends, bundle, conversation, image).await?;
    }
    Ok(())
}

/// Publishes a turn that is ready.
///
/// # Errors
/// When the broker does not confirm; publishing again is harmless.
pub async fn publish(
    backends: &Backends,
    conversation: &ConversationId,
    turn: u32,
    component: &ContentHash,
) -> Result<(), QueueError> {
    let task = ChatTask::new(conversation, turn, component);
    let body = serde_json::to_vec(&task).expect("a task has string keys only");
    backends
        .queue
        .publish(
            queues::CHAT,
            Message {
                body: body.into(),
                ..Message::default()
            },
        )
        .await
}

/// Gives the image to its two stages.
async fn prepare(
    backends: &Backends,
    bundle: &BundleHashes,
    conversation: &Conversation,
    image: &ChatImage,
) -> Result<(), ConversationError> {
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
    let document = serde_json::to_string(&run).expect("a specification has string keys only");
    backends
        .state
        .put_document(&run.run, SPEC_DOCUMENT, document)
        .await?;
    let fact = Fact {
        run: run.run.clone(),
        study: spec.study.clone(),
        field: STUDY_FIELD.to_owned(),
        value: serde_json::to_string(&spec).expect("a study has string keys only"),
    };
    backends.state.begin(std::slice::from_ref(&fact)).await?;
    let known = backends.state.record(&[fact]).await?.pop().flatten();
    let Some(facts) = known.and_then(|facts| StudyFacts::parse(&facts).ok()) else {
        return Ok(());
    };
    for command in next(&run, &facts, Event::Begun) {
        match command {
            Command::Publish(task) => conductor::publish(&*backends.queue, &task).await?,
            Command::Finish => conclude(backends, &conversation.id, &run, &facts).await?,
        }
    }
    Ok(())
}

/// Ends the preparation of an image: its findings become known to the conversation, and the first turn starts.
///
/// # Errors
/// When broker, store or state do not answer; the call may be repeated.
pub(crate) async fn conclude(
    backends: &Backends,
    conversation: &ConversationId,
    run: &RunSpec,
    facts: &StudyFacts,
) -> Result<(), ConversationError> {
    let outcome = match facts.failure() {
        Some((_, failure)) => Err(failure.clone()),
        None => findings(backends, run, facts).await?,
    };
    if let Some(turn) = backends
        .conversations
        .image_prepared(conversation, &outcome)
        .await?
    {
        publish(backends, conversation, turn, run.component(Stage::Language)).await?;
    }
    let study = Fact {
        run: run.run.clone(),
        study: facts.spec.study.clone(),
        field: String::new(),
        value: String::new(),
    };
    // The state has a line for every finished study; nobody collects this one.
    if backends.state.finish(&[study]).await? == [true] {
        backends.state.discard_finished(&run.run, 1).await?;
    }
    Ok(())
}

async fn findings(
    backends: &Backends,
    run: &RunSpec,
    facts: &StudyFacts,
) -> Result<Result<FindingsReport, Failure>, ObjectError> {
    let keys = OutputKeys::of(run, &facts.spec.input, None);
    let loaded = record::load(facts, &keys, Stage::Findings, &*backends.objects).await?;
    let missing = || {
        Failure::new(
            ErrorCode::ObjectMissing,
            "the image's findings are not in the store; start anew",
        )
    };
    Ok(loaded.and_then(|findings| findings.ok_or_else(missing)))
}
