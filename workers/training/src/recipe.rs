//! Recipes: all that decides a training, in one TOML file. Unknown keys are refused, and every fault is told at once.

use std::fs;
use std::path::{Path, PathBuf};

use radialog_models::chexbert::ChexbertConfig;
use radialog_models::findings::FindingsConfig;
use radialog_schemas::ContentHash;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::error::TrainingError;
use crate::losses::findings::Weighting;
use crate::schedule::Schedule;

/// A training of the findings classifier.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FindingsRecipe {
    /// Decides initial weights, order and augmentation.
    #[serde(default = "default_seed")]
    pub seed: u64,
    /// Images and labels; paths are relative to the recipe.
    pub tables: Vec<ImageTable>,
    /// A bundle whose findings component is trained further.
    #[serde(default)]
    pub start: Option<PathBuf>,
    /// Geometry of a classifier that starts from random weights.
    #[serde(default)]
    pub geometry: Option<FindingsConfig>,
    /// Passes over the training images. The published weights come from the seventh.
    #[serde(default = "default_epochs")]
    pub epochs: u64,
    /// Images of a step.
    #[serde(default = "default_batch")]
    pub batch_size: usize,
    /// Learning rate.
    #[serde(default = "default_rate")]
    pub rate: f64,
    /// Steps from 0 to `rate`, from where it falls linearly to 0; the same rate all the time without it, as in the original.
    #[serde(default)]
    pub warmup: Option<u64>,
    /// Batches whose mean gradient makes a step.
    #[serde(default = "default_accumulation")]
    pub accumulation: usize,
    /// How positives weigh.
    #[serde(default)]
    pub weighting: Weighting,
    /// What a label that is not given counts as.
    #[serde(default)]
    pub blank: Blank,
    /// Whether training images are turned, sheared and relit at random.
    #[serde(default)]
    pub augment: bool,
    /// Longest that the gradients may be together; not bounded without it.
    #[serde(default)]
    pub clip: Option<f64>,
    /// Steps between checkpoints, beside the one at the end of each epoch.
    #[serde(default)]
    pub checkpoint_steps: Option<u64>,
}

/// A CSV of labelled images, as in the columns `image`, `split` and the 14 findings.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ImageTable {
    /// The CSV.
    pub labels: PathBuf,
    /// Folder of the images.
    pub images: PathBuf,
}

/// What a label that is not given counts as.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Blank {
    /// Nothing: its cell is left out of the loss.
    #[default]
    Mask,
    /// Absent, as in the original, whose blanks say that a report does not mention a finding.
    Absent,
}

/// A recipe as read, with its folder and a hash that says whether two are the same.
#[derive(Clone, Debug)]
pub struct Read<T> {
    /// The recipe, its paths made whole.
    pub recipe: T,
    /// Of the file's content.
    pub hash: ContentHash,
}

fn default_seed() -> u64 {
    42
}
fn default_epochs() -> u64 {
    7
}
fn default_batch() -> usize {
    64
}
fn default_rate() -> f64 {
    5e-5
}
fn default_accumulation() -> usize {
    1
}

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
    pub zero: Zero,
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
pub enum Zero {
    /// The report denies the finding, as CheXpert's labels say it.
    #[default]
    Negative,
    /// The source does not name it; reports without any label are left out.
    Blank,
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

impl FindingsRecipe {
    pub(crate) fn schedule(&self) -> Schedule {
        rising_and_falling(self.rate, self.warmup)
    }

    /// Reads and checks a recipe.
    ///
    /// # Errors
    /// A file that cannot be read, or every fault of the recipe.
    pub fn read(path: &Path) -> Result<Read<Self>, TrainingError> {
        let (mut recipe, text): (Self, String) = parse(path)?;
        let folder = path.parent().unwrap_or(Path::new("."));
        for table in &mut recipe.tables {
            table.labels = folder.join(&table.labels);
            table.images = folder.join(&table.images);
        }
        recipe.start = recipe.start.map(|start| folder.join(start));
        let mut faults = Faults::default();
        faults.unless(!recipe.tables.is_empty(), "tables: name at least one [[tables]] with labels and images");
        for table in &recipe.tables {
            faults.unless(table.labels.is_file(), format!("tables.labels: no file '{}'", table.labels.display()));
            faults.unless(table.images.is_dir(), format!("tables.images: no folder '{}'", table.images.display()));
        }
        faults.start(recipe.start.as_deref(), recipe.geometry.is_some());
        // A batch norm over one image of one pixel has no variance.
        faults.unless(recipe.batch_size > 1, "batch_size: must be 2 or more");
        faults.steps(recipe.epochs, recipe.rate, recipe.accumulation, recipe.clip, recipe.checkpoint_steps);
        faults.unknown_geometry(&text, recipe.geometry.as_ref());
        faults.none(path, &text, recipe)
    }
}

impl ChexbertRecipe {
    pub(crate) fn schedule(&self) -> Schedule {
        rising_and_falling(self.rate, self.warmup)
    }

    /// Reads and checks a recipe.
    ///
    /// # Errors
    /// A file that cannot be read, or every fault of the recipe.
    pub fn read(path: &Path) -> Result<Read<Self>, TrainingError> {
        let (mut recipe, text): (Self, String) = parse(path)?;
        let folder = path.parent().unwrap_or(Path::new("."));
        recipe.reports = folder.join(&recipe.reports);
        recipe.start = recipe.start.map(|start| folder.join(start));
        recipe.tokenizer = recipe.tokenizer.map(|tokenizer| folder.join(tokenizer));
        let mut faults = Faults::default();
        faults.unless(recipe.reports.is_file(), format!("reports: no file '{}'", recipe.reports.display()));
        faults.start(recipe.start.as_deref(), recipe.geometry.is_some());
        let has_tokenizer = recipe.tokenizer.as_ref().is_some_and(|tokenizer| tokenizer.is_file());
        faults.unless(recipe.geometry.is_none() || has_tokenizer, "tokenizer: a geometry needs a tokenizer.json");
        faults.unless(recipe.batch_size > 0, "batch_size: must be 1 or more");
        faults.unless(recipe.longest > 2, "longest: must be 3 or more, two of which are [CLS] and [SEP]");
        faults.unless((0.0..1.0).contains(&recipe.dropout), "dropout: must be from 0 to below 1");
        faults.steps(recipe.epochs, recipe.rate, recipe.accumulation, recipe.clip, recipe.checkpoint_steps);
        faults.unknown_geometry(&text, recipe.geometry.as_ref());
        faults.none(path, &text, recipe)
    }
}

fn rising_and_falling(rate: f64, warmup: Option<u64>) -> Schedule {
    warmup.map_or(Schedule::Constant { rate }, |warmup| Schedule::WarmupLinear { rate, warmup })
}

/// A recipe as it stands in its file, and the file's text.
fn parse<T: DeserializeOwned>(path: &Path) -> Result<(T, String), TrainingError> {
    let text = fs::read_to_string(path).map_err(TrainingError::io("read", path))?;
    let fault = |error: toml::de::Error| {
        let faults = vec![error.to_string().trim().to_owned()];
        TrainingError::Recipe { path: path.to_owned(), faults }
    };
    let recipe = toml::from_str(&text).map_err(fault)?;
    Ok((recipe, text))
}

/// What is wrong with a recipe.
#[derive(Default)]
struct Faults(Vec<String>);

impl Faults {
    fn unless(&mut self, holds: bool, fault: impl Into<String>) {
        if !holds {
            self.0.push(fault.into());
        }
    }

    fn start(&mut self, start: Option<&Path>, has_geometry: bool) {
        self.unless(
            start.is_some() != has_geometry,
            "start, geometry: give one of them: a bundle to start from, or a geometry for random weights",
        );
        if let Some(start) = start {
            self.unless(start.is_dir(), format!("start: no bundle '{}'", start.display()));
        }
    }

    fn steps(&mut self, epochs: u64, rate: f64, accumulation: usize, clip: Option<f64>, checkpoint_steps: Option<u64>) {
        self.unless(accumulation > 0, "accumulation: must be 1 or more");
        self.unless(epochs > 0, "epochs: must be 1 or more");
        self.unless(rate.is_finite() && rate > 0.0, format!("rate: {rate} is not over 0"));
        self.unless(clip.is_none_or(|clip| clip > 0.0), "clip: must be over 0");
        self.unless(checkpoint_steps != Some(0), "checkpoint_steps: must be 1 or more");
    }

    /// Keys of a geometry that it does not have; geometries are read leniently elsewhere and cannot refuse them.
    fn unknown_geometry(&mut self, text: &str, geometry: Option<&impl Serialize>) {
        let known = geometry.and_then(|geometry| serde_json::to_value(geometry).ok());
        let written = toml::from_str::<toml::Table>(text).ok();
        let (Some(known), Some(written)) = (known, written) else { return };
        let keys = written.get("geometry").and_then(toml::Value::as_table).into_iter().flat_map(toml::Table::keys);
        for key in keys {
            self.unless(known.get(key).is_some(), format!("geometry.{key}: no such key"));
        }
    }

    fn none<T>(self, path: &Path, text: &str, recipe: T) -> Result<Read<T>, TrainingError> {
        if self.0.is_empty() {
            return Ok(Read { recipe, hash: ContentHash::of(text.as_bytes()) });
        }
        Err(TrainingError::Recipe { path: path.to_owned(), faults: self.0 })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn read(text: &str) -> Result<Read<FindingsRecipe>, TrainingError> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("recipe.toml");
        fs::write(&path, text).unwrap();
        FindingsRecipe::read(&path)
    }

    #[test]
    fn an_unknown_key_is_refused_by_its_name() {
        let error = read("tables = []\nlearning_rate = 1.0").unwrap_err().to_string();
        assert!(error.contains("learning_rate"), "{error}");
    }

    #[test]
    fn an_unknown_key_of_the_geometry_is_refused() {
        let text = "[geometry]\nimage_size = 96\nstem_width = 4\nvit_dim = 8\njoint_feature_size = 8\npool = 1\n\
                    fc_hidden = 8\nfc_width = 9\n[[tables]]\nlabels = \"a\"\nimages = \"b\"";
        let error = read(text).unwrap_err().to_string();
        assert!(error.contains("geometry.fc_width"), "{error}");
    }

    #[test]
    fn all_faults_are_told_at_once() {
        let text = "epochs = 0\nrate = -1.0\n[[tables]]\nlabels = \"no.csv\"\nimages = \"no\"";
        let error = read(text).unwrap_err().to_string();
        for part in ["no.csv", "no folder", "start, geometry", "epochs", "rate"] {
            assert!(error.contains(part), "{part}: {error}");
        }
    }
}
