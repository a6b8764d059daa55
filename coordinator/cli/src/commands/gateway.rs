//! `radialog gateway`: HTTP in front of workers that run elsewhere.

use std::process::ExitCode;

use clap::{Args, Subcommand};
use radialog_coordinator::gateway::{Gateway, GatewayConfig, GatewayError};
use radialog_runtime::backends::Backends;
use radialog_runtime::config::Config;
use radialog_runtime::health::Readiness;
use tokio_util::sync::CancellationToken;

use crate::args::{BundleSource, HealthArgs, RetentionArgs, ServiceArgs};
use crate::gateway_server::{self, ListenArgs};
use crate::lifecycle::Lifecycle;
use crate::shared_services::{self, SharedService};
use crate::{bundle_source, served_bundle};
use new_key::NewKeyArgs;

mod new_key;

/// Answer conversations over HTTP; the work is done by `radialog worker` processes
///
/// Start as many as you like behind one address: a conversation goes on at any of them. To try it on one machine, with
/// nothing to install, use `radialog serve`.
///
/// Limits are in the table gateway of the configuration file, or in RADIALOG_GATEWAY_RATE and so on: of each key (rate, concurrent, streams,
/// max_waiting_per_key), of all (max_waiting, connections, body_memory_mib), of one request (max_image_mib,
/// max_image_pixels, max_turns, max_opening_chars) and of time in seconds (header_timeout, idle_timeout, request_timeout).
///
/// Example: radialog gateway --listen 127.0.0.1:7860 --bundle /bundles/radialog-v1 --amqp amqp://host --s3 s3://radialog --redis redis://host
#[derive(Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct GatewayArgs {
    #[command(subcommand)]
    command: Option<GatewayCommand>,
    #[command(flatten)]
    listen: ListenArgs,
    // Workers of a further bundle take their tasks from queues of their own: see --also and `radialog worker --worker-group`.
    #[command(flatten)]
    source: BundleSource,
    #[command(flatten)]
    health: HealthArgs,
    #[command(flatten)]
    retention: RetentionArgs,
    #[command(flatten)]
    services: ServiceArgs,
}

impl GatewayArgs {
    /// Whether this is a gateway, and not one of its commands.
    pub(crate) fn is_role(&self) -> bool {
        self.command.is_none()
    }
}

#[derive(Subcommand)]
enum GatewayCommand {
    NewKey(NewKeyArgs),
}

pub(crate) async fn run(args: GatewayArgs) -> anyhow::Result<ExitCode> {
    if let Some(GatewayCommand::NewKey(args)) = &args.command {
        return new_key::run(args);
    }
    let [listen, also] = args.listen.settings();
    let settings = args.retention.with([listen, also, args.health.setting()]);
    let (config, gateway_config) = args.services.load_role(&settings, |config, gateway| {
        let instead = ". To run all of it in one process, use `radialog serve`";
        let missing = shared_services::missing("a gateway", &SharedService::ALL, config, instead);
        let bundles = gateway.also.iter().map(|also| also.bundle.as_str());
        let bundles = args.source.bundle.as_deref().into_iter().chain(bundles);
        let bundles = bundles.filter_map(|bundle| bundle_source::fault(bundle, config));
        let open = gateway
            .is_open_to_all()
            .then(|| GatewayError::Open(gateway.listen).to_string());
        missing.into_iter().chain(open).chain(bundles).collect()
    })?;
    let lifecycle = Lifecycle::begin(&config).await?;
    let (source, readiness) = (&args.source, &lifecycle.readiness);
    let starting = start(
        source,
        &config,
        gateway_config,
        readiness,
        lifecycle.drain(),
    );
    let Some((gateway, backends)) = lifecycle.start(starting).await? else {
        return Ok(ExitCode::SUCCESS);
    };
    readiness.ready();
    tracing::info!(address = %gateway.address()?, "gateway ready");
    gateway_server::answer(gateway, &config, backends, lifecycle.drain().clone()).await?;
    Ok(ExitCode::SUCCESS)
}

/// Reads the bundles' manifests, connects and listens.
async fn start(
    source: &BundleSource,
    config: &Config,
    gateway_config: GatewayConfig,
    readiness: &Readiness,
    drain: &CancellationToken,
) -> anyhow::Result<(Gateway, Backends)> {
    let opened = served_bundle::open_all(source, &[], config, &gateway_config, readiness).await?;
    let bundles = served_bundle::served(&opened)?;
    bundles
        .bundles()
        .iter()
        .for_each(|bundle| readiness.serves(bundle.label()));
    let _step = readiness.step("connecting");
    let backends = Backends::connect(config).await?;
    let gateway = gateway_server::bind(config, gateway_config, bundles, &backends, drain).await?;
    Ok((gateway, backends))
}
