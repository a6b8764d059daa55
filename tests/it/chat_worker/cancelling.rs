//! Nobody wants the answer any more.

use std::time::Instant;

use super::*;
use crate::adapters::on_each_adapter;

on_each_adapter! { memory, services: {
    a_queued_turn_that_is_cancelled_never_runs,
    a_running_turn_stops_and_the_next_one_runs,
    a_turn_that_waits_in_the_worker_stops_before_its_first_token,
    a_conversation_that_is_deleted_is_not_answered_on,
    a_turn_past_its_deadline_is_not_begun,
}}

async fn a_queued_turn_that_is_cancelled_never_runs(table: Table) {
    let id = table
        .begin(
            "queued",
            &[question("one"), question("two"), question("three")],
        )
        .await;
    assert_eq!(
        table.conversations.cancel(&id, 2).await.unwrap(),
        Some(1),
        "the first is still to be answered"
    );
    let worker = table.start(&Arc::new(toy()), settings());
    assert_eq!(table.text(&id, 3).await, toy_text("three", 1));
    assert_eq!(table.ended(&id, 2).await, TurnOutcome::Cancelled);
    assert_eq!(table.events(&id, 2).await.len(), 1, "it only ended");

    // Published already when it is cancelled, and alone.
    let id = table.begin("alone", &[]).await;
    table
        .conversations
        .add_turn(&id, &question("one"), None)
        .await
        .unwrap();
    table.conversations.cancel(&id, 1).await.unwrap();
    table.publish(&id, Some(1)).await;
    table.ask(&id, question("two")).await;
    assert_eq!(table.text(&id, 2).await, toy_text("two", 0));
    worker.stop().await.unwrap();
}

async fn a_running_turn_stops_and_the_next_one_runs(table: Table) {
    let id = table
        .begin("running", &[question("one"), question("two")])
        .await;
    let worker = table.start(
        &Arc::new(toy().speech(1000, Duration::from_millis(20))),
        settings(),
    );
    table.until_tokens(&id, 1, 3).await;
    table.conversations.cancel(&id, 1).await.unwrap();
    let written = table.tokens(&id, 1).await.len();
    let began = Instant::now();
    assert_eq!(table.ended(&id, 1).await, TurnOutcome::Cancelled);
    assert!(began.elapsed() < Duration::from_secs(2));
    let after = table.tokens(&id, 1).await.len();
    assert!(
        after <= written + 3,
        "{after} tokens, {written} when it was cancelled"
    );
    table.until_tokens(&id, 2, 3).await;
    assert_eq!(
        table.tokens(&id, 1).await.len(),
        after,
        "nothing is written behind the end"
    );
    worker.crash().await;
}

async fn a_turn_that_waits_in_the_worker_stops_before_its_first_token(table: Table) {
    let id = table.begin("waits", &[question("one")]).await;
    // The first token takes long.
    let worker = table.start(
        &Arc::new(toy().speech(3, Duration::from_secs(20))),
        settings(),
    );
    until("the start", || async {
        table.turn(&id, 1).await.status == TurnStatus::Running
    })
    .await;
    table.conversations.cancel(&id, 1).await.unwrap();
    let began = Instant::now();
    assert_eq!(table.ended(&id, 1).await, TurnOutcome::Cancelled);
    assert!(
        began.elapsed() < Duration::from_secs(10),
        "{:?}",
        began.elapsed()
    );
    assert!(table.tokens(&id, 1).await.is_empty());
    worker.crash().await;
}

async fn a_conversation_that_is_deleted_is_not_answered_on(table: Table) {
    let id = table
        .begin("deleted", &[question("one"), question("two")])
        .await;
    let worker = table.start(
        &Arc::new(toy().speech(100_000, Duration::from_millis(5))),
        settings(),
    );
    table.until_tokens(&id, 1, 3).await;
    assert!(table.conversations.delete(&id).await.unwrap().is_some());
    // A worker that still spoke would not stop in time.
    let began = Instant::now();
    worker.stop().await.unwrap();
    assert!(
        began.elapsed() < Duration::from_secs(3),
        "{:?}",
        began.elapsed()
    );
    assert_eq!(table.desk.queue.depth(queues::CHAT).await.unwrap(), 0);
}

async fn a_turn_past_its_deadline_is_not_begun(table: Table) {
    let late = TurnRequest {
        deadline_ms: Some(2),
        ..question("one")
    };
    let early = TurnRequest {
        deadline_ms: Some(u64::MAX),
        ..question("two")
    };
    let id = table.begin("deadline", &[late, early]).await;
    let worker = table.start(&Arc::new(toy()), settings());
    assert_eq!(table.code(&id, 1).await, ErrorCode::DeadlineExceeded);
    assert_eq!(table.events(&id, 1).await.len(), 1);
    assert_eq!(table.text(&id, 2).await, toy_text("two", 0));
    worker.stop().await.unwrap();
}
