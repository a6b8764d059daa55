//! Good and bad messages.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use radialog_runtime::metrics::metrics;
use radialog_runtime::queue::{Consumer, Message};
use radialog_schemas::queues::{self, RETRY_DELAYS};
use radialog_schemas::{ContentHash, ConversationId, ErrorCode, ObjectKey, Outcome, Stage, Work};
use radialog_tests::task_harness::TaskHarness;
use radialog_tests::waiting;

use super::{SOON, WORK, failure, findings, next, settings, studies, take};
use crate::adapters::on_each_adapter;

use super::adapters;

on_each_adapter! { memory, rabbitmq: {
    a_task_is_done_and_done_again_it_is_reused,
    an_output_that_is_damaged_is_computed_again,
    what_is_not_a_task_is_dead_lettered_and_the_worker_lives,
    a_message_of_another_release_comes_whole_to_a_worker_that_knows_it,
    a_study_with_a_bad_image_fails_without_a_dead_letter,
    a_task_whose_conversation_is_gone_fails_without_a_dead_letter,
    a_poison_task_in_a_batch_is_found_and_the_others_are_not_blamed,
    a_failure_that_may_pass_is_retried_later_with_the_attempt_counted,
    a_task_for_another_bundle_waits_for_another_worker,
    a_task_for_a_later_revision_waits_for_a_worker_of_that_release,
    a_task_that_waited_for_its_worker_has_all_its_attempts_there,
    a_failure_without_attempts_left_fails_the_study_and_is_dead_lettered,
    what_a_crashed_worker_held_runs_alone,
    a_task_that_its_workers_keep_dying_on_has_its_attempts_counted,
    two_tasks_for_one_output_compute_it_once,
}}

async fn a_task_is_done_and_done_again_it_is_reused(harness: TaskHarness) {
    let worker = harness.start(&Arc::new(findings()), settings());
    let task = harness.task("study").await.unwrap();
    for reused in [false, true] {
        harness.send(&task).await.unwrap();
        let result = harness.results(1).await.unwrap().remove(0);
        assert_eq!(
            result.outcome,
            Outcome::Done {
                output: task.output.clone()
            }
        );
        assert_eq!(result.task_output.as_ref(), Some(&task.output));
        assert_eq!(result.timings.reused, reused);
    }
    assert!(harness.objects.size(&task.output).await.unwrap().is_some());
    worker.stop().await.unwrap();
}

async fn an_output_that_is_damaged_is_computed_again(harness: TaskHarness) {
    let worker = harness.start(&Arc::new(findings()), settings());
    for damage in ["empty", "cut", "changed", "another"] {
        let task = harness.task(damage).await.unwrap();
        harness.send(&task).await.unwrap();
        assert_eq!(failure(&harness.results(1).await.unwrap()[0]), None);
        let whole = harness.objects.get(&task.output).await.unwrap();
        let damaged = match damage {
            "empty" => Bytes::new(),
            "cut" => whole.slice(..whole.len() / 2),
            "changed" => whole.iter().map(|byte| byte ^ 1).collect(),
            _ => Bytes::from_static(b"{}"),
        };
        let counted = metrics().objects_damaged.get();
        harness.objects.put(&task.output, damaged).await.unwrap();
        harness.send(&task).await.unwrap();
        let result = harness.results(1).await.unwrap().remove(0);
        assert_eq!(failure(&result), None, "{damage}");
        assert!(!result.timings.reused, "{damage}");
        assert_eq!(harness.objects.get(&task.output).await.unwrap(), whole);
        assert!(metrics().objects_damaged.get() > counted, "{damage}");
    }
    worker.stop().await.unwrap();
}

async fn what_is_not_a_task_is_dead_lettered_and_the_worker_lives(harness: TaskHarness) {
    let worker = harness.start(&Arc::new(findings()), settings());
    harness.send_bytes(b"hello").await.unwrap();
    let death = harness.dead_letter().await.unwrap().death.unwrap();
    assert_eq!(
        (death.code.as_str(), death.source.as_str()),
        ("message_invalid", WORK)
    );

    harness.send_bytes(&vec![b' '; 200_000]).await.unwrap();
    let letter = harness.dead_letter().await.unwrap();
    assert_eq!(
        (letter.death.unwrap().code.as_str(), letter.body.len()),
        ("message_invalid", 200_000)
    );

    let mut newer = serde_json::to_value(harness.task("newer").await.unwrap()).unwrap();
    newer["schema_version"] = 99.into();
    let newer = newer.to_string();
    harness.send_bytes(newer.as_bytes()).await.unwrap();
    // Another worker may know it: it waits for one, and nobody is told that it has failed.
    until_one_waits(&harness).await;
    let last = Message {
        body: newer.into(),
        passed_on: ErrorCode::SchemaVersion.retries() as u32,
        ..Message::default()
    };
    harness.queue.publish(WORK, last).await.unwrap();
    assert_eq!(
        harness.dead_letter().await.unwrap().death.unwrap().code,
        "schema_version"
    );
    let lost = harness.results(1).await.unwrap().remove(0);
    assert_eq!(
        (lost.study.as_str(), failure(&lost)),
        ("newer", Some(ErrorCode::SchemaVersion))
    );
    assert_eq!(lost.task_output, None, "of another release it says nothing");

    let missing = harness.task_without_image("missing");
    harness.send(&missing).await.unwrap();
    assert_eq!(
        harness.dead_letter().await.unwrap().death.unwrap().code,
        "object_missing"
    );
    assert_eq!(
        failure(&harness.results(1).await.unwrap()[0]),
        Some(ErrorCode::ObjectMissing)
    );

    harness
        .send(&harness.task("good").await.unwrap())
        .await
        .unwrap();
    assert_eq!(failure(&harness.results(1).await.unwrap()[0]), None);
    worker.stop().await.unwrap();
}

/// A consumer of what waits for a second: it is there before the message is, which is gone again by the time that a busy machine
/// looks.
async fn waiting_for_a_second(harness: &TaskHarness) -> Box<dyn Consumer> {
    let queue = queues::retry(WORK, 0);
    harness.queue.consume(&queue, 1).await.unwrap()
}

/// Waits until a message waits for another attempt.
async fn until_one_waits(harness: &TaskHarness) {
    let waits = || async {
        for step in 0..RETRY_DELAYS.len() {
            let retry = queues::retry(WORK, step);
            if harness.queue.depth(&retry).await? == 1 {
                return Ok(true);
            }
        }
        Ok(false)
    };
    waiting::until("none waits", SOON, waits).await.unwrap();
}

async fn a_message_of_another_release_comes_whole_to_a_worker_that_knows_it(harness: TaskHarness) {
    let worker = harness.start(&Arc::new(findings()), settings());
    let mut newer = serde_json::to_value(harness.task("newer").await.unwrap()).unwrap();
    newer["schema_version"] = 99.into();
    newer["added_later"] = "kept".into();
    let newer = newer.to_string();
    harness.send_bytes(newer.as_bytes()).await.unwrap();
    until_one_waits(&harness).await;
    // As in an upgrade: this worker goes, and one of the other release is there.
    worker.stop().await.unwrap();
    let mut other = harness.queue.consume(WORK, 1).await.unwrap();
    let delivery = next(&mut other).await;
    assert_eq!(delivery.message.body, newer.as_bytes());
    assert!(delivery.message.passed_on > 0, "it was given back");
    assert_eq!(delivery.message.attempt, 0, "nobody has tried it");
    delivery.receipt.ack().await.unwrap();
    let dead = harness.queue.depth(&queues::dead(WORK)).await.unwrap();
    let results = harness.queue.depth(queues::RESULTS).await.unwrap();
    assert_eq!((dead, results), (0, 0), "nobody is told that it has failed");
}

async fn a_study_with_a_bad_image_fails_without_a_dead_letter(harness: TaskHarness) {
    let worker = harness.start(&Arc::new(findings()), settings());
    let task = harness.task("corrupt").await.unwrap();
    harness.send(&task).await.unwrap();
    let result = harness.results(1).await.unwrap().remove(0);
    assert_eq!(failure(&result), Some(ErrorCode::ImageCorrupt));
    assert_eq!(result.task_output, Some(task.output));
    worker.stop().await.unwrap();
    assert!(
        harness
            .queue
            .take("radialog.findings.dead")
            .await
            .unwrap()
            .is_none()
    );
}

async fn a_task_whose_conversation_is_gone_fails_without_a_dead_letter(harness: TaskHarness) {
    let worker = harness.start(&Arc::new(findings()), settings());
    let (conversation, content) = (ConversationId::from("deleted"), ContentHash::of(b"deleted"));
    let image = ObjectKey::conversation_image(&conversation, "one", &content);
    let mut task = harness.task_without_image("gone");
    task.output = ObjectKey::findings(&task.component, &image);
    task.work = Work::Findings { image };
    harness.send(&task).await.unwrap();
    assert_eq!(
        failure(&harness.results(1).await.unwrap()[0]),
        Some(ErrorCode::ObjectMissing)
    );
    worker.stop().await.unwrap();
    let letter = harness.queue.take("radialog.findings.dead").await.unwrap();
    assert!(letter.is_none());
}

async fn a_poison_task_in_a_batch_is_found_and_the_others_are_not_blamed(harness: TaskHarness) {
    let stage = Arc::new(findings().batch_limit(8).delay(Duration::from_millis(20)));
    let sent = ["a", "b", "panics", "c", "d"];
    for study in sent {
        // The last attempt, so that the poison is given up at once.
        harness
            .send_attempt(&harness.task(study).await.unwrap(), 4)
            .await
            .unwrap();
    }
    let worker = harness.start(&stage, settings());
    for result in harness.results(sent.len()).await.unwrap() {
        let expected = (result.study.as_str() == "panics").then_some(ErrorCode::Crash);
        assert_eq!(failure(&result), expected, "{}", result.study);
    }
    assert_eq!(
        harness.dead_letter().await.unwrap().death.unwrap().code,
        "crash"
    );
    worker.stop().await.unwrap();
}

async fn a_failure_that_may_pass_is_retried_later_with_the_attempt_counted(harness: TaskHarness) {
    let worker = harness.start(&Arc::new(findings()), settings());
    harness
        .send_attempt(&harness.task("fails").await.unwrap(), 1)
        .await
        .unwrap();
    assert_eq!(
        take(&harness.queue, "radialog.findings.retry.5s")
            .await
            .message
            .attempt,
        2
    );
    let mut soon = waiting_for_a_second(&harness).await;
    harness
        .send(&harness.task("fails too").await.unwrap())
        .await
        .unwrap();
    assert_eq!(next(&mut soon).await.message.attempt, 1);
    worker.stop().await.unwrap();
}

async fn a_task_for_another_bundle_waits_for_another_worker(harness: TaskHarness) {
    let worker = harness.start(&Arc::new(findings()), settings());
    let mut task = harness.task("study").await.unwrap();
    task.component = radialog_schemas::ContentHash::of(b"another");
    let mut soon = waiting_for_a_second(&harness).await;
    harness.send(&task).await.unwrap();
    let waits = next(&mut soon).await.message;
    assert_eq!((waits.attempt, waits.passed_on), (0, 1));
    // A worker that loads other weights takes minutes.
    harness.send_tried(&task, 2, 9).await.unwrap();
    let waits = take(&harness.queue, "radialog.findings.retry.120s").await;
    assert_eq!((waits.message.attempt, waits.message.passed_on), (2, 10));
    // In vain.
    harness.send_tried(&task, 0, 10).await.unwrap();
    let death = harness.dead_letter().await.unwrap().death.unwrap();
    assert_eq!(death.code, "bundle_mismatch");
    assert!(death.reason.contains("RADIALOG_BUNDLE"), "{}", death.reason);
    let result = harness.results(1).await.unwrap().remove(0);
    assert_eq!(failure(&result), Some(ErrorCode::BundleMismatch));
    worker.stop().await.unwrap();
}

/// As in an upgrade, where workers of the other release have passed it on for minutes.
async fn a_task_that_waited_for_its_worker_has_all_its_attempts_there(harness: TaskHarness) {
    let last = ErrorCode::BundleMismatch.retries() as u32;
    let worker = harness.start(&Arc::new(findings()), settings());
    let fails = harness.task("fails").await.unwrap();
    harness.send_tried(&fails, 2, last).await.unwrap();
    let again = take(&harness.queue, "radialog.findings.retry.25s").await;
    // And may wait anew: its worker is there.
    assert_eq!((again.message.attempt, again.message.passed_on), (3, 0));
    assert_eq!(again.message.body, serde_json::to_vec(&fails).unwrap());
    again.receipt.ack().await.unwrap();
    let dead = harness.queue.depth(&queues::dead(WORK)).await.unwrap();
    let results = harness.queue.depth(queues::RESULTS).await.unwrap();
    assert_eq!((dead, results), (0, 0), "nobody is told that it has failed");
    worker.stop().await.unwrap();
}

async fn a_task_for_a_later_revision_waits_for_a_worker_of_that_release(harness: TaskHarness) {
    let worker = harness.start(&Arc::new(findings()), settings());
    let own = *Stage::REVISIONS.get(Stage::Findings);
    let mut later = harness.task("later").await.unwrap();
    later.revision = Some(own + 1);
    let mut soon = waiting_for_a_second(&harness).await;
    harness.send(&later).await.unwrap();
    let waits = next(&mut soon).await;
    assert_eq!((waits.message.attempt, waits.message.passed_on), (0, 1));
    assert_eq!(harness.objects.size(&later.output).await.unwrap(), None);
    // One of an earlier release, which tells a lower revision or none, is done as before.
    for (study, revision) in [
        ("earlier", Some(own - 1)),
        ("untold", None),
        ("own", Some(own)),
    ] {
        let mut task = harness.task(study).await.unwrap();
        task.revision = revision;
        harness.send(&task).await.unwrap();
        assert_eq!(
            failure(&harness.results(1).await.unwrap()[0]),
            None,
            "{study}"
        );
    }
    worker.stop().await.unwrap();
}

async fn a_failure_without_attempts_left_fails_the_study_and_is_dead_lettered(
    harness: TaskHarness,
) {
    let worker = harness.start(&Arc::new(findings()), settings());
    harness
        .send_attempt(&harness.task("fails").await.unwrap(), 4)
        .await
        .unwrap();
    let result = harness.results(1).await.unwrap().remove(0);
    assert_eq!(
        (failure(&result), result.timings.attempt),
        (Some(ErrorCode::Model), 4)
    );
    let letter = harness.dead_letter().await.unwrap();
    let death = letter.death.unwrap();
    assert_eq!(
        (death.code.as_str(), death.worker),
        ("model", settings().worker)
    );
    assert_eq!(letter.attempt, 4);
    worker.stop().await.unwrap();
}

async fn what_a_crashed_worker_held_runs_alone(harness: TaskHarness) {
    for study in ["a", "b", "c"] {
        harness
            .send(&harness.task(study).await.unwrap())
            .await
            .unwrap();
    }
    let mut dies = harness.queue.consume(WORK, 2).await.unwrap();
    let held = [next(&mut dies).await, next(&mut dies).await];
    drop((dies, held));
    let stage = Arc::new(findings().delay(Duration::from_millis(50)));
    let worker = harness.start(&stage, settings());
    assert_eq!(studies(&harness.results(3).await.unwrap()), ["a", "b", "c"]);
    worker.stop().await.unwrap();
    for batch in stage.batches() {
        assert_eq!(
            batch.len(),
            1,
            "two suspects, and one that came when they were gone: {batch:?}"
        );
    }
}

async fn a_task_that_its_workers_keep_dying_on_has_its_attempts_counted(harness: TaskHarness) {
    for (study, attempt) in [("killer", 4), ("innocent", 0)] {
        harness
            .send_attempt(&harness.task(study).await.unwrap(), attempt)
            .await
            .unwrap();
    }
    for _ in 0..2 {
        let mut dies = harness.queue.consume(WORK, 2).await.unwrap();
        let held = [next(&mut dies).await, next(&mut dies).await];
        drop((dies, held));
    }
    let stage = Arc::new(findings().delay(Duration::from_millis(1)));
    let worker = harness.start(&stage, settings());
    // The innocent one is done, and its needless next attempt finds the output.
    let mut results = harness.results(3).await.unwrap();
    results.sort_by_key(|result| (result.study.clone(), result.timings.reused));
    let told: Vec<_> = results
        .iter()
        .map(|r| (r.study.as_str(), failure(r), r.timings.reused))
        .collect();
    let killer = ("killer", Some(ErrorCode::Crash), false);
    assert_eq!(
        told,
        [("innocent", None, false), ("innocent", None, true), killer]
    );
    assert_eq!(results[1].timings.attempt, 1);
    assert_eq!(
        harness.dead_letter().await.unwrap().death.unwrap().code,
        "crash"
    );
    worker.stop().await.unwrap();
    assert_eq!(
        stage.batches(),
        [["innocent".into()]],
        "the killer never ran again"
    );
}

async fn two_tasks_for_one_output_compute_it_once(harness: TaskHarness) {
    let task = harness.task("study").await.unwrap();
    for _ in 0..5 {
        harness.send(&task).await.unwrap();
    }
    let stage = Arc::new(findings().delay(Duration::from_millis(50)));
    let worker = harness.start(&stage, settings());
    let results = harness.results(5).await.unwrap();
    assert_eq!(
        results
            .iter()
            .filter(|result| !result.timings.reused)
            .count(),
        1
    );
    worker.stop().await.unwrap();
    assert_eq!(stage.batches().len(), 1);
}
