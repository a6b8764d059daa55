//! How a conversation begins: its image goes through the same pipeline as a study of a batch, as a run of its own with
//! two stages, whose end starts the first turn. What it leaves in the store belongs to it ([`retention`]).

use std::collections::BTreeMap;

use bytes::Bytes;
use radialog_runtime::backends::Backends;
use radialog_runtime::conversations::{ConversationSnapshot, CreateOutcome};
use radialog_runtime::objects::{ObjectError, Objects};
use radialog_schemas::{
    ChatImage, ContentHash, Conversation, ConversationId, Generation, ObjectKey, RunId, RunSpec,
    SCHEMA_VERSION, Source, Stage, StageSet, StudyId, StudySpec, TurnRequest, TurnStatus,
};

use crate::bundle_hashes::BundleHashes;
use crate::error::BackendError;
use crate::run::pipeline::{
    StudyCommand, StudyEvent, StudyFacts, next_commands, store_for_conversation,
};
use crate::run::{announce_once, finish_preparation, publish_task, publish_turn, study_fact};

pub mod corrections;
pub mod ratings;
pub mod retention;
mod turn_sweeper;

pub use turn_sweeper::TurnSweeper;

/// The one study of a conversation's run.
const STUDY: &str = "image";

/// The image of a new conversation, as its request brings it.
pub struct NewImage {
    /// The file.
    pub content: Bytes,
    /// The place where another conversation of the same owner keeps this image and what was computed from it. That is
    /// copied, not shared: each conversation ends by itself.
    pub known: Option<ChatImage>,
}

/// Creates a conversation and gives its work to the stages. Where the same request had created it, whatever of it was not
/// done is done now; where another one had, nothing happens. `title` is the new one's; one that is there keeps its own. `image`
/// is its image, where this request brought it. It is stored once the conversation is there to own it: a request that makes none
/// stores nothing.
///
/// # Errors
/// When broker, store or state do not answer; the call may be repeated.
pub async fn begin(
    backends: &Backends,
    bundle: &BundleHashes,
    conversation: &Conversation,
    turns: &[TurnRequest],
    title: Option<&str>,
    image: Option<&NewImage>,
) -> Result<CreateOutcome, BackendError> {
    let conversations = &backends.conversations;
    let outcome = conversations
        .create_titled(conversation, turns, title)
        .await?;
    if outcome != CreateOutcome::Mismatch {
        // What is there counts, which an earlier try has made: another incarnation, other hashes of outputs, and maybe findings
        // already.
        let Some(mut known) = conversations.snapshot(&conversation.id).await? else {
            // Deleted meanwhile.
            return Ok(outcome);
        };
        if let (Some(own), Some(image)) = (&known.conversation.image, image) {
            store_image(&*backends.objects, bundle, own, image).await?;
            let now = conversations.snapshot(&conversation.id).await?;
            if now.as_ref().and_then(|now| now.conversation.image.as_ref()) != Some(own) {
                // Deleted meanwhile: what was stored since has no owner.
                retention::remove_objects(backends, &conversation.id).await?;
            }
            match now {
                Some(now) => known = now,
                None => return Ok(outcome),
            }
        }
        go_on(backends, Some(bundle), &known).await?;
    }
    Ok(outcome)
}

/// Stores a conversation's image, and of its outputs what is known already.
async fn store_image(
    objects: &dyn Objects,
    bundle: &BundleHashes,
    own: &ChatImage,
    image: &NewImage,
) -> Result<(), ObjectError> {
    objects.ensure(&own.image, &image.content).await?;
    // Of the same components: only then is it what the stages would make.
    let is_current = |image: &ChatImage| bundle.image(&image.image, &image.media_type) == *image;
    if let Some(known) = &image.known
        && is_current(known)
        && is_current(own)
    {
        copy_output(objects, &known.embedding, &own.embedding).await?;
        copy_output(objects, &known.findings, &own.findings).await?;
    }
    Ok(())
}

/// Copies a stage's output, so that the stage finds it done; what is not there as it was stored is left to the stage.
async fn copy_output(
    objects: &dyn Objects,
    from: &ObjectKey,
    to: &ObjectKey,
) -> Result<(), ObjectError> {
    if !objects.has_whole_output(from).await? {
        return Ok(());
    }
    match objects.get(from).await {
        Ok(content) => objects.put_output(to, content).await,
        // Its conversation has ended meanwhile.
        Err(ObjectError::NotFound(_)) => Ok(()),
        Err(error) => Err(error),
    }
}

/// Gives to the stages what a conversation waits for: its image where that is not prepared and a bundle says how, or the
/// turn that is ready. Giving it twice is harmless. False where it waits for nothing that can be given.
///
/// # Errors
/// When broker or state do not answer; the call may be repeated.
pub(crate) async fn go_on(
    backends: &Backends,
    bundle: Option<&BundleHashes>,
    known: &ConversationSnapshot,
) -> Result<bool, BackendError> {
    let conversation = &known.conversation;
    match (pending_work(known), bundle) {
        (Some(PendingWork::Turn(turn)), _) => {
            publish_turn(backends, &conversation.task(turn)).await?;
            Ok(true)
        }
        (Some(PendingWork::Image(image)), Some(bundle)) => {
            prepare(backends, bundle, conversation, image).await?;
            Ok(true)
        }
        (Some(PendingWork::Image(_)), None) | (None, _) => Ok(false),
    }
}

/// What a conversation waits for.
enum PendingWork<'a> {
    /// The outputs of its image.
    Image(&'a ChatImage),
    /// The answer to this turn.
    Turn(u32),
}

/// What a conversation waits for, unless a worker is at it.
fn pending_work(known: &ConversationSnapshot) -> Option<PendingWork<'_>> {
    let mut turns = (1..).zip(&known.turns);
    let (first, turn) = turns.find(|(_, turn)| !turn.status.is_final())?;
    match (&known.conversation.image, &known.prepared) {
        _ if turn.status != TurnStatus::Queued => None,
        (Some(image), None) => Some(PendingWork::Image(image)),
        _ => Some(PendingWork::Turn(first)),
    }
}

/// The name of the run that prepares this image for this conversation. The image is part of it: an id may come again after
/// its conversation was deleted, with another image, and what is still known of the first one must not count for it.
pub fn preparation_run(conversation: &ConversationId, image: &ObjectKey) -> RunId {
    let image = ContentHash::of(image.as_str().as_bytes());
    RunId(format!("chat-{conversation}-{}", image.short()))
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
        run: preparation_run(&conversation.id, &image.image),
        source: Source::Image,
        stages: StageSet::closure(&[Stage::Embedding, Stage::Findings]),
        generation: Generation::default(),
        bundle: bundle.bundle.clone(),
        components: bundle.components.clone(),
        group: conversation.group.clone(),
        given: BTreeMap::new(),
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
        given: BTreeMap::new(),
    };
    // The one that is there counts: an earlier try's, perhaps of another bundle.
    let run = announce_once(&*backends.state, &run).await?;
    let fact = study_fact(&run.run, &spec);
    backends.state.begin(std::slice::from_ref(&fact)).await?;
    let known = backends.state.record(&[fact]).await?.pop().flatten();
    // Prepared or deleted meanwhile: whoever did that has forgotten what was known of it, perhaps before it was begun here again.
    // Whoever is killed right here, behind a deletion, leaves it to Redis, which forgets it after a week.
    let now = backends.conversations.snapshot(&conversation.id).await?;
    let still_waits = now.is_some_and(|now| {
        let own = now.conversation.image.as_ref();
        now.prepared.is_none() && own.is_some_and(|own| own.image == image.image)
    });
    if !still_waits {
        backends.state.forget(&run.run, &spec.study).await?;
        return Ok(());
    }
    let Some(facts) = known.and_then(|facts| StudyFacts::parse(&facts).ok()) else {
        return Ok(());
    };
    for command in next_commands(&run, &facts, StudyEvent::Begun) {
        match command {
            StudyCommand::Publish(mut task) => {
                store_for_conversation(&mut task, image);
                publish_task(&*backends.queue, &task).await?;
            }
            StudyCommand::Finish => {
                finish_preparation(backends, &conversation.id, &run, &facts).await?;
            }
        }
    }
    Ok(())
}
