//! `train language`: the language model on data sets of prompts and answers, an adapter beside frozen weights or all weights.

use std::collections::HashMap;
use std::path::Path;
use std::rc::Rc;

use candle_core::{Device, Tensor};
use radialog_models::Dropout;
use radialog_models::language::{LanguageModel, TrainingSequence};
use radialog_schemas::counted;

use self::images::ImageTokens;
use self::start::LanguageStart;
use super::training::{Measurement, Objective, Trainer, Training, TrainingPlan};
use crate::data::tokenized_dataset::{TokenizedDataset, TrainingSample};
use crate::error::TrainingError;
use crate::losses::language::NextTokenTargets;
use crate::optimizer::AdamW;
use crate::prepare::TableFile;
use crate::random::Random;
use crate::recipe::{LanguageRecipe, LoadedRecipe};
use crate::trainers::curves::Chart;

mod images;
mod order;
mod start;

/// The name of the random stream that seeds dropout.
const DROPOUT: &str = "dropout";
const CHARTS: [Chart; 2] = [
    ("Loss", &["train_loss", "validation_loss"]),
    ("Validation", &["token_accuracy"]),
];

/// The trainer of the language model, with its samples.
pub struct LanguageTrainer {
    recipe: LanguageRecipe,
    model: LanguageModel,
    /// What widening quantised weights costs, for people.
    widening: Option<String>,
    dropout: Dropout,
    images: ImageTokens,
    train: Subset,
    validate: Subset,
}

/// Some of the samples of a file.
struct Subset {
    samples: Rc<TokenizedDataset>,
    rows: Vec<usize>,
}

/// A sample with the image tokens of its image.
pub struct SampleWithImages {
    sample: TrainingSample,
    images: Vec<Tensor>,
}

impl Training<LanguageTrainer> {
    /// Prepares a training on a device, from the start or, with `resume`, from the last checkpoint in `out`.
    ///
    /// # Errors
    /// Data or weights that cannot be read; an image without image tokens; a checkpoint where none may be, or of another
    /// recipe or geometry.
    pub fn language(
        read: LoadedRecipe<LanguageRecipe>,
        out: &Path,
        resume: bool,
        device: &Device,
    ) -> Result<Self, TrainingError> {
        let LoadedRecipe { recipe, hash } = read;
        let start = LanguageStart::of(&recipe, device)?;
        let rate = if recipe.full {
            recipe.dropout
        } else {
            recipe.lora.clone().unwrap_or_default().dropout
        };
        let dropout = Dropout::new(rate, Random::stream(recipe.training.seed, DROPOUT).bits());
        let model = start.model(&dropout)?;
        let context = model.config().max_position_embeddings;
        if recipe.cutoff > context {
            let cutoff = recipe.cutoff;
            let reason = format!(
                "a cutoff of {cutoff} ids is over the model's context of {context}: lower it"
            );
            return Err(TrainingError::Empty(reason));
        }
        std::fs::create_dir_all(out).map_err(TrainingError::io("create", out))?;
        let (train, validate) = parts(&recipe, &start, out)?;
        let images = ImageTokens::open(&recipe.embeddings, model.config(), device)?;
        for part in [&train, &validate] {
            for &row in &part.rows {
                images.check(&part.samples.get(row)?)?;
            }
        }
        let widening = start.widening();
        let LanguageStart {
            mut component,
            variables,
            ..
        } = start;
        component.image_tokens_of = images::made_by(&recipe)?;
        let plan = TrainingPlan {
            arguments: recipe.training.clone(),
            schedule: recipe.schedule(),
            objective: Objective::Minimise,
            adam: AdamW::language(),
            title: "Language model",
            charts: &CHARTS,
            recipe: hash,
        };
        let trainer = LanguageTrainer {
            recipe,
            model,
            widening,
            dropout,
            images,
            train,
            validate,
        };
        Self::start(trainer, plan, component, variables, out, resume)
    }
}

impl LanguageTrainer {
    fn load(&self, part: &Subset, rows: &[usize]) -> Result<Vec<SampleWithImages>, TrainingError> {
        let load = |&row: &usize| {
            let sample = part.samples.get(row)?;
            let images = self.images.of(&sample)?;
            Ok(SampleWithImages { sample, images })
        };
        rows.iter().map(load).collect()
    }

    /// Logits of the positions that are learned, `[learned, vocab]`, and which these are.
    fn forward(
        &self,
        batch: &[SampleWithImages],
    ) -> Result<(Tensor, NextTokenTargets), TrainingError> {
        let ids = |sample: &SampleWithImages| sample.sample.ids.len();
        let sequences: Vec<TrainingSequence<'_>> = batch
            .iter()
            .map(|sample| TrainingSequence {
                ids: &sample.sample.ids,
                images: &sample.images,
            })
            .collect();
        let lengths: Vec<usize> = batch.iter().map(ids).collect();
        let hidden = self
            .model
            .forward_packed(&self.model.embed_packed(&sequences)?, &lengths)?;
        let targets: Vec<_> = batch
            .iter()
            .map(|sample| sample.sample.targets.clone())
            .collect();
        let learned = NextTokenTargets::of(&targets);
        Ok((self.model.logits(&learned.rows(&hidden)?)?, learned))
    }
}

impl Trainer for LanguageTrainer {
    type Batch = Vec<SampleWithImages>;

    fn batches(
        &self,
        epoch: u64,
        skipped: usize,
    ) -> impl Iterator<Item = Result<Self::Batch, TrainingError>> {
        let order = order::epoch(
            &self.train.samples,
            &self.train.rows,
            self.recipe.balance,
            self.recipe.training.seed,
            epoch,
        );
        let batches: Vec<Vec<usize>> = order
            .chunks(self.recipe.training.batch_size)
            .skip(skipped)
            .map(<[_]>::to_vec)
            .collect();
        batches
            .into_iter()
            .map(|rows| self.load(&self.train, &rows))
    }

    fn batches_in_epoch(&self) -> u64 {
        self.train
            .rows
            .len()
            .div_ceil(self.recipe.training.batch_size) as u64
    }

    fn loss(&self, batch: &Self::Batch) -> Result<Tensor, TrainingError> {
        let (logits, learned) = self.forward(batch)?;
        Ok(learned.loss(&logits)?)
    }

    fn names(&self, batch: &Self::Batch) -> Vec<String> {
        batch
            .iter()
            .map(|sample| sample.sample.name.clone())
            .collect()
    }

    /// Mean over all learned tokens, and not the original's mean of its batches' means.
    fn validate(&self) -> Result<Vec<Measurement>, TrainingError> {
        // The model is too large to have twice.
        self.dropout.rest(true);
        let (mut sum, mut correct, mut tokens) = (0.0, 0.0, 0.0);
        for rows in self.validate.rows.chunks(self.recipe.training.batch_size) {
            let (logits, learned) = self.forward(&self.load(&self.validate, rows)?)?;
            let logits = logits.detach();
            sum += f64::from(learned.loss(&logits)?.to_scalar::<f32>()?) * learned.len() as f64;
            correct += learned.correct(&logits)? as f64;
            tokens += learned.len() as f64;
        }
        self.dropout.rest(false);
        Ok(vec![
            ("validation_loss", Some(sum / tokens)),
            ("token_accuracy", Some(correct / tokens)),
        ])
    }

    fn notes(&self) -> Vec<String> {
        let parts = [("training", &self.train), ("validation", &self.validate)];
        let mut notes: Vec<String> = parts
            .iter()
            .map(|(name, part)| {
                let (one, several) = (format!("{name} sample"), format!("{name} samples"));
                counted(part.rows.len(), &one, &several)
            })
            .collect();
        let mut dropped = self.train.samples.dropped;
        if !Rc::ptr_eq(&self.train.samples, &self.validate.samples) {
            dropped += self.validate.samples.dropped;
        }
        notes.extend(self.widening.clone());
        let unnamed = self.train.samples.unnamed;
        if self.recipe.validation.is_empty() && unnamed > 0 {
            notes.push(format!(
                "{} no patient: validation samples are chosen by image, so that a patient may be on both sides; \
                 patients = TABLE names them",
                counted(unnamed, "sample names", "samples name")
            ));
        }
        if dropped > 0 {
            let cutoff = self.recipe.cutoff;
            notes.push(format!(
                "{} left out, with a prompt that fills the cutoff of {cutoff} ids",
                counted(dropped, "sample is", "samples are")
            ));
        }
        notes
    }

    fn draws(&self) -> u64 {
        self.dropout.draws()
    }

    fn resume_draws(&self, draws: u64) {
        self.dropout.resume(draws);
    }
}

/// The samples to train on and those to validate on.
fn parts(
    recipe: &LanguageRecipe,
    start: &LanguageStart,
    out: &Path,
) -> Result<(Subset, Subset), TrainingError> {
    let form = start.form();
    let patients = match &recipe.patients {
        Some(table) => patients(table)?,
        None => HashMap::new(),
    };
    let encode = |files| {
        TokenizedDataset::encode(
            files,
            &start.tokenizer,
            &form,
            recipe.cutoff,
            &patients,
            &out.join("samples.partial"),
        )
    };
    let samples = Rc::new(encode(&recipe.data)?);
    let all = |samples: &Rc<TokenizedDataset>| Subset {
        samples: samples.clone(),
        rows: (0..samples.len()).collect(),
    };
    let mut train = all(&samples);
    let validate = if recipe.validation.is_empty() {
        let (kept, mut rows) = split_off(&samples, recipe);
        train.rows = kept;
        rows.sort_unstable();
        Subset { samples, rows }
    } else {
        all(&Rc::new(encode(&recipe.validation)?))
    };
    for (what, part) in [("train on", &train), ("validate on", &validate)] {
        if part.rows.is_empty() {
            let dropped = part.samples.dropped;
            let reason = format!(
                "there are no samples to {what} ({dropped} were left out, since their prompt fills the cutoff): name files \
                 with more samples or raise the cutoff"
            );
            return Err(TrainingError::Empty(reason));
        }
    }
    Ok((train, validate))
}

/// Samples to train on and those that are split off, all of a patient together.
fn split_off(samples: &TokenizedDataset, recipe: &LanguageRecipe) -> (Vec<usize>, Vec<usize>) {
    let mut groups: Vec<Vec<usize>> = Vec::new();
    let mut places: HashMap<u32, usize> = HashMap::new();
    for row in 0..samples.len() {
        let place = *places.entry(samples.group(row)).or_insert(groups.len());
        match groups.get_mut(place) {
            Some(group) => group.push(row),
            None => groups.push(vec![row]),
        }
    }
    Random::stream(recipe.training.seed, "validation").shuffle(&mut groups);
    let mut rows = Vec::new();
    while rows.len() < recipe.validation_size {
        let Some(group) = groups.pop() else { break };
        rows.extend(group);
    }
    let mut kept = groups.concat();
    kept.sort_unstable();
    (kept, rows)
}

/// The patients of images, by what samples call the image.
fn patients(path: &Path) -> Result<HashMap<String, String>, TrainingError> {
    let mut table = TableFile::open(path)?
        .with_hint("it needs dicom_id, study_id or image, and subject_id or patient_id");
    // As MIMIC calls it, before what other tables have.
    let patient = match table.optional("subject_id")? {
        None => table.patient_column()?,
        of_mimic => of_mimic,
    };
    let patient = match patient {
        None => table.column("subject_id")?,
        Some(column) => column,
    };
    let Some(image) = table.first(&["dicom_id", "study_id", "image"])? else {
        let reason = "it has no dicom_id, study_id or image";
        return Err(TrainingError::line(path, 1, reason));
    };
    let mut patients = HashMap::new();
    while let Some(row) = table.next_row()? {
        if let (Some(image), Some(patient)) = (row.cell(image), row.cell(patient)) {
            let name = Path::new(image).file_stem().unwrap_or_default();
            for name in [image.to_owned(), name.to_string_lossy().into_owned()] {
                patients.insert(name, patient.to_owned());
            }
        }
    }
    Ok(patients)
}
