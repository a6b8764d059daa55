//! The recipe of the language model.

use std::path::{Path, PathBuf};

use radialog_models::language::LlamaConfig;
use radialog_schemas::AdapterName;
use serde::{Deserialize, Serialize};

use super::{Faults, LoadedRecipe, Recipe, TrainingArguments};
use crate::error::TrainingError;
use crate::optimizer::schedule::Schedule;

/// A training of the language model: LoRA beside frozen weights, or all weights. The defaults are the original's.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LanguageRecipe {
    /// RG and INS data sets, each a JSON array or one object a line; paths are relative to the recipe.
    pub data: Vec<PathBuf>,
    /// Data sets for validation.
    #[serde(default)]
    pub validation: Vec<PathBuf>,
    /// Samples of `data` that are split off for validation where no files are named: all of some patients, or of some images where
    /// no patient is named, until there are as many.
    #[serde(default = "default_validation_size")]
    pub validation_size: usize,
    /// A table that names the patients of images: `dicom_id`, `study_id` or `image` (as samples call the image), and `subject_id` or
    /// `patient_id`, e.g. `mimic-cxr-2.0.0-split.csv`. Samples of one patient are on one side where some are split off.
    #[serde(default)]
    pub patients: Option<PathBuf>,
    /// Files of image tokens, each tensor named by its image.
    #[serde(default)]
    pub embeddings: Vec<PathBuf>,
    /// Geometry of a model that starts from random weights.
    #[serde(default)]
    pub geometry: Option<LlamaConfig>,
    /// The `tokenizer.json` of the geometry.
    #[serde(default)]
    pub tokenizer: Option<PathBuf>,
    /// Trains all weights, and not an adapter beside them: for small models.
    #[serde(default)]
    pub full: bool,
    /// Share of values that are dropped in a training of all weights, after the embedding and each half of a layer.
    #[serde(default)]
    pub dropout: f64,
    /// The adapter of `start` that counts as the one it has, where it has several.
    #[serde(default)]
    pub adapter: Option<AdapterName>,
    /// The adapter that is trained.
    #[serde(default)]
    pub lora: Option<LoraRecipe>,
    /// Whether the image projection learns, too.
    #[serde(default = "default_train_projection")]
    pub train_projection: bool,
    /// Whether answers of a model that starts from random weights are apart from their role by a blank, which is dropped where they
    /// are shown and stored (`trim_answers` of a bundle's prompts).
    #[serde(default)]
    pub trim_answers: bool,
    /// Share of report samples in each epoch, between 0 and 1; all samples once without it.
    #[serde(default)]
    pub balance: Option<f64>,
    /// The largest number of ids of a sample, prompt and answer together.
    #[serde(default = "default_cutoff")]
    pub cutoff: usize,
    /// The keys that every recipe has.
    #[serde(skip)]
    pub training: TrainingArguments,
}

/// Low-rank additions to a frozen model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LoraRecipe {
    /// The rank of the additions.
    pub r: usize,
    /// The addition is scaled by `alpha / r`.
    pub alpha: f64,
    /// Share of the additions' inputs that is dropped.
    pub dropout: f64,
    /// The matrices of a layer that have one.
    pub target_modules: Vec<String>,
    /// Goes on with the adapter that `start` has, and not with a new one.
    pub resume_adapter: bool,
    /// What PEFT is told about the base: a name at the Hugging Face hub or a folder.
    pub base_model: Option<String>,
}

/// Names that [`LoraRecipe::target_modules`] may hold.
const MODULES: [&str; 7] = [
    "q_proj",
    "k_proj",
    "v_proj",
    "o_proj",
    "gate_proj",
    "up_proj",
    "down_proj",
];

impl Default for LoraRecipe {
    fn default() -> Self {
        let target_modules = ["q_proj", "v_proj"].map(String::from).into();
        Self {
            r: 8,
            alpha: 16.0,
            dropout: 0.05,
            target_modules,
            resume_adapter: false,
            base_model: None,
        }
    }
}

fn default_validation_size() -> usize {
    5
}
fn default_train_projection() -> bool {
    true
}
fn default_cutoff() -> usize {
    1024
}

impl LanguageRecipe {
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

impl Recipe for LanguageRecipe {
    fn defaults() -> TrainingArguments {
        TrainingArguments {
            epochs: 10,
            batch_size: 2,
            accumulation: 64,
            rate: 3e-4,
            warmup: Some(100),
            clip: Some(1.0),
            checkpoint_steps: Some(400),
            ..TrainingArguments::default()
        }
    }

    fn arguments(&mut self) -> &mut TrainingArguments {
        &mut self.training
    }

    fn resolve(&mut self, folder: &Path) {
        let files = self.data.iter_mut();
        for file in files
            .chain(&mut self.validation)
            .chain(&mut self.embeddings)
        {
            *file = folder.join(&*file);
        }
        self.tokenizer = self.tokenizer.take().map(|path| folder.join(path));
        self.patients = self.patients.take().map(|path| folder.join(path));
    }

    fn check(&self, faults: &mut Faults) {
        faults.unless(
            self.patients.as_ref().is_none_or(|path| path.is_file()),
            "patients: no such file",
        );
        faults.unless(
            !self.data.is_empty(),
            "data: name at least one JSON file of samples",
        );
        for (key, files) in [
            ("data", &self.data),
            ("validation", &self.validation),
            ("embeddings", &self.embeddings),
        ] {
            for file in files {
                faults.unless(
                    file.is_file(),
                    format!("{key}: no file '{}'", file.display()),
                );
            }
        }
        faults.unless(
            !self.validation.is_empty() || self.validation_size > 0,
            "validation_size: must be 1 or more where no validation files are named",
        );
        faults.start(self.training.start.as_deref(), self.geometry.is_some());
        let has_tokenizer = self
            .tokenizer
            .as_ref()
            .is_some_and(|tokenizer| tokenizer.is_file());
        faults.unless(
            self.geometry.is_none() || has_tokenizer,
            "tokenizer: a geometry needs a tokenizer.json",
        );
        faults.unless(
            self.geometry.is_none() || self.full,
            "full: must be true with a geometry: an adapter beside random weights learns nothing",
        );
        if let Some(Err(error)) = self.geometry.as_ref().map(LlamaConfig::validate) {
            faults.unless(false, format!("geometry: {error}"));
        }
        faults.unless(
            self.lora.is_none() || !self.full,
            "lora: leave it out where all weights are trained",
        );
        faults.unless(
            self.full || self.dropout == 0.0,
            "dropout: give it in [lora] where an adapter is trained",
        );
        faults.unless(
            self.adapter.is_none() || self.training.start.is_some(),
            "adapter: names one of the adapters of `start`, which is missing",
        );
        let lora = self.lora.clone().unwrap_or_default();
        faults.unless(lora.r > 0, "lora.r: must be 1 or more");
        faults.unless(
            lora.alpha.is_finite() && lora.alpha > 0.0,
            "lora.alpha: must be over 0",
        );
        faults.unless(
            !lora.target_modules.is_empty(),
            "lora.target_modules: name at least one",
        );
        for module in lora
            .target_modules
            .iter()
            .filter(|module| !MODULES.contains(&module.as_str()))
        {
            faults.unless(
                false,
                format!(
                    "lora.target_modules: no '{module}'; there are {}",
                    MODULES.join(", ")
                ),
            );
        }
        for (key, dropout) in [("dropout", self.dropout), ("lora.dropout", lora.dropout)] {
            faults.unless(
                (0.0..1.0).contains(&dropout),
                format!("{key}: must be from 0 to below 1"),
            );
        }
        faults.unless(
            self.balance.is_none_or(|share| share > 0.0 && share < 1.0),
            "balance: must be over 0 and below 1; leave it out for all samples once",
        );
        faults.unless(
            self.training.batch_size > 0,
            "batch_size: must be 1 or more",
        );
        faults.unless(self.cutoff > 1, "cutoff: must be 2 or more");
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn read(text: &str) -> Result<LoadedRecipe<LanguageRecipe>, TrainingError> {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("recipe.toml"), text).unwrap();
        fs::write(dir.path().join("data.json"), "[]").unwrap();
        fs::create_dir(dir.path().join("bundle")).unwrap();
        LanguageRecipe::read(&dir.path().join("recipe.toml"))
    }

    #[test]
    fn what_is_left_out_is_as_in_the_original() {
        let recipe = read("data = [\"data.json\"]\nstart = \"bundle\"")
            .unwrap()
            .recipe;
        let lora = recipe.lora.clone().unwrap_or_default();
        let training = &recipe.training;
        assert_eq!(
            (
                training.batch_size,
                training.accumulation,
                training.rate,
                recipe.cutoff
            ),
            (2, 64, 3e-4, 1024)
        );
        assert_eq!(
            (
                training.epochs,
                training.warmup,
                training.clip,
                training.checkpoint_steps
            ),
            (10, Some(100), Some(1.0), Some(400))
        );
        assert_eq!((lora.r, lora.alpha, lora.dropout), (8, 16.0, 0.05));
        assert_eq!(lora.target_modules, ["q_proj", "v_proj"]);
        assert!(recipe.train_projection && !recipe.full && recipe.balance.is_none());
    }

    #[test]
    fn unknown_keys_are_refused_at_the_top_and_in_the_adapter() {
        for text in ["learning_rate = 1.0", "[lora]\nrank = 8"] {
            let error = read(&format!(
                "data = [\"data.json\"]\nstart = \"bundle\"\n{text}"
            ))
            .unwrap_err()
            .to_string();
            assert!(
                error.contains("rank") || error.contains("learning_rate"),
                "{error}"
            );
        }
    }

    #[test]
    fn all_faults_are_told_at_once() {
        let text = "data = [\"no.json\"]\nbalance = 1.5\ncutoff = 0\n[lora]\ntarget_modules = [\"w_proj\"]\n[geometry]\n\
                    vocab_size = 4\nhidden_size = 5\nintermediate_size = 4\nnum_hidden_layers = 1\nnum_attention_heads = 2\nwidth = 1";
        let error = read(text).unwrap_err().to_string();
        for part in [
            "no.json",
            "tokenizer:",
            "full:",
            "hidden_size",
            "w_proj",
            "balance",
            "cutoff",
            "geometry.width",
        ] {
            assert!(error.contains(part), "{part}: {error}");
        }
    }
}
