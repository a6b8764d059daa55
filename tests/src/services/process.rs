//! A child process that ends with us.

use std::fs::File;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, ensure};

/// Starts the command, waits until its own standard input ends, and then kills its process group, itself included. Our
/// end of that input is closed by the kernel when we end, also by SIGKILL.
const GUARD: &str = r#""$@" < /dev/null & cat > /dev/null; kill -KILL 0"#;

/// A running service in a process group of its own.
pub(super) struct Process {
    guard: Child,
}

impl Process {
    /// Starts `command` with its output in `log`.
    pub(super) fn start(command: &Command, log: &Path) -> Result<Self> {
        let output = File::options().create(true).append(true).open(log)?;
        let mut guard = Command::new("sh");
        guard
            .args(["-c", GUARD, "guard"])
            .arg(command.get_program())
            .args(command.get_args());
        for (name, value) in command.get_envs() {
            guard.env(name, value.unwrap_or_default());
        }
        guard
            .stdin(Stdio::piped())
            .stdout(output.try_clone()?)
            .stderr(output)
            .process_group(0);
        let guard = guard
            .spawn()
            .with_context(|| format!("cannot start {}", command.get_program().display()))?;
        Ok(Self { guard })
    }

    /// Stops it where it is, as a machine that is suspended.
    pub(super) fn freeze(&self) -> Result<()> {
        self.signal("STOP")
    }

    /// Lets it go on.
    pub(super) fn thaw(&self) -> Result<()> {
        self.signal("CONT")
    }

    fn signal(&self, signal: &str) -> Result<()> {
        let group = format!("-{}", self.guard.id());
        let status = Command::new("kill")
            .args(["-s", signal, "--", &group])
            .status()?;
        ensure!(status.success(), "kill -s {signal} -- {group}: {status}");
        Ok(())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        drop(self.guard.stdin.take());
        // The guard kills itself last; once it is gone, so are the ports that its group held.
        let _ = self.guard.wait();
    }
}
