#![doc = include_str!("../README.md")]

pub mod alignment;
mod bert;
pub mod chexbert;
pub mod error;
pub mod findings;
pub mod language;
mod layers;
pub mod preprocess;
pub mod prompt;
pub mod tokenizers;
pub mod vision;

pub use error::ModelError;
