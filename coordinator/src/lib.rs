#![doc = include_str!("../README.md")]

pub mod archive;
mod bundle_hashes;
pub mod conversation;
mod error;
pub mod gateway;
mod queue_watch;
mod request_store;
pub mod run;
mod run_files;
mod served_bundles;

pub use bundle_hashes::BundleHashes;
pub use conversation::TurnSweeper;
pub use error::{BackendError, CoordinatorError};
pub use queue_watch::{depth, retrying, watch_queues};
pub use request_store::batches::{OpenBatches, open_batches};
pub use run::output::RunSummary;
pub use run::{ArchiveRun, ResultConsumer, RunOptions, RunPlan, RunProgress, plan_run};
pub use served_bundles::{ALIAS, ServedBundle, ServedBundles, ServedBundlesError, ServedModel};
