//! `radialog worker`: one stage on this machine.

use std::process::ExitCode;

use anyhow::Context;
use clap::Args;
use radialog_models::device;
use radialog_runtime::backends::Backends;
use radialog_runtime::shutdown;
use radialog_schemas::Stage;
use radialog_workers::load_stage;

use crate::args::{HealthArgs, ModelArgs, ServiceArgs, serve_health};
use crate::exit::UsageError;
use crate::{bundle_source, served_bundle};

/// Work on one stage: take its tasks from RabbitMQ, store outputs, publish results
///
/// Start as many as you like, on as many machines; each GPU stage scales by its own queue.
///
/// Example: radialog worker language --bundle /bundles/radialog-v1 --device cuda:0 --amqp amqp://host --s3 s3://radialog
#[derive(Args)]
pub(crate) struct WorkerArgs {
    /// embedding (image tokens), findings (14 CheXpert findings), language (reports) or scoring (CheXbert labels)
    stage: Stage,
    /// This worker's name in results and dead letters [default: host name and process id]
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// Seconds that tasks in the model may take to finish after SIGTERM before they are handed back [default: 25]
    #[arg(long, value_name = "SECONDS")]
    grace: Option<u64>,
    #[command(flatten)]
    models: ModelArgs,
    #[command(flatten)]
    health: HealthArgs,
    #[command(flatten)]
    services: ServiceArgs,
}

pub(crate) async fn run(args: WorkerArgs) -> anyhow::Result<ExitCode> {
    let more = [
        ("worker.name", args.name),
        ("worker.grace", args.grace.map(|s| s.to_string())),
        args.health.setting(),
    ];
    let config = args.services.load(&more)?;
    if config.amqp.is_none() {
        return Err(UsageError(
            "a worker takes its tasks from RabbitMQ: give --amqp URL (or run `radialog batch`, which needs no broker)"
                .into(),
        )
        .into());
    }
    let shutdown = shutdown::on_signals()?;
    let readiness = serve_health(&config, &shutdown).await?;
    let device = device::from_name(&args.models.device)?;
    let bundle = bundle_source::open(args.models.bundle.as_deref(), &[args.stage], &config).await?;
    readiness.serves(served_bundle::label(&bundle, config.worker.group.as_ref()));
    let (stage, options) = (args.stage, args.models.stage_options(&config.worker));
    let load = move || load_stage(stage, &bundle, &device, &options);
    let (backends, loaded) = tokio::join!(
        Backends::connect(&config),
        tokio::task::spawn_blocking(load)
    );
    let (backends, loaded) = (
        backends?,
        loaded.context("loading the model was interrupted")??,
    );
    readiness.set(true);
    loaded.run(&backends, config.worker, shutdown).await?;
    Ok(ExitCode::SUCCESS)
}
