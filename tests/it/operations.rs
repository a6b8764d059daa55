//! What an operator does: check the services, look at dead letters, send them again.

use std::path::Path;
use std::process::Output;
use std::time::Duration;

use bytes::Bytes;
use radialog_coordinator::conversation::corrections;
use radialog_coordinator::run::output::RunFile;
use radialog_runtime::objects::filesystem::FilesystemObjects;
use radialog_runtime::queue::{Death, Message, Queue};
use radialog_schemas::{ContentHash, Correction, ObjectKey, SCHEMA_VERSION, Stage, queues};
use radialog_tests::fixtures::xrays;
use radialog_tests::patience::InTime;
use radialog_tests::processes::{ProcessCluster, RoleProcess, radialog};
use radialog_tests::services::{Environment, Services};
use radialog_tests::waiting;
use tempfile::TempDir;

use crate::adapters;

/// What an operator has: the program, and services of its own.
struct OperatorFixture {
    amqp: String,
    redis: &'static str,
    cluster: ProcessCluster,
    dir: TempDir,
}

impl OperatorFixture {
    async fn new() -> Self {
        let services = Services::shared().await.unwrap();
        let dir = tempfile::tempdir().unwrap();
        let (amqp, redis) = (services.amqp().unwrap(), services.redis());
        let objects = dir.path().join("objects");
        std::fs::create_dir(&objects).unwrap();
        let environment = Environment::services(&amqp, redis).objects(&objects);
        Self {
            amqp,
            redis,
            cluster: ProcessCluster::new(environment).unwrap(),
            dir,
        }
    }

    fn run(&self, arguments: &[&str]) -> Output {
        self.cluster.run(arguments).unwrap()
    }

    /// What a command that must work prints.
    fn says(&self, arguments: &[&str]) -> String {
        succeeded(arguments, self.run(arguments))
    }

    fn start(&self, arguments: &[&str]) -> RoleProcess {
        self.cluster.start(arguments).unwrap()
    }
}

/// The output of a command, which must have worked.
fn succeeded(arguments: &[&str], output: Output) -> String {
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(
        output.status.success(),
        "{arguments:?}: {text}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    text
}

async fn until_depth(queue: &dyn Queue, name: &str, depth: u64) {
    let what = format!("{name} does not hold {depth} messages");
    let is_so = || async { Ok(queue.depth(name).await? == depth) };
    let patience = Duration::from_secs(30);
    waiting::until(&what, patience, is_so).await.unwrap();
}

#[tokio::test]
async fn the_doctor_names_what_works_and_what_does_not() {
    let fixture = OperatorFixture::new().await;
    let healthy = fixture.says(&["doctor"]);
    for what in [
        "broker", "objects", "state", "batches", "bundle", "device", "limits",
    ] {
        assert!(
            healthy
                .lines()
                .any(|line| line.starts_with("ok ") && line.contains(what)),
            "{what}: {healthy}"
        );
    }
    assert!(healthy.contains("conditional writes, too"), "{healthy}");
    let sick = fixture.run(&[
        "doctor",
        "--redis",
        "redis://127.0.0.1:1/0",
        "--bundle",
        "/nowhere",
    ]);
    let text = String::from_utf8(sick.stdout).unwrap();
    assert_eq!(sick.status.code(), Some(1));
    assert!(
        text.lines()
            .any(|line| line.starts_with("FAIL  state") && line.contains("--redis")),
        "{text}"
    );
    assert!(
        text.lines()
            .any(|line| line.starts_with("FAIL  bundle") && line.contains("/nowhere")),
        "{text}"
    );
    assert!(text.contains("2 checks failed"), "{text}");
    let sick = fixture.run(&["doctor", "--bundle", "/nowhere"]);
    let text = String::from_utf8(sick.stdout).unwrap();
    assert!(text.contains("\n1 check failed"), "{text}");
    let refused = fixture.run(&["dlq", "forget-group", "bad name!"]);
    let errors = String::from_utf8(refused.stderr).unwrap();
    assert_eq!(refused.status.code(), Some(64), "{errors}");
    assert_eq!(errors.matches("bad name!").count(), 1, "{errors}");
}

#[tokio::test]
async fn a_dead_letter_is_listed_shown_and_sent_again() {
    let fixture = OperatorFixture::new().await;
    let queue = adapters::rabbitmq_at(&fixture.amqp).await;
    queue.declare().await.unwrap();
    let (work, dead) = (
        queues::work(Stage::Scoring),
        queues::dead(queues::work(Stage::Scoring)),
    );
    let body = Bytes::from_static(b"this is no task");
    queue
        .publish(
            work,
            Message {
                body,
                ..Message::default()
            },
        )
        .await
        .unwrap();
    let mut worker = fixture.start(&["worker", "scoring"]);
    until_depth(&*queue, &dead, 1).await;
    // It acknowledges the message after that; killed in between, it would leave it in both queues.
    crate::lifecycle::terminate(&worker);
    assert!(worker.ended().unwrap().success());

    let counts = fixture.says(&["dlq", "list"]);
    let line = counts.lines().find(|line| line.starts_with(work)).unwrap();
    assert_eq!(
        line.split_whitespace().collect::<Vec<_>>(),
        [work, "0", "0", "1"]
    );

    let shown = fixture.says(&["dlq", "show", "scoring", "--bodies"]);
    assert!(
        shown.contains("message_invalid after 1 attempt, from radialog.scoring"),
        "{shown}"
    );
    assert!(shown.contains("this is no task"), "{shown}");
    until_depth(&*queue, &dead, 1).await;

    assert!(
        fixture
            .says(&["dlq", "retry", "scoring", "--code", "crash"])
            .contains("0 sent again, 1 left")
    );
    assert!(
        fixture
            .says(&["dlq", "retry", "scoring"])
            .contains("1 sent again, 0 left")
    );
    until_depth(&*queue, work, 1).await;
    until_depth(&*queue, &dead, 0).await;

    let wrong = fixture.run(&["dlq", "show", "nothing"]);
    assert_eq!(wrong.status.code(), Some(64));
    assert!(String::from_utf8_lossy(&wrong.stderr).contains("or chat or results"));
}

#[tokio::test]
async fn what_waited_for_another_release_in_vain_is_told_so_and_waits_anew_when_it_is_sent_again() {
    let fixture = OperatorFixture::new().await;
    let queue = adapters::rabbitmq_at(&fixture.amqp).await;
    queue.declare().await.unwrap();
    let work = queues::work(Stage::Scoring);
    let dead = queues::dead(work);
    let death = Death {
        code: "schema_version".into(),
        reason: "the message has schema version 99".into(),
        source: work.into(),
        worker: "worker".into(),
    };
    let tried = [(0, "no attempt"), (1, "1 attempt"), (2, "2 attempts")];
    for (attempt, _) in tried {
        let letter = Message {
            body: Bytes::from_static(b"{}"),
            attempt,
            passed_on: 10,
            death: Some(death.clone()),
            ..Message::default()
        };
        queue.publish(&dead, letter).await.unwrap();
    }
    until_depth(&*queue, &dead, 3).await;
    let shown = fixture.says(&["dlq", "show", "scoring"]);
    for (_, attempts) in tried {
        let words = format!(
            "schema_version after {attempts} and 10 times of waiting for a worker of another release or bundle, from"
        );
        assert!(shown.contains(&words), "{words}: {shown}");
    }
    until_depth(&*queue, &dead, 3).await;
    fixture.says(&["dlq", "retry", "scoring"]);
    until_depth(&*queue, work, 3).await;
    let again = queue.take(work).await.unwrap().unwrap().message;
    assert_eq!((again.attempt, again.passed_on, again.death), (0, 0, None));
}

#[tokio::test]
async fn a_coordinator_drives_what_a_stopped_batch_has_begun() {
    let fixture = OperatorFixture::new().await;
    let xrays = xrays().display().to_string();
    let out = fixture.dir.path().join("out").display().to_string();
    let batch = ["batch", &xrays, "--out", &out, "--max-new-tokens", "4"];
    let queue = adapters::rabbitmq_at(&fixture.amqp).await;
    queue.declare().await.unwrap();
    // Nobody works yet: the batch publishes its first tasks and is killed.
    let mut role = fixture.start(&batch);
    until_depth(&*queue, queues::work(Stage::Findings), 10).await;
    role.kill();
    let _coordinator = fixture.start(&["coordinator"]);
    let workers = Stage::ALL.map(|stage| fixture.start(&["worker", stage.name()]));
    let run: RunFile =
        serde_json::from_slice(&std::fs::read(Path::new(&out).join("run.json")).unwrap()).unwrap();
    let state = adapters::redis_at(fixture.redis).await;
    let are_finished = || async {
        fixture.cluster.check()?;
        Ok(state.finished(&run.spec.run, 100).await?.len() == 10)
    };
    let what = "the coordinator does not finish the run";
    waiting::until(what, Duration::from_secs(120), are_finished)
        .await
        .unwrap();
    // Nobody works any more: the batch finds every study finished.
    drop(workers);
    fixture.says(&batch);
    let lines = std::fs::read_to_string(Path::new(&out).join("results.jsonl")).unwrap();
    assert_eq!(
        lines.lines().count(),
        10,
        "{}",
        fixture.cluster.log("coordinator")
    );
}

#[tokio::test]
async fn corrections_are_exported_in_the_format_of_the_instruct_data_set() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("objects");
    let objects = FilesystemObjects::open(&folder).unwrap();
    let correction = |turn, asked: Option<&str>| Correction {
        schema_version: SCHEMA_VERSION,
        conversation: "c".into(),
        turn,
        image: ObjectKey::image(&ContentHash::of(b"x")),
        findings: "edema".into(),
        report: "Edema.".into(),
        asked: asked.map(str::to_owned),
        corrected: "No edema.".into(),
        noted_ms: 1,
    };
    for one in [
        correction(1, None),
        correction(2, Some("The patient does not have edema.")),
    ] {
        corrections::store(&objects, &one).await.unwrap();
    }
    let (folder, out) = (folder.display().to_string(), dir.path().join("out.json"));
    let file = out.display().to_string();
    let export = [
        "export",
        "corrections",
        "--objects",
        &folder,
        "--out",
        &file,
    ];
    succeeded(
        &export,
        radialog(&export).unwrap().output_in_time().unwrap(),
    );
    let samples: Vec<serde_json::Value> =
        serde_json::from_slice(&std::fs::read(out).unwrap()).unwrap();
    let text = |sample: usize, field: &str| samples[sample][field].as_str().unwrap().to_owned();
    assert_eq!(
        (text(0, "task_type"), text(1, "task_type")),
        ("RG".into(), "CO".into())
    );
    for sample in 0..2 {
        assert_eq!(text(sample, "output"), "No edema.");
        assert_eq!(text(sample, "instruction").matches("<IMG>").count(), 32);
        assert!(text(sample, "instruction").ends_with(" ASSISTANT:"));
    }
    let asked = "ASSISTANT: Edema.</s>USER: The patient does not have edema. ASSISTANT:";
    assert!(
        text(1, "instruction").ends_with(asked),
        "{}",
        text(1, "instruction")
    );
}

#[tokio::test]
async fn a_batch_into_a_store_resumes_from_it_and_leaves_nothing_on_the_machine() {
    let services = Services::shared().await.unwrap();
    let (bucket, cache) = (services.bucket().unwrap(), tempfile::tempdir().unwrap());
    let environment = Environment::default().bucket(&bucket);
    let cluster = ProcessCluster::new(environment).unwrap();
    let (xrays, work) = (xrays().display().to_string(), cache.path().join("work"));
    let work = work.display().to_string();
    // http://host:port/bucket, or a folder of the bucket.
    let place = bucket.splitn(4, '/').last().unwrap();
    let out = format!("s3://{place}/runs/one");
    let batch = ["batch", &xrays, "--out", &out, "--work", &work];
    let batch = [&batch[..], &["--max-new-tokens", "4"]].concat();
    if let Some(given) = services.given_store()
        && !given.knows_conditional_writes()
    {
        let refused = cluster.run(&batch).unwrap();
        let text = String::from_utf8_lossy(&refused.stderr);
        assert_eq!(refused.status.code(), Some(1), "{text}");
        assert!(
            text.contains("does not know conditional writes") && text.contains(&out),
            "{text}"
        );
        return;
    }
    let says = |more: &[&str]| {
        let arguments = [&batch[..], more].concat();
        succeeded(&arguments, cluster.run(&arguments).unwrap())
    };
    let first = says(&["--limit", "4"]);
    assert!(
        first.contains(&format!("results: {out}/results.jsonl")),
        "{first}"
    );
    assert_eq!(std::fs::read_dir(&work).unwrap().count(), 0);
    let planned = says(&["--dry-run"]);
    assert!(
        planned.contains('4') && planned.contains("Nothing was computed"),
        "{planned}"
    );
    let second = says(&[]);
    assert!(second.contains("resumed          4"), "{second}");
    let store = crate::adapters::s3_at(&bucket).await;
    let results = ObjectKey::parse("runs/one/results.jsonl").unwrap();
    let lines = store.get(&results).await.unwrap();
    assert_eq!(String::from_utf8_lossy(&lines).lines().count(), 10);
    let status = ["status", out.as_str()];
    let status = succeeded(&status, cluster.run(&status).unwrap());
    assert!(status.contains("10 done, 0 failed so far"), "{status}");
    let nothing = format!("s3://{place}/runs/none");
    let none = cluster.run(&["status", &nothing]).unwrap();
    assert_eq!(none.status.code(), Some(64), "{none:?}");

    let broken = cache.path().join("broken");
    std::fs::create_dir(&broken).unwrap();
    std::fs::write(broken.join("a.png"), "no image").unwrap();
    let broken = broken.display().to_string();
    let out = format!("s3://{place}/runs/two");
    let batch = ["batch", &broken, "--out", &out, "--work", &work];
    let output = cluster
        .run(&[&batch[..], &["--stages", "findings"]].concat())
        .unwrap();
    assert_eq!(output.status.code(), Some(65), "{output:?}");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(said.contains("    a: image_"), "{said}");
}

#[tokio::test]
async fn the_status_of_a_folder_is_what_it_says_where_redis_has_forgotten_its_run() {
    let fixture = OperatorFixture::new().await;
    let folder = fixture.dir.path().join("results");
    let out = folder.display().to_string();
    // Without the services, so that Redis never knew of it.
    let batch = ["batch", &xrays().display().to_string(), "--out", &out];
    let batch = [&batch[..], &["--stages", "findings", "--limit", "2"]].concat();
    succeeded(&batch, radialog(&batch).unwrap().output_in_time().unwrap());
    let results = folder.join("results.jsonl");
    let lines = std::fs::read_to_string(&results).unwrap();
    let (first, second) = lines.trim_end().split_once('\n').unwrap();
    // The last one is being written.
    std::fs::write(&results, format!("{first}\nrotten\n{second}\n{{\"stu")).unwrap();
    let status = fixture.run(&["status", &out]);
    let (said, noted) = (
        String::from_utf8_lossy(&status.stdout).into_owned(),
        String::from_utf8_lossy(&status.stderr).into_owned(),
    );
    assert!(status.status.success(), "{noted}");
    assert!(said.contains("2 done, 0 failed so far"), "{said}");
    assert!(
        noted.contains("1 line of results.jsonl cannot be read") && noted.contains("7 days"),
        "{noted}"
    );
    let json = fixture.says(&["status", &out, "--json"]);
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!((&json["done"], &json["unreadable"]), (&2.into(), &1.into()));
    let unknown = fixture.run(&["status", "never-begun"]);
    assert_eq!(unknown.status.code(), Some(1), "{unknown:?}");
}

#[tokio::test]
async fn a_store_without_a_key_or_with_a_wrong_one_says_which_settings_to_look_at() {
    let services = Services::shared().await.unwrap();
    let bucket = services.s3().bucket().unwrap();
    let archive = format!("s3://{}/archive", bucket.rsplit('/').next().unwrap());
    for (environment, words) in [
        (
            Environment::default()
                .with("RADIALOG_S3_URL", &bucket)
                .with("AWS_ACCESS_KEY_ID", "")
                .with("AWS_SECRET_ACCESS_KEY", ""),
            "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
        ),
        (
            Environment::default()
                .bucket(&bucket)
                .with("AWS_SECRET_ACCESS_KEY", "wrong"),
            "check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
        ),
    ] {
        let cluster = ProcessCluster::new(environment).unwrap();
        let output = cluster
            .run(&["batch", &archive, "--out", &archive])
            .unwrap();
        let text = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1));
        assert!(text.contains(words), "{text}");
    }
}

#[tokio::test]
async fn a_batch_behind_a_broker_takes_the_manifest_of_its_workers_bundle_and_no_weights() {
    let fixture = OperatorFixture::new().await;
    let (bundle, out) = (
        fixture.dir.path().join("bundle"),
        fixture.dir.path().join("out"),
    );
    let demo =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../workers/training/recipes/demo/bundle");
    std::fs::create_dir(&bundle).unwrap();
    std::fs::copy(demo.join("bundle.json"), bundle.join("bundle.json")).unwrap();
    let (archive, out, bundle) = (
        xrays(),
        out.display().to_string(),
        bundle.display().to_string(),
    );
    let archive = archive.display().to_string();
    let said = fixture.says(&[
        "batch",
        &archive,
        "--out",
        &out,
        "--bundle",
        &bundle,
        "--dry-run",
    ]);
    assert!(said.contains("10"), "{said}");
    let wrong = fixture.run(&[
        "batch",
        &archive,
        "--out",
        &out,
        "--bundle",
        &archive,
        "--dry-run",
    ]);
    assert!(!wrong.status.success());
}
