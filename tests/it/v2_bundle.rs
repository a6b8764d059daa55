//! RaDialog v2 as its users run it: a tiny bundle of it through the program's own commands, beside v1's in the other modules.

use std::io::Write;
use std::path::Path;
use std::process::Stdio;

use anyhow::{Context, Result, ensure};
use radialog_tests::fixtures::xray;
use radialog_tests::patience::InTime;
use radialog_tests::processes::radialog;
use serde_json::Value;
use tempfile::TempDir;

const XRAYS: [&str; 2] = ["00001300_000.jpg", "2cd63b76.jpg"];

/// A folder with a bundle in it.
fn bundle() -> Result<(TempDir, String)> {
    let dir = tempfile::tempdir()?;
    let bundle = dir.path().join("bundle").display().to_string();
    says(&["bundle", "random", &bundle, "--system", "v2", "--seed", "7"])?;
    Ok((dir, bundle))
}

/// What a command that must work prints.
fn says(arguments: &[&str]) -> Result<String> {
    tells(arguments, "")
}

/// What it prints when this is typed.
fn tells(arguments: &[&str], typed: &str) -> Result<String> {
    let mut command = radialog(arguments)?;
    let mut running = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    let mut input = running.stdin.take().context("no input")?;
    input.write_all(typed.as_bytes())?;
    drop(input);
    let output = running.output_in_time()?;
    let text = String::from_utf8(output.stdout)?;
    let errors = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{arguments:?}: {text}{errors}");
    Ok(text)
}

/// The studies of a run and their reports.
fn reports(out: &Path) -> Result<Vec<(String, String)>> {
    let text = std::fs::read_to_string(out.join("results.jsonl"))?;
    let mut reports = Vec::new();
    for line in text.lines() {
        let record: Value = serde_json::from_str(line)?;
        ensure!(record["status"] == "done", "{record}");
        let field = |name: &str| record[name].as_str().unwrap_or_default().to_owned();
        reports.push((field("study"), field("report")));
    }
    reports.sort();
    Ok(reports)
}

#[test]
fn a_bundle_of_v2_writes_the_same_reports_alone_and_in_a_batch() -> Result<()> {
    let (dir, bundle) = bundle()?;
    says(&["bundle", "verify", &bundle])?;
    let run = |names: &[&str], out: &str| -> Result<Vec<(String, String)>> {
        let (images, out) = (
            dir.path().join(format!("{out}-images")),
            dir.path().join(out),
        );
        std::fs::create_dir_all(&images)?;
        for name in names {
            std::fs::copy(xray(name), images.join(name))?;
        }
        let (images, folder) = (images.display().to_string(), out.display().to_string());
        let objects = format!("{folder}-objects");
        says(&[
            "batch",
            &images,
            "--out",
            &folder,
            "--bundle",
            &bundle,
            "--objects",
            &objects,
            "--max-new-tokens",
            "16",
        ])?;
        reports(&out)
    };
    let together = run(&XRAYS, "together")?;
    ensure!(
        together.len() == 2 && together[0].1 != together[1].1,
        "{together:?}"
    );
    for (_, report) in &together {
        ensure!(!report.is_empty() && report.trim() == report, "{report:?}");
    }
    for (index, name) in XRAYS.iter().enumerate() {
        let alone = run(&[name], &format!("alone-{index}"))?;
        ensure!(together.contains(&alone[0]), "{alone:?} and {together:?}");
    }
    Ok(())
}

#[test]
fn a_conversation_with_v2_has_the_tasks_that_it_alone_was_trained_for() -> Result<()> {
    let (dir, bundle) = bundle()?;
    let image = xray(XRAYS[0]).display().to_string();
    let saved = dir.path().join("saved.json");
    let typed = format!(
        "/view\nIs it large?\n/impression\n/save {}\n/quit\n",
        saved.display()
    );
    let chat = [
        "chat",
        &image,
        "--bundle",
        &bundle,
        "--max-new-tokens",
        "12",
    ];
    tells(&chat, &typed)?;
    let view: Value = serde_json::from_slice(&std::fs::read(&saved)?)?;
    let turns = view["turns"].as_array().context("turns")?;
    let field = |turn: usize, name: &str| turns[turn][name].as_str().unwrap_or_default().to_owned();
    ensure!(turns.len() == 4, "{view}");
    for turn in 0..4 {
        ensure!(
            field(turn, "status") == "done" && !field(turn, "text").is_empty(),
            "{view}"
        );
    }
    ensure!(
        field(0, "asked").starts_with("<IMG>. Predicted Findings: "),
        "{view}"
    );
    ensure!(
        field(1, "asked") == "From what view was this image taken?",
        "{view}"
    );
    ensure!(
        field(3, "asked").starts_with("Write the impression section"),
        "{view}"
    );
    Ok(())
}

#[test]
fn a_bundle_without_these_tasks_refuses_them() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let bundle = dir.path().join("bundle").display().to_string();
    says(&["bundle", "random", &bundle])?;
    let image = xray(XRAYS[0]).display().to_string();
    let saved = dir.path().join("saved.json");
    let typed = format!("/view\n/save {}\n/quit\n", saved.display());
    let chat = ["chat", &image, "--bundle", &bundle, "--max-new-tokens", "4"];
    tells(&chat, &typed)?;
    let view: Value = serde_json::from_slice(&std::fs::read(&saved)?)?;
    ensure!(view["turns"][1]["status"] == "failed", "{view}");
    let reason = view["turns"][1]["error"]["message"]
        .as_str()
        .unwrap_or_default();
    ensure!(reason.contains("trained for"), "{reason}");
    Ok(())
}
