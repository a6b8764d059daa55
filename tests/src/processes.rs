//! The `radialog` program for tests that run it as a user does: single commands, and roles that work together over one
//! environment and can be killed.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::{Mutex, OnceLock, PoisonError};

use anyhow::{Context, Result, bail, ensure};
use tempfile::TempDir;

use crate::patience::{InTime, Watchdog};
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
    /// The current folder of all roles, too: what they keep where nobody has named a place goes with it.
    logs: TempDir,
    /// Process ids and command lines of all roles so far.
    started: Mutex<Vec<(u32, Vec<String>)>>,
}

impl ProcessCluster {
    /// Starts nothing yet.
    ///
    /// # Errors
    /// Where there is no folder for logs.
    pub fn new(environment: Environment) -> Result<Self> {
        let logs = tempfile::tempdir()?;
        Ok(Self {
            environment,
            logs,
            started: Mutex::default(),
        })
    }

    /// Starts a role, e.g. `["worker", "findings"]`; it appends to the log of its subcommand.
    ///
    /// # Errors
    /// As [`RoleProcess::start`].
    pub fn start(&self, arguments: &[&str]) -> Result<RoleProcess> {
        let log = self.logs.path().join(arguments[0]);
        let role = RoleProcess::start(&mut self.command(arguments)?, &log)?;
        let line = arguments.iter().map(|part| (*part).to_owned()).collect();
        let mut started = self.started.lock().unwrap_or_else(PoisonError::into_inner);
        started.push((role.0.id(), line));
        Ok(role)
    }

    /// Looks whether all roles are at work, so that nobody waits for one that is not. One that was killed or waited for is no
    /// matter any more.
    ///
    /// # Errors
    /// A role has ended by itself; with the log of its subcommand.
    pub fn check(&self) -> Result<()> {
        let started = self.started.lock().unwrap_or_else(PoisonError::into_inner);
        for (process, line) in started.iter() {
            if has_ended(*process) {
                let (line, log) = (line.join(" "), self.log(&line[0]));
                bail!("`radialog {line}` has ended by itself:\n{log}");
            }
        }
        Ok(())
    }

    /// Runs a command of the program to its end.
    ///
    /// # Errors
    /// Where it does not start; a command that fails is an output.
    pub fn run(&self, arguments: &[&str]) -> Result<Output> {
        Ok(self.command(arguments)?.output_in_time()?)
    }

    /// Returns what all processes of a subcommand have logged so far.
    pub fn log(&self, subcommand: &str) -> String {
        std::fs::read_to_string(self.logs.path().join(subcommand)).unwrap_or_default()
    }

    fn command(&self, arguments: &[&str]) -> Result<Command> {
        let mut command = radialog(arguments)?;
        command
            .envs(self.environment.variables())
            .current_dir(self.logs.path());
        Ok(command)
    }
}

/// Whether a process of ours has ended and nobody has waited for it.
fn has_ended(process: u32) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap_or_default();
    let field = |name: &str| {
        let value = status.lines().find_map(|line| line.strip_prefix(name));
        value.map(str::trim_start)
    };
    // Its first thread may end before the others, and nobody can wait for it then.
    let is_whole = field("Threads:").is_none_or(|count| matches!(count, "0" | "1"));
    field("State:").is_some_and(|state| state.starts_with('Z')) && is_whole
}

/// A running role that is killed when it is dropped, and its log.
pub struct RoleProcess(pub Child, PathBuf);

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
        Ok(Self(child, log.to_owned()))
    }

    /// Looks whether it is at work, so that nobody waits for it who need not.
    ///
    /// # Errors
    /// It has ended by itself; with its log.
    pub fn check(&self) -> Result<()> {
        if has_ended(self.0.id()) {
            let log = std::fs::read_to_string(&self.1).unwrap_or_default();
            bail!("the role has ended by itself:\n{log}");
        }
        Ok(())
    }

    /// Waits until it has ended by itself.
    ///
    /// # Errors
    /// Where it does not; with its log.
    pub fn ended(&mut self) -> Result<ExitStatus> {
        let watchdog = Watchdog::over(&self.0);
        let status = self.0.wait()?;
        let log = std::fs::read_to_string(&self.1).unwrap_or_default();
        watchdog.call_off(&format!("a role with this log:\n{log}"))?;
        Ok(status)
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
