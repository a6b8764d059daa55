//! The whole system as its users run it: five processes over real RabbitMQ, S3 and Redis, killed and restarted in
//! mid-run, beside the embedded run over the same archive.
//!
//! `RADIALOG_ARCHIVE` names another folder than the shipped X-rays, e.g. one of hundreds.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use radialog_schemas::{Stage, StudyRecord};
use radialog_tests::fixtures::xrays;
use radialog_tests::patience::InTime;
use radialog_tests::processes::{ProcessCluster, RoleProcess, radialog};
use radialog_tests::services::{Broker, Environment, Services};

/// Short reports keep the run short; they are cut at this length in both modes.
const MAX_NEW_TOKENS: &str = "12";
/// The number of times that the shipped X-rays are there, each under another name and with other content.
const REPEATS: usize = 4;
const TIMEOUT: Duration = Duration::from_secs(900);

fn archive(dir: &Path) -> Result<PathBuf> {
    if let Some(folder) = std::env::var_os("RADIALOG_ARCHIVE") {
        return Ok(folder.into());
    }
    for entry in std::fs::read_dir(xrays())? {
        let path = entry?.path();
        if !path
            .extension()
            .is_some_and(|suffix| suffix == "jpg" || suffix == "png")
        {
            continue;
        }
        let name = path
            .file_name()
            .context("a file has a name")?
            .to_string_lossy()
            .into_owned();
        let image = std::fs::read(&path)?;
        for repeat in 0..REPEATS {
            // Bytes after the end of an image change its hash, and nothing that is decoded.
            let content = [image.as_slice(), &vec![0; repeat]].concat();
            std::fs::write(dir.join(format!("{repeat}-{name}")), content)?;
        }
    }
    // One study that can never work, so that failures are compared, too.
    std::fs::write(
        dir.join("truncated.jpg"),
        &std::fs::read(dir.join(first_image(dir)?))?[..1000],
    )?;
    Ok(dir.to_owned())
}

fn first_image(dir: &Path) -> Result<PathBuf> {
    let mut names: Vec<PathBuf> = std::fs::read_dir(dir)?
        .map(|entry| Ok(entry?.path()))
        .collect::<Result<_>>()?;
    names.sort();
    names
        .into_iter()
        .find(|path| path.extension().is_some_and(|suffix| suffix == "jpg"))
        .context("no JPEG shipped")
}

/// The command line of a run.
fn batch<'a>(archive: &'a str, out: &'a str) -> [&'a str; 6] {
    [
        "batch",
        archive,
        "--out",
        out,
        "--max-new-tokens",
        MAX_NEW_TOKENS,
    ]
}

/// The lines of a run without their timings, by study; a study with two lines is an error.
fn lines(out: &Path) -> Result<BTreeMap<String, String>> {
    let mut studies = BTreeMap::new();
    for line in std::fs::read_to_string(out.join("results.jsonl"))?.lines() {
        let mut record: StudyRecord = serde_json::from_str(line)?;
        record.timings.clear();
        let study = record.study.to_string();
        let earlier = studies.insert(study.clone(), serde_json::to_string(&record)?);
        ensure!(earlier.is_none(), "study {study} has two lines");
    }
    Ok(studies)
}

fn written(out: &Path) -> usize {
    std::fs::read_to_string(out.join("results.jsonl")).map_or(0, |text| text.lines().count())
}

/// Waits for the roles of a cluster, as long as all of them are at work.
async fn until(
    cluster: &ProcessCluster,
    what: &str,
    mut reached: impl FnMut() -> bool,
) -> Result<()> {
    let begun = Instant::now();
    while !reached() {
        let at_work = cluster.check();
        // What is waited for may be that a role ends.
        if reached() {
            break;
        }
        at_work?;
        ensure!(
            begun.elapsed() < TIMEOUT,
            "{what} took longer than {TIMEOUT:?}"
        );
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
#[expect(
    clippy::print_stdout,
    reason = "over another archive, the number of studies is the result"
)]
async fn a_run_of_five_processes_that_are_killed_equals_the_embedded_run() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let images = dir.path().join("archive");
    std::fs::create_dir(&images)?;
    let archive = archive(&images)?;
    let archive = archive.to_str().context("a UTF-8 path")?;

    let embedded = dir.path().join("embedded");
    let out = embedded.to_str().context("a UTF-8 path")?;
    let run = batch(archive, out);
    let output = tokio::task::spawn_blocking({
        let mut command = radialog(&run)?;
        move || command.output_in_time()
    });
    let output = output.await??;
    // One image of the archive cannot be read.
    let whole = output.status.code();
    ensure!(
        matches!(whole, Some(0 | 65)),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let expected = lines(&embedded)?;

    let mut broker = Broker::start(1).await?;
    let services = Services::shared().await?;
    let environment = Environment::services(broker.virtual_host()?, services.redis());
    let cluster = ProcessCluster::new(environment.bucket(services.bucket()?))?;
    let mut workers: BTreeMap<Stage, RoleProcess> = BTreeMap::new();
    for stage in Stage::ALL {
        workers.insert(stage, cluster.start(&["worker", stage.name()])?);
    }
    let distributed = dir.path().join("distributed");
    let out = distributed.to_str().context("a UTF-8 path")?;
    let run = batch(archive, out);
    let mut coordinator = cluster.start(&run)?;

    // Spread over the run: each worker killed and started again, the broker restarted, the coordinator killed.
    let step = expected.len() / 8;
    for (number, stage) in Stage::ALL.into_iter().enumerate() {
        until(&cluster, "the run", || {
            written(&distributed) > number * step
        })
        .await?;
        drop(workers.remove(&stage));
        workers.insert(stage, cluster.start(&["worker", stage.name()])?);
    }
    until(&cluster, "the run", || written(&distributed) > 4 * step).await?;
    broker.stop();
    broker.start_again().await?;
    until(&cluster, "the run", || written(&distributed) > 6 * step).await?;
    coordinator.kill();
    coordinator = cluster.start(&run)?;

    let mut ended = None;
    until(&cluster, "the end of the run", || {
        ended = coordinator.0.try_wait().ok().flatten();
        ended.is_some()
    })
    .await?;
    let log = cluster.log("batch");
    ensure!(ended.and_then(|status| status.code()) == whole, "{log}");

    let actual = lines(&distributed)?;
    ensure!(
        actual.keys().eq(expected.keys()),
        "{} studies instead of {}",
        actual.len(),
        expected.len()
    );
    for (study, line) in &expected {
        ensure!(
            actual[study] == *line,
            "study {study}:\n{}\ninstead of\n{line}",
            actual[study]
        );
    }
    println!(
        "distributed: {} studies, each once and equal to the embedded run",
        actual.len()
    );
    Ok(())
}

#[tokio::test]
async fn a_role_that_ends_early_ends_the_wait_for_it_with_its_log() -> Result<()> {
    let cluster = ProcessCluster::new(Environment::default())?;
    let _worker = cluster.start(&["worker", "scoring", "--bundle", "/nowhere"])?;
    let waited = until(&cluster, "what never happens", || false).await;
    let error = waited.unwrap_err().to_string();
    for part in ["`radialog worker scoring", "has ended by itself", "error: "] {
        ensure!(error.contains(part), "{part}: {error}");
    }
    Ok(())
}
