//! A role of the installation as a child process: started, signalled, looked at, started again.

use std::fs::File;
use std::io;
use std::net::SocketAddr;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};

use anyhow::{Context, ensure};

/// Waits until its standard input ends, which the kernel sees to when we end, also by SIGKILL; then kills the role.
const GUARD: &str = r#"cat > /dev/null; kill -KILL "$1" 2> /dev/null"#;

/// What a role is started with.
#[derive(Clone, Debug)]
pub(super) struct RoleSettings {
    /// What it is called in the order of faults and in the report, e.g. `worker findings`.
    pub(super) name: String,
    pub(super) arguments: Vec<String>,
    pub(super) environment: Vec<(&'static str, String)>,
    pub(super) directory: PathBuf,
    pub(super) log: PathBuf,
    /// Where it serves health.
    pub(super) health: Option<SocketAddr>,
}

/// A role, running or not.
pub(super) struct Role {
    pub(super) settings: RoleSettings,
    running: Option<Running>,
    /// A fault has it: it is not started again by anybody else.
    pub(super) is_held: bool,
}

struct Running {
    child: Child,
    guard: Child,
}

impl RoleSettings {
    /// The command of this role: this program, with none of our own settings but the folder of its caches.
    pub(super) fn command(&self) -> io::Result<Command> {
        let mut command = Command::new(std::env::current_exe()?);
        for (name, _) in std::env::vars_os() {
            let is_ours = name.to_string_lossy().starts_with("RADIALOG_");
            if is_ours && name != "RADIALOG_CACHE" {
                command.env_remove(name);
            }
        }
        command
            .args(&self.arguments)
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .current_dir(&self.directory)
            .stdin(Stdio::null());
        Ok(command)
    }
}

impl Role {
    pub(super) fn new(settings: RoleSettings) -> Self {
        Self {
            settings,
            running: None,
            is_held: false,
        }
    }

    /// Starts it, where it does not run.
    pub(super) fn start(&mut self) -> anyhow::Result<()> {
        if self.running.is_some() {
            return Ok(());
        }
        let log = File::options()
            .create(true)
            .append(true)
            .open(&self.settings.log)?;
        let mut command = self.settings.command()?;
        let child = command
            .stdout(log.try_clone()?)
            .stderr(log)
            // Ctrl-C in a terminal is for us alone: we stop the roles in order.
            .process_group(0)
            .spawn()
            .with_context(|| format!("cannot start {}", self.settings.name))?;
        let guard = Command::new("sh")
            .args(["-c", GUARD, "guard", &child.id().to_string()])
            .stdin(Stdio::piped())
            .process_group(0)
            .spawn()
            .context("cannot start sh")?;
        self.running = Some(Running { child, guard });
        Ok(())
    }

    pub(super) fn is_running(&self) -> bool {
        self.running.is_some()
    }

    /// How it has ended, once.
    pub(super) fn ended(&mut self) -> io::Result<Option<ExitStatus>> {
        let Some(running) = &mut self.running else {
            return Ok(None);
        };
        let ended = running.child.try_wait()?;
        if ended.is_some() {
            self.running = None;
        }
        Ok(ended)
    }

    /// SIGKILL, as the kernel or a power cut would.
    pub(super) fn kill(&mut self) {
        self.running = None;
    }

    /// Sends `STOP`, `CONT` or `TERM`.
    pub(super) fn signal(&self, signal: &str) -> anyhow::Result<()> {
        let Some(running) = &self.running else {
            return Ok(());
        };
        // A shell's own `kill`: the program of that name is not everywhere.
        let sent = Command::new("sh")
            .args(["-c", r#"kill -"$1" "$2" 2> /dev/null"#, "signal", signal])
            .arg(running.child.id().to_string())
            .status()
            .context("cannot start sh")?;
        // A role that has ended meanwhile is not reaped yet, so that its number is still its own.
        ensure!(sent.success(), "no SIG{signal} to {}", self.settings.name);
        Ok(())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        for process in [&mut self.child, &mut self.guard] {
            // It may have ended by itself.
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}
