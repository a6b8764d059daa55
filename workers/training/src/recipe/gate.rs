//! The recipe of the input gate.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::{Faults, LoadedRecipe, Recipe, TrainingArguments};
use crate::error::TrainingError;
use crate::optimizer::schedule::Schedule;

/// A training of the network that tells frontal chest X-rays from other pictures.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct GateRecipe {
    /// Images and what they are; paths are relative to the recipe.
    pub tables: Vec<GateTable>,
    /// The largest share of the validation side's frontal X-rays that may be warned about, which the threshold follows from.
    #[serde(default = "GateRecipe::default_false_warnings")]
    pub false_warnings: f64,
    /// The keys that every recipe has.
    #[serde(skip)]
    pub training: TrainingArguments,
}

/// A CSV of images with the columns `image`, `split` and, where not all of them are frontal, `view`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GateTable {
    /// The CSV.
    pub table: PathBuf,
    /// Folder of the images.
    pub images: PathBuf,
}

impl GateRecipe {
    fn default_false_warnings() -> f64 {
        0.005
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

impl Recipe for GateRecipe {
    fn defaults() -> TrainingArguments {
        TrainingArguments {
            epochs: 40,
            batch_size: 64,
            rate: 2e-3,
            ..TrainingArguments::default()
        }
    }

    fn arguments(&mut self) -> &mut TrainingArguments {
        &mut self.training
    }

    fn resolve(&mut self, folder: &Path) {
        for table in &mut self.tables {
            table.table = folder.join(&table.table);
            table.images = folder.join(&table.images);
        }
    }

    fn check(&self, faults: &mut Faults) {
        faults.unless(
            !self.tables.is_empty(),
            "tables: name at least one [[tables]] with table and images",
        );
        for GateTable { table, images } in &self.tables {
            faults.unless(
                table.is_file(),
                format!("tables.table: no file '{}'", table.display()),
            );
            faults.unless(
                images.is_dir(),
                format!("tables.images: no folder '{}'", images.display()),
            );
        }
        faults.unless(
            self.training.start.is_none(),
            "start: the gate is no part of a bundle; leave it out",
        );
        faults.unless(
            (0.0..1.0).contains(&self.false_warnings),
            "false_warnings: must be 0 or more, and less than 1",
        );
        // Of each kind there is one in a batch.
        faults.unless(
            self.training.batch_size >= 8,
            "batch_size: must be 8 or more",
        );
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn all_faults_are_told_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("recipe.toml");
        let text = "batch_size = 4\nfalse_warnings = 1.0\nstart = \"demo\"\n[[tables]]\ntable = \"no.csv\"\nimages = \"no\"";
        fs::write(&path, text).unwrap();
        let error = GateRecipe::read(&path).unwrap_err().to_string();
        for part in [
            "no.csv",
            "no folder",
            "start",
            "batch_size",
            "false_warnings",
        ] {
            assert!(error.contains(part), "{part}: {error}");
        }
    }
}
