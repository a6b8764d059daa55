//! SIGTERM, SIGHUP and Ctrl-C of commands that are no services. The system ends a process at SIGTERM by itself, but not the first one
//! of a container, which ignores every signal that it does not listen to.

use std::io;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::Context;
use radialog_files::durable;
use radialog_runtime::shutdown;
use tokio_util::sync::CancellationToken;

use crate::exit::EXIT_INTERRUPTED;

/// How long a command that was dropped may take to end, e.g. to remove its temporary folder. One that computes and hears
/// nothing is over then, too.
const GRACE: Duration = Duration::from_secs(2);

/// How long a command that has written its bundle may take to say so.
const WRITTEN: Duration = Duration::from_millis(500);

/// A part of the command listens by itself from now on: it has something to finish.
static IS_TAKEN_OVER: AtomicBool = AtomicBool::new(false);

/// Runs a command that has nothing to finish: the first signal drops it wherever it is.
pub(crate) async fn ended_by_signals(
    command: impl Future<Output = anyhow::Result<ExitCode>>,
) -> anyhow::Result<ExitCode> {
    let asked = shutdown::on_signals().context("cannot listen to signals")?;
    let dropped = async {
        asked.cancelled().await;
        if IS_TAKEN_OVER.load(Ordering::SeqCst) {
            std::future::pending::<()>().await;
        }
    };
    tokio::spawn({
        let asked = asked.clone();
        async move {
            asked.cancelled().await;
            if !IS_TAKEN_OVER.load(Ordering::SeqCst) {
                exit_after_grace().await;
            }
        }
    });
    tokio::select! {
        ended = command => ended,
        () = dropped => Ok(ExitCode::from(EXIT_INTERRUPTED)),
    }
}

/// Runs a command that writes a bundle: it is there, which the command says, or nothing of it is. Files that are whole and to be used by
/// the next try stay.
pub(crate) async fn ended_with_its_bundle(
    command: impl Future<Output = anyhow::Result<ExitCode>>,
) -> anyhow::Result<ExitCode> {
    let asked = shutdown::on_signals().context("cannot listen to signals")?;
    let mut command = std::pin::pin!(command);
    tokio::select! {
        ended = &mut command => return ended,
        () = asked.cancelled() => {}
    }
    // What is being made whole now is waited for.
    tokio::task::spawn_blocking(durable::refuse_commits).await?;
    if let Ok(Ok(code)) = tokio::time::timeout(WRITTEN, command).await {
        return Ok(code);
    }
    errln!("interrupted: what was not whole is removed");
    durable::abandon();
    std::process::exit(EXIT_INTERRUPTED.into());
}

/// Runs a command that knows what Ctrl-C means to it: SIGTERM drops it, and so does SIGHUP.
pub(crate) async fn ended_by_sigterm(
    command: impl Future<Output = anyhow::Result<ExitCode>>,
) -> anyhow::Result<ExitCode> {
    let mut terminate = shutdown::terminations().context("cannot listen to signals")?;
    let asked = CancellationToken::new();
    tokio::spawn({
        let asked = asked.clone();
        async move {
            terminate.recv().await;
            asked.cancel();
            exit_after_grace().await;
        }
    });
    let ended = asked.run_until_cancelled(command).await;
    ended.unwrap_or(Ok(ExitCode::from(EXIT_INTERRUPTED)))
}

/// Signals from now on, for a part of a command within [`ended_by_signals`] that has something to finish.
pub(crate) fn take_over() -> io::Result<CancellationToken> {
    IS_TAKEN_OVER.store(true, Ordering::SeqCst);
    shutdown::on_signals()
}

/// Gives signals back to [`ended_by_signals`], where nothing is left to finish.
pub(crate) fn give_back() {
    IS_TAKEN_OVER.store(false, Ordering::SeqCst);
}

async fn exit_after_grace() {
    tokio::time::sleep(GRACE).await;
    durable::abandon();
    std::process::exit(EXIT_INTERRUPTED.into());
}
