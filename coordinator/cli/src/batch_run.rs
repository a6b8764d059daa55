//! A batch run with its workers and its progress display, for `radialog batch` and for `radialog prepare`.

use std::sync::Arc;

use radialog_coordinator::{ArchiveRun, RunOptions, RunProgress, RunSummary};
use radialog_models::bundle::Bundle;
use radialog_runtime::backends::Backends;
use radialog_runtime::config::Config;
use radialog_schemas::Stage;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::args::ModelArgs;
use crate::embedded_workers::EmbeddedWorkers;
use crate::progress::{self, ProgressStyle};

/// Runs a batch to its end or interruption, showing progress. Where no broker is configured, its workers are in this
/// process.
pub(crate) async fn run(
    options: RunOptions,
    backends: &Backends,
    bundle: &Arc<Bundle>,
    models: &ModelArgs,
    config: &Config,
    style: ProgressStyle,
    shutdown: &CancellationToken,
) -> anyhow::Result<RunSummary> {
    let given = options.given.as_ref().map(|given| given.files());
    let is_given = |stage: &Stage| {
        given
            .as_ref()
            .is_some_and(|given| given.contains_key(stage))
    };
    let stages: Vec<Stage> = options
        .stages
        .iter()
        .filter(|stage| !is_given(stage))
        .collect();
    let workers = match &config.amqp {
        None => EmbeddedWorkers::start(&stages, bundle, models, backends, &config.worker)?,
        Some(_) => {
            models.check_elsewhere()?;
            EmbeddedWorkers::none()
        }
    };
    let (sender, receiver) = watch::channel(RunProgress::default());
    let display = progress::show(style, receiver);
    let summary = run_beside(
        ArchiveRun::new(options, backends.clone()).run(shutdown.child_token(), sender),
        workers,
    )
    .await;
    display.await?;
    summary
}

/// Runs the batch, and stops the embedded workers after it; one that ends by itself ends the run.
async fn run_beside<E: std::error::Error + Send + Sync + 'static>(
    batch: impl Future<Output = Result<RunSummary, E>>,
    mut workers: EmbeddedWorkers,
) -> anyhow::Result<RunSummary> {
    tokio::select! {
        summary = batch => {
            workers.stop().await?;
            Ok(summary?)
        }
        error = workers.failure() => Err(error),
    }
}
