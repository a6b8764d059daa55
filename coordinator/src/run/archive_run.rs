//! A run over an archive from start to end: what `radialog batch` does.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use radialog_runtime::backends::Backends;
use radialog_schemas::{
    ContentHash, Generation, PerStage, QueueGroup, RunId, RunSpec, SCHEMA_VERSION, Source, StageSet,
};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::changed_inputs::ChangedInputs;
use super::dispatcher::ledger::RunLedger;
use super::dispatcher::{Dispatcher, RunLimits};
use super::executor::Executor;
use super::given::{ArchiveOutputs, GivenOutputs};
use super::output::{
    NotInArchive, OutputDirectory, RunFile, RunSummary, SessionSummary, blocking, journal,
};
use super::progress::{RateMeter, RunProgress};
use super::result_consumer::ResultConsumer;
use super::retry::RetryUntilShutdown;
use crate::CoordinatorError;
use crate::archive::Archive;

/// Studies in flight: enough to fill every stage's batches, few enough that a restart repeats little.
pub const DEFAULT_WINDOW: usize = 256;
/// Bytes of an image file.
pub const DEFAULT_IMAGE_LIMIT: u64 = 256 << 20;

/// Longer than the slowest stage should take for a study.
pub const DEFAULT_STALL: Duration = Duration::from_secs(600);

/// What to run, and how.
#[derive(Clone)]
pub struct RunOptions {
    /// The studies.
    pub archive: Arc<dyn Archive>,
    /// The output directory. Where it holds an earlier session of the same run, that one is resumed.
    pub out: PathBuf,
    /// What the studies begin with.
    pub source: Source,
    /// The stages.
    pub stages: StageSet,
    /// The settings with which reports are decoded.
    pub generation: Generation,
    /// Hash of the whole bundle.
    pub bundle: ContentHash,
    /// Hash of each stage's component, in pipeline order.
    pub components: PerStage<ContentHash>,
    /// The group of queues that the bundle's workers take tasks from.
    pub group: Option<QueueGroup>,
    /// Files that stand in for image stages.
    pub given: Option<Arc<dyn GivenOutputs>>,
    /// The largest number of studies in flight; [`DEFAULT_WINDOW`].
    pub window: usize,
    /// The number of studies from the archive's beginning that are taken; none is all.
    pub limit: Option<u64>,
    /// Largest image file in bytes; [`DEFAULT_IMAGE_LIMIT`].
    pub image_limit: u64,
    /// The time without a finished study after which tasks are taken for lost; [`DEFAULT_STALL`].
    pub stall: Duration,
    /// Runs the studies again that failed in earlier sessions.
    pub retry_failed: bool,
    /// Studies that have lost their lines already, since the archive has another image or row for them: what
    /// [`StoredOutput::changed`](super::StoredOutput::changed) says, else 0.
    pub changed: u64,
}

/// A run over an archive, from its start or from where an earlier session stopped.
pub struct ArchiveRun {
    options: RunOptions,
    backends: Backends,
}

impl RunOptions {
    /// The options of a run of everything in an archive through all stages, as reports are decoded where nothing else is asked for.
    pub fn new(
        archive: Arc<dyn Archive>,
        out: impl Into<PathBuf>,
        bundle: ContentHash,
        components: PerStage<ContentHash>,
    ) -> Self {
        Self {
            archive,
            out: out.into(),
            source: Source::Image,
            stages: StageSet::all(),
            generation: Generation::default(),
            bundle,
            components,
            group: None,
            given: None,
            window: DEFAULT_WINDOW,
            limit: None,
            image_limit: DEFAULT_IMAGE_LIMIT,
            stall: DEFAULT_STALL,
            retry_failed: false,
            changed: 0,
        }
    }

    /// Compares the archive with the lines of its run in a folder.
    pub(crate) async fn changed_inputs(
        &self,
        dir: &Path,
    ) -> Result<ChangedInputs, CoordinatorError> {
        let spec = self.run_file().spec;
        ChangedInputs::find(&*self.archive, self.limit, self.image_limit, &spec, dir).await
    }

    /// Describes the run as `run.json` has it; its id is given by the output directory.
    pub(crate) fn run_file(&self) -> RunFile {
        let spec = RunSpec {
            schema_version: SCHEMA_VERSION,
            run: RunId::from(""),
            source: self.source,
            stages: self.stages.clone(),
            generation: self.generation.clone(),
            bundle: self.bundle.clone(),
            components: self.components.clone(),
            group: self.group.clone(),
            given: self
                .given
                .as_ref()
                .map_or_else(BTreeMap::new, |given| given.files()),
            conversation: None,
        };
        RunFile {
            input: self.archive.name(),
            spec,
        }
    }
}

impl ArchiveRun {
    /// Prepares a run, which starts with [`ArchiveRun::run`].
    pub fn new(options: RunOptions, backends: Backends) -> Self {
        Self { options, backends }
    }

    /// Runs to the end of the archive, or until `shutdown`, after which the same call resumes. Sends snapshots to
    /// `progress`.
    ///
    /// # Errors
    /// When the run cannot start, or the output directory or the store has no room; lines written so far stay.
    pub async fn run(
        self,
        shutdown: CancellationToken,
        progress: watch::Sender<RunProgress>,
    ) -> Result<RunSummary, CoordinatorError> {
        let begun = Instant::now();
        let Self { options, backends } = self;
        let (folder, run_file) = (options.out.clone(), options.run_file());
        let changed_before = options.changed;
        let out = blocking(move || {
            let out = OutputDirectory::open(&folder, run_file)?;
            if options.retry_failed {
                journal::remove_failed(out.path())?;
            }
            Ok(out)
        });
        let out = out.await?;
        let looking = options.changed_inputs(out.path());
        let looked = shutdown.run_until_cancelled(looking).await.transpose()?;
        let mut inputs = looked.unwrap_or_default();
        let not_compared = std::mem::take(&mut inputs.not_compared);
        let folder = out.path().to_owned();
        // Whatever is asked to stop: the thread that takes lines out would go on beside the ledger.
        let removed = blocking(move || inputs.remove_lines(&folder)).await?;
        let changed = changed_before + removed;
        let (out, ledger) = blocking(move || {
            let ledger = RunLedger::open(&out)?;
            Ok((out, ledger))
        })
        .await?;
        backends.queue.declare().await?;
        if let Some(group) = &options.group {
            backends.queue.declare_group(group).await?;
        }

        // Ends our own parts when the run has ended or failed, and with the caller's.
        let stop = shutdown.child_token();
        let _stopped = stop.clone().drop_guard();
        let executor = Executor {
            backends,
            retry: RetryUntilShutdown::new(stop.clone()),
        };
        let given = match options.given {
            Some(given) => Some(ArchiveOutputs::of(given, &*options.archive).await?),
            None => None,
        };
        let spec = Arc::new(out.run().spec.clone());
        let mut meter = RateMeter::new(spec.run.clone(), spec.stages.clone());
        let dispatcher = Arc::new(Dispatcher {
            executor: executor.clone(),
            archive: options.archive,
            given,
            spec,
            limits: RunLimits {
                studies: options.limit,
                image: options.image_limit,
                stall: options.stall,
            },
            window: Arc::new(Semaphore::new(options.window.max(1))),
            wake: Arc::default(),
            ledger: Mutex::new(ledger),
        });
        let consumer =
            ResultConsumer::with(executor, "coordinator".to_owned(), dispatcher.wake.clone());
        let outcome = drive(&dispatcher, consumer, &mut meter, &progress).await;
        stop.cancel();
        let interrupted = match outcome {
            Ok(()) => false,
            Err(CoordinatorError::Stopped) => true,
            Err(error) => return Err(error),
        };
        if interrupted {
            dispatcher.collect_last().await?;
        }
        progress.send_replace(dispatcher.snapshot(&mut meter));
        if let Err(error) = dispatcher.publish_progress(&progress).await {
            warn!(%error, "the last progress is not shown to other processes");
        }
        let seconds = begun.elapsed().as_secs_f64();
        // Nobody else is at the ledger any more, and all records are read.
        blocking(move || {
            let mut ledger = dispatcher.ledger();
            ledger.write_early()?;
            ledger.sync()?;
            ledger.list_problems()?;
            let written = (ledger.order(), ledger.those_not_in_archive());
            let summary = out.write_summary(written, |summary| {
                let (count, problems) = ledger.problems();
                summary.unread_count = ledger.unread_problems();
                summary.not_compared = not_compared;
                let resumed = ledger.counts().resumed;
                let studies = ledger.counts().studies() - resumed;
                summary.interrupted = interrupted;
                summary.session = SessionSummary {
                    resumed: resumed.saturating_sub(summary.not_in_archive),
                    changed,
                    studies,
                    seconds,
                    studies_per_second: studies as f64 / seconds,
                };
                summary.problem_count = count;
                summary.problems = problems.to_vec();
            })?;
            if ledger.those_not_in_archive() == NotInArchive::LeftOut {
                ledger.settle_not_in_archive(summary.not_in_archive);
            }
            Ok(summary)
        })
        .await
    }
}

/// Runs all parts side by side until every study has its line or one part fails.
async fn drive(
    dispatcher: &Arc<Dispatcher>,
    consumer: ResultConsumer,
    meter: &mut RateMeter,
    progress: &watch::Sender<RunProgress>,
) -> Result<(), CoordinatorError> {
    dispatcher.announce().await?;
    let mut parts = JoinSet::new();
    let (feeding, counting) = (dispatcher.clone(), dispatcher.clone());
    parts.spawn(async move { feeding.feed().await });
    parts.spawn(async move { counting.count_archive().await });
    parts.spawn(consumer.run());
    let outcome = {
        let mut following = std::pin::pin!(dispatcher.follow(progress));
        let mut reporting = std::pin::pin!(dispatcher.report(meter, progress));
        loop {
            tokio::select! {
                outcome = &mut following => break outcome,
                never = &mut reporting => match never {},
                Some(part) = parts.join_next() => {
                    let ended: Result<(), CoordinatorError> = part
                        .unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()));
                    if ended.is_err() {
                        break ended;
                    }
                }
            }
        }
    };
    parts.shutdown().await;
    outcome
}
