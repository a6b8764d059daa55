//! `radialog gateway`: HTTP in front of workers that run elsewhere.

use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;

use clap::{Args, Subcommand};
use radialog_coordinator::BundleHashes;
use radialog_coordinator::archive::{self, ArchiveLocation};
use radialog_coordinator::gateway::{Gateway, GatewayConfig, GatewayError};
use radialog_coordinator::run::OpenArchive;
use radialog_coordinator::{CoordinatorError, ResultConsumer};
use radialog_models::bundle::Bundle;
use radialog_runtime::backends::Backends;
use radialog_runtime::config::Config;
use radialog_runtime::shutdown;
use tokio_util::sync::CancellationToken;

use crate::args::{HealthArgs, ServiceArgs, UsageError, serve_health};
use crate::bundle_source;
use crate::keys::{self, NewKeyArgs};

/// Answer conversations over HTTP; the work is done by `radialog worker` processes
///
/// Start as many as you like behind one address: a conversation goes on at any of them. To try it on one machine, with
/// nothing to install, use `radialog serve`.
///
/// Example: radialog gateway --listen 127.0.0.1:7860 --bundle /bundles/radialog-v1 --amqp amqp://host --s3 s3://radialog --redis redis://host
#[derive(Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct GatewayArgs {
    #[command(subcommand)]
    command: Option<GatewayCommand>,
    #[command(flatten)]
    listen: ListenArgs,
    /// Bundle that the workers hold: a folder, or s3://bucket/prefix; only its manifest is read
    #[arg(long, env = "RADIALOG_BUNDLE", value_name = "DIR|URL")]
    bundle: Option<String>,
    #[command(flatten)]
    health: HealthArgs,
    #[command(flatten)]
    services: ServiceArgs,
}

#[derive(Subcommand)]
enum GatewayCommand {
    NewKey(NewKeyArgs),
}

/// Where it listens.
#[derive(Args, Clone, Debug)]
pub(crate) struct ListenArgs {
    /// Where to listen; other machines reach it only with API keys set (gateway.keys) [default: 127.0.0.1:7860]
    /// [env: RADIALOG_GATEWAY_LISTEN]
    #[arg(long, value_name = "ADDRESS")]
    listen: Option<SocketAddr>,
}

impl ListenArgs {
    pub(crate) fn setting(&self) -> (&'static str, Option<String>) {
        (
            "gateway.listen",
            self.listen.map(|address| address.to_string()),
        )
    }
}

pub(crate) async fn run(args: GatewayArgs) -> anyhow::Result<ExitCode> {
    if let Some(GatewayCommand::NewKey(args)) = &args.command {
        return keys::new_key(args);
    }
    let (config, gateway_config) = args
        .services
        .load_with_gateway(&[args.listen.setting(), args.health.setting()])?;
    if config.amqp.is_none()
        || config.redis.is_none()
        || (config.s3.is_none() && config.objects.directory.is_none())
    {
        return Err(UsageError(
            "a gateway shares everything with its workers: give --amqp URL, --redis URL and --s3 URL (or --objects DIR \
             on a shared disk). To run all of it in one process, use `radialog serve`"
                .into(),
        )
        .into());
    }
    let shutdown = shutdown::on_signals()?;
    let readiness = serve_health(&config, &shutdown).await?;
    let bundle = bundle_source::open(args.bundle.as_deref(), &[], &config).await?;
    let backends = Backends::connect(&config).await?;
    let gateway = bind(&config, gateway_config, &bundle, &backends, &shutdown).await?;
    readiness.set(true);
    tracing::info!(address = %gateway.address()?, "gateway ready");
    answer(gateway, &config, backends, shutdown).await?;
    Ok(ExitCode::SUCCESS)
}

/// Listens, so that what is wrong with the address is said before any work.
pub(crate) async fn bind(
    config: &Config,
    gateway: GatewayConfig,
    bundle: &Bundle,
    backends: &Backends,
    shutdown: &CancellationToken,
) -> anyhow::Result<Gateway> {
    let manifest = bundle.manifest();
    let hashes = BundleHashes {
        name: manifest.name.clone(),
        bundle: manifest.hash(),
        components: manifest.component_hashes(),
    };
    match Gateway::bind(gateway, hashes, backends.clone(), shutdown.clone()).await {
        Err(error @ GatewayError::Open(_)) => Err(UsageError(error.to_string()).into()),
        bound => Ok(bound?.with_batches(open_archive(config.clone()))?),
    }
}

/// Opens archives in the configured store.
fn open_archive(config: Config) -> OpenArchive {
    Arc::new(move |url| {
        let config = config.clone();
        Box::pin(async move {
            let refused = |error: anyhow::Error| CoordinatorError::Input {
                input: url.clone(),
                reason: format!("{error:#}"),
            };
            let (store, prefix) = bundle_source::bucket(&url, &config)
                .await
                .map_err(refused)?;
            archive::open(&ArchiveLocation::Objects {
                url: url.clone(),
                store,
                prefix,
            })
            .await
        })
    })
}

/// Answers until the shutdown. Prepared images start their turns here, too.
pub(crate) async fn answer(
    gateway: Gateway,
    config: &Config,
    backends: Backends,
    shutdown: CancellationToken,
) -> anyhow::Result<()> {
    let results = ResultConsumer::new(backends, config.worker.worker.clone(), shutdown.clone());
    let serving = async {
        gateway
            .serve(config.worker.grace)
            .await
            .map_err(anyhow::Error::new)
    };
    let consuming = async { results.run().await.map_err(anyhow::Error::new) };
    // One that fails ends the other.
    let ended = tokio::try_join!(serving, consuming);
    shutdown.cancel();
    ended.map(|_| ())
}
