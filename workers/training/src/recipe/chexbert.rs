//! The recipe of the labeler.

use std::path::{Path, PathBuf};

use radialog_models::chexbert::ChexbertConfig;
use radialog_schemas::Finding;
use serde::{Deserialize, Deserializer, Serialize};

use super::{Faults, LoadedRecipe, Recipe, TrainingArguments};
use crate::error::TrainingError;
use crate::optimizer::schedule::Schedule;

/// A training of the labeler.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ChexbertRecipe {
    /// CSV with `split`, a text and the 14 findings, or several of them.
    #[serde(deserialize_with = "one_or_several")]
    pub reports: Vec<PathBuf>,
    /// The column of the text.
    #[serde(default = "default_text")]
    pub text: String,
    /// The meaning of a label of 0 in the table of reports.
    #[serde(default)]
    pub zero: ZeroLabels,
    /// Findings whose labels a labeler has read: they are learned, and no score is by them, since the start would be right about
    /// what it has read itself.
    #[serde(default)]
    pub read: Vec<Finding>,
    /// Geometry of a labeler that starts from random weights.
    #[serde(default)]
    pub geometry: Option<ChexbertConfig>,
    /// The `tokenizer.json` of the geometry.
    #[serde(default)]
    pub tokenizer: Option<PathBuf>,
    /// The largest number of ids of a report.
    #[serde(default = "default_longest")]
    pub longest: usize,
    /// Share of values that are dropped.
    #[serde(default = "default_dropout")]
    pub dropout: f64,
    /// The keys that every recipe has.
    #[serde(skip)]
    pub training: TrainingArguments,
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

/// A path, or a list of paths.
fn one_or_several<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<PathBuf>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged, expecting = "a file's name, or a list of them")]
    enum Paths {
        One(PathBuf),
        Several(Vec<PathBuf>),
    }
    Ok(match Paths::deserialize(deserializer)? {
        Paths::One(path) => vec![path],
        Paths::Several(paths) => paths,
    })
}

fn default_text() -> String {
    "findings".to_owned()
}
fn default_longest() -> usize {
    512
}
fn default_dropout() -> f64 {
    0.1
}

impl ChexbertRecipe {
    pub(crate) fn schedule(&self) -> Schedule {
        self.training.linear_schedule()
    }

    /// Reads and checks a recipe.
    ///
    /// # Errors
    /// A file that cannot be read, or every fault of the recipe.
    pub fn read(path: &Path) -> Result<LoadedRecipe<Self>, TrainingError> {
        super::read(path)
    }
}

impl Recipe for ChexbertRecipe {
    fn defaults() -> TrainingArguments {
        TrainingArguments {
            epochs: 7,
            batch_size: 18,
            rate: 2e-5,
            ..TrainingArguments::default()
        }
    }

    fn arguments(&mut self) -> &mut TrainingArguments {
        &mut self.training
    }

    fn resolve(&mut self, folder: &Path) {
        for path in &mut self.reports {
            *path = folder.join(&*path);
        }
        self.tokenizer = self.tokenizer.take().map(|path| folder.join(path));
    }

    fn check(&self, faults: &mut Faults) {
        faults.unless(!self.reports.is_empty(), "reports: name at least one CSV");
        for path in &self.reports {
            faults.unless(
                path.is_file(),
                format!("reports: no file '{}'", path.display()),
            );
        }
        faults.start(self.training.start.as_deref(), self.geometry.is_some());
        let has_tokenizer = self.tokenizer.as_ref().is_some_and(|path| path.is_file());
        faults.unless(
            self.geometry.is_none() || has_tokenizer,
            "tokenizer: a geometry needs a tokenizer.json",
        );
        faults.unless(
            self.training.batch_size > 0,
            "batch_size: must be 1 or more",
        );
        faults.unless(
            self.longest > 2,
            "longest: must be 3 or more, two of which are [CLS] and [SEP]",
        );
        faults.unless(
            (0.0..1.0).contains(&self.dropout),
            "dropout: must be from 0 to below 1",
        );
    }
}
