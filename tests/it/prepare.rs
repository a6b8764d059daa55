//! Data that is prepared with a model: through the same queue and workers as a batch, in this process and over real
//! services, interrupted and not.

use std::path::{Path, PathBuf};
use std::process::Output;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use radialog_tests::patience::InTime;
use radialog_tests::processes::{RoleProcess, radialog};
use tempfile::TempDir;

mod answers;
mod images;
mod labels;

const TIMEOUT: Duration = Duration::from_secs(300);

/// A folder in which `radialog prepare` is run.
struct PrepareFixture {
    dir: TempDir,
}

impl PrepareFixture {
    fn new() -> Result<Self> {
        Ok(Self {
            dir: tempfile::tempdir()?,
        })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn write(&self, name: &str, content: &str) -> Result<()> {
        Ok(std::fs::write(self.path(name), content)?)
    }

    fn read(&self, name: &str) -> Result<Vec<u8>> {
        std::fs::read(self.path(name)).with_context(|| format!("reading {name}"))
    }

    /// Runs `radialog prepare` with these arguments to its end.
    async fn prepare(&self, arguments: &[&str]) -> Result<Output> {
        let mut command = radialog(&[&["prepare"], arguments].concat())?;
        command.current_dir(self.dir.path());
        Ok(tokio::task::spawn_blocking(move || command.output_in_time()).await??)
    }

    /// Runs it, kills it when `lines` items are done, and runs it to its end.
    async fn prepare_interrupted(
        &self,
        arguments: &[&str],
        run: &str,
        lines: usize,
    ) -> Result<Output> {
        let mut command = radialog(&[&["prepare"], arguments].concat())?;
        let mut role = RoleProcess::start(command.current_dir(self.dir.path()), &self.path("log"))?;
        self.until_written(&[&role], run, lines).await?;
        role.kill();
        self.prepare(arguments).await
    }

    /// Waits until so many items of a run are done.
    async fn until_written(&self, roles: &[&RoleProcess], run: &str, lines: usize) -> Result<()> {
        let results = self.path(run).join("results.jsonl");
        let begun = Instant::now();
        while written(&results) < lines {
            roles.iter().try_for_each(|role| role.check())?;
            ensure!(begun.elapsed() < TIMEOUT, "{run} has too few lines");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        Ok(())
    }
}

fn written(results: &Path) -> usize {
    std::fs::read_to_string(results).map_or(0, |text| text.lines().count())
}

fn shown(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}
