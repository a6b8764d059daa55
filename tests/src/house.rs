//! The whole system in one process: a coordinator over workers that have no model.

use std::path::Path;
use std::sync::Arc;

use anyhow::Result;
use async_trait::async_trait;
use bytes::Bytes;
use radialog_coordinator::archive::{Archive, EntryProblem, ImageSource, StudyEntries, StudyEntry};
use radialog_coordinator::run::{DEFAULT_IMAGE_LIMIT, DEFAULT_STALL, DEFAULT_WINDOW};
use radialog_coordinator::{ArchiveRun, CoordinatorError, RunOptions, RunProgress, RunSummary};
use radialog_runtime::backends::Backends;
use radialog_runtime::conversations::memory::MemoryConversations;
use radialog_runtime::objects::filesystem::FilesystemObjects;
use radialog_runtime::queue::memory::MemoryQueue;
use radialog_runtime::runner::{Runner, RunnerSettings};
use radialog_runtime::state::memory::MemoryState;
use radialog_schemas::PerStage;
use radialog_schemas::{ContentHash, Generation, Source, Stage, StageSet};
use tokio::sync::watch;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::stages::ToyStage;

/// Queue and state in memory, objects under a directory.
///
/// # Errors
/// When the directory cannot be written.
pub fn embedded(objects: &Path) -> Result<Backends> {
    Ok(Backends {
        queue: Arc::new(MemoryQueue::default()),
        objects: Arc::new(FilesystemObjects::open(objects)?),
        state: Arc::new(MemoryState::default()),
        conversations: Arc::new(MemoryConversations::default()),
    })
}

/// One worker of each stage, until the guard is dropped.
///
/// # Errors
/// When the broker refuses.
pub async fn workers(backends: &Backends, make: impl Fn(Stage) -> ToyStage) -> Result<DropGuard> {
    backends.queue.declare().await?;
    let shutdown = CancellationToken::new();
    for stage in Stage::ALL {
        let (queue, objects) = (backends.queue.clone(), backends.objects.clone());
        let settings = RunnerSettings {
            worker: format!("toy-{stage}"),
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

/// A run of all stages by the toys.
pub fn options(archive: Arc<dyn Archive>, out: &Path) -> RunOptions {
    RunOptions {
        archive,
        out: out.to_owned(),
        source: Source::Image,
        stages: StageSet::all(),
        generation: Generation::default(),
        bundle: ContentHash::of(b"toy bundle"),
        components: PerStage::from_fn(ToyStage::component_of),
        window: DEFAULT_WINDOW,
        limit: None,
        image_limit: DEFAULT_IMAGE_LIMIT,
        stall: DEFAULT_STALL,
        retry_failed: false,
    }
}

/// Runs to the end.
///
/// # Errors
/// As [`ArchiveRun::run`].
pub async fn run(options: RunOptions, backends: &Backends) -> Result<RunSummary, CoordinatorError> {
    let (progress, _) = watch::channel(RunProgress::default());
    ArchiveRun::new(options, backends.clone())
        .run(CancellationToken::new(), progress)
        .await
}

/// Studies `s000000`, `s000001` and so on, each with an image of its own that is none.
pub fn synthetic(studies: u64) -> Arc<dyn Archive> {
    Arc::new(Synthetic { studies })
}

struct Synthetic {
    studies: u64,
}

struct Numbers {
    next: u64,
    end: u64,
}

#[async_trait]
impl Archive for Synthetic {
    fn name(&self) -> String {
        format!("synthetic:{}", self.studies)
    }

    async fn entries(&self) -> Result<Box<dyn StudyEntries>, CoordinatorError> {
        Ok(Box::new(Numbers {
            next: 0,
            end: self.studies,
        }))
    }

    async fn count(&self) -> Result<u64, CoordinatorError> {
        Ok(self.studies)
    }
}

#[async_trait]
impl StudyEntries for Numbers {
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
