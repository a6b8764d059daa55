//! The life of a service: it starts and says how far it is, takes work, is asked to stop, goes on for a while although it is
//! not ready any more, drains, and ends. Health and metrics are there from the first to the last moment.

use anyhow::Context;
use radialog_runtime::config::Config;
use radialog_runtime::health::{self, Readiness};
use radialog_runtime::shutdown;
use tokio_util::sync::CancellationToken;

/// A service of this process.
pub(crate) struct Lifecycle {
    pub(crate) readiness: Readiness,
    /// The first signal.
    asked: CancellationToken,
    /// The end of the pause after it.
    drain: CancellationToken,
}

impl Lifecycle {
    /// Listens to signals from now on, and serves health and metrics where an address is configured.
    pub(crate) async fn begin(config: &Config) -> anyhow::Result<Self> {
        let asked = shutdown::on_signals().context("cannot listen to signals")?;
        let readiness = Readiness::with_stall(config.health.stall);
        if let Some(address) = config.health.address {
            // Ends with the process and not before: a scraper sees the drain, too.
            let never = CancellationToken::new();
            let bound = health::serve(address, readiness.clone(), never).await?;
            tracing::info!(address = %bound, "serving /metrics, /healthz and /readyz");
        }
        let lifecycle = Self {
            readiness,
            asked,
            drain: CancellationToken::new(),
        };
        let (asked, drain) = (lifecycle.asked.clone(), lifecycle.drain.clone());
        let (readiness, pause) = (lifecycle.readiness.clone(), config.shutdown_pause);
        tokio::spawn(async move {
            asked.cancelled().await;
            readiness.draining();
            if !pause.is_zero() {
                tracing::info!(
                    seconds = pause.as_secs_f64(),
                    "not ready any more; going on for shutdown.pause"
                );
                tokio::time::sleep(pause).await;
            }
            drain.cancel();
        });
        Ok(lifecycle)
    }

    /// Waits for the steps of the start; none where the process is asked to stop before. Then they are dropped, wherever they
    /// are: there is nothing to finish.
    pub(crate) async fn start<T>(
        &self,
        steps: impl Future<Output = anyhow::Result<T>>,
    ) -> anyhow::Result<Option<T>> {
        let started = self.asked.run_until_cancelled(steps).await;
        if started.is_none() {
            tracing::info!(
                "stopped before the start was over; the next start goes on with what is downloaded"
            );
        }
        started.transpose()
    }

    /// Cancelled when the service is to drain.
    pub(crate) fn drain(&self) -> &CancellationToken {
        &self.drain
    }
}
