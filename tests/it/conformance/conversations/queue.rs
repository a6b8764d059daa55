//! The limits of the queue. The store may be shared with other tests, so that the counts of all conversations are theirs,
//! too.

use radialog_runtime::conversations::{QueueLimits, Reservation, ReserveOutcome};
use radialog_tests::services::Redis;

use super::*;
use crate::adapters::redis_conversations_at;

fn of_key(per_key: u64) -> QueueLimits {
    QueueLimits {
        all: 1 << 40,
        per_key,
    }
}

fn reservation(owner: &str, turns: u32) -> Reservation {
    Reservation {
        name: unique(),
        owner: owner.to_owned(),
        turns,
    }
}

pub(super) async fn places_in_the_queue_are_taken_in_one_step_and_counted_by_key(
    conversations: Arc<dyn Conversations>,
) {
    let owner = unique();
    let asked: Vec<Reservation> = (0..20).map(|_| reservation(&owner, 1)).collect();
    let racing = asked
        .iter()
        .map(|asked| conversations.reserve(asked, of_key(5)));
    let outcomes = join_all(racing).await;
    let reserved = asked
        .iter()
        .zip(outcomes)
        .filter(|(_, outcome)| *outcome.as_ref().unwrap() == ReserveOutcome::Reserved);
    let reserved: Vec<&Reservation> = reserved.map(|(asked, _)| asked).collect();
    assert_eq!(reserved.len(), 5);
    assert_eq!(
        conversations.reserve(reserved[0], of_key(5)).await.unwrap(),
        ReserveOutcome::Reserved,
        "again is harmless"
    );
    let completions = reservation(&format!("{owner} (completions)"), 1);
    assert_eq!(
        conversations
            .reserve(&completions, of_key(5))
            .await
            .unwrap(),
        ReserveOutcome::KeyFull(5),
        "they are the same key's"
    );
    let other = reservation(&unique(), 7);
    assert_eq!(
        conversations.reserve(&other, of_key(5)).await.unwrap(),
        ReserveOutcome::Reserved,
        "where nothing waits, any number may"
    );
    let nothing = QueueLimits { all: 1, per_key: 1 };
    assert!(matches!(
        conversations
            .reserve(&reservation(&unique(), 1), nothing)
            .await
            .unwrap(),
        ReserveOutcome::Full(12..)
    ));
    for reserved in reserved.into_iter().chain([&other]) {
        conversations.release(reserved).await.unwrap();
        conversations.release(reserved).await.unwrap();
    }
    assert_eq!(
        conversations
            .reserve(&completions, of_key(1))
            .await
            .unwrap(),
        ReserveOutcome::Reserved
    );
    conversations.release(&completions).await.unwrap();
}

pub(super) async fn a_turn_keeps_its_place_until_a_worker_has_it(
    conversations: Arc<dyn Conversations>,
) {
    let conversation = in_words();
    let (id, owner) = (&conversation.id, &conversation.owner);
    conversations
        .create(&conversation, &[ask("a"), ask("b")])
        .await
        .unwrap();
    add(&conversations, id, "c").await;
    let waiting = async |expected: u64| {
        let asked = reservation(owner, 1);
        let limit = expected.max(1);
        let outcome = conversations.reserve(&asked, of_key(limit)).await.unwrap();
        if expected > 0 {
            assert_eq!(outcome, ReserveOutcome::KeyFull(expected));
        }
        let outcome = conversations
            .reserve(&asked, of_key(expected + 1))
            .await
            .unwrap();
        assert_eq!(outcome, ReserveOutcome::Reserved);
        conversations.release(&asked).await.unwrap();
    };
    waiting(3).await;
    let (epoch, _) = started_epoch(&conversations, id, 1).await;
    waiting(2).await;
    conversations.cancel(id, 2).await.unwrap();
    waiting(1).await;
    finish(&conversations, id, 1, epoch, "A").await;
    waiting(1).await;
    conversations.delete(id).await.unwrap();
    waiting(0).await;
}

pub(super) async fn a_turn_waits_behind_those_of_its_own_group_alone(
    conversations: Arc<dyn Conversations>,
) {
    let [one, two] = [unique(), unique()].map(|group| {
        let of_group = || Conversation {
            group: Some(group.parse().unwrap()),
            ..in_words()
        };
        [of_group(), of_group()]
    });
    // In turn: each group has one turn of the other between its two.
    for conversation in [&one[0], &two[0], &one[1], &two[1]] {
        let turns = [ask("a")];
        conversations.create(conversation, &turns).await.unwrap();
        // The places are taken in the order of milliseconds.
        tokio::time::sleep(std::time::Duration::from_millis(2)).await;
    }
    let position = async |conversation: &Conversation| {
        let id = &conversation.id;
        conversations.position(id, 1).await.unwrap()
    };
    for group in [&one, &two] {
        assert_eq!(position(&group[0]).await, Some(0));
        assert_eq!(position(&group[1]).await, Some(1));
    }
    started_epoch(&conversations, &one[0].id, 1).await;
    assert_eq!(position(&one[0]).await, None);
    assert_eq!(position(&one[1]).await, Some(0));
    assert_eq!(position(&two[1]).await, Some(1));
}

/// A gateway that is killed releases nothing, and perhaps no other ever reserves: found by `radialog chaos`.
#[tokio::test]
async fn redis_forgets_a_reservation_that_nobody_releases() {
    let redis = Redis::start().await.unwrap();
    let conversations = redis_conversations_at(redis.url()).await;
    let asked = reservation("somebody", 2);
    let outcome = conversations.reserve(&asked, of_key(5)).await.unwrap();
    assert_eq!(outcome, ReserveOutcome::Reserved);
    for set in ["reserved", "reserved-of:somebody"] {
        let asked = format!("PTTL {{radialog:chat:waiting}}:{set}");
        let left = redis.ask(&asked).await.unwrap();
        let left: i64 = left.parse().unwrap();
        assert!((1..=60_000).contains(&left), "{set}: {left} ms");
    }
}
