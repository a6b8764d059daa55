//! A batch run with its workers and its progress display, for `radialog batch` and for all that goes on from a run's records.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context;
use radialog_coordinator::archive::Archive;
use radialog_coordinator::run::output::RunFile;
use radialog_coordinator::{ArchiveRun, RunOptions, RunProgress, RunSummary};
use radialog_models::bundle::Bundle;
use radialog_runtime::backends::Backends;
use radialog_runtime::config::Config;
use radialog_schemas::{Generation, RunSpec, Source, Stage, StageSet, counted};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::args::ModelArgs;
use crate::embedded_workers::EmbeddedWorkers;
use crate::exit::is_of_another_run;
use crate::progress::{self, ProgressStyle};
use crate::run_summary;

/// Entries of an archive that are named where they were left out.
const LISTED: usize = 5;

/// What a run that others go on from is made with.
pub(crate) struct RunEnvironment<'a> {
    pub(crate) backends: &'a Backends,
    pub(crate) bundle: &'a Arc<Bundle>,
    pub(crate) models: &'a ModelArgs,
    pub(crate) config: &'a Config,
    pub(crate) progress: ProgressStyle,
    pub(crate) shutdown: &'a CancellationToken,
}

/// What goes through which stages, and where it is recorded.
pub(crate) struct Job {
    pub(crate) archive: Arc<dyn Archive>,
    pub(crate) folder: PathBuf,
    pub(crate) source: Source,
    /// The last stages.
    pub(crate) stages: StageSet,
    pub(crate) generation: Generation,
}

impl RunEnvironment<'_> {
    /// The options of a run of everything in an archive.
    pub(crate) fn options(&self, job: Job) -> RunOptions {
        let manifest = self.bundle.manifest();
        let (bundle, components) = (manifest.hash(), manifest.component_hashes());
        RunOptions {
            source: job.source,
            stages: job.stages,
            generation: job.generation,
            group: self.config.worker.group.clone(),
            ..RunOptions::new(job.archive, job.folder, bundle, components)
        }
    }

    /// Runs to the end; none where it was interrupted, which is told. `advice` is for a folder that holds another run. What was left
    /// out is the caller's to tell ([`tell_left_out`]).
    pub(crate) async fn run_to_end(
        &self,
        options: RunOptions,
        advice: &'static str,
    ) -> anyhow::Result<Option<(RunSpec, RunSummary)>> {
        let folder = options.out.clone();
        let summary = run(
            options,
            self.backends,
            self.bundle,
            self.models,
            self.config,
            self.progress,
            self.shutdown,
        )
        .await
        .map_err(|error| match is_of_another_run(&error) {
            true => error.context(advice),
            false => error,
        })?;
        if summary.interrupted {
            let done = summary.done + summary.failed;
            outln!("interrupted after {done}; run the same command again to go on");
            return Ok(None);
        }
        let file = RunFile::read(&folder)?.context("the run's folder has lost its run.json")?;
        Ok(Some((file.spec, summary)))
    }
}

/// Tells what of its archive a run has left out, and what it could not look at.
pub(crate) fn tell_left_out(summary: &RunSummary) {
    for problem in summary.problems.iter().take(LISTED) {
        errln!("left out: {problem}");
    }
    if summary.problem_count > LISTED as u64 {
        errln!("left out: {} entries in all", summary.problem_count);
    }
    tell_unseen(summary);
}

/// Tells what of its archive a run could not look at.
pub(crate) fn tell_unseen(summary: &RunSummary) {
    if summary.unread_count > 0 {
        errln!(
            "{} could not be read, or have the id of another study, so that studies may be missing: mend \
             them, and run the same command again",
            counted(
                summary.unread_count,
                "part of the archive",
                "parts of the archive"
            )
        );
    }
    for line in run_summary::not_compared_lines(&summary.not_compared) {
        errln!("{line}");
    }
}

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
    let (workers, place) = match &config.amqp {
        None => {
            let config = &config.worker;
            let workers = EmbeddedWorkers::start(&stages, bundle, models, backends, config)?;
            (workers, progress::Workers::Here)
        }
        Some(_) => {
            models.check_elsewhere()?;
            (EmbeddedWorkers::none(), progress::Workers::Elsewhere)
        }
    };
    let (sender, receiver) = watch::channel(RunProgress::default());
    let display = progress::show(style, place, receiver);
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
