//! `radialog serve`: embedded in one process, from the page to the models.

use std::process::ExitCode;

use clap::Args;

use crate::args::{HealthArgs, ModelArgs, RetentionArgs, ServiceArgs};
use crate::embedded_gateway::EmbeddedGateway;
use crate::gateway_server::ListenArgs;
use crate::lifecycle::Lifecycle;
use crate::shared_services;

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
    shared_services::require_all_or_own(&config)?;
    let lifecycle = Lifecycle::begin(&config).await?;
    let (readiness, drain) = (&lifecycle.readiness, lifecycle.drain().clone());
    let starting = EmbeddedGateway::start(config, gateway_config, &args.models, readiness, drain);
    let Some(embedded) = lifecycle.start(starting).await? else {
        return Ok(ExitCode::SUCCESS);
    };
    let bundles = embedded.bundles().iter();
    bundles.for_each(|bundle| readiness.serves(bundle.label()));
    readiness.ready();
    outln!("RaDialog is at {} (Ctrl-C stops it)", embedded.url()?);
    outln!("Research software, not a medical device.");
    let drain = lifecycle.drain().clone();
    tokio::spawn(async move {
        drain.cancelled().await;
        outln!("stopping: finishing what is in the models");
    });
    embedded.run().await.map(|()| ExitCode::SUCCESS)
}
