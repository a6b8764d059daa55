//! The trainings of a fine-tuning: each by the recipe and the trainer that `radialog train` would use, from its last checkpoint on.

use std::collections::BTreeMap;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use anyhow::Context;
use radialog_files::durable;
use radialog_models::bundle::Bundle;
use radialog_models::bundle::components::{FindingsComponent, LanguageComponent};
use radialog_models::device::Device;
use radialog_schemas::{Stage, counted};
use radialog_training::TrainingError;
use radialog_training::finetune::{DataSets, FinetuneTable, Plan, TrainedPart};
use radialog_training::recipe::{ChexbertRecipe, FindingsRecipe, ImageTable, LanguageRecipe};
use radialog_training::trainers::{self, Measurement, Trainer, TrainingOutcome, can_resume};
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use super::super::train::run_with_progress;
use super::{FinetuneArgs, bar, show};

/// The folder of a training that only measures its start.
const SCRATCH: &str = ".start";

/// All that the trainings need.
pub(super) struct Training<'a> {
    pub(super) args: &'a FinetuneArgs,
    pub(super) table: &'a FinetuneTable,
    pub(super) data: &'a DataSets,
    pub(super) bundle: &'a Bundle,
    pub(super) device: &'a Device,
    pub(super) stop: &'a CancellationToken,
}

/// What came of a part.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Trained {
    /// The score of the validation rows by which it was chosen.
    pub(super) score: String,
    /// That of the start.
    pub(super) before: Option<f64>,
    /// The best after training.
    pub(super) after: Option<f64>,
    /// Epochs that were trained.
    pub(super) epochs: usize,
    /// Whether it is better than the start, and taken.
    pub(super) is_taken: bool,
}

/// What came of each part, or why it was not trained.
pub(super) type Parts = BTreeMap<&'static str, Result<Trained, String>>;

impl Training<'_> {
    /// Trains all parts that are asked for and that the table allows; none where it was interrupted.
    pub(super) fn run(&self) -> anyhow::Result<Option<Parts>> {
        let mut parts = Parts::new();
        for part in self.args.wanted() {
            let trained = match self.refused(part)? {
                Some(reason) => Err(reason),
                None => match self.train(part)? {
                    Some(trained) => Ok(trained),
                    None => return Ok(None),
                },
            };
            match &trained {
                Err(reason) => outln!("{}: not trained: {reason}", part.name()),
                Ok(trained) => outln!("{}: {}", part.name(), trained.words()),
            }
            parts.insert(part.name(), trained);
        }
        Ok(Some(parts))
    }

    /// The images of the table, as the classifier reads them.
    pub(super) fn images(&self) -> anyhow::Result<ImageTable> {
        Ok(ImageTable {
            labels: absolute(&self.data.images())?,
            images: self.table.folder.clone(),
            ..ImageTable::default()
        })
    }

    fn plan(&self) -> anyhow::Result<Plan> {
        Ok(Plan {
            start: absolute(self.bundle.dir())?,
            seed: self.args.seed,
            epochs: self.args.epochs,
        })
    }

    /// Why a part cannot be trained on this table.
    fn refused(&self, part: TrainedPart) -> anyhow::Result<Option<String>> {
        let texts = |what: &str, labels: bool| {
            let count = |side| self.table.count(side, true, labels);
            Plan::texts_allow(what, count("train"), count("validate")).err()
        };
        Ok(match part {
            TrainedPart::Findings => Plan::findings_allowed(&self.images()?)?.err(),
            TrainedPart::Labeler => texts("reports with labels of the table", true),
            TrainedPart::Language => texts("images with reports", false),
        })
    }

    fn train(&self, part: TrainedPart) -> anyhow::Result<Option<Trained>> {
        let out = self.args.out.join(part.name());
        let done = out.join("finetuned.json");
        if done.is_file() {
            let text =
                fs::read(&done).with_context(|| format!("cannot read '{}'", done.display()))?;
            let trained = serde_json::from_slice(&text);
            return Ok(Some(
                trained.with_context(|| format!("'{}' is damaged", done.display()))?,
            ));
        }
        outln!("\n{}:", part.name());
        let resume = can_resume(&out);
        let trained = match part {
            TrainedPart::Findings => {
                let recipe = self.recipe(part, || {
                    let config: FindingsComponent = self.bundle.config(Stage::Findings)?;
                    let train = self.table.count("train", false, false);
                    Ok(self.plan()?.findings(&config, &self.images()?, train))
                })?;
                let start = |out: &Path, resume| {
                    trainers::Training::findings(
                        FindingsRecipe::read(&recipe)?,
                        out,
                        resume,
                        self.device,
                    )
                };
                self.run_part(&out, resume, start)?
            }
            TrainedPart::Labeler => {
                let recipe = self.recipe(part, || {
                    self.data.write_labelled_reports(self.table)?;
                    let reports = absolute(&self.data.labelled_reports())?;
                    let train = self.table.count("train", true, true);
                    let read = self.table.unlabelled();
                    Ok(self.plan()?.labeler(&reports, &read, train))
                })?;
                let start = |out: &Path, resume| {
                    trainers::Training::chexbert(
                        ChexbertRecipe::read(&recipe)?,
                        out,
                        resume,
                        self.device,
                    )
                };
                self.run_part(&out, resume, start)?
            }
            TrainedPart::Language => {
                let Some(recipe) = self.prepare_language()? else {
                    return Ok(None);
                };
                let start = |out: &Path, resume| {
                    trainers::Training::language(
                        LanguageRecipe::read(&recipe)?,
                        out,
                        resume,
                        self.device,
                    )
                };
                self.run_part(&out, resume, start)?
            }
        };
        let Some(trained) = trained else {
            return Ok(None);
        };
        let text = serde_json::to_string_pretty(&trained)? + "\n";
        durable::replace(&done, text.as_bytes())
            .with_context(|| format!("cannot write '{}'", done.display()))?;
        Ok(Some(trained))
    }

    /// Image tokens, dialogs and the recipe of the language model; none where it was interrupted.
    fn prepare_language(&self) -> anyhow::Result<Option<PathBuf>> {
        let language: LanguageComponent = self.bundle.config(Stage::Language)?;
        for side in ["train", "validate"] {
            if !self.data.dialogs(side).is_file() {
                let dialogs = self.data.write_dialogs(side, &language, self.args.seed)?;
                outln!("  {} of {side}", counted(dialogs, "dialog", "dialogs"));
            }
        }
        if !self.data.embeddings().is_file() {
            let bar = bar()?;
            let folder = &self.table.folder;
            self.data.write_embeddings(
                folder,
                self.bundle,
                self.device,
                &|what, done, total| {
                    show(&bar, what, done, total);
                },
            )?;
            bar.finish_and_clear();
        }
        if self.stop.is_cancelled() {
            return Ok(None);
        }
        let recipe = self.recipe(TrainedPart::Language, || {
            let dialogs = ["train", "validate"].map(|side| absolute(&self.data.dialogs(side)));
            let [train, validate] = dialogs;
            let embeddings = absolute(&self.data.embeddings())?;
            let count = self.table.count("train", true, false);
            Ok(self
                .plan()?
                .language(&language, [&train?, &validate?], &embeddings, count))
        })?;
        Ok(Some(recipe))
    }

    /// The recipe of a part. One that is there stays: a resumed training needs the same, whatever memory is free now.
    fn recipe(
        &self,
        part: TrainedPart,
        make: impl FnOnce() -> anyhow::Result<String>,
    ) -> anyhow::Result<PathBuf> {
        let folder = self.args.out.join("recipes");
        fs::create_dir_all(&folder)
            .with_context(|| format!("cannot create '{}'", folder.display()))?;
        let path = folder.join(format!("{}.toml", part.name()));
        if !path.is_file() {
            durable::replace(&path, make()?.as_bytes())
                .with_context(|| format!("cannot write '{}'", path.display()))?;
        }
        Ok(path)
    }

    /// Runs a training to its end, from its last checkpoint; none where it was interrupted.
    fn run_part<T: Trainer>(
        &self,
        out: &Path,
        resume: bool,
        start: impl Fn(&Path, bool) -> Result<trainers::Training<T>, TrainingError>,
    ) -> anyhow::Result<Option<Trained>> {
        let before = self.before(out, &start)?;
        let training = start(out, resume)?;
        let TrainingOutcome::Complete(rows) = run_with_progress(training, self.stop)? else {
            return Ok(None);
        };
        let Some((score, before)) = before.into_iter().next() else {
            return Ok(None);
        };
        // Of all scores that choose, the loss alone is better where it is smaller.
        let is_more_better = score != "validation_loss";
        let values = rows.iter().filter_map(|row| row.get(&score));
        let after = match is_more_better {
            true => values.reduce(f64::max),
            false => values.reduce(f64::min),
        };
        let is_taken = match (before, after) {
            (Some(before), Some(after)) if is_more_better => after > before,
            (Some(before), Some(after)) => after < before,
            // Nothing that could be compared: what was trained is what was asked for.
            _ => true,
        };
        Ok(Some(Trained {
            score,
            before,
            after,
            epochs: rows.len(),
            is_taken,
        }))
    }

    /// What the start scores on the validation rows, measured once.
    fn before<T: Trainer>(
        &self,
        out: &Path,
        start: &impl Fn(&Path, bool) -> Result<trainers::Training<T>, TrainingError>,
    ) -> anyhow::Result<Vec<(String, Option<f64>)>> {
        let path = out.join("start.json");
        if path.is_file() {
            let text =
                fs::read(&path).with_context(|| format!("cannot read '{}'", path.display()))?;
            return serde_json::from_slice(&text)
                .with_context(|| format!("'{}' is damaged", path.display()));
        }
        // In a folder without a checkpoint, so that it is measured as it starts. One that is there is a killed process's: this
        // one has the lock of `--out`.
        match fs::remove_dir_all(self.args.out.join(SCRATCH)) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                return Err(error).context("cannot clear a folder in --out");
            }
            _ => {}
        }
        let scratch = tempfile::Builder::new()
            .prefix(SCRATCH)
            .rand_bytes(0)
            .tempdir_in(&self.args.out)
            .context("cannot make a folder in --out")?;
        let measured: Vec<Measurement> = start(scratch.path(), false)?.validate()?;
        let measured: Vec<(String, Option<f64>)> = measured
            .into_iter()
            .map(|(name, value)| (name.to_owned(), value))
            .collect();
        fs::create_dir_all(out).with_context(|| format!("cannot create '{}'", out.display()))?;
        let text = serde_json::to_string(&measured)? + "\n";
        durable::replace(&path, text.as_bytes())
            .with_context(|| format!("cannot write '{}'", path.display()))?;
        Ok(measured)
    }
}

impl Trained {
    /// What came of it, in words.
    pub(super) fn words(&self) -> String {
        let shown =
            |value: Option<f64>| value.map_or("-".to_owned(), |value| format!("{value:.4}"));
        let taken = match self.is_taken {
            true => "taken",
            false => "not better than the start, which stays",
        };
        format!(
            "{} on the validation rows {} before, {} at best after ({} epochs): {taken}",
            self.score,
            shown(self.before),
            shown(self.after),
            self.epochs
        )
    }
}

fn absolute(path: &Path) -> anyhow::Result<PathBuf> {
    std::path::absolute(path).with_context(|| format!("cannot find '{}'", path.display()))
}
