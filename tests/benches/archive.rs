//! Memory and speed of a run over a large archive: the embedded pipeline with stages that have no model. Each size runs in a
//! process of its own, since a peak cannot be taken back.
#![expect(clippy::print_stdout, reason = "a benchmark prints its figures")]

use std::env;
use std::fs;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use radialog_tests::benchmark::Usage;
use radialog_tests::embedded::{
    backends, batch_options, run_long_batch, start_workers, synthetic_archive,
};
use radialog_tests::fake_stage::FakeStage;
use tokio::runtime::Builder;

const SIZES: [u64; 2] = [2_000, 200_000];
/// The program's own number: file operations are short, and every thread keeps a heap of its own.
const BLOCKING_THREADS: usize = 6;
/// Tells the process which size it is.
const STUDIES: &str = "RADIALOG_BENCH_STUDIES";

fn main() -> Result<()> {
    if let Ok(studies) = env::var(STUDIES) {
        return one(studies.parse()?);
    }
    Usage("cargo benchmark archive").takes_nothing();
    let mut peaks = Vec::new();
    for studies in SIZES {
        let output = Command::new(env::current_exe()?)
            .env(STUDIES, studies.to_string())
            .output()?;
        ensure!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        let line = String::from_utf8(output.stdout)?;
        print!("{line}");
        let peak = line.split_whitespace().nth(2).context("no figure")?;
        peaks.push(peak.parse::<f64>()?);
    }
    println!(
        "peak of {} studies / peak of {}: {:.2}",
        SIZES[1],
        SIZES[0],
        peaks[1] / peaks[0]
    );
    Ok(())
}

fn one(studies: u64) -> Result<()> {
    let runtime = Builder::new_multi_thread()
        .max_blocking_threads(BLOCKING_THREADS)
        .enable_all()
        .build()?;
    let dir = tempfile::tempdir()?;
    let summary = runtime.block_on(async {
        let backends = backends(&dir.path().join("objects"))?;
        let _workers = start_workers(&backends, FakeStage::new).await?;
        anyhow::Ok(
            run_long_batch(
                batch_options(synthetic_archive(studies), &dir.path().join("out")),
                &backends,
            )
            .await?,
        )
    })?;
    ensure!(
        summary.done == studies,
        "{} of {studies} done",
        summary.done
    );
    println!(
        "{studies} studies: {:.1} MiB peak, {:.0} studies/s",
        peak()?,
        summary.session.studies_per_second
    );
    Ok(())
}

/// The largest resident memory of this process so far, in MiB.
fn peak() -> Result<f64> {
    let status = fs::read_to_string("/proc/self/status")?;
    let line = status
        .lines()
        .find(|line| line.starts_with("VmHWM:"))
        .context("no VmHWM in /proc/self/status")?;
    let kibibytes: f64 = line
        .split_whitespace()
        .nth(1)
        .context("VmHWM without a value")?
        .parse()?;
    Ok(kibibytes / 1024.0)
}
