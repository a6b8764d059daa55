//! The recipe of the findings classifier.

use std::path::{Path, PathBuf};

use radialog_models::findings::FindingsConfig;
use radialog_schemas::Label;
use serde::{Deserialize, Serialize};

use super::{Faults, LoadedRecipe, Recipe, TrainingArguments};
use crate::error::TrainingError;
use crate::losses::findings::Weighting;
use crate::optimizer::schedule::Schedule;

/// A training of the findings classifier.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FindingsRecipe {
    /// Images and labels; paths are relative to the recipe.
    pub tables: Vec<ImageTable>,
    /// Geometry of a classifier that starts from random weights.
    #[serde(default)]
    pub geometry: Option<FindingsConfig>,
    /// The weight of positives.
    #[serde(default)]
    pub weighting: Weighting,
    /// What a label that is not given counts as.
    #[serde(default)]
    pub blank: BlankLabels,
    /// What a label of -1 counts as.
    #[serde(default)]
    pub uncertain: UncertainLabels,
    /// The score of the validation images that says which epoch is the best.
    #[serde(default)]
    pub choose: ChosenBy,
    /// Whether training images are turned, sheared and relit at random.
    #[serde(default)]
    pub augment: bool,
    /// The keys that every recipe has.
    #[serde(skip)]
    pub training: TrainingArguments,
}

/// A CSV of labelled images, as in the columns `image`, `split` and the 14 findings; or MIMIC-CXR's tables, as they are published and
/// as `radialog prepare sections` writes them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ImageTable {
    /// The CSV. With `sectioned` a table of labels by study or image, e.g. `mimic-cxr-2.0.0-chexpert.csv.gz`.
    pub labels: PathBuf,
    /// Folder of the images.
    pub images: PathBuf,
    /// What `radialog prepare sections` has written: the images, where `labels` does not name them.
    #[serde(default)]
    pub sectioned: Option<PathBuf>,
    /// `mimic-cxr-2.0.0-split.csv`, beside `sectioned`.
    #[serde(default)]
    pub split_table: Option<PathBuf>,
}

/// What a label that is not given counts as.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BlankLabels {
    /// Nothing: its cell is left out of the loss.
    #[default]
    Mask,
    /// The finding is absent, as in the original, whose blanks say that a report does not mention a finding.
    Absent,
}

/// What a label of -1 counts as: the report thinks the finding possible.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum UncertainLabels {
    /// Nothing: its cell is left out of the loss.
    Ignore,
    /// The finding is present.
    One,
    /// The finding is absent, as in the original.
    #[default]
    Zero,
}

/// The score of the validation images that says which epoch of the classifier is the best.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ChosenBy {
    /// The largest macro F1 at a probability of one half, as in the original.
    #[default]
    MacroF1,
    /// The largest macro AUC.
    MacroAuc,
    /// The smallest loss, which every image moves: for few images.
    ValidationLoss,
}

/// What labels count as in a training of the classifier.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LabelRule {
    /// What a label that is not given counts as.
    pub blank: BlankLabels,
    /// What a label of -1 counts as.
    pub uncertain: UncertainLabels,
}

impl LabelRule {
    /// Whether a finding with this label counts as present; none where its cell is left out.
    pub fn truth(self, label: Label) -> Option<bool> {
        match label {
            Label::Positive => Some(true),
            Label::Negative => Some(false),
            Label::Blank => (self.blank == BlankLabels::Absent).then_some(false),
            Label::Uncertain => match self.uncertain {
                UncertainLabels::Ignore => None,
                UncertainLabels::One => Some(true),
                UncertainLabels::Zero => Some(false),
            },
        }
    }
}

impl FindingsRecipe {
    /// What its labels count as.
    pub fn rule(&self) -> LabelRule {
        LabelRule {
            blank: self.blank,
            uncertain: self.uncertain,
        }
    }

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

impl Recipe for FindingsRecipe {
    /// The original's; the published weights come from the seventh epoch.
    fn defaults() -> TrainingArguments {
        TrainingArguments {
            epochs: 7,
            batch_size: 64,
            rate: 5e-5,
            ..TrainingArguments::default()
        }
    }

    fn arguments(&mut self) -> &mut TrainingArguments {
        &mut self.training
    }

    fn resolve(&mut self, folder: &Path) {
        for table in &mut self.tables {
            table.labels = folder.join(&table.labels);
            table.images = folder.join(&table.images);
            for path in [&mut table.sectioned, &mut table.split_table] {
                *path = path.take().map(|path| folder.join(path));
            }
        }
    }

    fn check(&self, faults: &mut Faults) {
        faults.unless(
            !self.tables.is_empty(),
            "tables: name at least one [[tables]] with labels and images",
        );
        for table in &self.tables {
            faults.unless(
                table.labels.is_file(),
                format!("tables.labels: no file '{}'", table.labels.display()),
            );
            faults.unless(
                table.images.is_dir(),
                format!("tables.images: no folder '{}'", table.images.display()),
            );
            let more = [
                ("sectioned", &table.sectioned),
                ("split_table", &table.split_table),
            ];
            for (name, path) in more {
                let missing = path.as_ref().filter(|path| !path.is_file());
                if let Some(missing) = missing {
                    faults.unless(
                        false,
                        format!("tables.{name}: no file '{}'", missing.display()),
                    );
                }
            }
            faults.unless(
                table.sectioned.is_some() == table.split_table.is_some(),
                "tables.sectioned, tables.split_table: give both, or neither",
            );
        }
        faults.start(self.training.start.as_deref(), self.geometry.is_some());
        // A batch norm over one image of one pixel has no variance.
        faults.unless(
            self.training.batch_size > 1,
            "batch_size: must be 2 or more",
        );
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
