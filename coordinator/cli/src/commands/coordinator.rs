//! `radialog coordinator`: drives studies of any run from stage to stage.

use std::process::ExitCode;

use clap::Args;
use radialog_coordinator::conversation::retention;
use radialog_coordinator::{ResultConsumer, TurnSweeper, watch_queues};
use radialog_runtime::backends::Backends;

use crate::args::{HealthArgs, RetentionArgs, ServiceArgs};
use crate::lifecycle::Lifecycle;
use crate::shared_services::{self, SharedService};

/// Drive the studies of all runs from stage to stage, beside the `radialog batch` that owns each run
///
/// It also removes what conversations that are gone have left in the object store (--retention-...).
///
/// A run needs none of these: `radialog batch` coordinates by itself. They take over while it restarts and share the
/// results queue of large runs.
///
/// Example: radialog coordinator --amqp amqp://host --s3 s3://radialog --redis redis://host
#[derive(Args)]
pub(crate) struct CoordinatorArgs {
    #[command(flatten)]
    health: HealthArgs,
    #[command(flatten)]
    retention: RetentionArgs,
    #[command(flatten)]
    services: ServiceArgs,
}

pub(crate) async fn run(args: CoordinatorArgs) -> anyhow::Result<ExitCode> {
    let settings = args.retention.with([args.health.setting()]);
    let (config, gateway) = args.services.load_role(&settings, |config, _| {
        shared_services::missing("a coordinator", &SharedService::ALL, config, "")
            .into_iter()
            .collect()
    })?;
    let lifecycle = Lifecycle::begin(&config).await?;
    let connecting = async {
        let _step = lifecycle.readiness.step("connecting");
        Ok(Backends::connect(&config).await?)
    };
    let Some(backends) = lifecycle.start(connecting).await? else {
        return Ok(ExitCode::SUCCESS);
    };
    lifecycle.readiness.ready();
    let shutdown = lifecycle.drain().clone();
    tracing::info!("coordinator ready");
    let (forgotten_after, stop) = (gateway.republish_after, shutdown.clone());
    tokio::spawn(TurnSweeper::new(backends.clone(), None, forgotten_after, stop).run());
    tokio::spawn(
        shutdown
            .clone()
            .run_until_cancelled_owned(watch_queues(backends.clone())),
    );
    let results = ResultConsumer::new(backends.clone(), config.worker.worker, shutdown.clone());
    tokio::select! {
        ended = results.run() => ended?,
        // Ends with the shutdown only, as the consumer does.
        () = retention::sweep_until_shutdown(&backends, &config.retention, &shutdown) => {}
    }
    Ok(ExitCode::SUCCESS)
}
