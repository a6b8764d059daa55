//! Whose a run over an archive is, while it waits, runs and stores its results: that gateway's that has begun it, as the shared
//! state says, which may lose it.

use std::sync::Arc;

use anyhow::{Context, Result, anyhow};
use radialog_runtime::state::State;
use radialog_schemas::{ObjectKey, RunId};
use radialog_tests::faults::{Denial, FaultInjector};
use serde_json::{Value, json};

use super::archives::{findings_of, fixture, view_when};
use super::fixture::{GatewayFixture, RunningGateway, xray};
use super::limits::eventually;

/// Two runs that never end, since nobody writes reports here, and one that waits for a place.
async fn a_waiting_run(gateway: &RunningGateway) -> Result<String> {
    let begin = async || -> Result<String> {
        let whole = json!({"archive": "s3://archive/cxr"});
        let started = gateway.post("/v1/archives", &whole).await?;
        Ok(started.headers()["location"].to_str()?.to_owned())
    };
    for _ in 0..2 {
        view_when(gateway, &begin().await?, "running").await?;
    }
    let waiting = begin().await?;
    view_when(gateway, &waiting, "queued").await?;
    Ok(waiting)
}

#[tokio::test]
async fn a_run_that_waits_for_a_place_hears_that_it_is_cancelled_at_another_gateway() -> Result<()>
{
    let directory = tempfile::tempdir()?;
    let fixture = fixture(1, &directory, |_| {}).await?;
    let waiting = a_waiting_run(&fixture.gateway).await?;
    let other = RunningGateway::start(&fixture.backends, |_| {}).await?;
    assert_eq!(other.delete(&waiting).await?, 204);
    view_when(&other, &waiting, "cancelled").await?;
    Ok(())
}

#[tokio::test]
async fn a_run_whose_request_the_state_has_lost_is_known_again_while_it_waits_and_while_it_runs()
-> Result<()> {
    let (directory, faults) = (tempfile::tempdir()?, Arc::new(FaultInjector::default()));
    let fixture = GatewayFixture::faulty(&faults, |config| {
        config.archives = vec!["s3://archive/cxr/".into()];
        config.directory = directory.path().to_owned();
    })
    .await?;
    let gateway = &fixture.gateway;
    let name = ObjectKey::parse("cxr/study.jpg").context("a key")?;
    fixture.backends.objects.put(&name, xray().into()).await?;
    let waiting = a_waiting_run(gateway).await?;
    faults.lose_state();
    // Each run has a folder of its name: two run, and one waits.
    for entry in std::fs::read_dir(directory.path())? {
        let id = entry?
            .file_name()
            .into_string()
            .map_err(|_| anyhow!("an id"))?;
        let path = format!("/v1/archives/{id}");
        eventually(|| async { Ok(gateway.get(&path).await?.status() == 200) }).await?;
    }
    assert_eq!(gateway.view(&waiting).await?["status"], "queued");
    Ok(())
}

/// Makes the request what another gateway has: the same one, by another try.
async fn begun_elsewhere(state: &dyn State, run: &RunId) -> Result<()> {
    let request = state.document(run, "batch").await?.context("a request")?;
    let mut request: Value = serde_json::from_str(&request)?;
    request["attempt"] = json!("another");
    let request = request.to_string();
    Ok(state.put_document(run, "batch", request).await?)
}

#[tokio::test]
async fn a_run_whose_results_find_no_room_stays_known_and_is_left_to_who_has_begun_it_since()
-> Result<()> {
    let (directory, faults) = (tempfile::tempdir()?, Arc::new(FaultInjector::default()));
    let fixture = GatewayFixture::faulty(&faults, |config| {
        config.archives = vec!["s3://archive/cxr/".into()];
        config.directory = directory.path().to_owned();
    })
    .await?;
    let (gateway, backends) = (&fixture.gateway, &fixture.backends);
    let name = ObjectKey::parse("cxr/study.jpg").context("a key")?;
    backends.objects.put(&name, xray().into()).await?;
    faults.deny("batches/", Denial::Full);
    let started = gateway
        .post("/v1/archives", &findings_of("s3://archive/cxr"))
        .await?;
    let path = started.headers()["location"].to_str()?.to_owned();
    eventually(|| async { Ok(faults.denials_met() >= 2) }).await?;
    faults.lose_state();
    eventually(|| async { Ok(gateway.get(&path).await?.status() == 200) }).await?;
    let id = path.rsplit('/').next().context("an id")?;
    let run = RunId(format!("batch-{id}"));
    begun_elsewhere(&*backends.state, &run).await?;
    eventually(|| async { Ok(std::fs::read_dir(directory.path())?.next().is_none()) }).await?;
    let end = backends.state.document(&run, "batch-end").await?;
    assert_eq!(end, None, "the other one ends it");
    Ok(())
}

#[tokio::test]
async fn a_run_that_another_gateway_has_begun_since_the_state_lost_it_is_left_to_that_one()
-> Result<()> {
    let directory = tempfile::tempdir()?;
    let fixture = fixture(1, &directory, |_| {}).await?;
    let (gateway, state) = (&fixture.gateway, &fixture.backends.state);
    a_waiting_run(gateway).await?;
    let mut runs = Vec::new();
    for entry in std::fs::read_dir(directory.path())? {
        let id = entry?
            .file_name()
            .into_string()
            .map_err(|_| anyhow!("an id"))?;
        let run = RunId(format!("batch-{id}"));
        begun_elsewhere(&**state, &run).await?;
        runs.push(run);
    }
    assert_eq!(runs.len(), 3);
    eventually(|| async { Ok(std::fs::read_dir(directory.path())?.next().is_none()) }).await?;
    for run in runs {
        let end = state.document(&run, "batch-end").await?;
        assert_eq!(end, None, "the other one ends it");
    }
    Ok(())
}
