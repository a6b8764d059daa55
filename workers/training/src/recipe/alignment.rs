//! The recipe of the alignment training.

use std::path::{Path, PathBuf};

use radialog_models::bundle::components::{Connector, EmbeddingComponent};
use serde::{Deserialize, Serialize};

use super::{Faults, LoadedRecipe, Recipe, TrainingArguments, bundle_in, is_demo};
use crate::error::TrainingError;
use crate::optimizer::schedule::Schedule;

/// A training of the alignment module. What has a default follows the original; its published weights come from the fifth
/// epoch of a schedule over a hundred.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AlignmentRecipe {
    /// Images and their texts; paths are relative to the recipe.
    pub tables: Vec<PairTable>,
    /// Geometry of a module that starts from random weights.
    #[serde(default)]
    pub geometry: Option<EmbeddingComponent>,
    /// A bundle (or [`DEMO`](super::DEMO)) whose findings or embedding component has the image encoder, which stays as it is. Its projector is taken,
    /// too, or drawn where it has another shape. Needed with a geometry.
    #[serde(default)]
    pub image_encoder: Option<PathBuf>,
    /// A safetensors file of a BERT, with the names of the transformers library or of CheXbert, that the texts' side and the
    /// queries' feed-forward layers start from. The original starts from `bert-base-uncased`.
    #[serde(default)]
    pub bert: Option<PathBuf>,
    /// WordPiece `tokenizer.json`; `[DEC]` is its next id where it has none. Needed with a geometry.
    #[serde(default)]
    pub tokenizer: Option<PathBuf>,
    /// Whether the patches of each image are computed once and kept in a file below the output folder: 4 bytes a value, 1.1 MB
    /// an image at the published geometry.
    #[serde(default)]
    pub cache_patches: bool,
    /// The largest number of ids of a text.
    #[serde(default = "default_longest")]
    pub longest: usize,
    /// Learning rate of the first step.
    #[serde(default = "default_first_rate")]
    pub first_rate: f64,
    /// Learning rate at the end of the cosine.
    #[serde(default = "default_least_rate")]
    pub least_rate: f64,
    /// Epochs of the cosine from `rate` to `least_rate`, whether or not so many are trained.
    #[serde(default = "default_cosine_epochs")]
    pub cosine_epochs: u64,
    /// Share of values that are dropped.
    #[serde(default = "default_dropout")]
    pub dropout: f64,
    /// The keys that every recipe has.
    #[serde(skip)]
    pub training: TrainingArguments,
}

/// A CSV of images with texts: columns `image`, `split` and that of the text. With a split table it is a sectioned CSV of
/// MIMIC-CXR instead.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PairTable {
    /// The CSV.
    pub pairs: PathBuf,
    /// Folder that images are named below; the CSV's own without it.
    #[serde(default)]
    pub images: Option<PathBuf>,
    /// The column of the text.
    #[serde(default = "default_text")]
    pub text: String,
    /// `mimic-cxr-2.0.0-split.csv`, where `pairs` was written by `radialog prepare sections`.
    #[serde(default)]
    pub split_table: Option<PathBuf>,
}

fn default_text() -> String {
    "findings".to_owned()
}
fn default_dropout() -> f64 {
    0.1
}
fn default_longest() -> usize {
    256
}
fn default_first_rate() -> f64 {
    1e-6
}
fn default_least_rate() -> f64 {
    1e-5
}
fn default_cosine_epochs() -> u64 {
    100
}

impl AlignmentRecipe {
    pub(crate) fn schedule(&self) -> Schedule {
        Schedule::WarmupCosine {
            rate: self.training.rate,
            start: self.first_rate,
            least: self.least_rate,
            warmup: self.training.warmup.unwrap_or_default(),
            epochs: self.cosine_epochs,
        }
    }

    /// Reads and checks a recipe.
    ///
    /// # Errors
    /// A file that cannot be read, or every fault of the recipe.
    pub fn read(path: &Path) -> Result<LoadedRecipe<Self>, TrainingError> {
        super::read(path)
    }

    fn check_files(&self, faults: &mut Faults) {
        faults.unless(
            !self.tables.is_empty(),
            "tables: name at least one [[tables]] with pairs",
        );
        let mut file = |name: &str, path: Option<&Path>| {
            let missing = path.filter(|path| !path.is_file());
            faults.unless(
                missing.is_none(),
                format!(
                    "{name}: no file '{}'",
                    missing.unwrap_or(Path::new("")).display()
                ),
            );
        };
        for table in &self.tables {
            file("tables.pairs", Some(&table.pairs));
            file("tables.split_table", table.split_table.as_deref());
        }
        file("bert", self.bert.as_deref());
        file("tokenizer", self.tokenizer.as_deref());
        for images in self
            .tables
            .iter()
            .filter_map(|table| table.images.as_deref())
        {
            faults.unless(
                images.is_dir(),
                format!("tables.images: no folder '{}'", images.display()),
            );
        }
        faults.start(self.training.start.as_deref(), self.geometry.is_some());
        if let Some(encoder) = &self.image_encoder {
            faults.unless(
                encoder.is_dir() || is_demo(encoder),
                format!("image_encoder: no bundle '{}'", encoder.display()),
            );
        }
    }

    fn check_geometry(&self, faults: &mut Faults) {
        let Some(EmbeddingComponent { vision, connector }) = &self.geometry else {
            faults.unless(self.bert.is_none(), "bert: a start has its own text side");
            return;
        };
        let Connector::QFormer { alignment, text } = connector else {
            let reason =
                "geometry.connector: only a q_former is trained here; a grid has nothing to train";
            faults.unless(false, reason);
            return;
        };
        faults.unless(
            self.tokenizer.is_some(),
            "tokenizer: a geometry needs a tokenizer.json",
        );
        let reason =
            "image_encoder: a geometry needs a bundle that has one, since it is not trained here";
        faults.unless(self.image_encoder.is_some(), reason);
        let (width, channels) = (alignment.encoder_width, vision.joint_feature_size);
        let reason = format!(
            "geometry.alignment.encoder_width: {width}, and the projector makes {channels} channels"
        );
        faults.unless(width == channels, reason);
        let Some(text) = text else {
            faults.unless(
                false,
                "geometry.text: give vocab_size, max_position_embeddings and embed_dim",
            );
            return;
        };
        let positions = text.max_position_embeddings;
        faults.unless(
            self.longest <= positions,
            format!("longest: over geometry.text.max_position_embeddings, {positions}"),
        );
    }
}

impl Recipe for AlignmentRecipe {
    /// The original's; its published weights come from the fifth epoch of a schedule over a hundred. The warm-up goes from
    /// `first_rate` to `rate`, within the first epoch.
    fn defaults() -> TrainingArguments {
        TrainingArguments {
            epochs: 5,
            batch_size: 32,
            rate: 1e-4,
            warmup: Some(1000),
            ..TrainingArguments::default()
        }
    }

    fn arguments(&mut self) -> &mut TrainingArguments {
        &mut self.training
    }

    fn resolve(&mut self, folder: &Path) {
        for table in &mut self.tables {
            table.pairs = folder.join(&table.pairs);
            table.images = table.images.take().map(|images| folder.join(images));
            table.split_table = table.split_table.take().map(|split| folder.join(split));
        }
        if let Some(encoder) = &mut self.image_encoder {
            *encoder = bundle_in(folder, encoder);
        }
        for path in [&mut self.bert, &mut self.tokenizer].into_iter().flatten() {
            *path = folder.join(&*path);
        }
    }

    fn check(&self, faults: &mut Faults) {
        self.check_files(faults);
        // Each pair needs another one to be told from.
        faults.unless(
            self.training.batch_size > 1,
            "batch_size: must be 2 or more: the pairs of a batch are each other's negatives",
        );
        faults.unless(
            self.longest > 2,
            "longest: must be 3 or more, two of which are [CLS] and [SEP]",
        );
        faults.unless(
            (0.0..1.0).contains(&self.dropout),
            "dropout: must be from 0 to below 1",
        );
        faults.unless(self.cosine_epochs > 0, "cosine_epochs: must be 1 or more");
        let rates = [
            ("first_rate", self.first_rate),
            ("least_rate", self.least_rate),
        ];
        for (name, rate) in rates {
            faults.unless(
                (0.0..=self.training.rate).contains(&rate),
                format!("{name}: must be from 0 to the rate"),
            );
        }
        self.check_geometry(faults);
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn read(text: &str) -> Result<LoadedRecipe<AlignmentRecipe>, TrainingError> {
        let dir = tempfile::tempdir().unwrap();
        for name in ["pairs.csv", "tokenizer.json"] {
            fs::write(dir.path().join(name), "").unwrap();
        }
        fs::create_dir(dir.path().join("bundle")).unwrap();
        let path = dir.path().join("recipe.toml");
        fs::write(
            &path,
            format!("{text}\n[[tables]]\npairs = \"pairs.csv\"\n"),
        )
        .unwrap();
        AlignmentRecipe::read(&path)
    }

    #[test]
    fn a_recipe_of_a_start_alone_has_the_numbers_of_the_original() {
        let recipe = read("start = \"bundle\"").unwrap().recipe;
        let [start, second] =
            [(0, 0), (1, 0)].map(|(epoch, step)| recipe.schedule().rate(0, 0, epoch, step));
        assert_eq!(start, 1e-6);
        assert!((9.9e-5..1e-4).contains(&second));
        assert_eq!(
            (
                recipe.training.batch_size,
                recipe.longest,
                recipe.dropout,
                recipe.training.clip
            ),
            (32, 256, 0.1, None)
        );
    }

    #[test]
    fn one_pair_has_no_negatives_and_is_refused_in_words() {
        let error = read("start = \"bundle\"\nbatch_size = 1")
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("batch_size") && error.contains("negatives"),
            "{error}"
        );
    }

    #[test]
    fn a_geometry_says_all_that_it_lacks() {
        let text = "[geometry.vision]\nimage_size = 64\nstem_width = 4\nvit_dim = 8\njoint_feature_size = 8\nwidth = 1\n\
                    [geometry.alignment]\nhidden_size = 8\nnum_hidden_layers = 1\nnum_attention_heads = 1\n\
                    intermediate_size = 8\nnum_query_token = 4\nencoder_width = 16\ncross_attention_freq = 1";
        let error = read(text).unwrap_err().to_string();
        for part in [
            "tokenizer",
            "image_encoder",
            "geometry.text",
            "encoder_width",
            "geometry.vision.width",
        ] {
            assert!(error.contains(part), "{part}: {error}");
        }
    }
}
