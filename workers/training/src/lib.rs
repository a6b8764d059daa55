#![doc = include_str!("../README.md")]

mod augment;
pub mod checkpoint;
pub mod classification;
pub mod clinical;
pub mod curves;
pub mod error;
pub mod examples;
pub mod images;
pub mod losses;
pub mod optimizer;
pub mod pairs;
pub mod prepare;
pub mod quality;
pub mod random;
pub mod recipe;
pub mod samples;
pub mod schedule;
pub mod sections;
pub mod text_scores;
pub mod trainers;
pub mod variables;

pub use clinical::{ClinicalScores, LabelCounts};
pub use error::TrainingError;
pub use variables::Variables;
