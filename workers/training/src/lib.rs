#![doc = include_str!("../README.md")]

pub mod data;
pub mod error;
pub mod evaluation;
pub mod finetune;
pub mod losses;
pub mod optimizer;
pub mod prepare;
pub mod random;
pub mod recipe;
pub mod trainers;
pub mod variables;

pub use error::TrainingError;
pub use evaluation::clinical::{ClinicalScores, LabelCounts};
pub use variables::Variables;
