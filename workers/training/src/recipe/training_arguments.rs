//! The keys that every recipe has: where a training starts from, how long it goes on, and how large its steps are.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::{Faults, bundle_in};
use crate::optimizer::schedule::Schedule;

/// The seed where a recipe has none.
const SEED: u64 = 42;

/// What the recipes of all trainings have: the arguments of the loop over epochs.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct TrainingArguments {
    /// Decides everything that is drawn: initial weights, order, dropout, augmentation, negatives.
    pub seed: u64,
    /// A bundle whose component is trained further, or [`DEMO`](super::DEMO); random weights of a geometry without it.
    pub start: Option<PathBuf>,
    /// Passes over the training samples.
    pub epochs: u64,
    /// Samples of a forward and backward pass.
    pub batch_size: usize,
    /// Batches whose mean gradient makes a step.
    pub accumulation: usize,
    /// Highest learning rate.
    pub rate: f64,
    /// Steps over which the rate rises to `rate`; the same rate all the time without it.
    pub warmup: Option<u64>,
    /// Longest that the gradients may be together; not bounded without it.
    pub clip: Option<f64>,
    /// Steps between checkpoints, beside the one at the end of each epoch.
    pub checkpoint_steps: Option<u64>,
    /// Epochs after which a training ends early when none of them was better than the best before; never without it.
    pub patience: Option<u64>,
}

/// The same keys as a file has them, where it has them.
#[derive(Deserialize)]
struct WrittenArguments {
    seed: Option<u64>,
    start: Option<PathBuf>,
    epochs: Option<u64>,
    batch_size: Option<usize>,
    accumulation: Option<usize>,
    rate: Option<f64>,
    warmup: Option<u64>,
    clip: Option<f64>,
    checkpoint_steps: Option<u64>,
    patience: Option<u64>,
}

impl Default for TrainingArguments {
    /// One pass over single samples without a rate: each recipe says what it is where the file does not.
    fn default() -> Self {
        Self {
            seed: SEED,
            start: None,
            epochs: 1,
            batch_size: 1,
            accumulation: 1,
            rate: 0.0,
            warmup: None,
            clip: None,
            checkpoint_steps: None,
            patience: None,
        }
    }
}

impl TrainingArguments {
    /// Reads the arguments of a recipe's text, whose other keys are left alone.
    pub(super) fn parse(text: &str, defaults: Self) -> Result<Self, toml::de::Error> {
        let written: WrittenArguments = toml::from_str(text)?;
        Ok(Self {
            seed: written.seed.unwrap_or(defaults.seed),
            start: written.start.or(defaults.start),
            epochs: written.epochs.unwrap_or(defaults.epochs),
            batch_size: written.batch_size.unwrap_or(defaults.batch_size),
            accumulation: written.accumulation.unwrap_or(defaults.accumulation),
            rate: written.rate.unwrap_or(defaults.rate),
            warmup: written.warmup.or(defaults.warmup),
            clip: written.clip.or(defaults.clip),
            checkpoint_steps: written.checkpoint_steps.or(defaults.checkpoint_steps),
            patience: written.patience.or(defaults.patience),
        })
    }

    pub(super) fn resolve(&mut self, folder: &Path) {
        self.start = self.start.take().map(|start| bundle_in(folder, &start));
    }

    pub(super) fn check(&self, faults: &mut Faults) {
        let Self {
            rate,
            clip,
            checkpoint_steps,
            patience,
            ..
        } = *self;
        faults.unless(patience != Some(0), "patience: must be 1 or more");
        faults.unless(self.accumulation > 0, "accumulation: must be 1 or more");
        faults.unless(self.epochs > 0, "epochs: must be 1 or more");
        faults.unless(
            rate.is_finite() && rate > 0.0,
            format!("rate: {rate} is not over 0"),
        );
        faults.unless(clip.is_none_or(|clip| clip > 0.0), "clip: must be over 0");
        faults.unless(
            checkpoint_steps != Some(0),
            "checkpoint_steps: must be 1 or more",
        );
    }

    /// A rate that rises over `warmup` steps and then falls linearly to 0, or stays the same without a warm-up.
    pub(crate) fn linear_schedule(&self) -> Schedule {
        let rate = self.rate;
        self.warmup.map_or(Schedule::Constant { rate }, |warmup| {
            Schedule::WarmupLinear { rate, warmup }
        })
    }
}
