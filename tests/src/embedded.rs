//! The whole system in one process: a coordinator over workers that have no model.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use async_trait::async_trait;
use bytes::Bytes;
use radialog_coordinator::archive::{Archive, EntryProblem, ImageSource, StudyEntries, StudyEntry};
use radialog_coordinator::{ArchiveRun, CoordinatorError, RunOptions, RunProgress, RunSummary};
use radialog_runtime::backends::Backends;
use radialog_runtime::conversations::memory::MemoryConversations;
use radialog_runtime::objects::filesystem::FilesystemObjects;
use radialog_runtime::queue::memory::MemoryQueue;
use radialog_runtime::runner::{Runner, RunnerSettings};
use radialog_runtime::state::memory::MemoryState;
use radialog_schemas::{ContentHash, PerStage, Stage};
use tokio::sync::watch;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::fake_stage::FakeStage;

/// Longer than a run of a test takes, on a machine that others keep busy, too.
const PATIENCE: Duration = Duration::from_secs(1200);

/// Makes the backends of the embedded mode: queue and state in memory, objects under a directory.
///
/// # Errors
/// When the directory cannot be written.
pub fn backends(objects: &Path) -> Result<Backends> {
    Ok(Backends {
        queue: Arc::new(MemoryQueue::default()),
        objects: Arc::new(FilesystemObjects::open(objects)?),
        state: Arc::new(MemoryState::default()),
        conversations: Arc::new(MemoryConversations::default()),
    })
}

/// Starts one worker of each stage, until the guard is dropped.
///
/// # Errors
/// When the broker refuses.
pub async fn start_workers(
    backends: &Backends,
    make: impl Fn(Stage) -> FakeStage,
) -> Result<DropGuard> {
    backends.queue.declare().await?;
    let shutdown = CancellationToken::new();
    for stage in Stage::ALL {
        let (queue, objects) = (backends.queue.clone(), backends.objects.clone());
        let settings = RunnerSettings {
            worker: format!("fake-{stage}"),
            ..RunnerSettings::default()
        };
        let runner = Runner::new(Arc::new(make(stage)), queue, objects, settings);
        let runner = match stage {
            Stage::Language => runner.with_chat(backends.conversations.clone()),
            Stage::Embedding | Stage::Findings | Stage::Scoring => runner,
        };
        tokio::spawn(runner.run(shutdown.clone()));
    }
    Ok(shutdown.drop_guard())
}

/// Returns the options of a run of all four fake stages over this archive.
pub fn batch_options(archive: Arc<dyn Archive>, out: &Path) -> RunOptions {
    let components = PerStage::from_fn(FakeStage::component_of);
    RunOptions::new(archive, out, ContentHash::of(b"fake bundle"), components)
}

/// Runs a batch of a test to its end.
///
/// # Errors
/// As [`ArchiveRun::run`].
///
/// # Panics
/// Where it does not end.
pub async fn run_batch(
    options: RunOptions,
    backends: &Backends,
) -> Result<RunSummary, CoordinatorError> {
    let run = tokio::time::timeout(PATIENCE, run_long_batch(options, backends)).await;
    run.unwrap_or_else(|_| panic!("the run has not ended after {PATIENCE:?}"))
}

/// Runs a batch to its end, however long it takes.
///
/// # Errors
/// As [`ArchiveRun::run`].
pub async fn run_long_batch(
    options: RunOptions,
    backends: &Backends,
) -> Result<RunSummary, CoordinatorError> {
    let (progress, _) = watch::channel(RunProgress::default());
    ArchiveRun::new(options, backends.clone())
        .run(CancellationToken::new(), progress)
        .await
}

/// Makes an archive of studies `s000000`, `s000001` and so on. Each has an image of its own whose bytes are no image.
pub fn synthetic_archive(studies: u64) -> Arc<dyn Archive> {
    Arc::new(SyntheticArchive { studies })
}

struct SyntheticArchive {
    studies: u64,
}

struct SyntheticEntries {
    next: u64,
    end: u64,
}

#[async_trait]
impl Archive for SyntheticArchive {
    fn name(&self) -> String {
        format!("synthetic:{}", self.studies)
    }

    async fn entries(&self) -> Result<Box<dyn StudyEntries>, CoordinatorError> {
        Ok(Box::new(SyntheticEntries {
            next: 0,
            end: self.studies,
        }))
    }

    async fn count(&self) -> Result<u64, CoordinatorError> {
        Ok(self.studies)
    }
}

#[async_trait]
impl StudyEntries for SyntheticEntries {
    async fn next(&mut self) -> Option<Result<StudyEntry, EntryProblem>> {
        let number = (self.next < self.end).then_some(self.next)?;
        self.next += 1;
        let study = format!("s{number:06}");
        let image = ImageSource::Inline(Bytes::from(study.clone()));
        Some(Ok(StudyEntry::new(
            &study,
            format!("{study}.png"),
            Ok(image),
        )))
    }
}
