//! Runs in which everything goes wrong that may: each study is there exactly once, with the same record.

use std::time::Duration;

use radialog_coordinator::{ArchiveRun, ResultConsumer, RunOptions, RunProgress};
use radialog_runtime::queue::Message;
use radialog_runtime::state::{Fact, Facts, STUDY_FIELD};
use radialog_schemas::queues::{self, RETRY_DELAYS};
use radialog_schemas::{
    ErrorCode, Failure, Outcome, RunId, SCHEMA_VERSION, StageResult, StageTimings,
};
use radialog_tests::embedded::{batch_options, run_batch, synthetic_archive};
use radialog_tests::faults::{Denial, FaultInjector};
use radialog_tests::waiting;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::*;

const STUDIES: u64 = 300;

/// Compares with a run over a fixture of its own in which nothing happens.
async fn assert_as_if_nothing_happened(out: &Path) {
    let quiet = BatchFixture::new().await;
    run_batch(
        batch_options(synthetic_archive(STUDIES), &quiet.out()),
        &quiet.backends,
    )
    .await
    .unwrap();
    let expected = without_timings(&quiet.out());
    let found = without_timings(out);
    assert_eq!(found.len() as u64, STUDIES);
    assert_eq!(found, expected);
}

/// Slow enough that things can happen in mid-run.
async fn slow_fixture() -> BatchFixture {
    BatchFixture::with(|stage| FakeStage::new(stage).delay(Duration::from_millis(10))).await
}

fn with_small_window(fixture: &BatchFixture) -> RunOptions {
    RunOptions {
        window: 40,
        ..batch_options(synthetic_archive(STUDIES), &fixture.out())
    }
}

/// Lets `fault` happen when a few studies are done.
async fn run_with_fault<F: Future>(
    options: RunOptions,
    backends: &Backends,
    fault: impl FnOnce() -> F,
) -> RunSummary {
    let (progress, mut seen) = watch::channel(RunProgress::default());
    let batch = ArchiveRun::new(options, backends.clone());
    let running = tokio::spawn(batch.run(CancellationToken::new(), progress));
    seen.wait_for(|progress| progress.done >= 40).await.unwrap();
    fault().await;
    tokio::time::timeout(Duration::from_secs(60), running)
        .await
        .expect("the run hangs")
        .unwrap()
        .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_coordinator_killed_at_any_point_leaves_a_run_that_completes() {
    let fixture = slow_fixture().await;
    // What is told comes four times a second: the milliseconds lead to points between, and nothing has to happen in them.
    for (done, milliseconds) in [
        (0, 5),
        (0, 20),
        (0, 35),
        (1, 0),
        (60, 50),
        (120, 80),
        (200, 120),
    ] {
        let (progress, mut seen) = watch::channel(RunProgress::default());
        let batch = ArchiveRun::new(with_small_window(&fixture), fixture.backends.clone());
        // Its threads end with it, as a process's do: who drops a runtime waits for them.
        let process = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let running = process.spawn(batch.run(CancellationToken::new(), progress));
        // An error where it has ended before.
        let _ = seen.wait_for(|progress| progress.done >= done).await;
        tokio::time::sleep(Duration::from_millis(milliseconds)).await;
        // Dropped wherever it is, with the state, the queues and the workers going on, as by SIGKILL.
        tokio::task::spawn_blocking(move || drop(process))
            .await
            .unwrap();
        // A fast machine is through before the later points.
        if let Ok(ended) = running.await {
            assert_eq!(ended.unwrap().studies, STUDIES);
        }
    }
    let summary = run_batch(with_small_window(&fixture), &fixture.backends)
        .await
        .unwrap();
    assert_eq!(summary.studies, STUDIES);
    assert!(summary.session.resumed > 0);
    assert_as_if_nothing_happened(&fixture.out()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn lines_that_were_appended_and_not_discarded_are_not_appended_again() {
    let fixture = slow_fixture().await;
    let faults = Arc::new(FaultInjector::default());
    let backends = faults.over(&fixture.backends);
    faults.lose_state_responses();
    run_batch(with_small_window(&fixture), &backends)
        .await
        .unwrap();
    assert_as_if_nothing_happened(&fixture.out()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn broker_store_and_state_may_go_away_for_a_while() {
    let fixture = slow_fixture().await;
    let faults = Arc::new(FaultInjector::default());
    let backends = faults.over(&fixture.backends);
    run_with_fault(with_small_window(&fixture), &backends, || async {
        for _ in 0..3 {
            faults.set_unreachable(true);
            tokio::time::sleep(Duration::from_millis(300)).await;
            faults.set_unreachable(false);
            tokio::time::sleep(Duration::from_millis(30)).await;
        }
    })
    .await;
    assert_as_if_nothing_happened(&fixture.out()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn studies_that_the_state_forgot_begin_again() {
    let fixture = slow_fixture().await;
    let faults = Arc::new(FaultInjector::default());
    let backends = faults.over(&fixture.backends);
    run_with_fault(with_small_window(&fixture), &backends, || async {
        faults.lose_state()
    })
    .await;
    assert_as_if_nothing_happened(&fixture.out()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_the_state_forgot_before_its_first_study_began_is_told_again() {
    let fixture = slow_fixture().await;
    let faults = Arc::new(FaultInjector::default());
    let backends = faults.over(&fixture.backends);
    // The run is known, and its first images wait for the store.
    faults.deny("images/", Denial::Failing);
    let run = ArchiveRun::new(with_small_window(&fixture), backends);
    let (progress, _seen) = watch::channel(RunProgress::default());
    let running = tokio::spawn(run.run(CancellationToken::new(), progress));
    let is_waiting = || async { Ok(faults.denials_met() > 0) };
    waiting::until("no image is stored", Duration::from_secs(60), is_waiting)
        .await
        .unwrap();
    faults.lose_state();
    faults.allow_all();
    tokio::time::timeout(Duration::from_secs(180), running)
        .await
        .expect("its results count")
        .unwrap()
        .unwrap();
    assert_as_if_nothing_happened(&fixture.out()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tasks_that_the_broker_lost_are_published_again() {
    let fixture = slow_fixture().await;
    let faults = Arc::new(FaultInjector::default());
    let backends = faults.over(&fixture.backends);
    faults.lose_messages(30);
    run_batch(
        RunOptions {
            stall: Duration::from_millis(500),
            ..with_small_window(&fixture)
        },
        &backends,
    )
    .await
    .unwrap();
    assert_as_if_nothing_happened(&fixture.out()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tasks_and_results_may_come_twice() {
    let fixture = slow_fixture().await;
    let faults = Arc::new(FaultInjector::default());
    let backends = faults.over(&fixture.backends);
    faults.duplicate_messages();
    // Workers that say everything twice, too.
    let _workers = start_workers(&backends, FakeStage::new).await.unwrap();
    run_batch(with_small_window(&fixture), &backends)
        .await
        .unwrap();
    assert_as_if_nothing_happened(&fixture.out()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_coordinators_share_the_results_queue() {
    let fixture = BatchFixture::new().await;
    let shutdown = CancellationToken::new();
    let second = ResultConsumer::new(fixture.backends.clone(), "second", shutdown.clone());
    let second = tokio::spawn(second.run());
    run_batch(with_small_window(&fixture), &fixture.backends)
        .await
        .unwrap();
    shutdown.cancel();
    let ended = tokio::time::timeout(Duration::from_secs(60), second).await;
    ended.expect("the second does not stop").unwrap().unwrap();
    assert_as_if_nothing_happened(&fixture.out()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_result_whose_run_cannot_be_read_or_never_comes_is_no_fact_and_dead_lettered() {
    let dir = tempfile::tempdir().unwrap();
    let backends = backends(dir.path()).unwrap();
    backends.queue.declare().await.unwrap();
    let (unknown, later) = (RunId::from("unknown"), RunId::from("later"));
    let document = r#"{"a": "run of a later release"}"#.to_owned();
    let told = backends.state.put_document(&later, "spec", document);
    told.await.unwrap();
    let description = |run: &RunId| {
        [Fact {
            run: run.clone(),
            study: "study".into(),
            field: STUDY_FIELD.to_owned(),
            value: "x".to_owned(),
            of: None,
        }]
    };
    for run in [&unknown, &later] {
        backends.state.begin(&description(run)).await.unwrap();
        let failure = Failure::new(ErrorCode::ImageCorrupt, "x");
        let result = StageResult {
            schema_version: SCHEMA_VERSION,
            run: run.clone(),
            study: "study".into(),
            stage: Stage::Findings,
            task_output: None,
            outcome: Outcome::Failed(failure),
            timings: StageTimings::default(),
        };
        let message = Message {
            body: serde_json::to_vec(&result).unwrap().into(),
            // The last one.
            passed_on: ErrorCode::SchemaVersion.retries() as u32,
            ..Message::default()
        };
        let told = backends.queue.publish(queues::RESULTS, message);
        told.await.unwrap();
    }
    let stop = CancellationToken::new();
    let results = ResultConsumer::new(backends.clone(), "results", stop.clone());
    tokio::spawn(results.run());
    let _results = stop.drop_guard();
    let letters = queues::dead(queues::RESULTS);
    let mut told = Vec::new();
    for _ in [&unknown, &later] {
        let take = || async { Ok(backends.queue.take(&letters).await?) };
        let dead = waiting::found("nothing is dead-lettered", Duration::from_secs(60), take);
        let dead = dead.await.unwrap();
        assert_eq!(dead.message.death.as_ref().unwrap().code, "schema_version");
        let result: StageResult = serde_json::from_slice(&dead.message.body).unwrap();
        told.push(result.run);
        dead.receipt.ack().await.unwrap();
    }
    told.sort();
    assert_eq!(told, [later.clone(), unknown.clone()]);
    let only = Facts::from([(STUDY_FIELD.to_owned(), "x".to_owned())]);
    for run in [&unknown, &later] {
        let known = backends.state.record(&description(run)).await.unwrap();
        assert_eq!(known, [Some(only.clone())]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_that_are_no_results_are_dead_lettered_with_the_reason_and_the_run_goes_on() {
    let fixture = BatchFixture::new().await;
    let newer = r#"{"schema_version": 99}"#;
    let last = ErrorCode::SchemaVersion.retries() as u32;
    for (body, passed_on) in [("not json", 0), (newer, 0), (newer, last)] {
        let message = Message {
            body: body.into(),
            passed_on,
            ..Message::default()
        };
        fixture
            .backends
            .queue
            .publish(queues::RESULTS, message)
            .await
            .unwrap();
    }
    run_batch(with_small_window(&fixture), &fixture.backends)
        .await
        .unwrap();
    let dead = queues::dead(queues::RESULTS);
    let mut codes = Vec::new();
    while let Some(delivery) = fixture.backends.queue.take(&dead).await.unwrap() {
        let death = delivery.message.death.clone().unwrap();
        assert_eq!(death.source, queues::RESULTS);
        codes.push(death.code);
        delivery.receipt.ack().await.unwrap();
    }
    codes.sort();
    assert_eq!(codes, ["message_invalid", "schema_version"]);
    // The other one waits for a coordinator that knows it.
    let waiting = (0..RETRY_DELAYS.len()).map(|step| queues::retry(queues::RESULTS, step));
    let depths = waiting.map(|name| {
        let queue = fixture.backends.queue.clone();
        async move { queue.depth(&name).await.unwrap() }
    });
    let ready = fixture.backends.queue.depth(queues::RESULTS).await.unwrap();
    let waiting: u64 = futures::future::join_all(depths).await.iter().sum();
    assert_eq!(waiting + ready, 1);
    assert_as_if_nothing_happened(&fixture.out()).await;
}
