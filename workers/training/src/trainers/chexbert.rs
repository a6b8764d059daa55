//! `train chexbert`: the labeler's 14 heads, and the BERT below them, on labelled reports.

use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};
use candle_nn::VarBuilder;
use radialog_models::Dropout;
use radialog_models::bundle::components::ScoringComponent;
use radialog_models::chexbert::{Chexbert, clean_text};
use radialog_models::tokenizers::BertTokenizer;
use radialog_schemas::{Finding, Label, Stage};

use super::course::{Best, Plan, Subject, Training};
use super::initial;
use crate::checkpoint::{ComponentDescription, ComponentFile};
use crate::clinical::LabelCounts;
use crate::curves::Chart;
use crate::error::TrainingError;
use crate::losses::labeler;
use crate::optimizer::AdamW;
use crate::random::Random;
use crate::recipe::{ChexbertRecipe, Read, Zero};
use crate::variables::Variables;

/// In front of the names of the tensors in a bundle.
const PREFIX: &str = "module.";
/// Of the random draws of dropout.
const DROPOUT: &str = "dropout";
const CHARTS: [Chart; 2] = [
    ("Loss", &["train_loss", "validation_loss"]),
    ("Validation, positive labels", &["macro_f1", "accuracy"]),
];

/// The labeler and its reports.
pub struct Labelling {
    recipe: ChexbertRecipe,
    config: ScoringComponent,
    variables: Variables,
    network: Chexbert,
    dropout: Dropout,
    train: Vec<LabelledReport>,
    validate: Vec<LabelledReport>,
}

/// One report as ids.
#[derive(Clone, Debug)]
pub struct LabelledReport {
    name: String,
    ids: Vec<u32>,
    /// The class of each head, in CheXbert's order, where it is known.
    classes: Vec<Option<u32>>,
}

/// What the training starts from.
struct Start {
    config: ScoringComponent,
    tensors: Vec<(String, Tensor)>,
    tokenizer: PathBuf,
}

impl Training<Labelling> {
    /// Prepares a training, from the start or, with `resume`, from the last checkpoint in `out`.
    ///
    /// # Errors
    /// Data or weights that cannot be read; a checkpoint where none may be, or of another recipe or geometry.
    pub fn chexbert(
        read: Read<ChexbertRecipe>,
        out: &Path,
        resume: bool,
    ) -> Result<Self, TrainingError> {
        let Read { recipe, hash } = read;
        let Start {
            config,
            tensors,
            tokenizer: vocabulary,
        } = start(&recipe)?;
        let variables = Variables::of(tensors)?;
        let dropout = Dropout::new(recipe.dropout, Random::stream(recipe.seed, DROPOUT).bits());
        let builder = variables.var_builder(&Device::Cpu);
        let network = Chexbert::with_dropout(&config.chexbert, builder, dropout.clone())?;
        let tokenizer = BertTokenizer::from_file(&vocabulary)?;
        if tokenizer.len() > config.chexbert.vocab_size {
            let (found, rows) = (tokenizer.len(), config.chexbert.vocab_size);
            let reason = format!(
                "{found} ids for an embedding of {rows}: use the tokenizer of these weights"
            );
            return Err(TrainingError::Content {
                path: vocabulary,
                line: None,
                reason,
            });
        }
        let longest = network.max_length().min(recipe.longest);
        let of_split = |split: &str| reports(&recipe, split, &tokenizer, longest);
        let (train, validate) = (of_split("train")?, of_split("validate")?);
        let tokenizer = ComponentFile::copied("tokenizer", "scoring.tokenizer.json", vocabulary);
        let component = ComponentDescription::new(Stage::Scoring, &config, PREFIX)?.with(tokenizer);
        let plan = Plan {
            epochs: recipe.epochs,
            schedule: recipe.schedule(),
            accumulation: recipe.accumulation,
            best: Best::Largest,
            clip: recipe.clip,
            checkpoint_steps: recipe.checkpoint_steps,
            adam: AdamW::language(),
            title: "CheXbert labeler",
            charts: &CHARTS,
            recipe: hash,
        };
        let subject = Labelling {
            recipe,
            config,
            variables: variables.clone(),
            network,
            dropout,
            train,
            validate,
        };
        Self::start(subject, plan, component, variables, out, resume)
    }
}

impl Subject for Labelling {
    type Batch = Vec<LabelledReport>;

    fn batches(
        &self,
        epoch: u64,
        skipped: usize,
    ) -> impl Iterator<Item = Result<Self::Batch, TrainingError>> {
        let mut order: Vec<usize> = (0..self.train.len()).collect();
        Random::stream(self.recipe.seed, &format!("order {epoch}")).shuffle(&mut order);
        let batches: Vec<Vec<usize>> = order
            .chunks(self.recipe.batch_size)
            .skip(skipped)
            .map(<[_]>::to_vec)
            .collect();
        batches.into_iter().map(|batch| {
            Ok(batch
                .into_iter()
                .map(|row| self.train[row].clone())
                .collect())
        })
    }

    fn batches_in_epoch(&self) -> u64 {
        self.train.len().div_ceil(self.recipe.batch_size) as u64
    }

    fn loss(&self, batch: &Self::Batch) -> Result<Tensor, TrainingError> {
        loss(&self.network, batch)
    }

    fn names(&self, batch: &Self::Batch) -> Vec<String> {
        batch.iter().map(|report| report.name.clone()).collect()
    }

    /// Runs the reports through the network of inference. Positive against everything else, as reports are scored.
    fn validate(&self) -> Result<Vec<(&'static str, f64)>, TrainingError> {
        let weights =
            VarBuilder::from_tensors(self.variables.snapshot()?, DType::F32, &Device::Cpu);
        let network = Chexbert::new(&self.config.chexbert, weights)?;
        let mut counts = LabelCounts::default();
        let mut mean_loss = 0.0;
        for batch in self.validate.chunks(self.recipe.batch_size) {
            let share = batch.len() as f64 / self.validate.len() as f64;
            mean_loss += share * f64::from(loss(&network, batch)?.to_scalar::<f32>()?);
            let ids: Vec<Vec<u32>> = batch.iter().map(|report| report.ids.clone()).collect();
            for (report, labels) in batch.iter().zip(network.label(&ids)?) {
                let truths: Vec<(Finding, bool)> = Finding::chexbert_order()
                    .zip(report.classes.iter().map(|class| *class == Some(1)))
                    .collect();
                let truth = Finding::ALL.map(|finding| truths.contains(&(finding, true)));
                counts.add(
                    &truth,
                    &Finding::ALL.map(|finding| labels.get(&finding) == Some(&Label::Positive)),
                );
            }
        }
        let scores = counts.scores();
        Ok(vec![
            ("macro_f1", scores.macro_f1),
            ("accuracy", scores.accuracy),
            ("validation_loss", mean_loss),
        ])
    }

    fn draws(&self) -> u64 {
        self.dropout.draws()
    }

    fn resume_draws(&self, draws: u64) {
        self.dropout.resume(draws);
    }
}

fn loss(network: &Chexbert, batch: &[LabelledReport]) -> Result<Tensor, TrainingError> {
    let ids: Vec<Vec<u32>> = batch.iter().map(|report| report.ids.clone()).collect();
    let classes: Vec<Vec<Option<u32>>> = (0..Finding::ALL.len())
        .map(|head| batch.iter().map(|report| report.classes[head]).collect())
        .collect();
    Ok(labeler::heads(&network.forward(&ids)?.logits, &classes)?)
}

/// The reports of a split that have a text and at least one label.
fn reports(
    recipe: &ChexbertRecipe,
    split: &str,
    tokenizer: &BertTokenizer,
    longest: usize,
) -> Result<Vec<LabelledReport>, TrainingError> {
    let path = &recipe.reports;
    let mut reader = csv::Reader::from_path(path).map_err(TrainingError::content(path))?;
    let header = reader
        .headers()
        .map_err(TrainingError::content(path))?
        .clone();
    let column = |name: &str| {
        let found = header.iter().position(|found| found == name);
        found.ok_or_else(|| TrainingError::line(path, 1, format!("no column '{name}'")))
    };
    let (text, of_split) = (column(&recipe.text)?, column("split")?);
    let columns = Finding::chexbert_order()
        .map(|finding| column(finding.name()))
        .collect::<Result<Vec<_>, TrainingError>>()?;
    let mut reports = Vec::new();
    for record in reader.records() {
        let record = record.map_err(TrainingError::content(path))?;
        let line = record.position().map_or(0, csv::Position::line);
        let cleaned = clean_text(record.get(text).unwrap_or_default());
        if record.get(of_split) != Some(split) || cleaned.is_empty() {
            continue;
        }
        let mut cells = Vec::new();
        for &column in &columns {
            let cell = record.get(column).unwrap_or_default();
            let reason = || format!("'{cell}' is not a label: use 1, 0, -1 or nothing");
            cells.push(
                crate::prepare::label_value(cell)
                    .ok_or_else(|| TrainingError::line(path, line, reason()))?,
            );
        }
        // A report without any cell was not labelled.
        if cells.iter().all(|label| *label == Label::Blank) && recipe.zero == Zero::Blank {
            continue;
        }
        let classes = cells
            .iter()
            .enumerate()
            .map(|(head, &label)| class(label, head, recipe.zero))
            .collect();
        let ids = tokenizer.encode(&cleaned, longest)?;
        reports.push(LabelledReport {
            name: format!("line {line}"),
            ids,
            classes,
        });
    }
    if reports.is_empty() {
        let shown = path.display();
        return Err(TrainingError::Empty(format!(
            "'{shown}' has no labelled report of the split '{split}'"
        )));
    }
    Ok(reports)
}

/// The class of a label; the last head, "No Finding", knows only blank and positive.
fn class(label: Label, head: usize, zero: Zero) -> Option<u32> {
    let is_last = head + 1 == Finding::ALL.len();
    match label {
        Label::Blank => Some(0),
        Label::Positive => Some(1),
        Label::Negative if is_last || zero == Zero::Blank => Some(0),
        Label::Negative => Some(2),
        Label::Uncertain if is_last => None,
        Label::Uncertain => Some(3),
    }
}

fn start(recipe: &ChexbertRecipe) -> Result<Start, TrainingError> {
    if let Some(dir) = &recipe.start {
        let (config, weights, files) = initial::component::<ScoringComponent>(dir, Stage::Scoring)?;
        let tensors = initial::loaded(&config.tensors()?, PREFIX, &weights)?;
        let tokenizer = files
            .get("tokenizer")
            .ok_or_else(|| TrainingError::Empty("no tokenizer".to_owned()))?;
        return Ok(Start {
            config,
            tensors,
            tokenizer: tokenizer.clone(),
        });
    }
    let (Some(chexbert), Some(tokenizer)) = (recipe.geometry.clone(), recipe.tokenizer.clone())
    else {
        return Err(TrainingError::Empty(
            "neither a start nor a geometry with a tokenizer".to_owned(),
        ));
    };
    let config = ScoringComponent { chexbert };
    let tensors = initial::drawn(&config.tensors()?, PREFIX, recipe.seed)?;
    Ok(Start {
        config,
        tensors,
        tokenizer,
    })
}
