//! Runs that are gone on with over an archive that is not what it was: only what was seen to be another is run again.

use std::time::Duration;

use radialog_coordinator::archive::OutsideFiles;
use radialog_coordinator::plan_run;
use radialog_runtime::queue::Message;
use radialog_schemas::{
    ContentHash, ErrorCode, Failure, ObjectKey, Outcome, SCHEMA_VERSION, StageResult, StageTimings,
    Task, queues,
};
use radialog_tests::embedded::{batch_options, run_batch, synthetic_archive};
use radialog_tests::waiting;

use super::*;

/// The limit of an image's bytes where a test sets none.
const LARGE: u64 = 1 << 20;
/// Longer than anything here takes.
const SOON: Duration = Duration::from_secs(60);

impl BatchFixture {
    /// Runs the archive, or the manifest in it, with these options.
    async fn run(&self, manifest: &str, outside: OutsideFiles, limit: u64) -> RunSummary {
        let mut options = self.options_over(manifest, outside).await;
        options.image_limit = limit;
        run_batch(options, &self.backends).await.unwrap()
    }

    async fn options_over(
        &self,
        manifest: &str,
        outside: OutsideFiles,
    ) -> radialog_coordinator::RunOptions {
        let input = ArchiveLocation::Path(self.dir.path().join("archive").join(manifest));
        let archive = archive::open_with(&input, outside).await.unwrap();
        batch_options(archive, &self.out())
    }

    fn move_file(&self, from: &str, to: &str) {
        let archive = self.dir.path().join("archive");
        fs::rename(archive.join(from), archive.join(to)).unwrap();
    }
}

/// Asserts that this session has run no study, and could not compare so many for this reason.
fn assert_kept(summary: &RunSummary, studies: u64, code: &str) {
    assert_eq!((summary.session.changed, summary.session.studies), (0, 0));
    let by_code = &summary.not_compared.by_code;
    assert_eq!(*by_code, BTreeMap::from([(code.to_owned(), studies)]));
    assert_eq!(summary.not_compared.studies, studies);
    assert_eq!(summary.not_compared.named.len() as u64, studies);
    assert!(!summary.saw_everything());
}

#[tokio::test(flavor = "multi_thread")]
async fn results_of_images_that_cannot_be_looked_at_now_are_kept_and_told() {
    let fixture = BatchFixture::new().await;
    let refused = OutsideFiles::Refused;
    fixture.write(&["disk/1.png", "disk/2.png", "3.png"]);
    let outside = fixture.dir.path().join("outside.png");
    fs::write(&outside, image("outside")).unwrap();
    let rows = format!(
        "study_id,image\na,disk/1.png\nb,disk/2.png\nc,3.png\nd,{}\n",
        outside.display()
    );
    fixture.write_file("list.csv", rows.as_bytes());
    let first = fixture.run("list.csv", OutsideFiles::Allowed, LARGE).await;
    assert_eq!((first.done, first.failed), (4, 0));
    let lines = fs::read(fixture.out().join("results.jsonl")).unwrap();
    let is_as_before = || {
        let now = fs::read(fixture.out().join("results.jsonl")).unwrap();
        assert!(now == lines, "lines were lost");
    };

    // The disk is not mounted; what is done stays done for a plan, too.
    fixture.move_file("disk", "unmounted");
    let options = fixture
        .options_over("list.csv", OutsideFiles::Allowed)
        .await;
    let plan = plan_run(&options, &*fixture.backends.objects)
        .await
        .unwrap();
    assert_eq!((plan.studies, plan.written, plan.unreadable), (4, 4, 0));
    assert_eq!(plan.not_compared["image_missing"], 2);
    let away = fixture.run("list.csv", OutsideFiles::Allowed, LARGE).await;
    assert_kept(&away, 2, "image_missing");
    assert_eq!((away.studies, away.done, away.session.resumed), (4, 4, 4));
    let named = away.not_compared.named.iter();
    let named: Vec<_> = named.map(|each| each.study.as_str()).collect();
    assert_eq!(named, ["a", "b"]);
    is_as_before();
    fixture.move_file("unmounted", "disk");

    // An option was forgotten.
    assert_kept(
        &fixture.run("list.csv", refused, LARGE).await,
        1,
        "archive_entry",
    );
    is_as_before();

    // A smaller limit, without what was noted of the files.
    fs::remove_file(fixture.out().join("inputs.jsonl")).unwrap();
    let small = fixture.run("list.csv", OutsideFiles::Allowed, 10).await;
    assert_kept(&small, 4, "image_too_large");
    is_as_before();

    // Broken rows say nothing of their studies.
    let broken = rows
        .replace("b,disk/2.png", "b,disk/2.png,")
        .replace("a,disk", "a,\"disk");
    fixture.write_file("list.csv", broken.as_bytes());
    let summary = fixture.run("list.csv", OutsideFiles::Allowed, LARGE).await;
    assert_kept(&summary, 1, "archive_entry");
    assert_eq!((summary.unread_count, summary.not_in_archive), (1, 0));
    is_as_before();

    fixture.write_file("list.csv", rows.as_bytes());
    let whole = fixture.run("list.csv", OutsideFiles::Allowed, LARGE).await;
    assert!(whole.saw_everything());
    assert_eq!((whole.session.changed, whole.done), (0, 4));
    is_as_before();
}

#[tokio::test(flavor = "multi_thread")]
async fn studies_that_failed_before_any_stage_are_tried_again_when_their_file_is_another() {
    let fixture = BatchFixture::new().await;
    let refused = OutsideFiles::Refused;
    fixture.write(&["good.png"]);
    fixture.write_file("text.png", b"no image");
    fixture.write_file("empty.png", b"");
    let rows = "study_id,image,reference\ng,good.png,\nt,text.png,x\ne,empty.png,\nm,missing.png,\nw,wide.png,,\n";
    fixture.write_file("list.csv", rows.as_bytes());
    let run = || fixture.run("list.csv", refused, LARGE);
    let expect = |summary: &RunSummary, changed, done, failed| {
        let counts = (summary.session.changed, summary.done, summary.failed);
        assert_eq!(counts, (changed, done, failed));
        assert!(summary.saw_everything());
    };
    expect(&run().await, 0, 1, 4);
    let before = records(&fixture.out());
    expect(&run().await, 0, 1, 4);
    assert_eq!(records(&fixture.out()), before);

    fixture.write(&["text.png", "missing.png", "wide.png"]);
    let mended = rows.replace("wide.png,,", "wide.png,");
    fixture.write_file("list.csv", mended.as_bytes());
    expect(&run().await, 3, 4, 1);
    assert_eq!(failures(&fixture.out()).keys().collect::<Vec<_>>(), ["e"]);
    // One that is still none fails with the reason of today.
    fixture.write_file("empty.png", b"no image");
    expect(&run().await, 1, 4, 1);
    assert_eq!(failures(&fixture.out())["e"], "image_format_unsupported");
}

#[tokio::test(flavor = "multi_thread")]
async fn lines_of_studies_that_are_gone_are_counted_and_in_no_other_number() {
    let fixture = BatchFixture::new().await;
    let refused = OutsideFiles::Refused;
    fixture.write(&["a.png", "b.png", "c.png", "d.png"]);
    let first = fixture.run("", refused, LARGE).await;
    assert_eq!((first.studies, first.not_in_archive), (4, 0));
    let rows = || {
        let table = fs::read_to_string(fixture.out().join("results.csv")).unwrap();
        table.lines().skip(1).count()
    };
    assert_eq!(rows(), 4);

    fixture.move_file("a.png", "../a.png");
    let without = fixture.run("", refused, LARGE).await;
    let counts = (without.studies, without.done, without.session.resumed);
    assert_eq!((counts, without.not_in_archive), ((3, 3, 3), 1));
    assert_eq!((rows(), records(&fixture.out()).len()), (3, 4));
    assert!(without.saw_everything());

    // As many of the archive as the run takes.
    let mut limited = fixture.options_over("", refused).await;
    limited.limit = Some(2);
    let limited = run_batch(limited, &fixture.backends).await.unwrap();
    assert_eq!((limited.studies, limited.not_in_archive), (2, 2));
    assert_eq!((rows(), records(&fixture.out()).len()), (2, 4));

    // Nothing was lost with it.
    fixture.move_file("../a.png", "a.png");
    let again = fixture.run("", refused, LARGE).await;
    let counts = (again.studies, again.session.studies, again.not_in_archive);
    assert_eq!((counts, rows()), ((4, 0, 0), 4));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_late_result_of_the_image_before_decides_nothing_of_the_one_that_took_its_place() {
    let before = ObjectKey::image(&ContentHash::of(b"the image before"));
    // Of the task of the image before: whether it failed, and whether its worker is of a release that tells it.
    for (has_failed, tells) in [(false, true), (true, true), (false, false)] {
        let dir = tempfile::tempdir().unwrap();
        let backends = backends(&dir.path().join("objects")).unwrap();
        backends.queue.declare().await.unwrap();
        let (queue, out) = (backends.queue.clone(), dir.path().join("out"));
        let options = batch_options(synthetic_archive(1), &out);
        let run = {
            let backends = backends.clone();
            tokio::spawn(async move { run_batch(options, &backends).await })
        };
        // The study is begun, and its own tasks wait for workers.
        for stage in [Stage::Embedding, Stage::Findings] {
            let take = || async { Ok(queue.take(queues::work(stage)).await?) };
            let own = waiting::found("no task is published", SOON, take);
            let own = own.await.unwrap();
            let task: Task = serde_json::from_slice(&own.message.body).unwrap();
            let output = match stage {
                Stage::Embedding => ObjectKey::embedding(&task.component, &before),
                _ => ObjectKey::findings(&task.component, &before),
            };
            let late = StageResult {
                schema_version: SCHEMA_VERSION,
                run: task.run,
                study: task.study,
                stage,
                task_output: tells.then(|| output.clone()),
                outcome: match has_failed {
                    true => Outcome::Failed(Failure::new(ErrorCode::ImageCorrupt, "x")),
                    false => Outcome::Done { output },
                },
                timings: StageTimings {
                    worker: "late".into(),
                    ..StageTimings::default()
                },
            };
            let message = Message {
                body: serde_json::to_vec(&late).unwrap().into(),
                ..Message::default()
            };
            queue.publish(queues::RESULTS, message).await.unwrap();
            own.receipt.requeue().await.unwrap();
        }
        let _workers = start_workers(&backends, FakeStage::new).await.unwrap();
        let ended = tokio::time::timeout(SOON, run)
            .await
            .expect("the run hangs");
        let summary = ended.unwrap().unwrap();
        assert_eq!((summary.done, summary.failed), (1, 0));
        let timings = records(&out).remove("s000000").unwrap().timings;
        assert_eq!(timings.len(), Stage::ALL.len());
        let is_own = |stage: &StageTimings| stage.worker.starts_with("fake-");
        assert!(timings.values().all(is_own), "{timings:?}");
    }
}
