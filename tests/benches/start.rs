//! From the start of `radialog batch` to its first task in flight: the program is started over real RabbitMQ and Redis, and
//! the time is taken when the first message reaches a consumer of a work queue. The models are the workers' and stay out of
//! it; the bundle's manifest is read and its hashes are known.
#![expect(clippy::print_stdout, reason = "a benchmark prints its figures")]

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use radialog_schemas::{Stage, queues};
use radialog_tests::benchmark::Usage;
use radialog_tests::fixtures::xrays;
use radialog_tests::processes::{RoleProcess, program, radialog};
use radialog_tests::services::Services;
use tokio::time::timeout;

const ROUNDS: usize = 10;
const TIMEOUT: Duration = Duration::from_secs(60);

#[tokio::main]
async fn main() -> Result<()> {
    Usage("cargo benchmark start").takes_nothing();
    program()?;
    let mut seconds = Vec::new();
    // The first round makes the bundle and verifies its files.
    for round in 0..=ROUNDS {
        let time = measure().await?.as_secs_f64();
        if round > 0 {
            seconds.push(time);
        }
    }
    seconds.sort_by(f64::total_cmp);
    let (least, median, most) = (seconds[0], seconds[ROUNDS / 2], seconds[ROUNDS - 1]);
    println!("start of `radialog batch` to the first task in flight, {ROUNDS} rounds:");
    println!(
        "least {least:.3} s, median {median:.3} s, most {most:.3} s; median / 0.5 s: {:.2}",
        median / 0.5
    );
    Ok(())
}

async fn measure() -> Result<Duration> {
    let services = Services::shared().await?;
    let dir = tempfile::tempdir()?;
    let environment = services.environment()?.objects(&dir.path().join("objects"));
    let backends = environment.connect().await?;
    let mut consumer = backends
        .queue
        .consume(queues::work(Stage::Findings), 1)
        .await?;

    let xrays = xrays().display().to_string();
    let out = dir.path().join("out").display().to_string();
    let mut batch = radialog(&["batch", &xrays, "--out", &out])?;
    batch.envs(environment.variables());
    let started = Instant::now();
    let _batch = RoleProcess::start(&mut batch, &dir.path().join("log"))?;
    let delivery = timeout(TIMEOUT, consumer.next())
        .await
        .context("no task came; the batch did not start")?;
    let time = started.elapsed();
    drop(delivery);
    Ok(time)
}
