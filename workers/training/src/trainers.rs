//! The five trainings, each from a recipe to checkpoints, and what they share: the loop over epochs, checkpoints, curves.

mod alignment;
pub mod checkpoint;
mod chexbert;
pub mod curves;
mod findings;
mod gate;
mod initial_weights;
mod language;
pub(crate) mod memory;
mod times;
mod training;

pub use alignment::{AlignmentTrainer, ImageTextBatch};
pub use chexbert::ChexbertTrainer;
pub use findings::FindingsTrainer;
pub use gate::GateTrainer;
pub use language::LanguageTrainer;
pub use training::{
    Measurement, Objective, StepReport, Trainer, Training, TrainingOutcome, TrainingPlan,
    can_resume,
};
