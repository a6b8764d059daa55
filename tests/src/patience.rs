//! Patience with a process that a test waits for: one that hangs is killed and fails its test, or the whole run would wait with
//! it. The tests of the command line take this file in as well.

use std::io;
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// Longer than any process of a test takes, on a machine that others keep busy, too.
const PATIENCE: Duration = Duration::from_secs(1200);

/// Kills a process that hangs, so that whoever reads from it or waits for it goes on.
pub struct Watchdog {
    called_off: Sender<()>,
    watch: JoinHandle<bool>,
}

impl Watchdog {
    /// Watches this process until it is called off.
    pub fn over(child: &Child) -> Self {
        let process = child.id().to_string();
        let (called_off, waits) = channel();
        let watch = thread::spawn(move || {
            let hangs = waits.recv_timeout(PATIENCE) == Err(RecvTimeoutError::Timeout);
            if hangs {
                // A shell's own `kill`: the program of that name is not everywhere.
                let kill = ["-c", "kill -KILL \"$0\"", &process];
                drop(Command::new("sh").args(kill).status());
            }
            hangs
        });
        Self { called_off, watch }
    }

    /// Says that the process, called so, has ended.
    ///
    /// # Errors
    /// Where it had to be killed.
    pub fn call_off(self, process: &str) -> io::Result<()> {
        drop(self.called_off);
        match self.watch.join() {
            Ok(false) => Ok(()),
            _ => Err(io::Error::new(
                io::ErrorKind::TimedOut,
                format!("killed, as it had not ended after {PATIENCE:?}: {process}"),
            )),
        }
    }
}

/// What a process says and ends with, waited for with patience; a command's own streams are not used.
pub trait InTime {
    /// As `output` of a command, which gets no input, and `wait_with_output` of a process.
    ///
    /// # Errors
    /// Where it does not start, or does not end.
    fn output_in_time(self) -> io::Result<Output>;
}

impl InTime for &mut Command {
    fn output_in_time(self) -> io::Result<Output> {
        self.stdin(Stdio::null());
        let child = self.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
        end_of(child, &format!("{self:?}"))
    }
}

impl InTime for Child {
    fn output_in_time(self) -> io::Result<Output> {
        let process = format!("process {}", self.id());
        end_of(self, &process)
    }
}

fn end_of(child: Child, process: &str) -> io::Result<Output> {
    let watchdog = Watchdog::over(&child);
    let output = child.wait_with_output()?;
    let what = format!("{process}, which said {output:?}");
    watchdog.call_off(&what)?;
    Ok(output)
}
