//! `radialog serve`: everything in one process, from the page to the models.

use std::process::ExitCode;
use std::sync::Arc;

use clap::Args;
use radialog_runtime::backends::Backends;
use radialog_runtime::shutdown;
use radialog_schemas::Stage;

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

pub(crate) async fn run(args: ServeArgs) -> anyhow::Result<ExitCode> {
    let config = args.services.load_quiet(&[args.listen.setting(), args.health.setting()])?;
    if config.amqp.is_some() != config.redis.is_some() {
        return Err(UsageError(
            "--amqp and --redis go together: give both, or none to keep everything in this process".into(),
        )
        .into());
    }
    let shutdown = shutdown::on_signals()?;
    let readiness = serve_health(&config, &shutdown).await?;
    let bundle = Arc::new(bundle_source::open(args.models.bundle.as_deref(), &Stage::ALL, &config).await?);
    let backends = Backends::connect(&config).await?;
    let gateway = gateway::bind(&config, &bundle, &backends, &shutdown).await?;
    let mut workers = Workers::start(&Stage::ALL, &bundle, &args.models, &backends, &config.worker)?;
    readiness.set(true);
    println!("RaDialog is at http://{} (Ctrl-C stops it)", gateway.address()?);
    println!("Research software, not a medical device.");
    tokio::select! {
        ended = gateway::answer(gateway, &config, backends, shutdown.clone()) => {
            ended?;
            println!("stopping: finishing what is in the models");
            workers.stop().await?;
            Ok(ExitCode::SUCCESS)
        }
        error = workers.failure() => Err(error),
    }
}
