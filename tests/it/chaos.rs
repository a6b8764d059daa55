//! `radialog chaos` as an operator runs it, cut short: faults in a seeded order, and the proof at the end.

use anyhow::{Result, ensure};
use radialog_tests::processes::radialog;
use radialog_tests::services::{Broker, Redis};
use serde_json::Value;

/// Faults of the short run: enough for most kinds.
const FAULTS: &str = "12";

#[tokio::test(flavor = "multi_thread")]
async fn an_installation_that_is_broken_in_a_seeded_order_loses_nothing() -> Result<()> {
    // The command starts its own, and installs nothing.
    Broker::installed()?;
    Redis::installed()?;
    let dir = tempfile::tempdir()?;
    let results = dir.path().join("chaos.json");
    let mut command = radialog(&["chaos", "--faults", FAULTS, "--seed", "4", "--studies", "4"])?;
    command
        .args(["--workers", "1", "--conversations", "1", "--json"])
        .arg(&results);
    let output = tokio::task::spawn_blocking(move || command.output()).await??;
    let page = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{page}{errors}");
    ensure!(page.contains("lost: nothing"), "{page}");
    let results: Value = serde_json::from_slice(&std::fs::read(results)?)?;
    let faults = results["faults"].as_object().map_or(0, |faults| {
        faults.values().filter_map(Value::as_u64).sum::<u64>()
    });
    // A fault may find nothing to break, e.g. no run between two rounds.
    ensure!((6..=12).contains(&faults), "{results}");
    for done in ["studies", "turns", "events", "objects_checked"] {
        ensure!(results[done].as_u64() > Some(0), "{done}: {results}");
    }
    Ok(())
}
