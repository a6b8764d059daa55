#![doc = include_str!("../README.md")]

pub mod language;
pub mod prompt;
pub mod tokenizers;
