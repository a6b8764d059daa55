//! What the integration tests and the benchmarks share: services to run against, stages without a model, golden cases.

pub mod bench;
pub mod binary;
pub mod chaos;
pub mod desk;
pub mod golden;
pub mod house;
pub mod services;
pub mod stages;
