#![doc = include_str!("../README.md")]

pub mod clinical;

pub use clinical::{ClinicalScores, LabelCounts};
