//! Stopping a worker.

use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use radialog_runtime::runner::RunnerSettings;
use radialog_runtime::shutdown::on_signals;
use radialog_tests::fake_stage::FakeStage;
use radialog_tests::stepping::Gate;
use radialog_tests::task_harness::TaskHarness;
use radialog_tests::waiting;

use super::{SOON, WORK, findings, next, send_many, settings, studies};
use crate::adapters::on_each_adapter;

use super::adapters;

on_each_adapter! { memory, rabbitmq: {
    a_stopped_worker_finishes_what_is_in_the_model_and_hands_back_the_rest_uncounted,
    a_batch_that_outlasts_the_grace_period_is_handed_back,
    another_worker_takes_over,
}}

/// A gate that nothing passes yet.
fn closed_gate() -> Arc<Gate> {
    let gate = Arc::new(Gate::default());
    gate.hold_after(0);
    gate
}

/// Waits until a worker has given something to its model.
async fn until_begun(stage: &FakeStage) {
    let has_begun = || async { Ok(!stage.batches().is_empty()) };
    waiting::until("the model gets nothing", SOON, has_begun)
        .await
        .unwrap();
}

async fn a_stopped_worker_finishes_what_is_in_the_model_and_hands_back_the_rest_uncounted(
    harness: TaskHarness,
) {
    send_many(&harness, 12).await;
    let gate = closed_gate();
    let stage = Arc::new(findings().batch_limit(2).behind(&gate));
    let worker = harness.start(
        &stage,
        RunnerSettings {
            grace: SOON,
            ..settings()
        },
    );
    until_begun(&stage).await;
    let stopping = tokio::spawn(worker.stop());
    // One batch more at each look: the worker, on this thread, hears of the stop between the first and the second of six.
    let mut passes = 0;
    let has_stopped = || {
        passes += 1;
        gate.hold_after(passes);
        let has_stopped = stopping.is_finished();
        async move { Ok(has_stopped) }
    };
    waiting::until("the worker does not stop", SOON, has_stopped)
        .await
        .unwrap();
    stopping.await.unwrap().unwrap();
    let finished: usize = stage.batches().iter().map(Vec::len).sum();
    assert!((1..12).contains(&finished), "{finished}");
    assert_eq!(
        harness.results(finished).await.unwrap().len(),
        finished,
        "what was in the model is done"
    );

    let mut consumer = harness.queue.consume(WORK, 100).await.unwrap();
    for _ in finished..12 {
        let delivery = next(&mut consumer).await;
        assert_eq!(delivery.message.attempt, 0, "a hand-back is not an attempt");
        delivery.receipt.ack().await.unwrap();
    }
}

async fn a_batch_that_outlasts_the_grace_period_is_handed_back(harness: TaskHarness) {
    send_many(&harness, 1).await;
    let stage = Arc::new(findings().behind(&closed_gate()));
    let worker = harness.start(
        &stage,
        RunnerSettings {
            grace: Duration::from_millis(100),
            ..settings()
        },
    );
    until_begun(&stage).await;
    worker.stop().await.unwrap();
    let mut consumer = harness.queue.consume(WORK, 1).await.unwrap();
    let delivery = next(&mut consumer).await;
    assert!(delivery.redelivered && delivery.message.attempt == 0);
}

async fn another_worker_takes_over(harness: TaskHarness) {
    let sent = send_many(&harness, 40).await;
    let stage = Arc::new(findings().batch_limit(4).delay(Duration::from_millis(20)));
    let crashes = harness.start(&stage, settings());
    let stops = harness.start(&stage, settings());
    until_begun(&stage).await;
    crashes.crash().await;
    stops.stop().await.unwrap();
    let worker = harness.start(&stage, settings());
    // A crash after publishing and before acknowledging doubles a result, which is harmless.
    let mut results = Vec::new();
    while studies(&results).len() < sent.len() {
        results.extend(harness.results(1).await.unwrap());
    }
    assert_eq!(studies(&results), sent);
    worker.stop().await.unwrap();
}

#[tokio::test]
async fn sigterm_asks_for_a_clean_stop() {
    let shutdown = on_signals().unwrap();
    assert!(!shutdown.is_cancelled());
    let pid = std::process::id().to_string();
    assert!(
        Command::new("kill")
            .args(["-TERM", &pid])
            .status()
            .unwrap()
            .success()
    );
    tokio::time::timeout(SOON, shutdown.cancelled())
        .await
        .unwrap();
}
