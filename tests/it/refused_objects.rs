//! A store that denies one object of many, as a policy of a bucket does: the study that needs it fails with a name, soon, and the
//! others go on. A store that denies everything is waited for, as one that is away.

use std::collections::BTreeMap;
use std::fs;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use radialog_runtime::objects::{ObjectError, Objects};
use radialog_runtime::queue::memory::MemoryQueue;
use radialog_runtime::runner::RunnerSettings;
use radialog_schemas::{
    ContentHash, ErrorCode, ObjectKey, Outcome, Stage, StageResult, StudyRecord, Work,
};
use radialog_tests::fake_stage::FakeStage;
use radialog_tests::fixtures::xrays;
use radialog_tests::processes::radialog;
use radialog_tests::services::{Environment, S3Server, Services};
use radialog_tests::task_harness::TaskHarness;
use radialog_tests::waiting;

use crate::adapters::s3_at;

/// Every operation on objects.
const ALL: [&str; 5] = [
    "GetObject",
    "HeadObject",
    "PutObject",
    "DeleteObject",
    "ListObjectsV2",
];
/// Longer than anything here takes.
const SOON: Duration = Duration::from_secs(60);

/// Our own server, whose rights can be taken away, and a bucket of it.
async fn bucket() -> (&'static S3Server, String, Arc<dyn Objects>) {
    let server = Services::shared().await.unwrap().s3();
    let bucket = server.bucket().unwrap();
    let objects = s3_at(&bucket).await;
    (server, bucket, objects)
}

fn key(name: &str) -> ObjectKey {
    ObjectKey::parse(name).unwrap()
}

fn failure(result: &StageResult) -> Option<ErrorCode> {
    match &result.outcome {
        Outcome::Done { .. } => None,
        Outcome::Failed(failure) => Some(failure.code),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_object_that_is_denied_is_told_from_a_store_that_denies_everything() {
    let (server, bucket, objects) = bucket().await;
    let content = Bytes::from_static(b"content");
    let [denied, other] = ["a/b/denied", "a/b/other"].map(key);
    for key in [&denied, &other] {
        objects.put(key, content.clone()).await.unwrap();
    }
    let errors = async || {
        [
            objects.get(&denied).await.unwrap_err(),
            objects.size(&denied).await.unwrap_err(),
            objects.get_output(&denied).await.unwrap_err(),
            objects.get_range(&denied, 0..1).await.unwrap_err(),
            objects.get_versioned(&denied).await.unwrap_err(),
            objects.put(&denied, content.clone()).await.unwrap_err(),
            objects
                .put_output(&denied, content.clone())
                .await
                .unwrap_err(),
            objects
                .put_if(&denied, content.clone(), None)
                .await
                .unwrap_err(),
        ]
    };
    server.refuse_object(&bucket, denied.as_str());
    for error in errors().await {
        let text = error.to_string();
        assert!(matches!(error, ObjectError::Refused { .. }), "{text}");
        assert!(
            text.contains("a/b/denied") && text.contains("policy"),
            "{text}"
        );
    }
    assert_eq!(objects.get(&other).await.unwrap(), content);
    // What was asked for beside it has left nothing.
    let listed = objects.list("", None, 100).await.unwrap().entries;
    assert_eq!(listed.len(), 2, "{listed:?}");

    server.refuse(&bucket, &["ListObjectsV2"]);
    let unlisted = objects.list("a/", None, 100).await.unwrap_err();
    let text = unlisted.to_string();
    assert!(matches!(unlisted, ObjectError::Refused { .. }), "{text}");
    assert!(text.contains("/a/") && text.contains("to list"), "{text}");

    server.refuse(&bucket, &[&ALL[..], &["HeadBucket"]].concat());
    let unlisted = objects.list("a/", None, 100).await.unwrap_err();
    for error in errors().await.into_iter().chain([unlisted]) {
        let text = error.to_string();
        assert!(matches!(error, ObjectError::Store { .. }), "{text}");
        assert!(text.contains("AWS_ACCESS_KEY_ID"), "{text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_fails_the_task_whose_object_is_denied_and_waits_for_a_store_that_denies_all() {
    let (server, bucket, objects) = bucket().await;
    let queue = Arc::new(MemoryQueue::default());
    let harness = TaskHarness::new(queue.clone()).await.unwrap();
    let harness = harness.with(queue, objects);
    let [denied, fine] = ["denied", "fine"];
    let task = harness.task(denied).await.unwrap();
    let Work::Findings { image } = &task.work else {
        panic!("{task:?}");
    };
    server.refuse_object(&bucket, image.as_str());
    let stage = Arc::new(FakeStage::new(Stage::Findings));
    let worker = harness.start(&stage, RunnerSettings::default());
    // Nobody else asks the store for anything.
    harness.send(&task).await.unwrap();
    let results = harness.results(1).await.unwrap();
    assert_eq!(failure(&results[0]), Some(ErrorCode::ObjectRefused));
    let letter = harness.dead_letter().await.unwrap();
    let death = letter.death.unwrap();
    assert_eq!(death.code, "object_refused");
    assert!(death.reason.contains(image.as_str()), "{}", death.reason);

    let task = harness.task(fine).await.unwrap();
    server.refuse(&bucket, &ALL);
    let before = server.refusals(&bucket);
    harness.send(&task).await.unwrap();
    let is_refused = || async { Ok(server.refusals(&bucket) >= before + 12) };
    waiting::until("the store refuses nothing", SOON, is_refused)
        .await
        .unwrap();
    server.refuse(&bucket, &[]);
    let results = harness.results(1).await.unwrap();
    assert_eq!(failure(&results[0]), None);
    assert_eq!(results[0].timings.attempt, 0, "waiting is no attempt");
    worker.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_names_the_studies_whose_images_are_denied_and_ends() {
    let (server, archive, _) = bucket().await;
    let (_, store, _) = bucket().await;
    let [fine, unread, unstored] = ["00001300_000.jpg", "00001680_000.jpg", "00004344_036.jpg"];
    for name in [fine, unread, unstored] {
        fs::copy(xrays().join(name), server.folder(&archive).join(name)).unwrap();
    }
    server.refuse_object(&archive, unread);
    let content = fs::read(xrays().join(unstored)).unwrap();
    let image = ObjectKey::image(&ContentHash::of(&content));
    server.refuse_object(&store, image.as_str());

    let dir = tempfile::tempdir().unwrap();
    let name = archive.rsplit('/').next().unwrap();
    let url = format!("s3://{name}");
    let mut batch = radialog(&["batch", &url, "--out", "out"]).unwrap();
    batch
        .envs(Environment::default().bucket(&store).variables())
        .current_dir(dir.path())
        .stdin(std::process::Stdio::null());
    let mut batch = tokio::process::Command::from(batch);
    batch.kill_on_drop(true);
    let output = tokio::time::timeout(SOON * 3, batch.output()).await;
    let output = output.expect("the run waits for ever").unwrap();
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(65), "{errors}");
    let lines = fs::read_to_string(dir.path().join("out/results.jsonl")).unwrap();
    let records = lines.lines().map(|line| {
        let record: StudyRecord = serde_json::from_str(line).unwrap();
        (record.file, record.error.map(|failure| failure.code))
    });
    let records: BTreeMap<_, _> = records.collect();
    let refused = Some(ErrorCode::ObjectRefused);
    let expected = [(fine, None), (unread, refused), (unstored, refused)];
    let expected = expected.map(|(file, code)| (file.to_owned(), code));
    assert_eq!(records, expected.into());
}
