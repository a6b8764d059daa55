//! SIGTERM and Ctrl-C: the first asks for a clean stop, the second exits at once.

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// The code with which a shell reports a process that was ended by SIGINT.
const INTERRUPTED: i32 = 130;

/// Installs handlers of SIGTERM and SIGINT, and returns a token that the first signal cancels. The second ends the process:
/// its deliveries come again, as after a crash.
///
/// # Errors
/// Where signal handlers cannot be installed.
pub fn on_signals() -> std::io::Result<CancellationToken> {
    let mut terminate = signal(SignalKind::terminate())?;
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
