//! The `radialog` program for tests that run it as a user does: single commands, and roles that work together over one
//! environment and can be killed.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::OnceLock;

use anyhow::{Context, Result, ensure};
use tempfile::TempDir;

use crate::services::Environment;

/// The program, built if need be, from the same sources and into the same folder as the test that asks.
///
/// # Errors
/// Where it does not compile.
pub fn program() -> Result<PathBuf> {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    if let Some(program) = PROGRAM.get() {
        return Ok(program.clone());
    }
    let test = std::env::current_exe()?;
    let profile = test
        .ancestors()
        .nth(2)
        .context("a test lies in target/PROFILE/deps")?;
    let target = profile
        .parent()
        .context("a profile lies in the target folder")?;
    let mut build = Command::new(env!("CARGO"));
    // By way of a test that needs the program, and of the whole workspace: as in the test command, so that dependencies have
    // the same features and are not built again.
    build
        .args([
            "test",
            "--no-run",
            "--workspace",
            "--test",
            "command_line",
            "--quiet",
            "--target-dir",
        ])
        .arg(target);
    if profile.ends_with("release") {
        build.arg("--release");
    }
    let built = build.current_dir(env!("CARGO_MANIFEST_DIR")).status()?;
    ensure!(built.success(), "the radialog program does not build");
    Ok(PROGRAM.get_or_init(|| profile.join("radialog")).clone())
}

/// A role of the program with an environment of its own: none of the caller's RaDialog settings, but its bundle cache.
///
/// # Errors
/// As [`program`].
pub fn radialog(arguments: &[&str]) -> Result<Command> {
    let mut command = Command::new(program()?);
    for (name, _) in std::env::vars()
        .filter(|(name, _)| name.starts_with("RADIALOG_") && name != "RADIALOG_CACHE")
    {
        command.env_remove(name);
    }
    command.args(arguments);
    Ok(command)
}

/// Roles of one deployment, each a process, with one environment and a log for each role.
pub struct ProcessCluster {
    environment: Environment,
    logs: TempDir,
}

impl ProcessCluster {
    /// Starts nothing yet.
    ///
    /// # Errors
    /// Where there is no folder for logs.
    pub fn new(environment: Environment) -> Result<Self> {
        let logs = tempfile::tempdir()?;
        Ok(Self { environment, logs })
    }

    /// Starts a role, e.g. `["worker", "findings"]`; it appends to the log of its subcommand.
    ///
    /// # Errors
    /// As [`RoleProcess::start`].
    pub fn start(&self, arguments: &[&str]) -> Result<RoleProcess> {
        let log = self.logs.path().join(arguments[0]);
        RoleProcess::start(&mut self.command(arguments)?, &log)
    }

    /// Runs a command of the program to its end.
    ///
    /// # Errors
    /// Where it does not start; a command that fails is an output.
    pub fn run(&self, arguments: &[&str]) -> Result<Output> {
        Ok(self.command(arguments)?.output()?)
    }

    /// Returns what all processes of a subcommand have logged so far.
    pub fn log(&self, subcommand: &str) -> String {
        std::fs::read_to_string(self.logs.path().join(subcommand)).unwrap_or_default()
    }

    fn command(&self, arguments: &[&str]) -> Result<Command> {
        let mut command = radialog(arguments)?;
        command.envs(self.environment.variables());
        Ok(command)
    }
}

/// A running role that is killed when it is dropped.
pub struct RoleProcess(pub Child);

impl RoleProcess {
    /// Starts it with its output in `log`.
    ///
    /// # Errors
    /// Where it does not start.
    pub fn start(command: &mut Command, log: &Path) -> Result<Self> {
        let output = std::fs::File::options()
            .create(true)
            .append(true)
            .open(log)?;
        let child = command
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output)
            .spawn()?;
        Ok(Self(child))
    }

    /// SIGKILL, as the kernel or a power cut would.
    pub fn kill(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Drop for RoleProcess {
    fn drop(&mut self) {
        self.kill();
    }
}
