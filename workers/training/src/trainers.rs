//! The trainings, each from a recipe to checkpoints.

mod alignment;
mod chexbert;
mod course;
mod findings;
mod initial;
mod language;

pub use alignment::{Aligning, PairBatch};
pub use chexbert::Labelling;
pub use course::{Best, Outcome, Plan, StepReport, Subject, Training, can_resume};
pub use findings::Findings;
pub use language::Writing;
