//! What a study costs beside its models: four stages that do nothing, over real RabbitMQ (quorum queues, persistent,
//! confirmed, acknowledged late) and Redis, with two worker processes, beside Celery on the same broker in the same run.
//!
//! The peer is `peers/task_queue.py`, or the script that `RADIALOG_PEER_BENCH` names: one that takes `celery --amqp URL --redis URL
//! --studies N --workers N --single N --quorum` and prints its studies/s. It runs in a virtual environment that this benchmark makes
//! with `python3 -m venv` and pip.
#![expect(clippy::print_stdout, reason = "a benchmark prints its figures")]

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use anyhow::{Context, Result, bail, ensure};
use radialog_runtime::backends::Backends;
use radialog_runtime::config::Config;
use radialog_runtime::runner::{Runner, RunnerSettings};
use radialog_schemas::Stage;
use radialog_tests::benchmark::{Usage, median, peer_python, run};
use radialog_tests::embedded;
use radialog_tests::fake_stage::FakeStage;
use radialog_tests::processes::RoleProcess;
use radialog_tests::services::{Environment, Services};
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

const STUDIES: u64 = 5_000;
/// The studies over the S3 protocol are fewer, since the server of the tests is the slow part there.
const S3_STUDIES: u64 = 500;
const WORKERS: usize = 2;
/// Image tokens of the published geometry: 32 x 768 f32, as the peer's payload.
const EMBEDDING_BYTES: usize = 98_304;
/// Makes this program a worker.
const ROLE: &str = "RADIALOG_BENCH_WORKER";

fn main() -> Result<()> {
    Usage("cargo benchmark overhead").takes_nothing();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    if env::var_os(ROLE).is_some() {
        return runtime.block_on(work());
    }
    let repeats = 3;
    let mut ours = Vec::new();
    let mut peers = Vec::new();
    let python = peer_environment();
    for round in 1..=repeats {
        let services = runtime.block_on(Services::shared())?;
        let dir = tempfile::tempdir()?;
        let environment = services.environment()?.objects(&dir.path().join("objects"));
        let rate = runtime.block_on(measure(&environment, STUDIES, &dir))?;
        println!(
            "round {round}: radialog {rate:.0} studies/s ({STUDIES} studies, filesystem objects)"
        );
        ours.push(rate);
        match &python {
            Ok((python, script)) => {
                let rate = peer(python, script, services)?;
                println!("round {round}: celery {rate:.0} studies/s");
                peers.push(rate);
            }
            Err(reason) => println!("no peer: {reason:#}"),
        }
    }
    if !peers.is_empty() {
        println!(
            "radialog / celery: {:.2} (medians)",
            median(&ours) / median(&peers)
        );
    }
    let services = runtime.block_on(Services::shared())?;
    let dir = tempfile::tempdir()?;
    let environment = services.environment()?.bucket(services.s3().bucket()?);
    let rate = runtime.block_on(measure(&environment, S3_STUDIES, &dir))?;
    println!(
        "with an S3 server: {rate:.0} studies/s ({S3_STUDIES} studies; the server of the tests is the slow part)"
    );
    Ok(())
}

/// Studies per second of one run over fresh queues.
async fn measure(environment: &Environment, studies: u64, dir: &TempDir) -> Result<f64> {
    let backends = environment.connect().await?;
    let mut workers = Vec::new();
    for _ in 0..WORKERS {
        let mut command = Command::new(env::current_exe()?);
        command.env(ROLE, "1").envs(environment.variables());
        workers.push(RoleProcess::start(
            &mut command,
            &dir.path().join("workers.log"),
        )?);
    }
    // The first run brings processes and connections up.
    for (name, studies) in [("warm", 50), ("out", studies)] {
        let options =
            embedded::batch_options(embedded::synthetic_archive(studies), &dir.path().join(name));
        let summary = embedded::run_long_batch(options, &backends).await?;
        ensure!(
            summary.done == studies,
            "{} of {studies} done",
            summary.done
        );
        if name == "out" {
            return Ok(summary.session.studies_per_second);
        }
    }
    bail!("no run was measured")
}

/// A worker process: all four stages, as the peer's workers.
async fn work() -> Result<()> {
    let config = Config::load(None, env::vars(), [])?;
    let backends = Backends::connect(&config).await?;
    let runners = Stage::ALL.map(|stage| {
        let stage = Arc::new(FakeStage::new(stage).payload(EMBEDDING_BYTES));
        let runner = Runner::new(
            stage,
            backends.queue.clone(),
            backends.objects.clone(),
            RunnerSettings::default(),
        );
        tokio::spawn(runner.run(CancellationToken::new()))
    });
    for runner in runners {
        runner.await??;
    }
    Ok(())
}

/// The peer's interpreter, with its packages, and script.
fn peer_environment() -> Result<(PathBuf, PathBuf)> {
    let default = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/peers/task_queue.py");
    let script = env::var_os("RADIALOG_PEER_BENCH").map_or(default, PathBuf::from);
    let script = script
        .canonicalize()
        .with_context(|| format!("there is no {}", script.display()))?;
    let python = peer_python("celery", &["celery[redis]>=5.5,<6"])?;
    Ok((python, script))
}

fn peer(python: &Path, script: &Path, services: &Services) -> Result<f64> {
    let mut command = Command::new(python);
    command.arg(script).args([
        "celery",
        "--quorum",
        "--amqp",
        &services.amqp()?,
        "--redis",
        services.redis(),
    ]);
    command.args([
        "--studies",
        &STUDIES.to_string(),
        "--workers",
        &WORKERS.to_string(),
        "--single",
        "1",
    ]);
    let output = run(&mut command)?;
    let rate = output
        .split("studies/s")
        .next()
        .and_then(|text| text.split_whitespace().last());
    rate.and_then(|rate| rate.parse().ok())
        .with_context(|| format!("no figure in: {output}"))
}
