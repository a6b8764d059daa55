//! The recipe of the findings classifier.

use std::path::{Path, PathBuf};

use radialog_models::findings::FindingsConfig;
use serde::{Deserialize, Serialize};

use super::{Faults, LoadedRecipe, default_accumulation, default_seed, parse, rising_and_falling};
use crate::error::TrainingError;
use crate::losses::findings::Weighting;
use crate::optimizer::schedule::Schedule;

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
    pub blank: BlankLabels,
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
pub enum BlankLabels {
    /// Nothing: its cell is left out of the loss.
    #[default]
    Mask,
    /// Absent, as in the original, whose blanks say that a report does not mention a finding.
    Absent,
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

impl FindingsRecipe {
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
        for table in &mut recipe.tables {
            table.labels = folder.join(&table.labels);
            table.images = folder.join(&table.images);
        }
        recipe.start = recipe.start.map(|start| folder.join(start));
        let mut faults = Faults::default();
        faults.unless(
            !recipe.tables.is_empty(),
            "tables: name at least one [[tables]] with labels and images",
        );
        for table in &recipe.tables {
            faults.unless(
                table.labels.is_file(),
                format!("tables.labels: no file '{}'", table.labels.display()),
            );
            faults.unless(
                table.images.is_dir(),
                format!("tables.images: no folder '{}'", table.images.display()),
            );
        }
        faults.start(recipe.start.as_deref(), recipe.geometry.is_some());
        // A batch norm over one image of one pixel has no variance.
        faults.unless(recipe.batch_size > 1, "batch_size: must be 2 or more");
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

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn read(text: &str) -> Result<LoadedRecipe<FindingsRecipe>, TrainingError> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("recipe.toml");
        fs::write(&path, text).unwrap();
        FindingsRecipe::read(&path)
    }

    #[test]
    fn an_unknown_key_is_refused_by_its_name() {
        let error = read("tables = []\nlearning_rate = 1.0")
            .unwrap_err()
            .to_string();
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
