//! `train findings`: the classifier of the 14 findings, trunk and all, on labelled images.

use std::path::{Path, PathBuf};
use std::time::Instant;

use candle_core::{DType, Device, Tensor};
use candle_nn::VarBuilder;
use radialog_models::bundle::config::FindingsComponent;
use radialog_models::bundle::loader::Weights;
use radialog_models::bundle::{Bundle, HashCache, layout};
use radialog_models::findings::{FindingsClassifier, TextRule};
use radialog_schemas::{ContentHash, Finding, Label, Stage};

use super::initial;
use crate::checkpoint::{self, ComponentDescription, Progress};
use crate::classification::Predictions;
use crate::curves::{self, Chart, Row};
use crate::error::TrainingError;
use crate::images::{Batching, ImageBatch, LabelledImage, Loader, labelled_images};
use crate::losses::findings::binary_cross_entropy;
use crate::optimizer::{AdamW, Gradients, Optimizer};
use crate::random::Random;
use crate::recipe::{FindingsRecipe, Read};
use crate::variables::Variables;

/// In front of the names of the tensors in a bundle.
const PREFIX: &str = "model.";
/// Folders of the checkpoints below the output folder.
const LAST: &str = "last";
const BEST: &str = "best";
const CHARTS: [Chart; 3] = [
    ("Loss", &["train_loss", "validation_loss"]),
    ("Validation macro F1", &["macro_f1", "macro_f1_of_batches"]),
    ("Validation macro AUC", &["macro_auc"]),
];

/// A training at work.
pub struct FindingsTraining {
    recipe: FindingsRecipe,
    hash: ContentHash,
    out: PathBuf,
    component: ComponentDescription,
    config: FindingsComponent,
    variables: Variables,
    network: FindingsClassifier,
    optimizer: Optimizer,
    weights: Tensor,
    train: Vec<LabelledImage>,
    validate: Vec<LabelledImage>,
    progress: Progress,
}

/// What a step tells.
#[derive(Clone, Debug)]
pub struct StepReport {
    /// Steps done.
    pub step: u64,
    /// Steps of the whole training.
    pub total: u64,
    /// Epochs that are complete.
    pub epoch: u64,
    /// Mean of the steps of this epoch.
    pub loss: f64,
    /// Learning rate.
    pub rate: f64,
}

/// How a run ended.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    /// All epochs are done; what was measured after each.
    Complete(Vec<Row>),
    /// It was asked to stop, and can be resumed.
    Interrupted,
}

impl FindingsTraining {
    /// Prepares a training, from the start or, with `resume`, from the last checkpoint in `out`.
    ///
    /// # Errors
    /// Data or weights that cannot be read; a checkpoint where none may be, or of another recipe or geometry.
    pub fn new(read: Read<FindingsRecipe>, out: &Path, resume: bool) -> Result<Self, TrainingError> {
        let Read { recipe, hash } = read;
        let (config, tensors) = start(&recipe)?;
        let variables = Variables::of(tensors)?;
        let network = FindingsClassifier::new(&config.classifier, variables.var_builder(&Device::Cpu))?;
        let (train, validate) =
            (labelled_images(&recipe.tables, "train")?, labelled_images(&recipe.tables, "validate")?);
        if train.len() < recipe.batch_size {
            let (found, needed) = (train.len(), recipe.batch_size);
            return Err(TrainingError::Empty(format!("{found} training images do not fill a batch of {needed}")));
        }
        let weights = (0..Finding::ALL.len()).map(|finding| {
            let of = |image: &&LabelledImage| image.labels[finding];
            let positives = train.iter().filter(|image| of(image) == Label::Positive).count();
            recipe.weighting.weight(positives, train.len())
        });
        let weights = Tensor::from_iter(weights.collect::<Vec<f32>>(), &Device::Cpu)?;
        let config_json = serde_json::to_value(&config).map_err(TrainingError::content(out))?;
        let component = ComponentDescription { stage: Stage::Findings, config: config_json, prefix: PREFIX };
        let mut optimizer = Optimizer::new(AdamW::findings(), variables.clone());
        let last = out.join(LAST);
        let progress = match (checkpoint::find(&last), resume) {
            (None, true) => {
                let reason = "there is none to resume: start without --resume".to_owned();
                return Err(TrainingError::Checkpoint { path: last, reason });
            }
            (Some(path), false) => {
                let reason = "a training is there already: add --resume, or name another --out".to_owned();
                return Err(TrainingError::Checkpoint { path, reason });
            }
            (Some(path), true) => checkpoint::restore(&path, &component, &variables, &mut optimizer, &hash)?,
            (None, false) => Progress::default(),
        };
        std::fs::create_dir_all(out).map_err(TrainingError::io("create", out))?;
        Ok(Self {
            recipe,
            hash,
            out: out.to_owned(),
            component,
            config,
            variables,
            network,
            optimizer,
            weights,
            train,
            validate,
            progress,
        })
    }

    /// Trains until the recipe's end or until `stop` says so, and writes checkpoints, `metrics.csv` and `curves.html`.
    /// `report` hears of every step.
    ///
    /// # Errors
    /// An image that cannot be read, a loss that is not a number, a checkpoint that cannot be written.
    pub fn run(mut self, stop: &dyn Fn() -> bool, report: &dyn Fn(StepReport)) -> Result<Outcome, TrainingError> {
        let in_epoch = (self.train.len() / self.recipe.batch_size) as u64;
        while self.progress.epoch < self.recipe.epochs {
            let started = Instant::now();
            for batch in self.loader() {
                self.step(&batch?)?;
                let loss = self.progress.loss_sum / self.progress.in_epoch as f64;
                let (step, total) = (self.progress.step, in_epoch * self.recipe.epochs);
                report(StepReport { step, total, epoch: self.progress.epoch, loss, rate: self.recipe.rate });
                let stopped = stop();
                let is_due = self.recipe.checkpoint_steps.is_some_and(|every| step % every == 0);
                if stopped || is_due {
                    self.save()?;
                }
                if stopped {
                    return Ok(Outcome::Interrupted);
                }
            }
            self.end_epoch(started)?;
        }
        Ok(Outcome::Complete(self.progress.rows))
    }

    /// The batches of this epoch that are still to come.
    fn loader(&self) -> Loader {
        let epoch = self.progress.epoch;
        let mut order = self.train.clone();
        Random::stream(self.recipe.seed, &format!("order {epoch}")).shuffle(&mut order);
        let batches = order.chunks_exact(self.recipe.batch_size).skip(self.progress.in_epoch as usize);
        let augment = self.recipe.augment.then(|| Random::stream(self.recipe.seed, &format!("augment {epoch}")).bits());
        Loader::start(Batching { augment, ..self.batching() }, batches.map(<[_]>::to_vec).collect())
    }

    fn batching(&self) -> Batching {
        let side = self.config.classifier.vision.image_size;
        Batching { side, blank: self.recipe.blank, augment: None, device: Device::Cpu }
    }

    fn step(&mut self, batch: &ImageBatch) -> Result<(), TrainingError> {
        let logits = self.network.forward(&batch.images)?.logits;
        let loss = binary_cross_entropy(&logits, &batch.targets, &batch.mask, &self.weights)?;
        let value = f64::from(loss.to_scalar::<f32>()?);
        let mut gradients = Gradients::default();
        gradients.add(&self.variables, &loss.backward()?, 1.0)?;
        // Gradients may overflow while the loss is still a number; a step with them would break every weight.
        let norm = gradients.clip(self.recipe.clip.unwrap_or(f64::INFINITY))?;
        if !value.is_finite() || !norm.is_finite() {
            let (step, samples) = (self.progress.step + 1, batch.names.clone());
            return Err(TrainingError::NotANumber { step, samples });
        }
        self.optimizer.step(&gradients, self.recipe.rate)?;
        self.progress.step += 1;
        self.progress.in_epoch += 1;
        self.progress.loss_sum += value;
        Ok(())
    }

    fn end_epoch(&mut self, started: Instant) -> Result<(), TrainingError> {
        let seconds = started.elapsed().as_secs_f64();
        let train_loss = self.progress.loss_sum / (self.progress.in_epoch as f64).max(1.0);
        let validation = self.validation()?;
        let scores = validation.predictions.scores();
        self.progress.epoch += 1;
        (self.progress.in_epoch, self.progress.loss_sum) = (0, 0.0);
        let values = [
            ("epoch", self.progress.epoch as f64),
            ("step", self.progress.step as f64),
            ("rate", self.recipe.rate),
            ("train_loss", train_loss),
            ("validation_loss", validation.loss),
            ("macro_f1", scores.macro_f1),
            ("macro_f1_of_batches", validation.f1_of_batches),
            ("macro_auc", scores.macro_auc),
            ("seconds", seconds),
        ];
        self.progress.rows.push(Row(values.map(|(name, value)| (name.to_owned(), value)).into()));
        let is_best = self.progress.best.is_none_or(|best| scores.macro_f1 > best);
        if is_best {
            self.progress.best = Some(scores.macro_f1);
            checkpoint::save(&self.out.join(BEST), &self.component, &self.variables, None)?;
        }
        self.save()?;
        curves::write_csv(&self.out.join("metrics.csv"), &self.progress.rows)?;
        let title = "Findings classifier";
        curves::write_html(&self.out.join("curves.html"), title, &self.progress.rows, "epoch", &CHARTS)
    }

    fn save(&self) -> Result<(), TrainingError> {
        let resume = Some((&self.optimizer, &self.progress, &self.hash));
        checkpoint::save(&self.out.join(LAST), &self.component, &self.variables, resume)
    }

    /// Runs the validation images through the network of inference, with the weights as they are now.
    fn validation(&self) -> Result<Validation, TrainingError> {
        let weights = VarBuilder::from_tensors(self.variables.snapshot()?, DType::F32, &Device::Cpu);
        let network = FindingsClassifier::new(&self.config.classifier, weights)?;
        let batches = self.validate.chunks(self.recipe.batch_size).map(<[_]>::to_vec).collect();
        let mut validation = Validation::default();
        for batch in Loader::start(self.batching(), batches) {
            let batch = batch?;
            let logits = network.forward(&batch.images)?.logits;
            let loss = binary_cross_entropy(&logits, &batch.targets, &batch.mask, &self.weights)?;
            let share = batch.names.len() as f64 / self.validate.len() as f64;
            validation.loss += share * f64::from(loss.to_scalar::<f32>()?);
            let rows = |tensor: &Tensor| tensor.to_vec2::<f32>();
            let (logits, targets, mask) = (rows(&logits)?, rows(&batch.targets)?, rows(&batch.mask)?);
            let mut of_batch = Predictions::default();
            for ((logits, targets), mask) in logits.iter().zip(&targets).zip(&mask) {
                validation.predictions.add(logits, targets, mask);
                of_batch.add(logits, targets, mask);
            }
            validation.f1_of_batches += share * of_batch.scores().macro_f1;
        }
        Ok(validation)
    }
}

/// What the validation images came to.
#[derive(Default)]
struct Validation {
    loss: f64,
    predictions: Predictions,
    /// The original's score: the mean of the batches' own, which depends on their size.
    f1_of_batches: f64,
}

/// The configuration and the tensors that the training starts from.
fn start(recipe: &FindingsRecipe) -> Result<(FindingsComponent, Vec<(String, Tensor)>), TrainingError> {
    if let Some(dir) = &recipe.start {
        let bundle = Bundle::open_with(dir, &[Stage::Findings], &HashCache::user())?;
        let config: FindingsComponent = bundle.config(Stage::Findings)?;
        let files = bundle.manifest().components.get(&Stage::Findings).map(|component| &component.files);
        let files = files.into_iter().flatten().filter(|(usage, _)| usage.starts_with("weights"));
        let weights = Weights::open(&files.map(|(_, path)| dir.join(path)).collect::<Vec<_>>())?;
        let tensors = initial::loaded(&layout::findings(&config), PREFIX, &weights)?;
        return Ok((config, tensors));
    }
    let classifier = recipe.geometry.clone().ok_or_else(|| TrainingError::Empty("no geometry".to_owned()))?;
    let config = FindingsComponent { classifier, text_rule: TextRule::default() };
    let tensors = initial::drawn(&layout::findings(&config), PREFIX, recipe.seed)?;
    Ok((config, tensors))
}
