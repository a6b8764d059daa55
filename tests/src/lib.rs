//! What the integration tests and the benchmarks share: services to run against, stages without a model, golden cases.

pub mod benchmark;
pub mod embedded;
pub mod environment;
pub mod fake_stage;
pub mod faults;
pub mod fixtures;
pub mod golden;
pub mod processes;
pub mod services;
pub mod task_harness;
