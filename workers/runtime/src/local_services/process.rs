//! A child process that ends with us.

use std::fs::File;
use std::io;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

/// Starts the command, waits until its own standard input ends, and then kills its process group, itself included. Our
/// end of that input is closed by the kernel when we end, also by SIGKILL.
const GUARD: &str = r#""$@" < /dev/null & cat > /dev/null; kill -KILL 0"#;

/// A running service in a process group of its own. Dropping it kills the group.
pub struct LocalProcess {
    guard: Child,
}

impl LocalProcess {
    /// Starts `command` with its output in `log`.
    ///
    /// # Errors
    /// Where there is no shell, or no such log can be written. A program that is not there is in the log.
    pub fn start(command: &Command, log: &Path) -> io::Result<Self> {
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
        Ok(Self {
            guard: guard.spawn()?,
        })
    }

    /// Stops it where it is, as a machine that is suspended.
    ///
    /// # Errors
    /// Where there is no shell.
    pub fn freeze(&self) -> io::Result<()> {
        self.signal("STOP")
    }

    /// Lets it go on.
    ///
    /// # Errors
    /// Where there is no shell.
    pub fn thaw(&self) -> io::Result<()> {
        self.signal("CONT")
    }

    fn signal(&self, signal: &str) -> io::Result<()> {
        // A shell's own `kill`: the program of that name is not everywhere.
        let status = Command::new("sh")
            .args(["-c", r#"kill -s "$1" -- "-$2""#, "signal", signal])
            .arg(self.guard.id().to_string())
            .status()?;
        match status.success() {
            true => Ok(()),
            false => Err(io::Error::other(format!("SIG{signal} could not be sent"))),
        }
    }
}

impl Drop for LocalProcess {
    fn drop(&mut self) {
        drop(self.guard.stdin.take());
        // The guard kills itself last; once it is gone, so are the ports that its group held.
        let _ = self.guard.wait();
    }
}
