//! The embedded mode: the workers of a batch, in this process, over the same runner as everywhere.

use std::future::pending;
use std::sync::Arc;

use anyhow::Context;
use radialog_models::bundle::Bundle;
use radialog_models::device;
use radialog_runtime::backends::Backends;
use radialog_runtime::runner::RunnerSettings;
use radialog_schemas::Stage;
use radialog_workers::load_stage;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::args::ModelArgs;

/// The workers of this process; each loads its model while the batch already starts.
pub(crate) struct EmbeddedWorkers {
    tasks: JoinSet<anyhow::Result<()>>,
    stop: CancellationToken,
}

impl EmbeddedWorkers {
    /// No workers: they run elsewhere.
    pub(crate) fn none() -> Self {
        Self {
            tasks: JoinSet::new(),
            stop: CancellationToken::new(),
        }
    }

    /// One worker per stage.
    pub(crate) fn start(
        stages: &[Stage],
        bundle: &Arc<Bundle>,
        models: &ModelArgs,
        backends: &Backends,
        settings: &RunnerSettings,
    ) -> anyhow::Result<Self> {
        let mut workers = Self::none();
        workers.add(stages, bundle, models, backends, settings)?;
        Ok(workers)
    }

    /// One worker more per stage, of this bundle.
    pub(crate) fn add(
        &mut self,
        stages: &[Stage],
        bundle: &Arc<Bundle>,
        models: &ModelArgs,
        backends: &Backends,
        settings: &RunnerSettings,
    ) -> anyhow::Result<()> {
        for &stage in stages {
            let device = device::from_name(models.device())?;
            let options = models.stage_options(stages, &device, settings)?;
            let bundle = bundle.clone();
            let (backends, stop) = (backends.clone(), self.stop.clone());
            let settings = settings.clone();
            self.tasks.spawn(async move {
                let load = tokio::task::spawn_blocking(move || {
                    load_stage(stage, &bundle, &device, &options)
                });
                let loaded = load.await.context("loading the model was interrupted")??;
                Ok(loaded.run(&backends, settings, stop).await?)
            });
        }
        Ok(())
    }

    /// Waits for a worker to end by itself, which it does only when it cannot go on.
    pub(crate) async fn failure(&mut self) -> anyhow::Error {
        match self.tasks.join_next().await {
            Some(Ok(Err(error))) => error,
            Some(Err(panic)) => anyhow::Error::new(panic).context("a worker ended unexpectedly"),
            Some(Ok(Ok(()))) => anyhow::anyhow!("a worker ended before the run"),
            None => pending().await,
        }
    }

    /// Stops all workers and waits for them.
    pub(crate) async fn stop(mut self) -> anyhow::Result<()> {
        self.stop.cancel();
        while let Some(ended) = self.tasks.join_next().await {
            ended.context("a worker ended unexpectedly")??;
        }
        Ok(())
    }
}
