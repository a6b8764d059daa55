//! Recipes: all that decides a training, in one TOML file. Unknown keys are refused, and every fault is told at once.

use std::fs;
use std::path::{Path, PathBuf};

use radialog_models::findings::FindingsConfig;
use radialog_schemas::ContentHash;
use serde::{Deserialize, Serialize};

use crate::error::TrainingError;
use crate::losses::findings::Weighting;

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
    /// Learning rate; constant.
    #[serde(default = "default_rate")]
    pub rate: f64,
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

impl FindingsRecipe {
    /// Reads and checks a recipe.
    ///
    /// # Errors
    /// A file that cannot be read, or every fault of the recipe.
    pub fn read(path: &Path) -> Result<Read<Self>, TrainingError> {
        let text = fs::read_to_string(path).map_err(TrainingError::io("read", path))?;
        let fault = |faults| TrainingError::Recipe { path: path.to_owned(), faults };
        let mut recipe: Self =
            toml::from_str(&text).map_err(|error| fault(vec![error.to_string().trim().to_owned()]))?;
        let folder = path.parent().unwrap_or(Path::new("."));
        for table in &mut recipe.tables {
            table.labels = folder.join(&table.labels);
            table.images = folder.join(&table.images);
        }
        recipe.start = recipe.start.map(|start| folder.join(start));
        let mut faults = recipe.faults();
        faults.extend(unknown_geometry(&text, recipe.geometry.as_ref()));
        if !faults.is_empty() {
            return Err(fault(faults));
        }
        Ok(Read { recipe, hash: ContentHash::of(text.as_bytes()) })
    }

    fn faults(&self) -> Vec<String> {
        let mut faults = Vec::new();
        let mut rule = |holds: bool, fault: String| {
            if !holds {
                faults.push(fault);
            }
        };
        rule(!self.tables.is_empty(), "tables: name at least one [[tables]] with labels and images".to_owned());
        for table in &self.tables {
            rule(table.labels.is_file(), format!("tables.labels: no file '{}'", table.labels.display()));
            rule(table.images.is_dir(), format!("tables.images: no folder '{}'", table.images.display()));
        }
        rule(
            self.start.is_some() != self.geometry.is_some(),
            "start, geometry: give one of them: a bundle to start from, or a geometry for random weights".to_owned(),
        );
        if let Some(start) = &self.start {
            rule(start.is_dir(), format!("start: no bundle '{}'", start.display()));
        }
        rule(self.epochs > 0, "epochs: must be 1 or more".to_owned());
        // A batch norm over one image of one pixel has no variance.
        rule(self.batch_size > 1, "batch_size: must be 2 or more".to_owned());
        rule(self.rate.is_finite() && self.rate > 0.0, format!("rate: {} is not over 0", self.rate));
        rule(self.clip.is_none_or(|clip| clip > 0.0), "clip: must be over 0".to_owned());
        rule(self.checkpoint_steps != Some(0), "checkpoint_steps: must be 1 or more".to_owned());
        faults
    }
}

/// Keys of the geometry that it does not have; it is put together of two parts, which therefore cannot refuse them.
fn unknown_geometry(text: &str, geometry: Option<&FindingsConfig>) -> Vec<String> {
    let known = geometry.and_then(|geometry| serde_json::to_value(geometry).ok());
    let written = toml::from_str::<toml::Table>(text).ok();
    let (Some(known), Some(written)) = (known, written) else { return Vec::new() };
    let keys = written.get("geometry").and_then(toml::Value::as_table).into_iter().flat_map(toml::Table::keys);
    keys.filter(|key| known.get(key).is_none()).map(|key| format!("geometry.{key}: no such key")).collect()
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
