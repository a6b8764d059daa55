//! `radialog serve`: embedded in one process, from the page to the models.

use std::process::ExitCode;

use clap::Args;
use radialog_runtime::shutdown;

use crate::args::{HealthArgs, ModelArgs, RetentionArgs, ServiceArgs, serve_health};
use crate::batch_run::require_state_beside_broker;
use crate::embedded_gateway::EmbeddedGateway;
use crate::gateway_server::ListenArgs;

/// Talk about X-rays in the browser: page, API and all workers in one process
///
/// Nothing has to be installed. Conversations end with the process, and their images with them, unless --redis keeps them; with --amqp the work is
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
    retention: RetentionArgs,
    #[command(flatten)]
    services: ServiceArgs,
}

pub(crate) async fn run(args: ServeArgs) -> anyhow::Result<ExitCode> {
    let [listen, also] = args.listen.settings();
    let (config, gateway_config) = args
        .services
        .load_quiet_with_gateway(&args.retention.with([listen, also, args.health.setting()]))?;
    require_state_beside_broker(&config)?;
    let shutdown = shutdown::on_signals()?;
    let readiness = serve_health(&config, &shutdown).await?;
    let embedded =
        EmbeddedGateway::start(config, gateway_config, &args.models, shutdown.clone()).await?;
    let bundles = embedded.bundles().iter();
    bundles.for_each(|bundle| readiness.serves(bundle.label()));
    readiness.set(true);
    println!("RaDialog is at {} (Ctrl-C stops it)", embedded.url()?);
    println!("Research software, not a medical device.");
    tokio::spawn(async move {
        shutdown.cancelled().await;
        println!("stopping: finishing what is in the models");
    });
    embedded.run().await.map(|()| ExitCode::SUCCESS)
}
