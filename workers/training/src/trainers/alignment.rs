//! `train alignment`: the Q-Former between a frozen image encoder and reports (BLIP-2's first stage, Li et al., 2023).

use std::path::Path;
use std::sync::Arc;

use candle_core::{DType, Device, Tensor};
use candle_nn::VarBuilder;
use radialog_models::Dropout;
use radialog_models::alignment::{
    AlignmentConfig, AlignmentPretraining, AlignmentTextConfig, TextBatch,
};
use radialog_models::bundle::components::{Connector, EmbeddingComponent};
use radialog_models::bundle::read_manifest;
use radialog_models::tokenizers::BertTokenizer;
use radialog_schemas::Stage;

use super::training::{Measurement, Objective, Trainer, Training, TrainingPlan};
use crate::data::batch_loader::BatchLoader;
use crate::data::image_text_pairs::{ImageTextPair, PairSides};
use crate::error::TrainingError;
use crate::losses::alignment::{AlignmentLosses, HardNegatives, losses};
use crate::optimizer::AdamW;
use crate::random::Random;
use crate::recipe::{AlignmentRecipe, LoadedRecipe};
use crate::trainers::checkpoint::{ComponentDescription, ComponentFile};
use crate::trainers::curves::Chart;
use crate::variables::Variables;

mod encoder;
mod patches;
mod start;

use patches::Patches;
use start::AlignmentStart;

const CHARTS: [Chart; 2] = [
    ("Loss", &["train_loss", "validation_loss"]),
    (
        "Validation loss by part",
        &["validation_itc", "validation_itm", "validation_lm"],
    ),
];

/// The trainer of the alignment module, with its pairs of images and texts.
pub struct AlignmentTrainer {
    recipe: AlignmentRecipe,
    alignment: AlignmentConfig,
    text: AlignmentTextConfig,
    variables: Variables,
    network: AlignmentPretraining,
    dropout: Dropout,
    words: SpecialTokens,
    train: Arc<[ImageTextPair]>,
    validate: Arc<[ImageTextPair]>,
    notes: Vec<String>,
    patches: Arc<Patches>,
    device: Device,
}

/// What is special among the ids.
#[derive(Clone, Copy)]
struct SpecialTokens {
    pad: u32,
    /// `[DEC]`.
    decoder: u32,
}

/// A batch of pairs as the networks read them.
pub struct ImageTextBatch {
    /// `[B, channels, h, w]`, projected.
    patches: Tensor,
    texts: TextBatch,
    names: Vec<String>,
    /// Draws the negatives of this batch.
    negatives: Random,
}

impl Training<AlignmentTrainer> {
    /// Prepares a training on a device, from the start or, with `resume`, from the last checkpoint in `out`.
    ///
    /// # Errors
    /// Data or weights that cannot be read; a checkpoint where none may be, or of another recipe or geometry.
    pub fn alignment(
        read: LoadedRecipe<AlignmentRecipe>,
        out: &Path,
        resume: bool,
        device: &Device,
    ) -> Result<Self, TrainingError> {
        let LoadedRecipe { recipe, hash } = read;
        let AlignmentStart {
            vision,
            alignment,
            text,
            tensors,
            tokenizer: vocabulary,
        } = start::start(&recipe)?;
        let tokenizer = BertTokenizer::from_file(&vocabulary)?.with_decoder_token()?;
        if tokenizer.len() > text.vocab_size {
            let (found, rows) = (tokenizer.len(), text.vocab_size);
            let reason = format!(
                "{found} ids, with [DEC], for an embedding of {rows}: use the tokenizer of these weights"
            );
            return Err(TrainingError::Content {
                path: vocabulary,
                line: None,
                reason,
            });
        }
        let no_decoder = || TrainingError::Empty("the tokenizer has no [DEC]".to_owned());
        let words = SpecialTokens {
            pad: tokenizer.pad_id(),
            decoder: tokenizer.decoder_id().ok_or_else(no_decoder)?,
        };
        let longest = recipe.longest.min(text.max_position_embeddings);
        let PairSides {
            train,
            validate,
            notes,
        } = PairSides::read(&recipe.tables, &|text| Ok(tokenizer.encode(text, longest)?))?;
        let (train, validate): (Arc<[ImageTextPair]>, Arc<[ImageTextPair]>) =
            (train.into(), validate.into());
        if train.len() < recipe.training.batch_size || validate.len() < 2 {
            let (found, needed, measured) =
                (train.len(), recipe.training.batch_size, validate.len());
            return Err(TrainingError::Empty(format!(
                "{found} training pairs and {measured} of validation: a batch has {needed}, and validation needs 2"
            )));
        }

        let config = EmbeddingComponent {
            vision,
            connector: Connector::QFormer {
                alignment: alignment.clone(),
                text: Some(text.clone()),
            },
        };
        let file = encoder::file(&recipe, &config, out, resume)?;
        let mut patches = Patches::new(&config.vision, &file, device)?;
        if recipe.cache_patches {
            let images = train
                .iter()
                .chain(validate.iter())
                .map(|pair| pair.image.as_path());
            patches = patches.cached(images, &file, out)?;
        }
        let component = ComponentDescription::new(Stage::Embedding, &config, "")?
            .with(ComponentFile::linked("weights.2", encoder::FILE, &file)?)
            .with(ComponentFile::copied(
                "tokenizer",
                "embedding.tokenizer.json",
                vocabulary,
            ));
        let component = match &recipe.image_encoder {
            Some(encoder) => component.with_terms_of(&read_manifest(encoder)?.license),
            None => component,
        };
        let variables = Variables::of(tensors)?.to_device(device)?;
        let dropout = Dropout::new(
            recipe.dropout,
            Random::stream(recipe.training.seed, "dropout").bits(),
        );
        let builder = variables.var_builder(device);
        let network = AlignmentPretraining::new(&alignment, &text, builder, dropout.clone())?;
        let plan = TrainingPlan {
            arguments: recipe.training.clone(),
            schedule: recipe.schedule(),
            objective: Objective::Minimise,
            adam: AdamW::alignment(),
            title: "Alignment module",
            charts: &CHARTS,
            recipe: hash,
        };
        let (shared, patches) = (variables.clone(), Arc::new(patches));
        let trainer = AlignmentTrainer {
            recipe,
            alignment,
            text,
            variables: shared,
            network,
            dropout,
            words,
            train,
            validate,
            notes,
            patches,
            device: device.clone(),
        };
        Self::start(trainer, plan, component, variables, out, resume)
    }
}

impl AlignmentTrainer {
    /// Loads batches of pairs, given by their places in `pairs`, beside the compute. Batch `n` draws its negatives from a
    /// stream of its own, so that a resumed training draws what an uninterrupted one would.
    fn load(
        &self,
        pairs: &Arc<[ImageTextPair]>,
        batches: Vec<(String, Vec<usize>)>,
    ) -> BatchLoader<ImageTextBatch> {
        let device = self.device.clone();
        let (pairs, patches, seed, pad) = (
            pairs.clone(),
            self.patches.clone(),
            self.recipe.training.seed,
            self.words.pad,
        );
        BatchLoader::start(batches, move |(stream, places): (String, Vec<usize>)| {
            let batch: Vec<&ImageTextPair> = places.iter().map(|&place| &pairs[place]).collect();
            let images: Vec<&Path> = batch.iter().map(|pair| pair.image.as_path()).collect();
            let name = |path: &&Path| {
                path.file_name()
                    .unwrap_or_default()
                    .to_string_lossy()
                    .into_owned()
            };
            Ok(ImageTextBatch {
                patches: patches.of(&images)?,
                texts: padded(&batch, pad, &device)?,
                names: images.iter().map(name).collect(),
                negatives: Random::stream(seed, &stream),
            })
        })
    }

    fn losses(
        &self,
        network: &AlignmentPretraining,
        batch: &ImageTextBatch,
    ) -> Result<AlignmentLosses, TrainingError> {
        let mut random = batch.negatives.clone();
        let choose = |contrast: &_| HardNegatives::draw(contrast, &mut random);
        Ok(losses(
            network,
            &batch.patches,
            &batch.texts,
            self.words.decoder,
            choose,
        )?
        .0)
    }
}

/// Texts padded to the longest of them. The original pads all to the same length; what is padded is neither seen nor learned,
/// so that only time depends on it.
fn padded(pairs: &[&ImageTextPair], pad: u32, device: &Device) -> Result<TextBatch, TrainingError> {
    let length = pairs
        .iter()
        .map(|pair| pair.ids.len())
        .max()
        .unwrap_or_default();
    let cells = || {
        pairs
            .iter()
            .flat_map(|pair| (0..length).map(|place| pair.ids.get(place).copied()))
    };
    let shape = (pairs.len(), length);
    Ok(TextBatch {
        ids: Tensor::from_vec(cells().map(|id| id.unwrap_or(pad)).collect(), shape, device)?,
        mask: Tensor::from_vec(
            cells()
                .map(|id| f32::from(u8::from(id.is_some())))
                .collect(),
            shape,
            device,
        )?,
    })
}

impl Trainer for AlignmentTrainer {
    type Batch = ImageTextBatch;

    /// The last pairs of an epoch are left out where they do not fill a batch: fewer negatives are another loss.
    fn batches(
        &self,
        epoch: u64,
        skipped: usize,
    ) -> impl Iterator<Item = Result<ImageTextBatch, TrainingError>> {
        let mut order: Vec<usize> = (0..self.train.len()).collect();
        Random::stream(self.recipe.training.seed, &format!("order {epoch}")).shuffle(&mut order);
        let batches = order
            .chunks_exact(self.recipe.training.batch_size)
            .enumerate()
            .skip(skipped);
        let batches =
            batches.map(|(index, places)| (format!("negatives {epoch} {index}"), places.to_vec()));
        self.load(&self.train, batches.collect())
    }

    fn batches_in_epoch(&self) -> u64 {
        (self.train.len() / self.recipe.training.batch_size) as u64
    }

    fn loss(&self, batch: &ImageTextBatch) -> Result<Tensor, TrainingError> {
        Ok(self.losses(&self.network, batch)?.total()?)
    }

    fn names(&self, batch: &ImageTextBatch) -> Vec<String> {
        batch.names.clone()
    }

    /// Means over batches in the order of the tables, with the same negatives' draws after every epoch. A last pair alone has
    /// no negatives and is left out.
    fn validate(&self) -> Result<Vec<Measurement>, TrainingError> {
        let weights =
            VarBuilder::from_tensors(self.variables.snapshot()?, DType::F32, &self.device);
        let network =
            AlignmentPretraining::new(&self.alignment, &self.text, weights, Dropout::default())?;
        let places: Vec<usize> = (0..self.validate.len()).collect();
        let batches = places
            .chunks(self.recipe.training.batch_size)
            .filter(|places| places.len() > 1)
            .enumerate();
        let batches = batches
            .map(|(index, places)| (format!("validation negatives {index}"), places.to_vec()));
        let (mut sums, mut count) = ([0.0; 4], 0.0);
        for batch in self.load(&self.validate, batches.collect()) {
            let losses = self.losses(&network, &batch?)?;
            for (sum, loss) in
                sums.iter_mut()
                    .zip([losses.total()?, losses.itc, losses.itm, losses.lm])
            {
                *sum += f64::from(loss.to_scalar::<f32>()?);
            }
            count += 1.0;
        }
        let [total, itc, itm, lm] = sums.map(|sum| sum / count);
        Ok(vec![
            ("validation_loss", Some(total)),
            ("validation_itc", Some(itc)),
            ("validation_itm", Some(itm)),
            ("validation_lm", Some(lm)),
        ])
    }

    fn notes(&self) -> Vec<String> {
        self.notes.clone()
    }

    fn draws(&self) -> u64 {
        self.dropout.draws()
    }

    fn resume_draws(&self, draws: u64) {
        self.dropout.resume(draws);
    }
}
