#![doc = include_str!("../README.md")]

pub mod error;
pub mod language;
pub mod preprocess;
pub mod prompt;
pub mod tokenizers;

pub use error::ModelError;
