//! The recipe of the labeler.

use std::path::{Path, PathBuf};

use radialog_models::chexbert::ChexbertConfig;
use serde::{Deserialize, Serialize};

use super::{Faults, LoadedRecipe, default_accumulation, default_seed, parse, rising_and_falling};
use crate::error::TrainingError;
use crate::optimizer::schedule::Schedule;

/// A training of the labeler.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ChexbertRecipe {
    /// Decides initial weights, order and dropout.
    #[serde(default = "default_seed")]
    pub seed: u64,
    /// CSV with `split`, a text and the 14 findings.
    pub reports: PathBuf,
    /// The column of the text.
    #[serde(default = "default_text")]
    pub text: String,
    /// What a label of 0 means.
    #[serde(default)]
    pub zero: ZeroLabels,
    /// A bundle whose scoring component is trained further.
    #[serde(default)]
    pub start: Option<PathBuf>,
    /// Geometry of a labeler that starts from random weights.
    #[serde(default)]
    pub geometry: Option<ChexbertConfig>,
    /// Its `tokenizer.json`.
    #[serde(default)]
    pub tokenizer: Option<PathBuf>,
    /// Most ids of a report.
    #[serde(default = "default_longest")]
    pub longest: usize,
    /// Passes over the training reports.
    #[serde(default = "default_epochs")]
    pub epochs: u64,
    /// Reports of a step.
    #[serde(default = "default_reports")]
    pub batch_size: usize,
    /// Learning rate.
    #[serde(default = "default_chexbert_rate")]
    pub rate: f64,
    /// Steps from 0 to `rate`, from where it falls linearly to 0; the same rate all the time without it.
    #[serde(default)]
    pub warmup: Option<u64>,
    /// Batches whose mean gradient makes a step.
    #[serde(default = "default_accumulation")]
    pub accumulation: usize,
    /// Share of values that are dropped.
    #[serde(default = "default_dropout")]
    pub dropout: f64,
    /// Longest that the gradients may be together; not bounded without it.
    #[serde(default)]
    pub clip: Option<f64>,
    /// Steps between checkpoints, beside the one at the end of each epoch.
    #[serde(default)]
    pub checkpoint_steps: Option<u64>,
}

/// What a label of 0 means.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ZeroLabels {
    /// The report denies the finding, as CheXpert's labels say it.
    #[default]
    Negative,
    /// The source does not name it; reports without any label are left out.
    Blank,
}

fn default_epochs() -> u64 {
    7
}
fn default_text() -> String {
    "findings".to_owned()
}
fn default_longest() -> usize {
    512
}
fn default_reports() -> usize {
    18
}
fn default_chexbert_rate() -> f64 {
    2e-5
}
fn default_dropout() -> f64 {
    0.1
}

impl ChexbertRecipe {
    pub(crate) fn schedule(&self) -> Schedule {
        rising_and_falling(self.rate, self.warmup)
    }

    /// Reads and checks a recipe.
    ///
    /// # Errors
    /// A file that cannot be read, or every fault of the recipe.
    pub fn read(path: &Path) -> Result<LoadedRecipe<Self>, TrainingError> {
        let (mut recipe, text): (Self, String) = parse(path)?;
        let folder = path.parent().unwrap_or(Path::new("."));
        recipe.reports = folder.join(&recipe.reports);
        recipe.start = recipe.start.map(|start| folder.join(start));
        recipe.tokenizer = recipe.tokenizer.map(|tokenizer| folder.join(tokenizer));
        let mut faults = Faults::default();
        faults.unless(
            recipe.reports.is_file(),
            format!("reports: no file '{}'", recipe.reports.display()),
        );
        faults.start(recipe.start.as_deref(), recipe.geometry.is_some());
        let has_tokenizer = recipe
            .tokenizer
            .as_ref()
            .is_some_and(|tokenizer| tokenizer.is_file());
        faults.unless(
            recipe.geometry.is_none() || has_tokenizer,
            "tokenizer: a geometry needs a tokenizer.json",
        );
        faults.unless(recipe.batch_size > 0, "batch_size: must be 1 or more");
        faults.unless(
            recipe.longest > 2,
            "longest: must be 3 or more, two of which are [CLS] and [SEP]",
        );
        faults.unless(
            (0.0..1.0).contains(&recipe.dropout),
            "dropout: must be from 0 to below 1",
        );
        faults.steps(
            recipe.epochs,
            recipe.rate,
            recipe.accumulation,
            recipe.clip,
            recipe.checkpoint_steps,
        );
        faults.unknown_geometry(&text, recipe.geometry.as_ref());
        faults.none(path, &text, recipe)
    }
}
