#![doc = include_str!("../README.md")]

pub mod archive;
pub mod batch;
pub mod batches;
mod conductor;
pub mod conversation;
pub mod corrections;
mod dispatcher;
mod error;
pub mod output;
mod patience;
pub mod pipeline;
pub mod plan;
pub mod progress;
mod record;
pub mod results;

pub use batch::{Batch, BatchOptions};
pub use error::CoordinatorError;
pub use output::Summary;
pub use plan::{Plan, plan};
pub use progress::Progress;
pub use radialog_runtime::backends::Backends;
pub use results::ResultConsumer;
