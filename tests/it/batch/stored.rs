//! Runs whose results are in a store: whatever happens to the machine, each study has one line there.

use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use radialog_coordinator::run::{LeaseTimes, StoredOutput};
use radialog_coordinator::{ArchiveRun, CoordinatorError, RunOptions, RunProgress};
use radialog_schemas::{ObjectKey, Stage, StageSet};
use radialog_tests::embedded::{batch_options, run_batch, synthetic_archive};
use radialog_tests::fake_stage::FakeStage;
use radialog_tests::faults::FaultInjector;
use radialog_tests::waiting;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::*;

const URL: &str = "s3://bucket/runs/a";
const PREFIX: &str = "runs/a";

/// A session that is silent is dead at once.
const IMPATIENT: LeaseTimes = LeaseTimes {
    beat: Duration::from_millis(20),
    expiry: Duration::from_millis(300),
};
/// A session that is silent is never given up.
const PATIENT: LeaseTimes = LeaseTimes {
    beat: Duration::from_millis(20),
    expiry: Duration::from_secs(3600),
};

impl BatchFixture {
    fn options(&self, studies: u64) -> RunOptions {
        batch_options(synthetic_archive(studies), Path::new(""))
    }

    async fn output(
        &self,
        options: &RunOptions,
        times: LeaseTimes,
    ) -> Result<StoredOutput, CoordinatorError> {
        self.output_in(&self.backends, options, times).await
    }

    async fn output_in(
        &self,
        backends: &Backends,
        options: &RunOptions,
        times: LeaseTimes,
    ) -> Result<StoredOutput, CoordinatorError> {
        let objects = backends.objects.clone();
        let work = self.dir.path().join("work");
        StoredOutput::open(objects, PREFIX, (URL, "test"), &work, options, times).await
    }

    /// Runs to the end, as `radialog batch` does.
    async fn run_stored(&self, mut options: RunOptions) -> Result<RunSummary, CoordinatorError> {
        let output = self.output(&options, IMPATIENT).await?;
        (options.out, options.changed) = (output.folder().to_owned(), output.changed());
        let summary = tokio::select! {
            summary = run_batch(options, &self.backends) => summary?,
            lost = output.keep() => return Err(lost),
        };
        output.finish().await?;
        Ok(summary)
    }

    /// Begins a run, and loses the machine when this many studies are done and the session's record names results in the store:
    /// a piece that it does not name yet is none.
    async fn lose_a_run_at(&self, mut options: RunOptions, done: u64) {
        let output = self.output(&options, IMPATIENT).await.unwrap();
        options.out = output.folder().to_owned();
        let (progress, mut seen) = watch::channel(RunProgress::default());
        let run = ArchiveRun::new(options, self.backends.clone());
        let reached = async {
            seen.wait_for(|progress| progress.done >= done)
                .await
                .unwrap();
            let is_named = || async { Ok(!self.named_pieces().await.is_empty()) };
            waiting::until("no results are named", Duration::from_secs(60), is_named)
                .await
                .unwrap();
        };
        // On a slow disk all studies may be done before the first lines are named: then it is lost before it publishes.
        let lost = async {
            run.run(CancellationToken::new(), progress).await.unwrap();
            std::future::pending::<()>().await;
        };
        tokio::select! {
            () = lost => {}
            error = output.keep() => panic!("{error}"),
            () = reached => {}
        }
        // What the dropped run was at may end a moment later.
        let _ = fs::remove_dir_all(output.folder());
    }

    async fn names(&self, below: &str) -> Vec<String> {
        let prefix = format!("{PREFIX}/{below}");
        let page = self
            .backends
            .objects
            .list(&prefix, None, 1000)
            .await
            .unwrap();
        let names = page.entries.iter().map(|entry| entry.key.to_string());
        names.collect()
    }

    async fn pieces(&self) -> Vec<String> {
        self.names("session/lines-").await
    }

    /// The pieces that the session's record names; a slow run has more of them than a quick one.
    async fn named_pieces(&self) -> Vec<String> {
        let session = ObjectKey::parse(&format!("{PREFIX}/session/session.json")).unwrap();
        let session = self.backends.objects.get(&session).await.unwrap();
        let session: serde_json::Value = serde_json::from_slice(&session).unwrap();
        let pieces = session["pieces"].as_array().unwrap().iter();
        let mut named: Vec<String> = pieces
            .map(|piece| format!("{PREFIX}/session/{}", piece["name"].as_str().unwrap()))
            .collect();
        named.sort();
        named
    }

    /// The results as they lie in the store, in a folder.
    async fn stored_results(&self) -> std::path::PathBuf {
        let folder = self.dir.path().join("seen");
        fs::create_dir_all(&folder).unwrap();
        let key = ObjectKey::parse(&format!("{PREFIX}/results.jsonl")).unwrap();
        let content = self.backends.objects.get(&key).await.unwrap();
        fs::write(folder.join("results.jsonl"), content).unwrap();
        folder
    }
}

fn slow(stage: Stage) -> FakeStage {
    FakeStage::new(stage).delay(Duration::from_millis(10))
}

#[tokio::test(flavor = "multi_thread")]
async fn results_lie_under_the_prefix_and_equal_those_of_a_folder() {
    let fixture = BatchFixture::new().await;
    let summary = fixture.run_stored(fixture.options(50)).await.unwrap();
    assert_eq!((summary.done, summary.failed), (50, 0));
    let in_folder = batch_options(synthetic_archive(50), &fixture.out());
    run_batch(in_folder, &fixture.backends).await.unwrap();
    let stored = fixture.stored_results().await;
    assert_eq!(without_timings(&stored), without_timings(&fixture.out()));
    for name in ["results.csv", "run.json", "summary.json"] {
        assert_eq!(fixture.names(name).await.len(), 1, "{name}");
    }
    let left = fs::read_dir(fixture.dir.path().join("work")).unwrap();
    assert_eq!(left.count(), 0, "the working folder goes with the run");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_whose_machine_is_lost_goes_on_elsewhere_with_one_line_a_study() {
    let fixture = BatchFixture::with(slow).await;
    fixture.lose_a_run_at(fixture.options(400), 40).await;
    fixture.lose_a_run_at(fixture.options(400), 120).await;
    let summary = fixture.run_stored(fixture.options(400)).await.unwrap();
    assert_eq!(summary.studies, 400);
    assert!(summary.session.resumed > 0);
    let stored = fixture.stored_results().await;
    assert_eq!(records(&stored).len(), 400);
    // Again: nothing is left to do.
    let again = fixture.run_stored(fixture.options(400)).await.unwrap();
    assert_eq!((again.session.resumed, again.session.studies), (400, 0));
    assert_eq!(again.run, summary.run);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_run_into_a_prefix_is_refused_while_the_first_is_alive() {
    let fixture = BatchFixture::new().await;
    let first = fixture.output(&fixture.options(5), PATIENT).await.unwrap();
    let options = fixture.options(5);
    let error = tokio::select! {
        second = fixture.output(&options, PATIENT) => second.err().unwrap(),
        lost = first.keep() => panic!("{lost}"),
    };
    assert!(matches!(error, CoordinatorError::Locked { .. }));
    assert!(error.to_string().contains(URL), "{error}");
    first.finish().await.unwrap();
    // It has let go.
    fixture.output(&options, PATIENT).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_was_taken_for_dead_changes_nothing_any_more() {
    let fixture = BatchFixture::new().await;
    let mut options = fixture.options(20);
    // Frozen before it could store anything.
    let frozen = fixture.output(&options, IMPATIENT).await.unwrap();
    options.out = frozen.folder().to_owned();
    run_batch(options, &fixture.backends).await.unwrap();
    fixture.run_stored(fixture.options(20)).await.unwrap();
    let before = fixture.names("").await;
    let error = frozen.finish().await.unwrap_err();
    assert!(
        matches!(error, CoordinatorError::TakenOver { .. }),
        "{error}"
    );
    let kept = |names: Vec<String>| {
        let names = names.into_iter().filter(|name| !name.contains("lines-"));
        names.collect::<Vec<_>>()
    };
    assert_eq!(kept(fixture.names("").await), kept(before));
    assert_eq!(records(&fixture.stored_results().await).len(), 20);
    // What it has put there goes with the next session.
    fixture.run_stored(fixture.options(20)).await.unwrap();
    assert_eq!(fixture.pieces().await, fixture.named_pieces().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_publishes_or_restores_for_long_keeps_its_prefix() {
    let fixture = BatchFixture::new().await;
    let faults = Arc::new(FaultInjector::default());
    let slow = faults.over(&fixture.backends);
    let mut options = fixture.options(20);
    let output = fixture.output_in(&slow, &options, IMPATIENT).await.unwrap();
    options.out = output.folder().to_owned();
    run_batch(options, &fixture.backends).await.unwrap();
    faults.hold_transfers_after(0);
    let publishing = tokio::spawn(output.finish());
    faults.until_transfers(1).await;
    // It waits for as long as nothing changes: only signs of life can refuse it.
    let second = fixture.output(&fixture.options(20), PATIENT).await;
    assert!(matches!(second, Err(CoordinatorError::Locked { .. })));
    faults.release_transfers();
    publishing.await.unwrap().unwrap();
    assert_eq!(records(&fixture.stored_results().await).len(), 20);

    faults.hold_transfers_after(0);
    let options = fixture.options(20);
    let mut restoring = std::pin::pin!(fixture.output_in(&slow, &options, IMPATIENT));
    tokio::select! {
        _ = &mut restoring => panic!("it must wait for a piece"),
        () = faults.until_transfers(2) => {}
    }
    tokio::select! {
        _ = &mut restoring => panic!("it must wait for a piece"),
        second = fixture.output(&options, PATIENT) => {
            assert!(matches!(second, Err(CoordinatorError::Locked { .. })));
        }
    }
    faults.release_transfers();
    restoring.await.unwrap().finish().await.unwrap();
    assert_eq!(records(&fixture.stored_results().await).len(), 20);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_of_a_frozen_session_does_not_replace_what_its_successor_has_published() {
    let fixture = BatchFixture::new().await;
    let faults = Arc::new(FaultInjector::default());
    let slow = faults.over(&fixture.backends);
    let mut options = RunOptions {
        limit: Some(20),
        ..fixture.options(40)
    };
    let output = fixture.output_in(&slow, &options, IMPATIENT).await.unwrap();
    options.out = output.folder().to_owned();
    run_batch(options, &fixture.backends).await.unwrap();
    // run.json is there, results.jsonl is on its way, and then nobody polls the session any more.
    faults.hold_transfers_after(1);
    let mut frozen = std::pin::pin!(output.finish());
    tokio::select! {
        _ = &mut frozen => panic!("it must wait for the store"),
        () = faults.until_transfers(2) => {}
    }
    let summary = fixture.run_stored(fixture.options(40)).await.unwrap();
    assert_eq!(summary.studies, 40);
    faults.release_transfers();
    let error = frozen.await.unwrap_err();
    assert!(
        matches!(error, CoordinatorError::TakenOver { .. }),
        "{error}"
    );
    assert_eq!(records(&fixture.stored_results().await).len(), 40);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_working_folder_of_a_stored_run_is_its_owners_alone() {
    let fixture = BatchFixture::new().await;
    let output = fixture.output(&fixture.options(5), PATIENT).await.unwrap();
    let mode = fs::metadata(output.folder()).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o700);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_piece_that_is_lost_or_damaged_costs_its_studies_another_look() {
    let fixture = BatchFixture::with(slow).await;
    fixture.run_stored(fixture.options(60)).await.unwrap();
    let pieces = fixture.pieces().await;
    assert_eq!(
        pieces,
        fixture.named_pieces().await,
        "no piece without a name is left"
    );
    let key = ObjectKey::parse(&pieces[0]).unwrap();
    fixture
        .backends
        .objects
        .put(&key, "broken\n".into())
        .await
        .unwrap();
    let summary = fixture.run_stored(fixture.options(60)).await.unwrap();
    assert_eq!(summary.studies, 60);
    assert!(summary.session.studies > 0 && summary.reused > 0);
    assert_eq!(records(&fixture.stored_results().await).len(), 60);
}

#[tokio::test(flavor = "multi_thread")]
async fn failed_studies_of_a_stored_run_are_tried_again_and_another_run_is_refused() {
    let fixture = BatchFixture::new().await;
    fixture.write(&["a.png", "b.png"]);
    fixture.write_file("c.png", b"");
    let options = async || RunOptions {
        archive: fixture.archive("").await,
        ..fixture.options(0)
    };
    let summary = fixture.run_stored(options().await).await.unwrap();
    assert_eq!((summary.done, summary.failed), (2, 1));
    fixture.write(&["c.png"]);
    let retry = RunOptions {
        retry_failed: true,
        ..options().await
    };
    let summary = fixture.run_stored(retry).await.unwrap();
    assert_eq!((summary.done, summary.failed), (3, 0));
    assert_eq!(records(&fixture.stored_results().await).len(), 3);

    let other = RunOptions {
        stages: StageSet::closure(&[Stage::Findings]),
        ..options().await
    };
    let error = fixture.run_stored(other).await.unwrap_err().to_string();
    assert!(error.contains(URL) && error.contains("stages"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn studies_of_a_stored_run_whose_image_is_another_are_counted() {
    let fixture = BatchFixture::new().await;
    fixture.write(&["a.png", "b.png"]);
    let options = async || RunOptions {
        archive: fixture.archive("").await,
        ..fixture.options(0)
    };
    fixture.run_stored(options().await).await.unwrap();
    fixture.write_file("a.png", &image("another"));
    let summary = fixture.run_stored(options().await).await.unwrap();
    let session = &summary.session;
    assert_eq!(
        (session.changed, session.resumed, session.studies),
        (1, 1, 1)
    );
    let summary = fixture.run_stored(options().await).await.unwrap();
    assert_eq!((summary.session.changed, summary.done), (0, 2));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_does_not_know_conditional_writes_is_refused() {
    let fixture = BatchFixture::new().await;
    let faults = Arc::new(FaultInjector::default());
    faults.ignore_conditions();
    let backends = faults.over(&fixture.backends);
    let options = fixture.options(5);
    let refused = fixture.output_in(&backends, &options, PATIENT).await;
    let error = refused.err().unwrap();
    assert!(error.to_string().contains("If-None-Match"), "{error}");
    // It holds nobody up.
    fixture.output(&options, PATIENT).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_whose_answer_is_lost_is_no_other_session() {
    let fixture = BatchFixture::with(slow).await;
    let faults = Arc::new(FaultInjector::default());
    let backends = faults.over(&fixture.backends);
    let mut options = fixture.options(100);
    let output = fixture.output_in(&backends, &options, IMPATIENT).await;
    let output = output.unwrap();
    faults.lose_store_answers();
    options.out = output.folder().to_owned();
    tokio::select! {
        summary = run_batch(options, &fixture.backends) => drop(summary.unwrap()),
        lost = output.keep() => panic!("{lost}"),
    }
    output.finish().await.unwrap();
    assert_eq!(records(&fixture.stored_results().await).len(), 100);
}
