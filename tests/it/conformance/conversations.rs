//! The conversations contract: what a gateway and the language workers rely on, whoever keeps the conversations.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures::future::join_all;
use radialog_runtime::conversations::{
    AddTurnOutcome, AddedTurn, AppendOutcome, Conversations, CreateOutcome, NumberedEvent,
    ReplaceOutcome, Replaces, TurnClaim,
};
use radialog_schemas::{
    Answer, Ask, ChatImage, ContentHash, Conversation, ConversationId, ErrorCode, Failure,
    FindingsReport, Generation, ObjectKey, Rating, TurnEvent, TurnOutcome, TurnRequest, TurnStatus,
};
use tokio::time::timeout;

use crate::adapters::on_each_adapter;

/// Longer than anything here takes, on a machine that others keep busy, too.
const SOON: Duration = Duration::from_secs(180);

mod atomicity;
mod cancelling;
mod events;
mod failover;
mod interleaving;
mod lifetime;
mod queue;
mod turns;
mod unattended;

use atomicity::*;
use cancelling::*;
use events::*;
use lifetime::*;
use queue::*;
use turns::*;
use unattended::*;

mod adapters {
    use std::sync::Arc;

    use radialog_runtime::conversations::Conversations;
    use radialog_runtime::conversations::memory::MemoryConversations;
    use radialog_tests::services::Services;

    pub(super) async fn memory() -> Arc<dyn Conversations> {
        Arc::new(MemoryConversations::default())
    }

    pub(super) async fn redis() -> Arc<dyn Conversations> {
        crate::adapters::redis_conversations().await
    }

    pub(super) async fn redis_cluster() -> Arc<dyn Conversations> {
        let nodes = Services::redis_cluster().await.unwrap();
        crate::adapters::redis_conversations_at(&nodes).await
    }
}

on_each_adapter! { memory, redis, redis_cluster: {
    a_conversation_in_words_is_ready_at_once_and_one_with_an_image_when_it_is_prepared,
    creating_again_changes_nothing,
    turns_are_answered_in_order,
    an_idempotency_key_gives_the_same_turn_again,
    events_are_numbered_and_written_once,
    a_new_epoch_fences_the_old_one_off_and_continues_its_events,
    a_queued_turn_that_is_cancelled_never_runs,
    a_running_turn_that_is_cancelled_is_told_so_at_its_next_event,
    an_image_that_failed_fails_all_turns_also_later_ones,
    a_final_answer_can_be_edited,
    only_what_was_expected_is_replaced,
    of_editors_that_expect_the_same_one_is_heard,
    a_final_answer_can_be_rated_and_a_conversation_renamed,
    a_conversation_is_created_with_its_title_and_keeps_it_when_it_is_created_again,
    a_turn_waits_behind_those_of_its_own_group_alone,
    watchers_hear_of_everything_after_they_came,
    many_watchers_of_one_turn_come_and_go,
    a_deleted_conversation_is_gone,
    conversations_exist_until_they_are_deleted,
    a_conversation_ends_when_its_lifetime_is_over,
    what_has_ended_is_taken_off_its_owners_list,
    conversations_of_all_owners_are_found_by_their_age,
    conversations_are_listed_by_owner_the_latest_first,
    what_is_not_there_is_not_made_by_asking,
    racing_submitters_each_get_a_turn_of_their_own,
    of_two_requests_with_one_id_exactly_one_creates_the_conversation,
    findings_of_another_image_are_not_taken,
    a_conversation_never_has_more_turns_than_it_may,
    an_idempotency_key_adds_one_turn_and_refuses_another,
    a_conversation_is_unattended_until_somebody_sees_to_it,
    a_conversation_without_open_turns_is_not_unattended,
    one_of_several_sweepers_attends,
    places_in_the_queue_are_taken_in_one_step_and_counted_by_key,
    a_turn_keeps_its_place_until_a_worker_has_it,
}}

/// A name that no other test uses, also where the store is shared.
fn unique() -> String {
    static NUMBER: AtomicU64 = AtomicU64::new(0);
    format!(
        "{}-{}",
        std::process::id(),
        NUMBER.fetch_add(1, Ordering::Relaxed)
    )
}

fn in_words() -> Conversation {
    Conversation::new(
        ConversationId(unique()),
        &unique(),
        1,
        &ContentHash::of(b"language"),
    )
}

fn image_key(image: &str) -> ObjectKey {
    ObjectKey::image(&ContentHash::of(image.as_bytes()))
}

/// Keeps findings of the conversation's own image; returns the turn that is ready.
async fn prepared(
    conversations: &Arc<dyn Conversations>,
    conversation: &Conversation,
    outcome: Result<FindingsReport, Failure>,
) -> Option<u32> {
    let image = &conversation.image.as_ref().unwrap().image;
    conversations
        .image_prepared(&conversation.id, image, &outcome)
        .await
        .unwrap()
}

/// Adds a question, which must have room.
async fn add(conversations: &Arc<dyn Conversations>, id: &ConversationId, text: &str) -> AddedTurn {
    conversations
        .add_turn(id, &ask(text), None, u32::MAX)
        .await
        .unwrap()
        .added()
        .unwrap()
}

fn with_image(image: &str) -> Conversation {
    let key = image_key(image);
    let image = ChatImage {
        image: key.clone(),
        media_type: "image/png".into(),
        embedding: key.clone(),
        findings: key,
    };
    Conversation {
        image: Some(image),
        ..in_words()
    }
}

fn ask(text: &str) -> TurnRequest {
    let ask = Ask::Question { text: text.into() };
    TurnRequest {
        ask,
        generation: Generation::default(),
        asked_ms: 1,
        deadline_ms: None,
        stop: Vec::new(),
    }
}

fn findings() -> FindingsReport {
    FindingsReport {
        findings: Vec::new(),
        text: "edema".into(),
        warnings: Vec::new(),
        input_gate: None,
    }
}

fn token(id: u32) -> TurnEvent {
    TurnEvent::Token {
        id,
        text: format!("\"{id}\" é\n"),
    }
}

fn started(asked: &str) -> TurnEvent {
    TurnEvent::Started {
        asked: asked.into(),
    }
}

fn answer(text: &str) -> TurnOutcome {
    TurnOutcome::Done(Answer {
        text: text.into(),
        lead: String::new(),
        prompt_tokens: 7,
        cached_tokens: 0,
        tokens: 3,
        complete: true,
        dropped_turns: vec![2],
        comparisons: Vec::new(),
    })
}

/// Creates a conversation in words with these questions.
async fn begun(conversations: &Arc<dyn Conversations>, questions: &[&str]) -> ConversationId {
    let questions: Vec<TurnRequest> = questions.iter().map(|text| ask(text)).collect();
    let conversation = in_words();
    conversations
        .create(&conversation, &questions)
        .await
        .unwrap();
    conversation.id
}

/// Starts a turn, which must be startable, and returns its epoch and the events of earlier epochs.
async fn started_epoch(
    conversations: &Arc<dyn Conversations>,
    id: &ConversationId,
    turn: u32,
) -> (u64, Vec<TurnEvent>) {
    match conversations.claim_turn(id, turn).await.unwrap() {
        TurnClaim::Granted {
            epoch,
            events,
            snapshot,
        } => {
            assert_eq!(
                snapshot.turns[turn as usize - 1].status,
                TurnStatus::Running
            );
            (epoch, events)
        }
        other => panic!("turn {turn} does not start: {other:?}"),
    }
}

/// Appends events to the first turn, after so many that its writer knows of.
async fn append(
    conversations: &Arc<dyn Conversations>,
    id: &ConversationId,
    epoch: u64,
    after: u64,
    events: &[TurnEvent],
) -> AppendOutcome {
    conversations
        .append(id, 1, epoch, after, events)
        .await
        .unwrap()
}

/// Ends a turn with this answer; returns the turn that is ready now.
async fn finish(
    conversations: &Arc<dyn Conversations>,
    id: &ConversationId,
    turn: u32,
    epoch: u64,
    text: &str,
) -> Option<u32> {
    conversations
        .finish(id, turn, epoch, &answer(text))
        .await
        .unwrap()
}

async fn status(
    conversations: &Arc<dyn Conversations>,
    id: &ConversationId,
    turn: usize,
) -> TurnStatus {
    conversations.snapshot(id).await.unwrap().unwrap().turns[turn - 1].status
}

async fn creating_again_changes_nothing(conversations: Arc<dyn Conversations>) {
    let conversation = in_words();
    let id = &conversation.id;
    conversations
        .create(&conversation, &[ask("a")])
        .await
        .unwrap();
    add(&conversations, id, "b").await;
    started_epoch(&conversations, id, 1).await;
    let before = conversations.snapshot(id).await.unwrap();
    let later = Conversation {
        created_ms: 2,
        ..conversation.clone()
    };
    for (turns, outcome) in [
        (vec![ask("a")], CreateOutcome::Existing { ready: None }),
        (vec![ask("other")], CreateOutcome::Mismatch),
        (vec![], CreateOutcome::Mismatch),
    ] {
        let created = conversations.create(&later, &turns).await.unwrap();
        assert_eq!(created, outcome, "{turns:?}");
    }
    assert_eq!(conversations.snapshot(id).await.unwrap(), before);
}

async fn conversations_are_listed_by_owner_the_latest_first(conversations: Arc<dyn Conversations>) {
    let owner = unique();
    let mut ids = Vec::new();
    for created_ms in 1..=3 {
        let conversation = Conversation {
            owner: owner.clone(),
            created_ms,
            ..in_words()
        };
        conversations
            .create(&conversation, &[ask("a")])
            .await
            .unwrap();
        ids.insert(0, conversation.id);
    }
    assert_eq!(conversations.list(&owner, 100).await.unwrap(), ids);
    assert_eq!(conversations.list(&owner, 2).await.unwrap(), ids[..2]);
    assert_eq!(conversations.list(&owner, 0).await.unwrap(), []);
    assert_eq!(conversations.list(&unique(), 9).await.unwrap(), []);
}

async fn what_is_not_there_is_not_made_by_asking(conversations: Arc<dyn Conversations>) {
    let id = ConversationId(unique());
    assert_eq!(
        conversations
            .add_turn(&id, &ask("a"), Some("k"), 9)
            .await
            .unwrap(),
        AddTurnOutcome::NotFound
    );
    assert_eq!(
        conversations
            .image_prepared(&id, &image_key("a"), &Ok(findings()))
            .await
            .unwrap(),
        None
    );
    assert_eq!(conversations.cancel(&id, 1).await.unwrap(), None);
    let (anything, missing) = (Replaces::Anything, ReplaceOutcome::Missing);
    let edited = conversations.edit(&id, 1, None, anything).await;
    assert_eq!(edited.unwrap(), missing);
    assert!(!conversations.rate(&id, 1, None).await.unwrap());
    let renamed = conversations.rename(&id, "x", anything).await;
    assert_eq!(renamed.unwrap(), missing);
    assert_eq!(
        conversations.claim_turn(&id, 1).await.unwrap(),
        TurnClaim::NotFound
    );
    assert_eq!(
        conversations.finish(&id, 1, 1, &answer("x")).await.unwrap(),
        None
    );
    assert_eq!(conversations.position(&id, 1).await.unwrap(), None);
    drop(conversations.watch(&id, 1).await.unwrap());
    assert_eq!(conversations.snapshot(&id).await.unwrap(), None);
}
