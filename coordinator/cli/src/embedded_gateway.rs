//! The embedded mode of conversations: a gateway and all workers in this process, for `radialog serve` and `radialog chat`.

use std::sync::Arc;

use radialog_coordinator::conversation::retention;
use radialog_coordinator::gateway::{Gateway, GatewayConfig};
use radialog_runtime::backends::Backends;
use radialog_runtime::config::Config;
use radialog_schemas::Stage;
use tokio_util::sync::CancellationToken;

use crate::args::ModelArgs;
use crate::embedded_workers::EmbeddedWorkers;
use crate::{bundle_source, gateway_server};

/// Gateway and workers of this process.
pub(crate) struct EmbeddedGateway {
    gateway: Gateway,
    workers: EmbeddedWorkers,
    backends: Backends,
    config: Config,
    shutdown: CancellationToken,
}

impl EmbeddedGateway {
    /// Listens; nothing is answered before [`EmbeddedGateway::run`].
    pub(crate) async fn start(
        config: Config,
        gateway_config: GatewayConfig,
        models: &ModelArgs,
        shutdown: CancellationToken,
    ) -> anyhow::Result<Self> {
        let bundle =
            Arc::new(bundle_source::open(models.bundle.as_deref(), &Stage::ALL, &config).await?);
        let backends = Backends::connect(&config).await?;
        let gateway =
            gateway_server::bind(&config, gateway_config, &bundle, &backends, &shutdown).await?;
        let workers =
            EmbeddedWorkers::start(&Stage::ALL, &bundle, models, &backends, &config.worker)?;
        Ok(Self {
            gateway,
            workers,
            backends,
            config,
            shutdown,
        })
    }

    /// Returns the address that the gateway listens at.
    pub(crate) fn url(&self) -> anyhow::Result<String> {
        Ok(format!("http://{}", self.gateway.address()?))
    }

    /// Answers until the shutdown, and then finishes what is in the models.
    pub(crate) async fn run(self) -> anyhow::Result<()> {
        let Self {
            gateway,
            mut workers,
            backends,
            config,
            shutdown,
        } = self;
        tokio::select! {
            ended = gateway_server::answer(gateway, &config, backends.clone(), shutdown) => {
                ended?;
                workers.stop().await?;
            }
            error = workers.failure() => return Err(error),
        }
        if config.redis.is_none() {
            // Conversations in memory end here, and what they have in the store with them.
            retention::end_all(&backends).await?;
        }
        Ok(())
    }
}
