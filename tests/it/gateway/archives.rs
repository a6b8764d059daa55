//! Runs over HTTP, over archives in the gateway's own store.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result};
use radialog_coordinator::BundleHashes;
use radialog_coordinator::gateway::GatewayConfig;
use radialog_schemas::{ContentHash, ObjectKey, PerStage};
use radialog_tests::fake_stage::FakeStage;
use radialog_tests::faults::{Denial, FaultInjector};
use radialog_tests::waiting;
use reqwest::Method;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::fixture::{GatewayFixture, RunningGateway, UNLIMITED, key, problem, xray};
use super::limits::eventually;

const TIMEOUT: Duration = Duration::from_secs(20);

/// A fixture whose gateway may read `s3://archive/cxr`, which holds so many studies.
pub(super) async fn fixture(
    studies: usize,
    directory: &TempDir,
    change: impl FnOnce(&mut GatewayConfig),
) -> Result<GatewayFixture> {
    let fixture = GatewayFixture::with(UNLIMITED, |config| {
        config.archives = vec!["s3://archive/cxr/".into()];
        config.directory = directory.path().to_owned();
        change(config);
    })
    .await?;
    for study in 0..studies {
        // Bytes after the end of an image change its hash, and nothing that is decoded.
        let content = [xray().as_slice(), &vec![0; study]].concat();
        let name = ObjectKey::parse(&format!("cxr/study-{study}.jpg")).context("a key")?;
        fixture.backends.objects.put(&name, content.into()).await?;
    }
    Ok(fixture)
}

pub(super) fn findings_of(archive: &str) -> Value {
    json!({"archive": archive, "stages": ["findings"]})
}

/// The run's view, once it has this status.
pub(super) async fn view_when(gateway: &RunningGateway, path: &str, status: &str) -> Result<Value> {
    let look = || async {
        let view = gateway.view(path).await?;
        Ok((view["status"] == status).then_some(view))
    };
    waiting::found(&format!("{path} is not {status}"), TIMEOUT, look).await
}

#[tokio::test]
async fn an_archive_is_scored_and_its_results_are_downloaded() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let fixture = fixture(3, &directory, |_| {}).await?;
    let started = fixture
        .gateway
        .post("/v1/archives", &findings_of("s3://archive/cxr"))
        .await?;
    assert_eq!(started.status(), 202);
    let path = started.headers()["location"].to_str()?.to_owned();
    let view = view_when(&fixture.gateway, &path, "done").await?;
    assert_eq!(view["progress"]["done"], 3);
    assert_eq!(
        view["results"],
        json!(["results.jsonl", "results.csv", "summary.json"])
    );

    let lines = fixture
        .gateway
        .get(&format!("{path}/results/results.jsonl"))
        .await?
        .error_for_status()?
        .text()
        .await?;
    let mut studies: Vec<String> = lines
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap()["study_id"].to_string())
        .collect();
    studies.sort();
    assert_eq!(studies, ["\"study-0\"", "\"study-1\"", "\"study-2\""]);
    let summary: Value = fixture
        .gateway
        .get(&format!("{path}/results/summary.json"))
        .await?
        .json()
        .await?;
    assert_eq!(summary["done"], 3);
    assert_eq!(
        problem(
            fixture
                .gateway
                .get(&format!("{path}/results/secrets.txt"))
                .await?
        )
        .await?
        .0,
        404
    );
    // Its folder goes behind its end.
    eventually(|| async { Ok(std::fs::read_dir(directory.path())?.next().is_none()) }).await
}

#[tokio::test]
async fn what_is_no_study_is_listed_and_a_prefix_without_an_image_fails() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let fixture = fixture(1, &directory, |_| {}).await?;
    let gateway = &fixture.gateway;
    let notes = ObjectKey::parse("cxr/notes.txt").context("a key")?;
    fixture.backends.objects.put(&notes, "x".into()).await?;
    let run = async |archive: &str, status: &str| -> Result<(String, Value)> {
        let started = gateway.post("/v1/archives", &findings_of(archive)).await?;
        let path = started.headers()["location"].to_str()?.to_owned();
        let view = view_when(gateway, &path, status).await?;
        Ok((path, view))
    };
    let (path, view) = run("s3://archive/cxr", "done").await?;
    let files = [
        "results.jsonl",
        "results.csv",
        "summary.json",
        "problems.jsonl",
    ];
    assert_eq!(view["results"], json!(files));
    let problems = gateway
        .get(&format!("{path}/results/problems.jsonl"))
        .await?;
    let problem: Value = problems.error_for_status()?.json().await?;
    assert_eq!(problem["place"], "notes.txt");

    let (path, view) = run("s3://archive/cxr/typo", "failed").await?;
    let error = view["error"].as_str().context("an error")?;
    assert!(
        error.contains("no image in 's3://archive/cxr/typo'")
            && error.contains("check the archive's name"),
        "{error}"
    );
    assert_eq!(view["results"], json!([]));
    let results = gateway
        .get(&format!("{path}/results/results.jsonl"))
        .await?;
    assert_eq!(results.status(), 404);

    // Where nothing is a study, the list says why.
    let only = ObjectKey::parse("cxr/texts/notes.txt").context("a key")?;
    fixture.backends.objects.put(&only, "x".into()).await?;
    let (_, view) = run("s3://archive/cxr/texts", "failed").await?;
    let error = view["error"].as_str().context("an error")?;
    assert!(error.contains("problems.jsonl"), "{error}");
    assert_eq!(
        view["results"]
            .as_array()
            .map(|files| files.contains(&json!("problems.jsonl"))),
        Some(true)
    );
    Ok(())
}

#[tokio::test]
async fn only_allowed_prefixes_are_read() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let fixture = fixture(1, &directory, |_| {}).await?;
    let refused = [
        "s3://archive/cxr-2",
        "s3://archive",
        "s3://archive/cxr/../secret",
        "http://host/x",
        "/etc",
        "s3://other/cxr",
    ];
    for archive in refused {
        let answer = problem(
            fixture
                .gateway
                .post("/v1/archives", &findings_of(archive))
                .await?,
        )
        .await?;
        assert_eq!(
            (answer.0, answer.1.as_str()),
            (403, "archive_not_allowed"),
            "{archive}"
        );
    }
    let manifest = ObjectKey::parse("cxr/studies.csv").context("a key")?;
    fixture
        .backends
        .objects
        .put(&manifest, "name,picture\na,b\n".into())
        .await?;
    let unusable = problem(
        fixture
            .gateway
            .post("/v1/archives", &findings_of("s3://archive/cxr/studies.csv"))
            .await?,
    )
    .await?;
    assert_eq!((unusable.0, unusable.1.as_str()), (422, "invalid_request"));
    let long = json!({"archive": "s3://archive/cxr", "max_new_tokens": 100_000});
    assert_eq!(
        problem(fixture.gateway.post("/v1/archives", &long).await?)
            .await?
            .0,
        422
    );
    Ok(())
}

#[tokio::test]
async fn a_run_is_its_owners_alone_and_the_same_key_gives_it_again() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let fixture = fixture(1, &directory, |config| {
        config.keys = vec![key("ward", "one"), key("lab", "two")]
    })
    .await?;
    let (ward, lab) = (
        fixture.gateway.as_owner("one"),
        fixture.gateway.as_owner("two"),
    );
    let start = |archive: &str| {
        let request = ward
            .ask(Method::POST, "/v1/archives")
            .header("Idempotency-Key", "monday");
        request.json(&findings_of(archive)).send()
    };
    // Twice at a time, as a hasty client retries.
    let (first, second) = tokio::try_join!(start("s3://archive/cxr"), start("s3://archive/cxr"))?;
    let path = first.headers()["location"].to_str()?.to_owned();
    assert_eq!(second.headers()["location"].to_str()?, path);
    assert_eq!(
        start("s3://archive/cxr").await?.headers()["location"].to_str()?,
        path
    );
    assert_eq!(
        problem(start("s3://archive/cxr/study").await?).await?.1,
        "idempotency_mismatch"
    );
    view_when(&ward, &path, "done").await?;
    for other in [path.clone(), format!("{path}/results/results.jsonl")] {
        assert_eq!(problem(lab.get(&other).await?).await?.0, 404, "{other}");
    }
    assert_eq!(lab.delete(&path).await?, 404);
    assert_eq!(
        ward.delete(&path).await?,
        204,
        "what has ended stays as it is"
    );
    assert_eq!(ward.view(&path).await?["status"], "done");
    Ok(())
}

#[tokio::test]
async fn a_run_goes_on_when_its_gateway_starts_again_and_can_be_cancelled_at_another_one()
-> Result<()> {
    let directory = tempfile::tempdir()?;
    // Nobody writes reports here, so that a run with all stages never ends.
    let fixture = fixture(2, &directory, |_| {}).await?;
    let started = fixture
        .gateway
        .post("/v1/archives", &json!({"archive": "s3://archive/cxr"}))
        .await?;
    let path = started.headers()["location"].to_str()?.to_owned();
    view_when(&fixture.gateway, &path, "running").await?;
    let GatewayFixture {
        backends, gateway, ..
    } = &fixture;
    let elsewhere = tempfile::tempdir()?;
    let other = RunningGateway::start(backends, |config| {
        config.archives = vec!["s3://archive/cxr".into()];
        config.directory = elsewhere.path().to_owned();
    })
    .await?;
    assert_eq!(
        other.view(&path).await?["status"],
        "running",
        "every gateway can tell"
    );

    let again = tempfile::tempdir()?;
    copy_requests(directory.path(), again.path())?;
    assert_eq!(
        std::fs::read_dir(again.path())?.count(),
        1,
        "the request is kept while it runs"
    );
    let third = RunningGateway::start(backends, |config| {
        config.archives = vec!["s3://archive/cxr".into()];
        config.directory = again.path().to_owned();
    })
    .await?;
    assert_eq!(other.delete(&path).await?, 204);
    for gateway in [gateway, &other, &third] {
        view_when(gateway, &path, "cancelled").await?;
    }
    Ok(())
}

#[tokio::test]
async fn a_paused_run_goes_on_when_it_is_resumed() -> Result<()> {
    let directory = tempfile::tempdir()?;
    // Nobody writes reports here, so that a run with all stages never ends by itself.
    let fixture = fixture(2, &directory, |_| {}).await?;
    let gateway = &fixture.gateway;
    let started = gateway
        .post("/v1/archives", &json!({"archive": "s3://archive/cxr"}))
        .await?;
    let path = started.headers()["location"].to_str()?.to_owned();
    view_when(gateway, &path, "running").await?;
    for (what, status) in [
        ("pause", "paused"),
        ("resume", "running"),
        ("pause", "paused"),
    ] {
        let told = gateway.post(&format!("{path}/{what}"), &json!({})).await?;
        assert_eq!(told.status(), 200, "{what}");
        view_when(gateway, &path, status).await?;
    }
    // Nothing of a run that stands still is in work, also where it stood still before it ran.
    let findings = gateway
        .post("/v1/archives", &findings_of("s3://archive/cxr"))
        .await?;
    let other = findings.headers()["location"].to_str()?.to_owned();
    view_when(gateway, &other, "done").await?;
    assert_eq!(gateway.delete(&path).await?, 204);
    view_when(gateway, &path, "cancelled").await?;
    let missing = format!("/v1/archives/{}/pause", "0".repeat(32));
    assert_eq!(
        problem(gateway.post(&missing, &json!({})).await?).await?.0,
        404
    );
    Ok(())
}

#[tokio::test]
async fn a_paused_run_outlives_a_state_that_does_not_answer() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let fixture = fixture(1, &directory, |_| {}).await?;
    let faults = Arc::new(FaultInjector::default());
    let again = tempfile::tempdir()?;
    let gateway = RunningGateway::start(&faults.over(&fixture.backends), |config| {
        config.archives = vec!["s3://archive/cxr".into()];
        config.directory = again.path().to_owned();
    })
    .await?;
    let started = gateway
        .post("/v1/archives", &json!({"archive": "s3://archive/cxr"}))
        .await?;
    let path = started.headers()["location"].to_str()?.to_owned();
    view_when(&gateway, &path, "running").await?;
    gateway.post(&format!("{path}/pause"), &json!({})).await?;
    view_when(&gateway, &path, "paused").await?;
    let refused = faults.refused();
    faults.set_unreachable(true);
    // The run asks every second whether it may go on.
    let has_asked = || async { Ok(faults.refused() >= refused + 10) };
    waiting::until("the run does not ask", TIMEOUT, has_asked).await?;
    faults.set_unreachable(false);
    assert_eq!(gateway.delete(&path).await?, 204);
    view_when(&gateway, &path, "cancelled").await?;
    Ok(())
}

#[tokio::test]
async fn a_run_whose_results_are_refused_ends_and_one_whose_results_find_no_room_can_be_cancelled()
-> Result<()> {
    let (directory, faults) = (tempfile::tempdir()?, Arc::new(FaultInjector::default()));
    let fixture = GatewayFixture::faulty(&faults, |config| {
        config.archives = vec!["s3://archive/cxr/".into()];
        config.directory = directory.path().to_owned();
    })
    .await?;
    let (gateway, objects) = (&fixture.gateway, &fixture.backends.objects);
    let name = ObjectKey::parse("cxr/study.jpg").context("a key")?;
    objects.put(&name, xray().into()).await?;
    let begin = async || -> Result<String> {
        let asked = findings_of("s3://archive/cxr");
        let started = gateway.post("/v1/archives", &asked).await?;
        Ok(started.headers()["location"].to_str()?.to_owned())
    };
    faults.deny("batches/", Denial::Refused);
    let refused = begin().await?;
    let view = view_when(gateway, &refused, "failed").await?;
    let error = view["error"].to_string();
    assert!(error.contains("not in the store"), "{view}");
    // They are left where they were made, and nobody takes the run up again.
    let id = refused.rsplit('/').next().context("an id")?;
    let folder = directory.path().join(id);
    eventually(|| async { Ok(!folder.join("request.json").exists()) }).await?;
    let left = || std::fs::read_to_string(folder.join("out/results.jsonl"));
    assert_eq!(left()?.lines().count(), 1);
    faults.allow_all();
    let start_again = || {
        RunningGateway::start(&fixture.backends, |config| {
            config.archives = vec!["s3://archive/cxr/".into()];
            config.directory = directory.path().to_owned();
        })
    };
    let again = start_again().await?;
    assert_eq!(again.view(&refused).await?["status"], "failed");
    assert_eq!(left()?.lines().count(), 1, "the next process leaves them");
    drop(again);
    let days = |days: u64| Duration::from_secs(days * 24 * 3600);
    let make_old = |age| {
        let [folder, results] = [folder.clone(), folder.join("out/results.jsonl")];
        let then = SystemTime::now() - age;
        std::fs::File::open(results)?.set_modified(then)?;
        std::fs::File::open(folder)?.set_modified(then)
    };
    make_old(days(29))?;
    drop(start_again().await?);
    assert!(folder.exists());
    make_old(days(31))?;
    let again = start_again().await?;
    eventually(|| async { Ok(!folder.exists()) }).await?;
    drop(again);

    // A store that does not answer is waited for, also where the run is cancelled.
    faults.deny("batches/", Denial::Failing);
    let denied = faults.denials_met();
    let away = begin().await?;
    eventually(|| async { Ok(faults.denials_met() >= denied + 2) }).await?;
    assert_eq!(gateway.delete(&away).await?, 204);
    let denied = faults.denials_met();
    eventually(|| async { Ok(faults.denials_met() >= denied + 2) }).await?;
    assert_eq!(gateway.view(&away).await?["status"], "running");
    faults.allow_all();
    view_when(gateway, &away, "done").await?;
    let results = gateway
        .get(&format!("{away}/results/results.jsonl"))
        .await?;
    assert_eq!(results.status(), 200);
    let folder = directory
        .path()
        .join(away.rsplit('/').next().context("an id")?);
    eventually(|| async { Ok(!folder.exists()) }).await?;

    faults.deny("batches/", Denial::Full);
    let denied = faults.denials_met();
    let full = begin().await?;
    // It tries again.
    eventually(|| async { Ok(faults.denials_met() >= denied + 2) }).await?;
    assert_eq!(gateway.view(&full).await?["status"], "running");
    assert_eq!(gateway.delete(&full).await?, 204);
    view_when(gateway, &full, "cancelled").await?;
    faults.allow_all();
    let last = begin().await?;
    view_when(gateway, &last, "done").await?;

    // What went wrong before is told beside it.
    let only = ObjectKey::parse("cxr/texts/notes.txt").context("a key")?;
    objects.put(&only, "x".into()).await?;
    faults.deny("batches/", Denial::Refused);
    let texts = findings_of("s3://archive/cxr/texts");
    let started = gateway.post("/v1/archives", &texts).await?;
    let nothing = started.headers()["location"].to_str()?;
    let view = view_when(gateway, nothing, "failed").await?;
    let error = view["error"].to_string();
    assert!(
        error.contains("problems.jsonl") && error.contains("not in the store"),
        "{view}"
    );
    Ok(())
}

#[tokio::test]
async fn a_cancelled_run_says_what_went_wrong_with_it() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let fixture = fixture(1, &directory, |_| {}).await?;
    let asked = json!({"archive": "s3://archive/cxr", "model": "fake"});
    let started = fixture.gateway.post("/v1/archives", &asked).await?;
    let path = started.headers()["location"].to_str()?.to_owned();
    view_when(&fixture.gateway, &path, "running").await?;
    let GatewayFixture {
        backends, gateway, ..
    } = fixture;
    gateway.stop().await?;
    // It is cancelled while its gateway is away, which comes again with another model.
    let other = RunningGateway::start(&backends, |_| {}).await?;
    assert_eq!(other.delete(&path).await?, 204);
    let bundle = BundleHashes {
        name: "another".into(),
        bundle: ContentHash::of(b"another bundle"),
        components: PerStage::from_fn(FakeStage::component_of),
    };
    let again = RunningGateway::serving(&backends, bundle.into(), |config| {
        config.archives = vec!["s3://archive/cxr".into()];
        config.directory = directory.path().to_owned();
    })
    .await?;
    let view = view_when(&again, &path, "cancelled").await?;
    let error = view["error"].as_str().context("an error")?;
    assert!(error.contains("no model 'fake'"), "{error}");
    Ok(())
}

/// The folders of the requests, as a process leaves them that is killed before it has written anything else.
fn copy_requests(from: &std::path::Path, to: &std::path::Path) -> Result<()> {
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        let folder = to.join(entry.file_name());
        std::fs::create_dir(&folder)?;
        std::fs::copy(
            entry.path().join("request.json"),
            folder.join("request.json"),
        )?;
    }
    Ok(())
}
