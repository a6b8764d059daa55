//! Good and bad messages.

use std::sync::Arc;
use std::time::Duration;

use radialog_runtime::runner::RunnerSettings;
use radialog_schemas::{ErrorCode, Outcome};

use super::{embedded, findings};

fn code(outcome: &Outcome) -> Option<ErrorCode> {
    match outcome {
        Outcome::Done { .. } => None,
        Outcome::Failed(failure) => Some(failure.code),
    }
}

#[tokio::test]
async fn a_task_is_done_and_done_again_it_is_reused() {
    let (_directory, desk) = embedded().await;
    let worker = desk.start(&Arc::new(findings()), RunnerSettings::default());
    let task = desk.task("study").await.unwrap();
    for reused in [false, true] {
        desk.send(&task).await.unwrap();
        let result = desk.results(1).await.unwrap().remove(0);
        assert_eq!(result.outcome, Outcome::Done { output: task.output.clone() });
        assert_eq!(result.timings.reused, reused);
    }
    assert!(desk.objects.size(&task.output).await.unwrap().is_some());
    worker.stop().await.unwrap();
}

#[tokio::test]
async fn what_is_not_a_task_is_dead_lettered_and_the_worker_lives() {
    let (_directory, desk) = embedded().await;
    let worker = desk.start(&Arc::new(findings()), RunnerSettings::default());
    desk.send_bytes(b"hello").await.unwrap();
    let death = desk.dead_letter().await.unwrap().death.unwrap();
    assert_eq!((death.code.as_str(), death.source.as_str()), ("message_invalid", "radialog.findings"));

    let mut newer = serde_json::to_value(desk.task("newer").await.unwrap()).unwrap();
    newer["schema_version"] = 99.into();
    desk.send_bytes(newer.to_string().as_bytes()).await.unwrap();
    assert_eq!(desk.dead_letter().await.unwrap().death.unwrap().code, "schema_version");
    let lost = desk.results(1).await.unwrap().remove(0);
    assert_eq!((lost.study.as_str(), code(&lost.outcome)), ("newer", Some(ErrorCode::SchemaVersion)));

    let missing = desk.task_without_image("missing");
    desk.send(&missing).await.unwrap();
    assert_eq!(desk.dead_letter().await.unwrap().death.unwrap().code, "object_missing");
    assert_eq!(code(&desk.results(1).await.unwrap()[0].outcome), Some(ErrorCode::ObjectMissing));

    desk.send(&desk.task("good").await.unwrap()).await.unwrap();
    assert_eq!(code(&desk.results(1).await.unwrap()[0].outcome), None);
    worker.stop().await.unwrap();
}

#[tokio::test]
async fn a_study_with_a_bad_image_fails_without_a_dead_letter() {
    let (_directory, desk) = embedded().await;
    let worker = desk.start(&Arc::new(findings()), RunnerSettings::default());
    desk.send(&desk.task("corrupt").await.unwrap()).await.unwrap();
    assert_eq!(code(&desk.results(1).await.unwrap()[0].outcome), Some(ErrorCode::ImageCorrupt));
    worker.stop().await.unwrap();
    assert!(desk.queue.take("radialog.findings.dead").await.unwrap().is_none());
}

#[tokio::test]
async fn a_poison_task_in_a_batch_is_found_and_the_others_are_not_blamed() {
    let (_directory, desk) = embedded().await;
    let stage = Arc::new(findings().batch_limit(8).delay(Duration::from_millis(20)));
    let studies = ["a", "b", "panics", "c", "d"];
    for study in studies {
        // The last attempt, so that the poison is given up at once.
        desk.send_attempt(&desk.task(study).await.unwrap(), 4).await.unwrap();
    }
    let worker = desk.start(&stage, RunnerSettings::default());
    for result in desk.results(studies.len()).await.unwrap() {
        let expected = (result.study.as_str() == "panics").then_some(ErrorCode::Crash);
        assert_eq!(code(&result.outcome), expected, "{}", result.study);
    }
    assert_eq!(desk.dead_letter().await.unwrap().death.unwrap().code, "crash");
    worker.stop().await.unwrap();
}

#[tokio::test]
async fn a_failure_that_may_pass_is_retried_later_with_the_attempt_counted() {
    let (_directory, desk) = embedded().await;
    let worker = desk.start(&Arc::new(findings()), RunnerSettings::default());
    desk.send_attempt(&desk.task("fails").await.unwrap(), 1).await.unwrap();
    let waits = async {
        loop {
            if let Some(delivery) = desk.queue.take("radialog.findings.retry.5s").await.unwrap() {
                break delivery;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    assert_eq!(waits.await.message.attempt, 2);
    worker.stop().await.unwrap();
}
