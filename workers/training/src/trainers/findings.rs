//! `train findings`: the classifier of the 14 findings, trunk and all, on labelled images.

use std::path::Path;

use candle_core::{DType, Device, Tensor};
use candle_nn::VarBuilder;
use radialog_models::bundle::components::FindingsComponent;
use radialog_models::findings::{FindingsClassifier, TextRule};
use radialog_schemas::{Finding, Label, Stage};

use super::initial_weights;
use super::training::{Objective, Trainer, Training, TrainingPlan};
use crate::data::batch_loader::BatchLoader;
use crate::data::labelled_images::{Batching, ImageBatch, LabelledImage, labelled_images};
use crate::error::TrainingError;
use crate::evaluation::classification::Predictions;
use crate::losses::findings::binary_cross_entropy;
use crate::optimizer::AdamW;
use crate::random::Random;
use crate::recipe::{BlankLabels, FindingsRecipe, LoadedRecipe};
use crate::trainers::checkpoint::ComponentDescription;
use crate::trainers::curves::Chart;
use crate::variables::Variables;

/// The prefix of the names of the tensors in a bundle.
const PREFIX: &str = "model.";
/// Logit of a finding that nothing is known about: a probability of 2 %.
const UNKNOWN_LOGIT: f64 = -4.0;
const CHARTS: [Chart; 3] = [
    ("Loss", &["train_loss", "validation_loss"]),
    ("Validation macro F1", &["macro_f1", "macro_f1_of_batches"]),
    ("Validation macro AUC", &["macro_auc"]),
];

/// The trainer of the findings classifier, with its images.
pub struct FindingsTrainer {
    recipe: FindingsRecipe,
    config: FindingsComponent,
    variables: Variables,
    network: FindingsClassifier,
    weights: Tensor,
    train: Vec<LabelledImage>,
    validate: Vec<LabelledImage>,
    device: Device,
}

impl Training<FindingsTrainer> {
    /// Prepares a training on a device, from the start or, with `resume`, from the last checkpoint in `out`.
    ///
    /// # Errors
    /// Data or weights that cannot be read; a checkpoint where none may be, or of another recipe or geometry.
    pub fn findings(
        read: LoadedRecipe<FindingsRecipe>,
        out: &Path,
        resume: bool,
        device: &Device,
    ) -> Result<Self, TrainingError> {
        let LoadedRecipe { recipe, hash } = read;
        let (config, tensors) = start(&recipe)?;
        let variables = Variables::of(tensors)?.to_device(device)?;
        let network = FindingsClassifier::new(&config.classifier, variables.var_builder(device))?;
        let (train, validate) = (
            labelled_images(&recipe.tables, "train")?,
            labelled_images(&recipe.tables, "validate")?,
        );
        if train.len() < recipe.training.batch_size {
            let (found, needed) = (train.len(), recipe.training.batch_size);
            return Err(TrainingError::Empty(format!(
                "{found} training images do not fill a batch of {needed}"
            )));
        }
        if recipe.training.start.is_none() && recipe.blank == BlankLabels::Mask {
            silence_unknown(&variables, &train)?;
        }
        let weights = (0..Finding::ALL.len()).map(|finding| {
            let positives = train
                .iter()
                .filter(|image| image.labels[finding] == Label::Positive)
                .count();
            recipe.weighting.weight(positives, train.len())
        });
        let weights = Tensor::from_iter(weights.collect::<Vec<f32>>(), device)?;
        let component = ComponentDescription::new(Stage::Findings, &config, PREFIX)?;
        let plan = TrainingPlan {
            training: recipe.training.clone(),
            schedule: recipe.schedule(),
            objective: Objective::Maximise,
            adam: AdamW::findings(),
            title: "Findings classifier",
            charts: &CHARTS,
            recipe: hash,
        };
        let trainer = FindingsTrainer {
            recipe,
            config,
            variables: variables.clone(),
            network,
            weights,
            train,
            validate,
            device: device.clone(),
        };
        Self::start(trainer, plan, component, variables, out, resume)
    }
}

impl FindingsTrainer {
    fn batching(&self) -> Batching {
        let input = self.config.classifier.vision.input();
        Batching {
            input,
            blank: self.recipe.blank,
            augment: None,
            device: self.device.clone(),
        }
    }
}

impl Trainer for FindingsTrainer {
    type Batch = ImageBatch;

    fn batches(
        &self,
        epoch: u64,
        skipped: usize,
    ) -> impl Iterator<Item = Result<ImageBatch, TrainingError>> {
        let mut order = self.train.clone();
        Random::stream(self.recipe.training.seed, &format!("order {epoch}")).shuffle(&mut order);
        let batches: Vec<_> = order
            .chunks_exact(self.recipe.training.batch_size)
            .skip(skipped)
            .map(<[_]>::to_vec)
            .collect();
        let augment = self
            .recipe
            .augment
            .then(|| Random::stream(self.recipe.training.seed, &format!("augment {epoch}")).bits());
        let batching = Batching {
            augment,
            ..self.batching()
        };
        BatchLoader::start(batches, move |images| batching.batch(&images))
    }

    fn batches_in_epoch(&self) -> u64 {
        (self.train.len() / self.recipe.training.batch_size) as u64
    }

    fn loss(&self, batch: &ImageBatch) -> Result<Tensor, TrainingError> {
        let logits = self.network.forward(&batch.images)?.logits;
        Ok(binary_cross_entropy(
            &logits,
            &batch.targets,
            &batch.mask,
            &self.weights,
        )?)
    }

    fn names(&self, batch: &ImageBatch) -> Vec<String> {
        batch.names.clone()
    }

    /// Runs the images through the network of inference.
    fn validate(&self) -> Result<Vec<(&'static str, f64)>, TrainingError> {
        let weights =
            VarBuilder::from_tensors(self.variables.snapshot()?, DType::F32, &self.device);
        let network = FindingsClassifier::new(&self.config.classifier, weights)?;
        let batches: Vec<_> = self
            .validate
            .chunks(self.recipe.training.batch_size)
            .map(<[_]>::to_vec)
            .collect();
        let batching = self.batching();
        let (mut predictions, mut mean_loss, mut f1_of_batches) =
            (Predictions::default(), 0.0, 0.0);
        for batch in BatchLoader::start(batches, move |images: Vec<_>| batching.batch(&images)) {
            let batch = batch?;
            let logits = network.forward(&batch.images)?.logits;
            let loss = binary_cross_entropy(&logits, &batch.targets, &batch.mask, &self.weights)?;
            let share = batch.names.len() as f64 / self.validate.len() as f64;
            mean_loss += share * f64::from(loss.to_scalar::<f32>()?);
            let rows = |tensor: &Tensor| tensor.to_vec2::<f32>();
            let (logits, targets, mask) =
                (rows(&logits)?, rows(&batch.targets)?, rows(&batch.mask)?);
            let mut of_batch = Predictions::default();
            for ((logits, targets), mask) in logits.iter().zip(&targets).zip(&mask) {
                predictions.add(logits, targets, mask);
                of_batch.add(logits, targets, mask);
            }
            // The original's score: the mean of the batches' own, which depends on their size.
            f1_of_batches += share * of_batch.scores().macro_f1;
        }
        let scores = predictions.scores();
        Ok(vec![
            ("macro_f1", scores.macro_f1),
            ("macro_f1_of_batches", f1_of_batches),
            ("macro_auc", scores.macro_auc),
            ("validation_loss", mean_loss),
        ])
    }
}

/// Findings that no image has a label for are not said: no gradient would move their outputs from where they were drawn.
fn silence_unknown(variables: &Variables, train: &[LabelledImage]) -> Result<(), TrainingError> {
    let is_known = |finding: usize| {
        train
            .iter()
            .any(|image| image.labels[finding] != Label::Blank)
    };
    let known: Vec<bool> = (0..Finding::ALL.len()).map(is_known).collect();
    let (Some(weight), Some(bias)) = (variables.get("fc2.weight"), variables.get("fc2.bias"))
    else {
        return Ok(());
    };
    let kept = Tensor::from_iter(
        known.iter().map(|known| f32::from(u8::from(*known))),
        weight.device(),
    )?;
    weight.set(
        &weight
            .as_detached_tensor()
            .broadcast_mul(&kept.unsqueeze(1)?)?,
    )?;
    let silent = ((1.0 - &kept)? * UNKNOWN_LOGIT)?;
    bias.set(&((bias.as_detached_tensor() * kept)? + silent)?)?;
    Ok(())
}

/// The configuration and the tensors that the training starts from.
fn start(
    recipe: &FindingsRecipe,
) -> Result<(FindingsComponent, Vec<(String, Tensor)>), TrainingError> {
    if let Some(dir) = &recipe.training.start {
        let (config, weights, _) =
            initial_weights::component::<FindingsComponent>(dir, Stage::Findings)?;
        let tensors = initial_weights::loaded(&config.tensors()?, PREFIX, &weights)?;
        return Ok((config, tensors));
    }
    let classifier = recipe
        .geometry
        .clone()
        .ok_or_else(|| TrainingError::Empty("no geometry".to_owned()))?;
    let config = FindingsComponent {
        classifier,
        text_rule: TextRule::default(),
    };
    let tensors = initial_weights::drawn(&config.tensors()?, PREFIX, recipe.training.seed)?;
    Ok((config, tensors))
}
