//! The trainings, each from a recipe to checkpoints.

mod findings;
mod initial;

pub use findings::{FindingsTraining, Outcome, StepReport};
