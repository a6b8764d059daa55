//! What the integration tests and the benchmarks share: services to run against, and stages without a model.

pub mod desk;
pub mod stages;
