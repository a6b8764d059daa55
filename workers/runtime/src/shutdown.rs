//! SIGTERM and Ctrl-C: the first asks for a clean stop, the second exits at once.

use std::io;
use std::sync::{Mutex, PoisonError};

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// The code with which a shell reports a process that was ended by SIGINT.
const INTERRUPTED: i32 = 130;

/// What has heard SIGTERM since the process began, until somebody takes it who knows what to do then.
static EARLY: Mutex<Option<Signal>> = Mutex::new(None);

/// Hears SIGTERM from now on, for whoever asks for it first: a process that is told to stop in its first milliseconds, while it
/// reads its settings, stops as it would later. Within a runtime, first thing.
///
/// # Errors
/// Where signal handlers cannot be installed.
pub fn hear_from_the_start() -> io::Result<()> {
    let heard = signal(SignalKind::terminate())?;
    *EARLY.lock().unwrap_or_else(PoisonError::into_inner) = Some(heard);
    Ok(())
}

/// SIGTERM from now on, and one that has come before where nobody has asked for it yet.
///
/// # Errors
/// Where signal handlers cannot be installed.
pub fn terminations() -> io::Result<Signal> {
    let early = EARLY.lock().unwrap_or_else(PoisonError::into_inner).take();
    early.map_or_else(|| signal(SignalKind::terminate()), Ok)
}

/// Installs handlers of SIGTERM and SIGINT, and returns a token that the first signal cancels. The second ends the process:
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
            tokio::select! { _ = terminate.recv() => {}, _ = interrupt.recv() => {} }
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
