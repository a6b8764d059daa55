//! `train chexbert`: the labeler's 14 heads, and the BERT below them, on labelled reports.

use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};
use candle_nn::VarBuilder;
use radialog_models::Dropout;
use radialog_models::bundle::components::ScoringComponent;
use radialog_models::chexbert::{Chexbert, clean_text};
use radialog_models::tokenizers::BertTokenizer;
use radialog_schemas::{Finding, Label, Stage};

use super::initial_weights;
use super::training::{Measurement, Objective, Trainer, Training, TrainingPlan};
use crate::data::table_check::{TableCheck, TablePatients};
use crate::error::TrainingError;
use crate::evaluation::clinical::LabelCounts;
use crate::losses::chexbert;
use crate::optimizer::AdamW;
use crate::prepare::TableFile;
use crate::random::Random;
use crate::recipe::{ChexbertRecipe, LoadedRecipe, ZeroLabels};
use crate::trainers::checkpoint::{ComponentDescription, ComponentFile};
use crate::trainers::curves::Chart;
use crate::variables::Variables;

/// The prefix of the names of the tensors in a bundle.
const PREFIX: &str = "module.";
/// The table of positions, which starts as waves: drawn at random, places beside each other look no more alike than others, and a
/// small network then hardly learns which words of a long report belong together.
const POSITIONS: &str = "position_embeddings.weight";
/// The name of the random stream that seeds dropout.
const DROPOUT: &str = "dropout";
/// The batches within which reports are sorted by their lengths.
const BATCHES_SORTED: usize = 32;
const CHARTS: [Chart; 2] = [
    ("Loss", &["train_loss", "validation_loss"]),
    ("Validation, positive labels", &["macro_f1", "accuracy"]),
];

/// The trainer of the CheXbert labeler, with its reports.
pub struct ChexbertTrainer {
    recipe: ChexbertRecipe,
    config: ScoringComponent,
    variables: Variables,
    network: Chexbert,
    dropout: Dropout,
    train: Vec<TokenizedReport>,
    validate: Vec<TokenizedReport>,
    notes: Vec<String>,
    device: Device,
}

/// The reports of the sides that a training reads.
#[derive(Default)]
struct ReportSides {
    train: Vec<TokenizedReport>,
    validate: Vec<TokenizedReport>,
    notes: Vec<String>,
}

/// One labelled report as ids.
#[derive(Clone, Debug)]
pub struct TokenizedReport {
    name: String,
    ids: Vec<u32>,
    /// The class of each head, in CheXbert's order, where it is known.
    classes: Vec<Option<u32>>,
}

/// The weights and the tokenizer that the training starts from.
struct ChexbertStart {
    config: ScoringComponent,
    tensors: Vec<(String, Tensor)>,
    tokenizer: PathBuf,
}

impl Training<ChexbertTrainer> {
    /// Prepares a training on a device, from the start or, with `resume`, from the last checkpoint in `out`.
    ///
    /// # Errors
    /// Data or weights that cannot be read; a checkpoint where none may be, or of another recipe or geometry.
    pub fn chexbert(
        read: LoadedRecipe<ChexbertRecipe>,
        out: &Path,
        resume: bool,
        device: &Device,
    ) -> Result<Self, TrainingError> {
        let LoadedRecipe { recipe, hash } = read;
        let ChexbertStart {
            config,
            tensors,
            tokenizer: vocabulary,
        } = start(&recipe)?;
        let variables = Variables::of(tensors)?.to_device(device)?;
        let dropout = Dropout::new(
            recipe.dropout,
            Random::stream(recipe.training.seed, DROPOUT).bits(),
        );
        let builder = variables.var_builder(device);
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
        let ReportSides {
            train,
            validate,
            notes,
        } = reports(&recipe, &tokenizer, longest)?;
        let tokenizer = ComponentFile::copied("tokenizer", "scoring.tokenizer.json", vocabulary);
        let component = ComponentDescription::new(Stage::Scoring, &config, PREFIX)?.with(tokenizer);
        let plan = TrainingPlan {
            arguments: recipe.training.clone(),
            schedule: recipe.schedule(),
            objective: Objective::Maximise,
            adam: AdamW::language(),
            title: "CheXbert labeler",
            charts: &CHARTS,
            recipe: hash,
        };
        let trainer = ChexbertTrainer {
            recipe,
            config,
            variables: variables.clone(),
            network,
            dropout,
            train,
            validate,
            notes,
            device: device.clone(),
        };
        Self::start(trainer, plan, component, variables, out, resume)
    }
}

impl Trainer for ChexbertTrainer {
    type Batch = Vec<TokenizedReport>;

    fn batches(
        &self,
        epoch: u64,
        skipped: usize,
    ) -> impl Iterator<Item = Result<Self::Batch, TrainingError>> {
        let mut random = Random::stream(self.recipe.training.seed, &format!("order {epoch}"));
        let lengths: Vec<usize> = self.train.iter().map(|report| report.ids.len()).collect();
        let batches =
            batches_of_like_lengths(&lengths, self.recipe.training.batch_size, &mut random);
        batches.into_iter().skip(skipped).map(|batch| {
            Ok(batch
                .into_iter()
                .map(|row| self.train[row].clone())
                .collect())
        })
    }

    fn batches_in_epoch(&self) -> u64 {
        self.train.len().div_ceil(self.recipe.training.batch_size) as u64
    }

    fn loss(&self, batch: &Self::Batch) -> Result<Tensor, TrainingError> {
        loss(&self.network, batch)
    }

    fn names(&self, batch: &Self::Batch) -> Vec<String> {
        batch.iter().map(|report| report.name.clone()).collect()
    }

    /// Runs the reports through the network of inference. Positive against everything else, as reports are scored; what a labeler
    /// has read counts as not known.
    fn validate(&self) -> Result<Vec<Measurement>, TrainingError> {
        let weights =
            VarBuilder::from_tensors(self.variables.snapshot()?, DType::F32, &self.device);
        let network = Chexbert::new(&self.config.chexbert, weights)?;
        let mut counts = LabelCounts::default();
        let mut mean_loss = 0.0;
        for batch in self.validate.chunks(self.recipe.training.batch_size) {
            let share = batch.len() as f64 / self.validate.len() as f64;
            mean_loss += share * f64::from(loss(&network, batch)?.to_scalar::<f32>()?);
            let ids: Vec<Vec<u32>> = batch.iter().map(|report| report.ids.clone()).collect();
            for (report, labels) in batch.iter().zip(network.label(&ids)?) {
                let truths: Vec<(Finding, bool)> = Finding::chexbert_order()
                    .zip(report.classes.iter().map(|class| *class == Some(1)))
                    .collect();
                let is_known = |finding: &Finding| !self.recipe.read.contains(finding);
                let truth = Finding::ALL
                    .map(|finding| is_known(&finding).then(|| truths.contains(&(finding, true))));
                counts.add_known(
                    &truth,
                    &Finding::ALL.map(|finding| labels.get(&finding) == Some(&Label::Positive)),
                );
            }
        }
        let scores = counts.scores();
        Ok(vec![
            ("macro_f1", counts.scored_macro_f1()),
            ("accuracy", Some(scores.accuracy)),
            ("validation_loss", Some(mean_loss)),
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

/// All reports in a random order, cut into batches; those of a few batches change places so that reports of like lengths are
/// together, since a batch is padded to its longest.
fn batches_of_like_lengths(
    lengths: &[usize],
    batch_size: usize,
    random: &mut Random,
) -> Vec<Vec<usize>> {
    let mut order: Vec<usize> = (0..lengths.len()).collect();
    random.shuffle(&mut order);
    for some in order.chunks_mut(BATCHES_SORTED * batch_size) {
        some.sort_by_key(|&report| lengths[report]);
    }
    let mut batches: Vec<Vec<usize>> = order.chunks(batch_size).map(<[_]>::to_vec).collect();
    random.shuffle(&mut batches);
    batches
}

fn loss(network: &Chexbert, batch: &[TokenizedReport]) -> Result<Tensor, TrainingError> {
    let ids: Vec<Vec<u32>> = batch.iter().map(|report| report.ids.clone()).collect();
    let classes: Vec<Vec<Option<u32>>> = (0..Finding::ALL.len())
        .map(|head| batch.iter().map(|report| report.classes[head]).collect())
        .collect();
    Ok(chexbert::heads(&network.forward(&ids)?.logits, &classes)?)
}

/// The reports of all tables that have a text and at least one label.
fn reports(
    recipe: &ChexbertRecipe,
    tokenizer: &BertTokenizer,
    longest: usize,
) -> Result<ReportSides, TrainingError> {
    let (mut sides, mut check) = (ReportSides::default(), TableCheck::default());
    for path in &recipe.reports {
        add_reports(path, recipe, tokenizer, longest, (&mut sides, &mut check))?;
    }
    sides.notes = check.finish()?;
    for (split, reports) in [("train", &sides.train), ("validate", &sides.validate)] {
        if reports.is_empty() {
            let shown = recipe
                .reports
                .iter()
                .map(|path| format!("'{}'", path.display()));
            let shown = shown.collect::<Vec<_>>().join(", ");
            return Err(TrainingError::Empty(format!(
                "{shown}: no labelled report of the split '{split}'"
            )));
        }
    }
    Ok(sides)
}

fn add_reports(
    path: &Path,
    recipe: &ChexbertRecipe,
    tokenizer: &BertTokenizer,
    longest: usize,
    (sides, check): (&mut ReportSides, &mut TableCheck),
) -> Result<(), TrainingError> {
    let mut table = TableFile::open(path)?.with_hint(format!(
        "it needs split, {} and the 14 findings",
        recipe.text
    ));
    let (text, of_split) = (table.column(&recipe.text)?, table.column("split")?);
    let findings = table.findings()?;
    // Lines of several tables are told apart by the table's name.
    let place = match recipe.reports.len() {
        1 => String::new(),
        _ => format!("{} ", path.file_name().unwrap_or_default().display()),
    };
    let mut patients = TablePatients::of(path, &table)?;
    while let Some(row) = table.next_row()? {
        let side = match check.side(&row, of_split, &mut patients) {
            Some("train") => &mut sides.train,
            Some("validate") => &mut sides.validate,
            _ => continue,
        };
        let cleaned = clean_text(row.cell(text).unwrap_or_default());
        if cleaned.is_empty() {
            check.lacks("text");
            continue;
        }
        let labels = match table.labels(&row, &findings) {
            Ok(labels) => labels,
            Err(error) => {
                check.error(&error);
                continue;
            }
        };
        // A report without any cell was not labelled.
        if labels.iter().all(|label| *label == Label::Blank) && recipe.zero == ZeroLabels::Blank {
            check.lacks("label");
            continue;
        }
        let classes = Finding::chexbert_order()
            .enumerate()
            .map(|(head, finding)| class(labels[finding as usize], head, recipe.zero))
            .collect();
        let ids = tokenizer.encode(&cleaned, longest)?;
        side.push(TokenizedReport {
            name: format!("{place}line {}", row.line),
            ids,
            classes,
        });
    }
    Ok(())
}

/// The class of a label; the last head, "No Finding", knows only blank and positive.
fn class(label: Label, head: usize, zero: ZeroLabels) -> Option<u32> {
    let is_last = head + 1 == Finding::ALL.len();
    match label {
        Label::Blank => Some(0),
        Label::Positive => Some(1),
        Label::Negative if is_last || zero == ZeroLabels::Blank => Some(0),
        Label::Negative => Some(2),
        Label::Uncertain if is_last => None,
        Label::Uncertain => Some(3),
    }
}

fn start(recipe: &ChexbertRecipe) -> Result<ChexbertStart, TrainingError> {
    if let Some(dir) = &recipe.training.start {
        let (config, weights, files) =
            initial_weights::component::<ScoringComponent>(dir, Stage::Scoring)?;
        let tensors = initial_weights::loaded(&config.tensors()?, PREFIX, &weights)?;
        let tokenizer = files
            .get("tokenizer")
            .ok_or_else(|| TrainingError::Empty("no tokenizer".to_owned()))?;
        return Ok(ChexbertStart {
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
    let mut tensors = initial_weights::drawn(&config.tensors()?, PREFIX, recipe.training.seed)?;
    let positions = tensors
        .iter_mut()
        .find(|(name, _)| name.ends_with(POSITIONS));
    if let Some((_, table)) = positions {
        *table = initial_weights::sinusoids(table.dims2()?)?;
    }
    Ok(ChexbertStart {
        config,
        tensors,
        tokenizer,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_report_is_in_one_batch_with_reports_of_like_lengths() {
        let lengths: Vec<usize> = (0..1000).map(|report| 1 + report * 7 % 100).collect();
        let draw = |seed| batches_of_like_lengths(&lengths, 10, &mut Random::stream(seed, "order"));
        let batches = draw(1);
        let mut reports = batches.concat();
        reports.sort_unstable();
        assert!(reports.into_iter().eq(0..1000) && batches.len() == 100);
        let padded = |batch: &Vec<usize>| {
            batch
                .iter()
                .map(|&report| lengths[report])
                .max()
                .unwrap_or_default()
                * batch.len()
        };
        let padded: usize = batches.iter().map(padded).sum();
        let exact: usize = lengths.iter().sum();
        assert!(padded < exact * 11 / 10, "{padded} for {exact}");
        assert_ne!(batches, draw(2));
    }
}
