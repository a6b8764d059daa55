//! What the integration tests and the benchmarks share: services to run against, stages without a model, golden cases.

pub mod desk;
pub mod golden;
pub mod stages;
