//! SIGTERM, Ctrl-C and the end of the terminal (SIGHUP): the first asks for a clean stop, the second exits at once. A process that
//! began with SIGHUP ignored, as `nohup` makes it, goes on ignoring it.

use std::io;
use std::sync::{Mutex, OnceLock, PoisonError};

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// The code with which a shell reports a process that was ended by SIGINT.
const INTERRUPTED: i32 = 130;

/// Requests to end the process that nobody has typed: SIGTERM, and SIGHUP where the process does not ignore it.
pub struct Terminations {
    terminate: Signal,
    hang_up: Option<Signal>,
}

impl Terminations {
    fn new() -> io::Result<Self> {
        let hang_up = match ignores_hang_up() {
            true => None,
            false => Some(signal(SignalKind::hangup())?),
        };
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            hang_up,
        })
    }

    /// Waits for the next one.
    pub async fn recv(&mut self) {
        let hung_up = async {
            match &mut self.hang_up {
                Some(hang_up) => hang_up.recv().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! { _ = self.terminate.recv() => {}, _ = hung_up => {} }
    }
}

/// Whether SIGHUP was ignored when it was first asked, which is before anything has changed that.
fn ignores_hang_up() -> bool {
    static IGNORED: OnceLock<bool> = OnceLock::new();
    *IGNORED.get_or_init(|| {
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        is_hang_up_in(&status)
    })
}

/// Whether the first of the ignored signals in a process's status is SIGHUP.
fn is_hang_up_in(status: &str) -> bool {
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = ignored.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    mask.is_some_and(|mask| mask & 1 == 1)
}

/// What has heard them since the process began, until somebody takes it who knows what to do then.
static EARLY: Mutex<Option<Terminations>> = Mutex::new(None);

/// SIGXFSZ on Linux, by its number: a file would grow over the limit of file sizes (`ulimit -f`).
const FILE_TOO_LARGE: i32 = 25;

/// Hears SIGTERM and SIGHUP from now on, for whoever asks for it first: a process that is told to stop in its first milliseconds, while it
/// reads its settings, stops as it would later. A file over the limit of file sizes ends nothing from now on: writing it fails, as on a
/// full disk. Within a runtime, first thing.
///
/// # Errors
/// Where signal handlers cannot be installed.
pub fn hear_from_the_start() -> io::Result<()> {
    let heard = Terminations::new()?;
    // Nobody waits for it: a handler, which stays for good, is all that keeps the process alive.
    drop(signal(SignalKind::from_raw(FILE_TOO_LARGE))?);
    *EARLY.lock().unwrap_or_else(PoisonError::into_inner) = Some(heard);
    Ok(())
}

/// SIGTERM and SIGHUP from now on, and one that has come before where nobody has asked for it yet.
///
/// # Errors
/// Where signal handlers cannot be installed.
pub fn terminations() -> io::Result<Terminations> {
    let early = EARLY.lock().unwrap_or_else(PoisonError::into_inner).take();
    early.map_or_else(Terminations::new, Ok)
}

/// Installs handlers of SIGTERM, SIGHUP and SIGINT, and returns a token that the first signal cancels. The second ends the process:
/// its deliveries come again, as after a crash.
///
/// # Errors
/// Where signal handlers cannot be installed.
pub fn on_signals() -> io::Result<CancellationToken> {
    let mut terminate = terminations()?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let token = CancellationToken::new();
    let stop = token.clone();
    tokio::spawn(async move {
        for signals in 0.. {
            tokio::select! { () = terminate.recv() => {}, _ = interrupt.recv() => {} }
            if signals > 0 {
                tracing::warn!("second signal: exiting at once");
                std::process::exit(INTERRUPTED);
            }
            tracing::info!("stopping: finishing what is in flight; a second signal exits at once");
            stop.cancel();
        }
    });
    Ok(token)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_that_was_begun_with_hang_ups_ignored_is_known_by_its_status() {
        let status = |mask: &str| {
            format!(
                "Name:\tx\nSigBlk:\t0000000000000001\nSigIgn:\t{mask}\nSigCgt:\t0000000000000001\n"
            )
        };
        assert!(is_hang_up_in(&status("0000000000001001")));
        assert!(!is_hang_up_in(&status("0000000000001000")));
        assert!(!is_hang_up_in(""));
    }
}
