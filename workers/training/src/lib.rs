#![doc = include_str!("../README.md")]

pub mod clinical;
pub mod error;
pub mod examples;
pub mod losses;
pub mod optimizer;
pub mod prepare;
pub mod random;
pub mod schedule;
pub mod sections;
pub mod variables;

pub use clinical::{ClinicalScores, LabelCounts};
pub use error::TrainingError;
pub use variables::Variables;
