//! The conversations contract.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures::future::join_all;
use radialog_runtime::conversations::{
    AddedTurn, AppendOutcome, Conversations, DeletedConversation, NumberedEvent, TurnClaim,
};
use radialog_schemas::{
    Answer, Ask, ChatImage, ContentHash, Conversation, ConversationId, ErrorCode, Failure,
    FindingsReport, Generation, ObjectKey, SCHEMA_VERSION, TurnEvent, TurnOutcome, TurnRequest,
    TurnStatus,
};
use tokio::time::timeout;

use crate::adapters::on_each_adapter;

mod adapters {
    use std::sync::Arc;

    use radialog_runtime::conversations::Conversations;
    use radialog_runtime::conversations::memory::MemoryConversations;

    pub(super) async fn memory() -> Arc<dyn Conversations> {
        Arc::new(MemoryConversations::default())
    }

    pub(super) async fn redis() -> Arc<dyn Conversations> {
        crate::adapters::redis_conversations().await
    }
}

on_each_adapter! { memory, redis: {
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
    watchers_hear_of_everything_after_they_came,
    many_watchers_of_one_turn_come_and_go,
    a_deleted_conversation_is_gone_and_tells_whether_its_image_is_in_use,
    an_image_stays_that_was_stored_before_its_first_conversation,
    an_image_that_is_being_removed_cannot_be_claimed,
    conversations_are_listed_by_owner_the_latest_first,
    what_is_not_there_is_not_made_by_asking,
    racing_submitters_each_get_a_turn_of_their_own,
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
    Conversation {
        schema_version: SCHEMA_VERSION,
        id: ConversationId(unique()),
        owner: unique(),
        created_ms: 1,
        image: None,
        indication: None,
        component: ContentHash::of(b"language"),
        opening: Vec::new(),
    }
}

fn with_image(image: &str) -> Conversation {
    let key = ObjectKey::image(&ContentHash::of(image.as_bytes()));
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
    }
}

fn findings() -> FindingsReport {
    FindingsReport {
        findings: Vec::new(),
        text: "edema".into(),
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
        prompt_tokens: 7,
        cached_tokens: 0,
        tokens: 3,
        complete: true,
        dropped_turns: vec![2],
    })
}

async fn go(
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

async fn status(
    conversations: &Arc<dyn Conversations>,
    id: &ConversationId,
    turn: usize,
) -> TurnStatus {
    conversations.snapshot(id).await.unwrap().unwrap().turns[turn - 1].status
}

async fn a_conversation_in_words_is_ready_at_once_and_one_with_an_image_when_it_is_prepared(
    conversations: Arc<dyn Conversations>,
) {
    assert_eq!(
        conversations
            .create(&in_words(), &[ask("a")])
            .await
            .unwrap(),
        Some(1)
    );
    let conversation = with_image(&unique());
    assert_eq!(
        conversations
            .create(&conversation, &[ask("a"), ask("b")])
            .await
            .unwrap(),
        None
    );
    let id = &conversation.id;
    assert_eq!(
        conversations.claim_turn(id, 1).await.unwrap(),
        TurnClaim::NotRunnable { next: None },
        "not before it is prepared"
    );
    assert_eq!(
        conversations
            .image_prepared(id, &Ok(findings()))
            .await
            .unwrap(),
        Some(1)
    );
    assert_eq!(
        conversations
            .image_prepared(id, &Ok(findings()))
            .await
            .unwrap(),
        Some(1),
        "again is harmless"
    );
    let snapshot = conversations.snapshot(id).await.unwrap().unwrap();
    assert_eq!(snapshot.conversation, conversation);
    assert_eq!(snapshot.prepared, Some(Ok(findings())));
    assert_eq!(
        conversations.events(id, 1, 0, 10).await.unwrap(),
        [(1, TurnEvent::Findings(findings()))]
    );
    assert_eq!(conversations.events(id, 2, 0, 10).await.unwrap(), []);
}

async fn creating_again_changes_nothing(conversations: Arc<dyn Conversations>) {
    let conversation = in_words();
    let id = &conversation.id;
    conversations
        .create(&conversation, &[ask("a")])
        .await
        .unwrap();
    conversations.add_turn(id, &ask("b"), None).await.unwrap();
    go(&conversations, id, 1).await;
    let before = conversations.snapshot(id).await.unwrap();
    assert_eq!(
        conversations
            .create(&conversation, &[ask("other")])
            .await
            .unwrap(),
        None,
        "turn 1 runs"
    );
    assert_eq!(conversations.snapshot(id).await.unwrap(), before);
}

async fn turns_are_answered_in_order(conversations: Arc<dyn Conversations>) {
    let conversation = in_words();
    let id = &conversation.id;
    conversations
        .create(&conversation, &[ask("a"), ask("b")])
        .await
        .unwrap();
    let third = conversations.add_turn(id, &ask("c"), None).await.unwrap();
    assert_eq!(
        third,
        Some(AddedTurn {
            turn: 3,
            ready: false
        })
    );
    assert_eq!(conversations.position(id, 4).await.unwrap(), None);
    let places = join_all((1..=3).map(|turn| conversations.position(id, turn))).await;
    let places: Vec<u64> = places
        .into_iter()
        .map(|place| place.unwrap().unwrap())
        .collect();
    assert!(places[0] < places[1] && places[1] < places[2], "{places:?}");
    assert!(conversations.waiting().await.unwrap() >= 3);

    assert_eq!(
        conversations.claim_turn(id, 2).await.unwrap(),
        TurnClaim::NotRunnable { next: Some(1) },
        "not before the first"
    );
    let (epoch, _) = go(&conversations, id, 1).await;
    assert_eq!(
        conversations.position(id, 1).await.unwrap(),
        None,
        "it does not wait any more"
    );
    assert_eq!(
        conversations
            .finish(id, 1, epoch, &answer("A"))
            .await
            .unwrap(),
        Some(2)
    );
    assert_eq!(
        conversations.claim_turn(id, 1).await.unwrap(),
        TurnClaim::NotRunnable { next: Some(2) },
        "a duplicate"
    );
    let (epoch, _) = go(&conversations, id, 2).await;
    let failure = Failure::new(ErrorCode::Model, "it failed");
    assert_eq!(
        conversations
            .finish(id, 2, epoch, &TurnOutcome::Failed(failure))
            .await
            .unwrap(),
        Some(3)
    );
    let (epoch, _) = go(&conversations, id, 3).await;
    assert_eq!(
        conversations
            .finish(id, 3, epoch, &answer("C"))
            .await
            .unwrap(),
        None
    );
    let turns = conversations.snapshot(id).await.unwrap().unwrap().turns;
    assert_eq!(turns[0].outcome, Some(answer("A")));
    assert_eq!(turns[0].request, ask("a"));
    assert_eq!(turns[1].status, TurnStatus::Failed);
    let added = conversations.add_turn(id, &ask("d"), None).await.unwrap();
    assert_eq!(
        added,
        Some(AddedTurn {
            turn: 4,
            ready: true
        })
    );
}

async fn an_idempotency_key_gives_the_same_turn_again(conversations: Arc<dyn Conversations>) {
    let conversation = in_words();
    let id = &conversation.id;
    conversations
        .create(&conversation, &[ask("a")])
        .await
        .unwrap();
    let first = conversations
        .add_turn(id, &ask("b"), Some("key"))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(
        conversations
            .add_turn(id, &ask("b"), Some("key"))
            .await
            .unwrap(),
        Some(first)
    );
    let other = conversations
        .add_turn(id, &ask("b"), Some("another"))
        .await
        .unwrap()
        .unwrap();
    assert_eq!((first.turn, other.turn), (2, 3));
    assert_eq!(
        conversations
            .snapshot(id)
            .await
            .unwrap()
            .unwrap()
            .turns
            .len(),
        3
    );
}

async fn events_are_numbered_and_written_once(conversations: Arc<dyn Conversations>) {
    let conversation = in_words();
    let id = &conversation.id;
    conversations
        .create(&conversation, &[ask("a")])
        .await
        .unwrap();
    assert_eq!(
        conversations
            .append(id, 1, 0, 0, &[token(1)])
            .await
            .unwrap(),
        AppendOutcome::Fenced,
        "it does not run"
    );
    let (epoch, _) = go(&conversations, id, 1).await;
    let first = [started("asked"), token(1), token(2)];
    for _ in 0..2 {
        assert_eq!(
            conversations.append(id, 1, epoch, 0, &first).await.unwrap(),
            AppendOutcome::Done
        );
    }
    assert_eq!(
        conversations
            .append(id, 1, epoch, 3, &[token(3)])
            .await
            .unwrap(),
        AppendOutcome::Done
    );
    assert_eq!(
        conversations
            .append(id, 1, epoch, 7, &[token(8)])
            .await
            .unwrap(),
        AppendOutcome::Fenced,
        "a gap"
    );
    for _ in 0..2 {
        conversations
            .finish(id, 1, epoch, &answer("x"))
            .await
            .unwrap();
    }
    assert_eq!(
        conversations
            .append(id, 1, epoch, 5, &[token(9)])
            .await
            .unwrap(),
        AppendOutcome::Fenced,
        "it is over"
    );
    let all: Vec<NumberedEvent> = (1..)
        .zip([
            started("asked"),
            token(1),
            token(2),
            token(3),
            TurnEvent::Ended(answer("x")),
        ])
        .collect();
    assert_eq!(conversations.events(id, 1, 0, 100).await.unwrap(), all);
    assert_eq!(conversations.events(id, 1, 1, 2).await.unwrap(), all[1..3]);
    assert_eq!(conversations.events(id, 1, 5, 2).await.unwrap(), []);
    let turn = conversations
        .snapshot(id)
        .await
        .unwrap()
        .unwrap()
        .turns
        .remove(0);
    assert_eq!((turn.events, turn.asked.as_deref()), (5, Some("asked")));
}

async fn a_new_epoch_fences_the_old_one_off_and_continues_its_events(
    conversations: Arc<dyn Conversations>,
) {
    let conversation = in_words();
    let id = &conversation.id;
    conversations
        .create(&conversation, &[ask("a"), ask("b")])
        .await
        .unwrap();
    let (old, _) = go(&conversations, id, 1).await;
    conversations
        .append(id, 1, old, 0, &[started("q"), token(1)])
        .await
        .unwrap();
    let (new, events) = go(&conversations, id, 1).await;
    assert_eq!(events, [started("q"), token(1)]);
    assert_eq!(
        conversations
            .append(id, 1, old, 2, &[token(2)])
            .await
            .unwrap(),
        AppendOutcome::Fenced
    );
    assert_eq!(
        conversations
            .finish(id, 1, old, &answer("old"))
            .await
            .unwrap(),
        None
    );
    assert_eq!(
        conversations
            .append(id, 1, new, 2, &[token(2)])
            .await
            .unwrap(),
        AppendOutcome::Done
    );
    assert_eq!(
        conversations
            .finish(id, 1, new, &answer("new"))
            .await
            .unwrap(),
        Some(2)
    );
    assert_eq!(
        conversations.snapshot(id).await.unwrap().unwrap().turns[0].outcome,
        Some(answer("new"))
    );
}

async fn a_queued_turn_that_is_cancelled_never_runs(conversations: Arc<dyn Conversations>) {
    let conversation = in_words();
    let id = &conversation.id;
    conversations
        .create(&conversation, &[ask("a"), ask("b"), ask("c")])
        .await
        .unwrap();
    assert_eq!(conversations.cancel(id, 2).await.unwrap(), Some(1));
    assert_eq!(
        conversations.cancel(id, 1).await.unwrap(),
        Some(3),
        "the next one is ready now"
    );
    assert_eq!(
        conversations.claim_turn(id, 1).await.unwrap(),
        TurnClaim::NotRunnable { next: Some(3) }
    );
    assert_eq!(status(&conversations, id, 1).await, TurnStatus::Cancelled);
    let ended = TurnEvent::Ended(TurnOutcome::Cancelled);
    assert_eq!(
        conversations.events(id, 1, 0, 9).await.unwrap(),
        [(1, ended)]
    );
    assert_eq!(conversations.position(id, 2).await.unwrap(), None);
}

async fn a_running_turn_that_is_cancelled_is_told_so_at_its_next_event(
    conversations: Arc<dyn Conversations>,
) {
    let conversation = in_words();
    let id = &conversation.id;
    conversations
        .create(&conversation, &[ask("a"), ask("b")])
        .await
        .unwrap();
    let (epoch, _) = go(&conversations, id, 1).await;
    assert_eq!(
        conversations
            .append(id, 1, epoch, 0, &[token(1)])
            .await
            .unwrap(),
        AppendOutcome::Done
    );
    assert_eq!(conversations.cancel(id, 1).await.unwrap(), None);
    assert_eq!(
        conversations
            .append(id, 1, epoch, 1, &[token(2)])
            .await
            .unwrap(),
        AppendOutcome::Cancelled
    );
    assert!(conversations.snapshot(id).await.unwrap().unwrap().turns[0].cancelling);
    assert_eq!(
        conversations
            .finish(id, 1, epoch, &TurnOutcome::Cancelled)
            .await
            .unwrap(),
        Some(2)
    );
    assert_eq!(
        conversations.cancel(id, 1).await.unwrap(),
        Some(2),
        "what is over stays"
    );
    // The worker of the second turn dies before it hears of the cancellation: the next one ends the turn.
    go(&conversations, id, 2).await;
    conversations.cancel(id, 2).await.unwrap();
    assert_eq!(
        conversations.claim_turn(id, 2).await.unwrap(),
        TurnClaim::NotRunnable { next: None }
    );
    assert_eq!(status(&conversations, id, 2).await, TurnStatus::Cancelled);
}

async fn an_image_that_failed_fails_all_turns_also_later_ones(
    conversations: Arc<dyn Conversations>,
) {
    let conversation = with_image(&unique());
    let id = &conversation.id;
    let failure = Failure::new(ErrorCode::ImageCorrupt, "the file ends early");
    conversations
        .create(&conversation, &[ask("a")])
        .await
        .unwrap();
    assert_eq!(
        conversations
            .image_prepared(id, &Err(failure.clone()))
            .await
            .unwrap(),
        None
    );
    let added = conversations.add_turn(id, &ask("b"), None).await.unwrap();
    assert_eq!(
        added,
        Some(AddedTurn {
            turn: 2,
            ready: false
        })
    );
    let turns = conversations.snapshot(id).await.unwrap().unwrap().turns;
    for (turn, number) in turns.iter().zip(1..) {
        assert_eq!(turn.outcome, Some(TurnOutcome::Failed(failure.clone())));
        let ended = TurnEvent::Ended(TurnOutcome::Failed(failure.clone()));
        assert_eq!(
            conversations.events(id, number, 0, 9).await.unwrap(),
            [(1, ended)]
        );
        assert_eq!(conversations.position(id, number).await.unwrap(), None);
    }
}

async fn a_final_answer_can_be_edited(conversations: Arc<dyn Conversations>) {
    let conversation = in_words();
    let id = &conversation.id;
    conversations
        .create(&conversation, &[ask("a")])
        .await
        .unwrap();
    assert!(
        !conversations.edit(id, 1, Some("x")).await.unwrap(),
        "not before it is final"
    );
    assert!(
        !conversations.edit(id, 2, Some("x")).await.unwrap(),
        "no such turn"
    );
    let (epoch, _) = go(&conversations, id, 1).await;
    conversations
        .finish(id, 1, epoch, &answer("A"))
        .await
        .unwrap();
    for text in [Some("mine"), Some(""), None] {
        assert!(conversations.edit(id, 1, text).await.unwrap());
        assert_eq!(
            conversations.snapshot(id).await.unwrap().unwrap().turns[0]
                .edited
                .as_deref(),
            text
        );
    }
}

async fn watchers_hear_of_everything_after_they_came(conversations: Arc<dyn Conversations>) {
    let conversation = in_words();
    let id = &conversation.id;
    conversations
        .create(&conversation, &[ask("a")])
        .await
        .unwrap();
    let mut watch = conversations.watch(id, 1).await.unwrap();
    let (epoch, _) = go(&conversations, id, 1).await;
    let (mut after, writer) = (0, conversations.clone());
    let name = id.clone();
    let writing = tokio::spawn(async move {
        for number in 0..50 {
            writer
                .append(&name, 1, epoch, number, &[token(number as u32)])
                .await
                .unwrap();
        }
        writer.finish(&name, 1, epoch, &answer("x")).await.unwrap();
    });
    while after < 51 {
        timeout(Duration::from_secs(10), watch.next_events())
            .await
            .expect("there is more");
        for (number, _) in conversations.events(id, 1, after, 100).await.unwrap() {
            assert_eq!(number, after + 1);
            after = number;
        }
    }
    writing.await.unwrap();
}

async fn many_watchers_of_one_turn_come_and_go(conversations: Arc<dyn Conversations>) {
    let conversation = in_words();
    let id = &conversation.id;
    conversations
        .create(&conversation, &[ask("a")])
        .await
        .unwrap();
    let (epoch, _) = go(&conversations, id, 1).await;
    for round in 0..10 {
        let mut watches = Vec::new();
        for _ in 0..3 {
            watches.push(conversations.watch(id, 1).await.unwrap());
        }
        drop(watches.pop());
        conversations
            .append(id, 1, epoch, round, &[token(1)])
            .await
            .unwrap();
        for watch in &mut watches {
            timeout(Duration::from_secs(10), watch.next_events())
                .await
                .expect("each one hears of it");
        }
    }
}

async fn a_deleted_conversation_is_gone_and_tells_whether_its_image_is_in_use(
    conversations: Arc<dyn Conversations>,
) {
    let image = unique();
    let (one, two) = (with_image(&image), with_image(&image));
    for conversation in [&one, &two] {
        begin(&conversations, conversation, false).await;
        conversations
            .image_prepared(&conversation.id, &Ok(findings()))
            .await
            .unwrap();
    }
    let (epoch, _) = go(&conversations, &one.id, 1).await;
    assert_eq!(
        conversations.delete(&one.id).await.unwrap(),
        deleted(one.clone(), true)
    );
    assert_eq!(
        conversations
            .append(&one.id, 1, epoch, 1, &[token(1)])
            .await
            .unwrap(),
        AppendOutcome::Fenced
    );
    assert_eq!(
        conversations
            .finish(&one.id, 1, epoch, &answer("x"))
            .await
            .unwrap(),
        None
    );
    assert_eq!(conversations.snapshot(&one.id).await.unwrap(), None);
    assert_eq!(conversations.events(&one.id, 1, 0, 9).await.unwrap(), []);
    assert_eq!(
        conversations.claim_turn(&one.id, 1).await.unwrap(),
        TurnClaim::NotFound
    );
    assert_eq!(conversations.list(&one.owner, 9).await.unwrap(), []);
    assert_eq!(conversations.delete(&one.id).await.unwrap(), None);
    assert_eq!(
        conversations.delete(&two.id).await.unwrap(),
        deleted(two, false)
    );
}

async fn an_image_stays_that_was_stored_before_its_first_conversation(
    conversations: Arc<dyn Conversations>,
) {
    for (first_finds_it, stays) in [(true, true), (false, false)] {
        let name = unique();
        let (one, two) = (with_image(&name), with_image(&name));
        // The second one finds it in any case.
        for (conversation, stored) in [(&one, first_finds_it), (&two, true)] {
            begin(&conversations, conversation, stored).await;
        }
        assert_eq!(
            conversations.delete(&one.id).await.unwrap(),
            deleted(one, true)
        );
        assert_eq!(
            conversations.delete(&two.id).await.unwrap(),
            deleted(two, stays)
        );
    }
}

async fn an_image_that_is_being_removed_cannot_be_claimed(conversations: Arc<dyn Conversations>) {
    let name = unique();
    let (one, two) = (with_image(&name), with_image(&name));
    begin(&conversations, &one, false).await;
    let key = one.image.as_ref().unwrap().image.clone();
    assert!(
        conversations
            .claim_image(&one.id, &key, true)
            .await
            .unwrap(),
        "again is harmless"
    );
    assert_eq!(
        conversations.delete(&one.id).await.unwrap(),
        deleted(one, false)
    );
    assert!(
        !conversations
            .claim_image(&two.id, &key, true)
            .await
            .unwrap()
    );
    for _ in 0..2 {
        conversations.image_removed(&key).await.unwrap();
    }
    begin(&conversations, &two, false).await;
    conversations.image_removed(&key).await.unwrap();
    assert_eq!(
        conversations.delete(&two.id).await.unwrap(),
        deleted(two, false)
    );
}

fn deleted(conversation: Conversation, image_stays: bool) -> Option<DeletedConversation> {
    Some(DeletedConversation {
        conversation,
        image_stays,
    })
}

/// Claims the conversation's image and creates it.
async fn begin(conversations: &Arc<dyn Conversations>, conversation: &Conversation, stored: bool) {
    let image = &conversation.image.as_ref().unwrap().image;
    assert!(
        conversations
            .claim_image(&conversation.id, image, stored)
            .await
            .unwrap()
    );
    conversations
        .create(conversation, &[ask("a")])
        .await
        .unwrap();
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
            .add_turn(&id, &ask("a"), Some("k"))
            .await
            .unwrap(),
        None
    );
    assert_eq!(
        conversations
            .image_prepared(&id, &Ok(findings()))
            .await
            .unwrap(),
        None
    );
    assert_eq!(conversations.cancel(&id, 1).await.unwrap(), None);
    assert!(!conversations.edit(&id, 1, None).await.unwrap());
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

async fn racing_submitters_each_get_a_turn_of_their_own(conversations: Arc<dyn Conversations>) {
    let conversation = in_words();
    conversations
        .create(&conversation, &[ask("a")])
        .await
        .unwrap();
    let added = join_all((0..16).map(|number| {
        let (conversations, id) = (conversations.clone(), conversation.id.clone());
        tokio::spawn(async move {
            conversations
                .add_turn(&id, &ask(&number.to_string()), None)
                .await
                .unwrap()
                .unwrap()
        })
    }))
    .await;
    let mut turns: Vec<u32> = added.into_iter().map(|added| added.unwrap().turn).collect();
    turns.sort_unstable();
    assert_eq!(turns, (2..=17).collect::<Vec<_>>());
}
