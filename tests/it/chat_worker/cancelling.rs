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

async fn a_queued_turn_that_is_cancelled_never_runs(harness: ChatHarness) {
    let id = harness
        .begin(
            "queued",
            &[question("one"), question("two"), question("three")],
        )
        .await;
    assert_eq!(
        harness.conversations.cancel(&id, 2).await.unwrap(),
        Some(1),
        "the first is still to be answered"
    );
    let worker = harness.start(&Arc::new(fake_stage()), settings());
    assert_eq!(harness.text(&id, 3).await, fake_text("three", 1));
    assert_eq!(harness.ended(&id, 2).await, TurnOutcome::Cancelled);
    assert_eq!(harness.events(&id, 2).await.len(), 1, "it only ended");

    // Published already when it is cancelled, and alone.
    let id = harness.begin("alone", &[]).await;
    harness
        .conversations
        .add_turn(&id, &question("one"), None, u32::MAX)
        .await
        .unwrap();
    harness.conversations.cancel(&id, 1).await.unwrap();
    harness.publish(&id, Some(1)).await;
    harness.ask(&id, question("two")).await;
    assert_eq!(harness.text(&id, 2).await, fake_text("two", 0));
    worker.stop().await.unwrap();
}

async fn a_running_turn_stops_and_the_next_one_runs(harness: ChatHarness) {
    let id = harness
        .begin("running", &[question("one"), question("two")])
        .await;
    let worker = harness.start(
        &Arc::new(fake_stage().chat_answers(1000, Duration::from_millis(20))),
        settings(),
    );
    harness.until_tokens(&id, 1, 3).await;
    harness.conversations.cancel(&id, 1).await.unwrap();
    let written = harness.tokens(&id, 1).await.len();
    assert_eq!(harness.ended(&id, 1).await, TurnOutcome::Cancelled);
    let after = harness.tokens(&id, 1).await.len();
    assert!(
        after <= written + 3,
        "{after} tokens, {written} when it was cancelled"
    );
    harness.until_tokens(&id, 2, 3).await;
    assert_eq!(
        harness.tokens(&id, 1).await.len(),
        after,
        "nothing is written behind the end"
    );
    worker.crash().await;
}

async fn a_turn_that_waits_in_the_worker_stops_before_its_first_token(harness: ChatHarness) {
    let id = harness.begin("waits", &[question("one")]).await;
    // The first token takes longer than any wait below.
    let worker = harness.start(
        &Arc::new(fake_stage().chat_answers(3, SOON * 10)),
        settings(),
    );
    until("the start", || async {
        harness.turn(&id, 1).await.status == TurnStatus::Running
    })
    .await;
    harness.conversations.cancel(&id, 1).await.unwrap();
    assert_eq!(harness.ended(&id, 1).await, TurnOutcome::Cancelled);
    assert!(harness.tokens(&id, 1).await.is_empty());
    worker.crash().await;
}

async fn a_conversation_that_is_deleted_is_not_answered_on(harness: ChatHarness) {
    let id = harness
        .begin("deleted", &[question("one"), question("two")])
        .await;
    let worker = harness.start(
        &Arc::new(fake_stage().chat_answers(100_000, Duration::from_millis(5))),
        RunnerSettings {
            grace: SOON,
            ..settings()
        },
    );
    harness.until_tokens(&id, 1, 3).await;
    assert!(harness.conversations.delete(&id).await.unwrap());
    // A worker that still spoke would not stop before the grace period is over.
    let began = Instant::now();
    worker.stop().await.unwrap();
    assert!(began.elapsed() < SOON / 2, "{:?}", began.elapsed());
    assert_eq!(harness.tasks.queue.depth(queues::CHAT).await.unwrap(), 0);
}

async fn a_turn_past_its_deadline_is_not_begun(harness: ChatHarness) {
    let late = TurnRequest {
        deadline_ms: Some(2),
        ..question("one")
    };
    let early = TurnRequest {
        deadline_ms: Some(u64::MAX),
        ..question("two")
    };
    let id = harness.begin("deadline", &[late, early]).await;
    let worker = harness.start(&Arc::new(fake_stage()), settings());
    assert_eq!(harness.code(&id, 1).await, ErrorCode::DeadlineExceeded);
    assert_eq!(harness.events(&id, 1).await.len(), 1);
    assert_eq!(harness.text(&id, 2).await, fake_text("two", 0));
    worker.stop().await.unwrap();
}
