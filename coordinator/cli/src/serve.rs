//! `radialog serve`: everything in one process, from the page to the models.

use std::process::ExitCode;
use std::sync::Arc;

use clap::Args;
use radialog_coordinator::gateway::{Gateway, GatewayConfig};
use radialog_runtime::backends::Backends;
use radialog_runtime::config::Config;
use radialog_runtime::shutdown;
use radialog_schemas::Stage;
use tokio_util::sync::CancellationToken;

use crate::args::{HealthArgs, ModelArgs, ServiceArgs, UsageError, serve_health};
use crate::bundle_source;
use crate::embedded::Workers;
use crate::gateway::{self, ListenArgs};

/// Talk about X-rays in the browser: page, API and all workers in one process
///
/// Nothing has to be installed. Conversations end with the process, unless --redis keeps them; with --amqp the work is
/// shared with workers on other machines.
///
/// Example: radialog serve --bundle /bundles/radialog-v1, then open http://127.0.0.1:7860
#[derive(Args)]
pub(crate) struct ServeArgs {
    #[command(flatten)]
    listen: ListenArgs,
    #[command(flatten)]
    models: ModelArgs,
    #[command(flatten)]
    health: HealthArgs,
    #[command(flatten)]
    services: ServiceArgs,
}

/// Gateway and workers of this process.
pub(crate) struct Everything {
    gateway: Gateway,
    workers: Workers,
    backends: Backends,
    config: Config,
    shutdown: CancellationToken,
}

impl Everything {
    /// Listens; nothing is answered before [`Everything::run`].
    pub(crate) async fn start(
        config: Config,
        gateway_config: GatewayConfig,
        models: &ModelArgs,
        shutdown: CancellationToken,
    ) -> anyhow::Result<Self> {
        let bundle =
            Arc::new(bundle_source::open(models.bundle.as_deref(), &Stage::ALL, &config).await?);
        let backends = Backends::connect(&config).await?;
        let gateway = gateway::bind(&config, gateway_config, &bundle, &backends, &shutdown).await?;
        let workers = Workers::start(&Stage::ALL, &bundle, models, &backends, &config.worker)?;
        Ok(Self {
            gateway,
            workers,
            backends,
            config,
            shutdown,
        })
    }

    /// Where it listens.
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
            ended = gateway::answer(gateway, &config, backends, shutdown) => {
                ended?;
                workers.stop().await
            }
            error = workers.failure() => Err(error),
        }
    }
}

pub(crate) async fn run(args: ServeArgs) -> anyhow::Result<ExitCode> {
    let (config, gateway_config) = args
        .services
        .load_quiet_with_gateway(&[args.listen.setting(), args.health.setting()])?;
    if config.amqp.is_some() != config.redis.is_some() {
        return Err(UsageError(
            "--amqp and --redis go together: give both, or none to keep everything in this process"
                .into(),
        )
        .into());
    }
    let shutdown = shutdown::on_signals()?;
    let readiness = serve_health(&config, &shutdown).await?;
    let everything =
        Everything::start(config, gateway_config, &args.models, shutdown.clone()).await?;
    readiness.set(true);
    println!("RaDialog is at {} (Ctrl-C stops it)", everything.url()?);
    println!("Research software, not a medical device.");
    tokio::spawn(async move {
        shutdown.cancelled().await;
        println!("stopping: finishing what is in the models");
    });
    everything.run().await.map(|()| ExitCode::SUCCESS)
}
