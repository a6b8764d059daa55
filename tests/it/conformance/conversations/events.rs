//! A turn's events: numbered without a gap, written once, by one epoch at a time, and heard of by every watcher.

use super::*;

pub(super) async fn events_are_numbered_and_written_once(conversations: Arc<dyn Conversations>) {
    let id = &begun(&conversations, &["a"]).await;
    assert_eq!(
        append(&conversations, id, 0, 0, &[token(1)]).await,
        AppendOutcome::Fenced,
        "it does not run"
    );
    let (epoch, _) = started_epoch(&conversations, id, 1).await;
    let first = [started("asked"), token(1), token(2)];
    for _ in 0..2 {
        assert_eq!(
            append(&conversations, id, epoch, 0, &first).await,
            AppendOutcome::Done
        );
    }
    assert_eq!(
        append(&conversations, id, epoch, 3, &[token(3)]).await,
        AppendOutcome::Done
    );
    assert_eq!(
        append(&conversations, id, epoch, 7, &[token(8)]).await,
        AppendOutcome::Fenced,
        "a gap"
    );
    for _ in 0..2 {
        finish(&conversations, id, 1, epoch, "x").await;
    }
    assert_eq!(
        append(&conversations, id, epoch, 5, &[token(9)]).await,
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

pub(super) async fn a_new_epoch_fences_the_old_one_off_and_continues_its_events(
    conversations: Arc<dyn Conversations>,
) {
    let id = &begun(&conversations, &["a", "b"]).await;
    let (old, _) = started_epoch(&conversations, id, 1).await;
    conversations
        .append(id, 1, old, 0, &[started("q"), token(1)])
        .await
        .unwrap();
    let (new, events) = started_epoch(&conversations, id, 1).await;
    assert_eq!(events, [started("q"), token(1)]);
    assert_eq!(
        append(&conversations, id, old, 2, &[token(2)]).await,
        AppendOutcome::Fenced
    );
    assert_eq!(finish(&conversations, id, 1, old, "old").await, None);
    assert_eq!(
        append(&conversations, id, new, 2, &[token(2)]).await,
        AppendOutcome::Done
    );
    assert_eq!(finish(&conversations, id, 1, new, "new").await, Some(2));
    assert_eq!(
        conversations.snapshot(id).await.unwrap().unwrap().turns[0].outcome,
        Some(answer("new"))
    );
}

pub(super) async fn watchers_hear_of_everything_after_they_came(
    conversations: Arc<dyn Conversations>,
) {
    let id = &begun(&conversations, &["a"]).await;
    let mut watch = conversations.watch(id, 1).await.unwrap();
    let (epoch, _) = started_epoch(&conversations, id, 1).await;
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
        timeout(SOON, watch.next_events())
            .await
            .expect("there is more");
        for (number, _) in conversations.events(id, 1, after, 100).await.unwrap() {
            assert_eq!(number, after + 1);
            after = number;
        }
    }
    writing.await.unwrap();
}

pub(super) async fn many_watchers_of_one_turn_come_and_go(conversations: Arc<dyn Conversations>) {
    let id = &begun(&conversations, &["a"]).await;
    let (epoch, _) = started_epoch(&conversations, id, 1).await;
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
            timeout(SOON, watch.next_events())
                .await
                .expect("each one hears of it");
        }
    }
}
