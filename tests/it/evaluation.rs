//! `radialog evaluate report`: recorded scores from files of every kind, what becomes of bad input, comparisons, files.

use std::path::PathBuf;
use std::process::Output;

use anyhow::{Context, Result, ensure};
use radialog_schemas::Finding;
use radialog_tests::patience::InTime;
use radialog_tests::processes::radialog;
use radialog_tests::run_files::{label_table, line};
use serde_json::Value;
use tempfile::TempDir;

mod bad_input;
mod compared;
mod files;
mod labelled;
mod memory;
mod names;
mod options;
mod recorded;
mod resumed;
mod review;
mod sources;

/// A folder in which reports are evaluated.
pub(crate) struct EvaluationFixture {
    dir: TempDir,
}

impl EvaluationFixture {
    pub(crate) fn new() -> Result<Self> {
        Ok(Self {
            dir: tempfile::tempdir()?,
        })
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn write(&self, name: &str, content: &str) -> Result<()> {
        Ok(std::fs::write(self.path(name), content)?)
    }

    fn read(&self, name: &str) -> Result<String> {
        std::fs::read_to_string(self.path(name)).with_context(|| format!("reading {name}"))
    }

    /// Runs `radialog evaluate report` with these arguments.
    fn run(&self, arguments: &[&str]) -> Result<Output> {
        let mut command = radialog(&[&["evaluate", "report"], arguments].concat())?;
        Ok(command.current_dir(self.dir.path()).output_in_time()?)
    }

    /// Runs it to its end, and returns what it printed.
    pub(crate) fn evaluate(&self, arguments: &[&str]) -> Result<String> {
        let output = self.run(arguments)?;
        let errors = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "{arguments:?}: {errors}");
        Ok(String::from_utf8(output.stdout)?)
    }

    /// Runs it and returns its JSON. Few resamples, since most tests are not about them.
    fn scores(&self, arguments: &[&str]) -> Result<Value> {
        let quick = ["--json", "--resamples", "20"];
        let printed = self.evaluate(&[arguments, &quick].concat())?;
        Ok(serde_json::from_str(&printed)?)
    }

    /// Runs it, and returns its error; it must have ended with this code.
    fn fault(&self, arguments: &[&str], code: i32) -> Result<String> {
        let output = self.run(arguments)?;
        let printed = [output.stdout, output.stderr].concat();
        let printed = String::from_utf8(printed)?;
        ensure!(
            output.status.code() == Some(code),
            "{:?}: {printed}",
            output.status
        );
        Ok(printed)
    }
}

/// A score of `scores.json`; of one finding where it is given.
fn value(scores: &Value, group: &str, name: &str, finding: Option<Finding>) -> Option<f64> {
    let metrics = scores["metrics"].as_array()?;
    let finding = finding.map(|finding| Value::from(finding.name()));
    let is_it = |metric: &&Value| {
        metric["group"] == group
            && metric["name"] == name
            && metric.get("finding").cloned() == finding
    };
    metrics.iter().find(is_it)?["value"].as_f64()
}
