//! The HTTP gateway as a server of this process, for `radialog gateway` and, beside its workers, for `radialog serve` and
//! `radialog chat`.

use clap::Args;
use radialog_coordinator::conversation::retention;
use radialog_coordinator::gateway::{Gateway, GatewayConfig, GatewayError};
use radialog_coordinator::{ResultConsumer, ServedBundles};
use radialog_runtime::backends::Backends;
use radialog_runtime::config::{Config, ListenAddress};
use tokio_util::sync::CancellationToken;

use crate::archive_source;
use crate::args::SOME_ADDRESS;
use crate::exit::UsageError;
use crate::flag_faults::noted;

/// Where it listens.
#[derive(Args, Clone, Debug)]
pub(crate) struct ListenArgs {
    /// Where to listen, e.g. localhost:7860; other machines reach it only with API keys set (gateway.keys) [default: 127.0.0.1:7860]
    /// [env: RADIALOG_GATEWAY_LISTEN]
    #[arg(long, value_name = "ADDRESS", value_parser = noted(str::parse::<ListenAddress>, SOME_ADDRESS))]
    listen: Option<ListenAddress>,
    /// A further bundle to serve, with the group of queues that its workers take tasks from, e.g. v2=/bundles/radialog-v2;
    /// may be given several times [env: RADIALOG_GATEWAY_ALSO, with commas between bundles]
    #[arg(long, value_name = "GROUP=BUNDLE")]
    also: Vec<String>,
}

impl ListenArgs {
    pub(crate) fn settings(&self) -> [(&'static str, Option<String>); 2] {
        [
            (
                "gateway.listen",
                self.listen
                    .map(|ListenAddress(address)| address.to_string()),
            ),
            (
                "gateway.also",
                // As an array: a path may have commas.
                (!self.also.is_empty()).then(|| serde_json::json!(self.also).to_string()),
            ),
        ]
    }
}

/// Listens, so that what is wrong with the address is said before any work.
pub(crate) async fn bind(
    config: &Config,
    gateway: GatewayConfig,
    bundles: ServedBundles,
    backends: &Backends,
    shutdown: &CancellationToken,
) -> anyhow::Result<Gateway> {
    match Gateway::bind(gateway, bundles, backends.clone(), shutdown.clone()).await {
        Err(error @ GatewayError::Open(_)) => Err(UsageError(error.to_string()).into()),
        bound => Ok(bound?
            .with_archive_runs(archive_source::opener(config.clone()))
            .await?),
    }
}

/// Answers until the shutdown. Prepared images start their turns here, too, and what conversations have left is removed.
pub(crate) async fn answer(
    gateway: Gateway,
    config: &Config,
    backends: Backends,
    shutdown: CancellationToken,
) -> anyhow::Result<()> {
    let results = ResultConsumer::new(
        backends.clone(),
        config.worker.worker.clone(),
        shutdown.clone(),
    );
    let grace = gateway.grace();
    let serving = async { gateway.serve(grace).await.map_err(anyhow::Error::new) };
    let consuming = async { results.run().await.map_err(anyhow::Error::new) };
    let sweeping = async {
        retention::sweep_until_shutdown(&backends, &config.retention, &shutdown).await;
        Ok(())
    };
    // One that fails ends the others.
    let ended = tokio::try_join!(serving, consuming, sweeping);
    shutdown.cancel();
    ended.map(|_| ())
}
