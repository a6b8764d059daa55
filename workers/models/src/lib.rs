#![doc = include_str!("../README.md")]

pub mod agreement;
pub mod alignment;
mod bert;
pub mod bundle;
pub mod checkpoint;
pub mod chexbert;
pub mod comparisons;
pub mod device;
pub mod embedding_files;
pub mod error;
pub mod findings;
pub mod free_space;
pub mod ggml;
pub mod image_tokens;
pub mod input_gate;
mod kernels;
pub mod language;
mod layers;
pub mod preprocess;
pub mod prompt;
pub mod sentences;
pub mod tensors;
pub mod tokenizers;
pub mod vision;

pub use error::ModelError;
pub use layers::Dropout;
