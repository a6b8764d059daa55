//! A run over an archive: every study goes through the stages, and gets one line in the results.

mod archive_run;
mod archive_service;
mod changed_inputs;
mod dispatcher;
mod executor;
mod follow_ups;
pub mod forecast;
mod given;
mod image_preparation;
mod other_release;
pub mod output;
pub mod pipeline;
mod plan;
mod progress;
mod publish;
mod result_consumer;
mod retry;
mod run_state;
mod stored_output;
mod study_record;

pub use archive_run::{ArchiveRun, DEFAULT_IMAGE_LIMIT, DEFAULT_STALL, DEFAULT_WINDOW, RunOptions};
pub use archive_service::{
    ArchiveRunStatus, ArchiveRunView, ArchiveRuns, ArchiveRunsError, ArchiveRunsSettings,
    AskedArchiveRun, NewArchiveRun, OpenArchive, RESULT_FILES,
};
pub use follow_ups::{AskOn, FinishedRun, FollowUps};
pub use given::GivenOutputs;
pub(crate) use image_preparation::finish_preparation;
pub use other_release::embedded_by_another_release;
pub use plan::{RunPlan, StagePlan, plan_run};
pub use progress::{RunProgress, StageProgress};
pub(crate) use publish::publish_task;
pub use publish::publish_turn;
pub use result_consumer::ResultConsumer;
pub(crate) use retry::RetryUntilShutdown;
pub use run_state::{PROGRESS_DOCUMENT, SPEC_DOCUMENT};
pub(crate) use run_state::{announce_once, study_fact};
pub use stored_output::{LeaseTimes, StoredOutput};
