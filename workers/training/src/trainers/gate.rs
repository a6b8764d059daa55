//! `train gate`: the small network that tells frontal chest X-rays from everything else.

use std::path::Path;
use std::sync::Arc;

use candle_core::{DType, Device, Tensor};
use candle_nn::VarBuilder;
use radialog_models::input_gate::{InputGate, THRESHOLD};
use radialog_schemas::ImageKind;

use super::initial_weights;
use super::training::{Measurement, Objective, Trainer, Training, TrainingPlan};
use crate::data::batch_loader::BatchLoader;
use crate::data::gate_images::GateSides;
use crate::data::gate_pictures::{GateBatch, GateImages, MeasuredPicture};
use crate::error::TrainingError;
use crate::evaluation::gate;
use crate::losses::cross_entropy;
use crate::optimizer::AdamW;
use crate::recipe::{GateRecipe, LoadedRecipe};
use crate::trainers::checkpoint::ComponentDescription;
use crate::trainers::curves::Chart;
use crate::variables::Variables;

const CHARTS: [Chart; 2] = [
    ("Loss", &["train_loss", "validation_loss"]),
    ("Validation", &["others_warned", "frontal_warned"]),
];

/// The trainer of the input gate, with its images.
pub struct GateTrainer {
    recipe: GateRecipe,
    variables: Variables,
    network: InputGate,
    train: Arc<GateImages>,
    measured: Vec<MeasuredPicture>,
    views: Vec<Vec<f32>>,
    notes: Vec<String>,
}

impl Training<GateTrainer> {
    /// Prepares a training, from the start or, with `resume`, from the last checkpoint in `out`. It computes on a CPU, as the gate does.
    ///
    /// # Errors
    /// Data that cannot be read; a checkpoint where none may be, or of another recipe.
    pub fn gate(
        read: LoadedRecipe<GateRecipe>,
        out: &Path,
        resume: bool,
        device: &Device,
    ) -> Result<Self, TrainingError> {
        if !device.is_cpu() {
            let reason = "the gate is trained on a CPU in minutes: leave out --device".to_owned();
            return Err(TrainingError::Empty(reason));
        }
        let LoadedRecipe { recipe, hash } = read;
        let sides = GateSides::read(&recipe.tables, &["train", "validate"])?;
        let train = GateImages::of(sides.train, "train")?;
        let validate = GateImages::of(sides.validate, "validate")?;
        let seed = recipe.training.seed;
        let tensors = initial_weights::drawn(&InputGate::tensors()?, "", seed)?;
        let variables = Variables::of(tensors)?.freeze(|name| name == THRESHOLD);
        let network = InputGate::new(variables.var_builder(&Device::Cpu))?;
        let component = ComponentDescription::outside_of_bundles("weights.safetensors");
        let plan = TrainingPlan {
            arguments: recipe.training.clone(),
            schedule: recipe.schedule(),
            objective: Objective::Maximise,
            adam: AdamW::findings(),
            title: "Input gate",
            charts: &CHARTS,
            recipe: hash,
        };
        let mut notes = sides.notes;
        for (side, pool) in [("train", &train), ("validate", &validate)] {
            let [frontal, lateral, other] = pool.counts();
            notes.push(format!(
                "{side}: {frontal} frontal, {lateral} lateral and {other} other images"
            ));
        }
        let trainer = GateTrainer {
            variables: variables.clone(),
            network,
            train: Arc::new(train),
            measured: validate.measured(seed),
            views: validate.views(seed),
            notes,
            recipe,
        };
        Self::start(trainer, plan, component, variables, out, resume)
    }
}

impl Trainer for GateTrainer {
    type Batch = GateBatch;

    fn batches(
        &self,
        epoch: u64,
        skipped: usize,
    ) -> impl Iterator<Item = Result<GateBatch, TrainingError>> {
        let (pool, seed) = (self.train.clone(), self.recipe.training.seed);
        let size = self.recipe.training.batch_size;
        let order = pool.order(seed, epoch);
        let batches: Vec<usize> = (skipped..pool.batches_in_epoch(size)).collect();
        BatchLoader::start(batches, move |batch| {
            pool.batch(size, &order, (seed, epoch, batch))
        })
    }

    fn batches_in_epoch(&self) -> u64 {
        self.train.batches_in_epoch(self.recipe.training.batch_size) as u64
    }

    fn loss(&self, batch: &GateBatch) -> Result<Tensor, TrainingError> {
        let logits = self.network.logits(&batch.pictures)?;
        let kinds = Tensor::new(batch.kinds.as_slice(), &Device::Cpu)?;
        Ok(cross_entropy(&logits, &kinds, 0.0)?)
    }

    fn names(&self, batch: &GateBatch) -> Vec<String> {
        batch.names.clone()
    }

    /// Runs the pictures through the network of inference, and sets the threshold that goes with these weights.
    fn validate(&self) -> Result<Vec<Measurement>, TrainingError> {
        let network = self.of_inference()?;
        let views = gate::shares(&network, self.views.iter().map(Vec::as_slice))?;
        let frontal = ImageKind::Frontal as usize;
        let views: Vec<f32> = views.iter().map(|shares| shares[frontal]).collect();
        let threshold = gate::threshold(&views, self.recipe.false_warnings);
        if let Some(variable) = self.variables.get(THRESHOLD) {
            variable.set(&Tensor::new(&[threshold], &Device::Cpu)?)?;
        }
        // Each kind counts alike, however many pictures of it there are.
        let levels = self
            .measured
            .iter()
            .map(|picture| picture.levels.as_slice());
        let shares = gate::shares(&network, levels)?;
        let mut losses = [(0.0, 0.0); ImageKind::ALL.len()];
        for (picture, shares) in self.measured.iter().zip(&shares) {
            let (sum, count) = &mut losses[picture.kind as usize];
            *sum -= f64::from(shares[picture.kind as usize].max(1e-6)).ln();
            *count += 1.0;
        }
        let known = losses.iter().filter(|(_, count)| *count > 0.0);
        let losses: Vec<f64> = known.map(|(sum, count)| sum / count).collect();
        let loss = losses.iter().sum::<f64>() / losses.len() as f64;
        let warned = |is_frontal: bool| {
            let of_kind = self.measured.iter().zip(&shares);
            let of_kind =
                of_kind.filter(|(picture, _)| (picture.kind == ImageKind::Frontal) == is_frontal);
            let (warned, all) = of_kind.fold((0, 0), |(warned, all), (_, shares)| {
                (warned + u32::from(shares[frontal] < threshold), all + 1)
            });
            f64::from(warned) / f64::from(all)
        };
        Ok(vec![
            ("others_warned", Some(warned(false))),
            ("validation_loss", Some(loss)),
            ("frontal_warned", Some(warned(true))),
            ("threshold", Some(f64::from(threshold))),
        ])
    }

    fn notes(&self) -> Vec<String> {
        self.notes.clone()
    }
}

impl GateTrainer {
    fn of_inference(&self) -> Result<InputGate, TrainingError> {
        let weights = self.variables.snapshot()?;
        let weights = VarBuilder::from_tensors(weights, DType::F32, &Device::Cpu);
        Ok(InputGate::new(weights)?)
    }
}
