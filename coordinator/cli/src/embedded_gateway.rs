//! The embedded mode of conversations: a gateway and all workers in this process, for `radialog serve` and `radialog chat`.

use std::sync::Arc;

use radialog_coordinator::conversation::retention;
use radialog_coordinator::gateway::{Gateway, GatewayConfig};
use radialog_coordinator::{ServedBundle, ServedBundles};
use radialog_runtime::backends::Backends;
use radialog_runtime::config::Config;
use radialog_runtime::health::Readiness;
use radialog_runtime::runner::RunnerSettings;
use radialog_schemas::Stage;
use tokio_util::sync::CancellationToken;

use crate::args::ModelArgs;
use crate::embedded_workers::EmbeddedWorkers;
use crate::gateway_server;
use crate::served_bundle::{self, OpenedBundle};

/// Gateway and workers of this process.
pub(crate) struct EmbeddedGateway {
    gateway: Gateway,
    workers: EmbeddedWorkers,
    bundles: ServedBundles,
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
        readiness: &Readiness,
        shutdown: CancellationToken,
    ) -> anyhow::Result<Self> {
        let source = &models.source;
        let opening =
            served_bundle::open_all(source, &Stage::ALL, &config, &gateway_config, readiness);
        let opened = opening.await?;
        let bundles = served_bundle::served(&opened)?;
        let backends = Backends::connect(&config).await?;
        let listening = gateway_server::bind(
            &config,
            gateway_config,
            bundles.clone(),
            &backends,
            &shutdown,
        );
        let gateway = listening.await?;
        let mut workers = EmbeddedWorkers::none();
        for OpenedBundle { bundle, group } in opened {
            let settings = RunnerSettings {
                group,
                survives_full_store: true,
                ..config.worker.clone()
            };
            workers.add(&Stage::ALL, &Arc::new(bundle), models, &backends, &settings)?;
        }
        Ok(Self {
            gateway,
            workers,
            bundles,
            backends,
            config,
            shutdown,
        })
    }

    /// Returns the address that the gateway listens at.
    pub(crate) fn url(&self) -> anyhow::Result<String> {
        Ok(format!("http://{}", self.gateway.address()?))
    }

    /// Returns the bundles that it serves.
    pub(crate) fn bundles(&self) -> &[ServedBundle] {
        self.bundles.bundles()
    }

    /// Answers until the shutdown, and then finishes what is in the models.
    pub(crate) async fn run(self) -> anyhow::Result<()> {
        let Self {
            gateway,
            mut workers,
            backends,
            config,
            shutdown,
            ..
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
