//! Runs in which nothing goes wrong, and their resumption.

use std::time::Duration;

use radialog_coordinator::{ArchiveRun, RunProgress, plan_run};
use radialog_schemas::{Stage, StageSet, StudyStatus};
use radialog_tests::embedded::{batch_options, run_batch, synthetic_archive};
use radialog_tests::fake_stage::{CORRUPT, FakeStage};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_becomes_one_record_a_study_with_a_table_and_a_summary() {
    let fixture = BatchFixture::new().await;
    fixture.write(&["=1+1.png", "a.png", "b/c.jpg", "b/d.JPEG", "notes.txt"]);
    let summary = run_batch(
        batch_options(fixture.archive("").await, &fixture.out()),
        &fixture.backends,
    )
    .await
    .unwrap();
    let records = records(&fixture.out());
    let studies = records.keys().collect::<Vec<_>>();
    assert_eq!(studies, ["=1+1", "a", "b/c", "b/d"]);
    for record in records.values() {
        assert_eq!(record.status, StudyStatus::Done, "{record:?}");
        assert_eq!(record.findings.as_ref().unwrap().len(), 14);
        assert_eq!(record.report_labels.as_ref().unwrap().len(), 14);
        assert_eq!(record.comparisons.as_deref(), Some(&[][..]));
        assert!(record.report.is_some() && record.disagreement.is_some());
        assert_eq!(record.timings.len(), 4);
    }
    assert_eq!(
        (
            summary.studies,
            summary.done,
            summary.failed,
            summary.reused
        ),
        (4, 4, 0, 0)
    );
    assert_eq!(summary.stages[&Stage::Scoring].done, 4);
    assert_eq!(summary.prevalence.len(), 14);
    assert!(!summary.interrupted && summary.disagreement_rate.is_some());
    let table = fs::read_to_string(fixture.out().join("results.csv")).unwrap();
    assert_eq!(table.lines().count(), 5);
    // No spreadsheet runs it.
    let escaped = table.lines().find(|row| row.starts_with("'=1+1,"));
    assert!(escaped.is_some(), "{table}");
    let written: RunSummary =
        serde_json::from_slice(&fs::read(fixture.out().join("summary.json")).unwrap()).unwrap();
    assert_eq!((written.run, written.done), (summary.run, 4));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_run_reuses_every_output_and_gives_the_same_records() {
    let fixture = BatchFixture::new().await;
    let archive = || synthetic_archive(50);
    let other = fixture.dir.path().join("other");
    run_batch(batch_options(archive(), &fixture.out()), &fixture.backends)
        .await
        .unwrap();
    let summary = run_batch(batch_options(archive(), &other), &fixture.backends)
        .await
        .unwrap();
    assert_eq!((summary.done, summary.reused), (50, 50));
    assert_eq!(summary.stages[&Stage::Language].reused, 50);
    assert_eq!(without_timings(&fixture.out()), without_timings(&other));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_interrupted_run_resumes_with_what_is_missing() {
    let fixture =
        BatchFixture::with(|stage| FakeStage::new(stage).delay(Duration::from_millis(25))).await;
    let archive = || synthetic_archive(400);
    let (progress, mut seen) = watch::channel(RunProgress::default());
    let shutdown = CancellationToken::new();
    let batch = ArchiveRun::new(
        batch_options(archive(), &fixture.out()),
        fixture.backends.clone(),
    );
    let running = tokio::spawn(batch.run(shutdown.clone(), progress));
    seen.wait_for(|progress| progress.done >= 50).await.unwrap();
    shutdown.cancel();
    let first = tokio::time::timeout(Duration::from_secs(180), running).await;
    let first = first.expect("the run does not stop").unwrap().unwrap();
    assert!(
        first.interrupted && first.done >= 50 && first.done < 400,
        "{first:?}"
    );

    let second = run_batch(batch_options(archive(), &fixture.out()), &fixture.backends)
        .await
        .unwrap();
    assert_eq!(
        (second.studies, second.done, second.interrupted),
        (400, 400, false)
    );
    assert_eq!(second.session.resumed, first.studies);
    assert_eq!(second.session.studies, 400 - first.studies);
    assert_eq!(records(&fixture.out()).len(), 400);

    let third = run_batch(batch_options(archive(), &fixture.out()), &fixture.backends)
        .await
        .unwrap();
    assert_eq!((third.studies, third.session.studies), (400, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn failed_studies_are_run_again_only_when_asked() {
    let fixture = BatchFixture::new().await;
    let corrupt = format!("{CORRUPT}.png");
    fixture.write(&["a.png", &corrupt]);
    let options = || async { batch_options(fixture.archive("").await, &fixture.out()) };
    let first = run_batch(options().await, &fixture.backends).await.unwrap();
    assert_eq!((first.done, first.failed), (1, 1));
    assert_eq!(first.failed_by_code["image_corrupt"], 1);
    let record = &records(&fixture.out())[CORRUPT];
    assert_eq!(record.failed_stage, Some(Stage::Embedding));
    assert_eq!(
        record.timings.len(),
        2,
        "the sibling of the failed stage was waited for"
    );
    assert_eq!(first.stages[&Stage::Findings].failed, 1);

    assert_eq!(
        run_batch(options().await, &fixture.backends)
            .await
            .unwrap()
            .session
            .studies,
        0
    );
    let mut again = options().await;
    again.retry_failed = true;
    let third = run_batch(again, &fixture.backends).await.unwrap();
    assert_eq!(
        (third.session.studies, third.session.resumed, third.studies),
        (1, 1, 2)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn only_the_asked_stages_run_and_only_the_first_studies() {
    let fixture = BatchFixture::new().await;
    let mut options = batch_options(synthetic_archive(20), &fixture.out());
    options.stages = StageSet::closure(&[Stage::Findings]);
    options.limit = Some(7);
    let summary = run_batch(options, &fixture.backends).await.unwrap();
    assert_eq!(summary.done, 7);
    assert_eq!(
        summary.stages.keys().collect::<Vec<_>>(),
        [&Stage::Findings]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plan_tells_what_is_stored_and_writes_nothing() {
    let fixture = BatchFixture::new().await;
    let mut first = batch_options(synthetic_archive(10), &fixture.out());
    first.stages = StageSet::closure(&[Stage::Findings]);
    run_batch(first, &fixture.backends).await.unwrap();
    let elsewhere = fixture.dir.path().join("elsewhere");
    let plan = plan_run(
        &batch_options(synthetic_archive(12), &elsewhere),
        &*fixture.backends.objects,
    )
    .await
    .unwrap();
    assert_eq!((plan.studies, plan.written, plan.unreadable), (12, 0, 0));
    let stages: Vec<_> = plan
        .stages
        .iter()
        .map(|stage| (stage.stage, stage.stored, stage.remaining))
        .collect();
    let nothing = |stage| (stage, 0, 12);
    assert_eq!(
        stages,
        [
            nothing(Stage::Embedding),
            (Stage::Findings, 10, 2),
            nothing(Stage::Language),
            nothing(Stage::Scoring)
        ]
    );
    assert!(!elsewhere.exists());
}
