#![doc = include_str!("../README.md")]

pub mod clinical;
pub mod error;
pub mod prepare;
pub mod random;
pub mod sections;

pub use clinical::{ClinicalScores, LabelCounts};
pub use error::TrainingError;
