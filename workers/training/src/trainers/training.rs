//! What all trainings have in common: epochs of steps, checkpoints, a resume that ends as if there had been no interruption,
//! and what was measured.

use std::path::{Path, PathBuf};
use std::time::Instant;

use candle_core::Tensor;
use radialog_models::bundle::read_manifest;
use radialog_schemas::ContentHash;

use crate::error::TrainingError;
use crate::optimizer::schedule::Schedule;
use crate::optimizer::{AdamW, Gradients, Optimizer};
use crate::recipe::TrainingArguments;
use crate::trainers::checkpoint::{self, ComponentDescription, TrainingProgress};
use crate::trainers::curves::{self, Chart, EpochMetrics};
use crate::trainers::times::EpochTimes;
use crate::variables::Variables;

/// Folders of the checkpoints below the output folder.
const LAST: &str = "last";
const BEST: &str = "best";

/// A measurement of a validation: its name and its value, none where the samples do not define it.
pub type Measurement = (&'static str, Option<f64>);

/// What is particular to one training: its batches, its loss and its validation. [`Training`] does the rest.
pub trait Trainer {
    /// What one forward and backward pass learns from.
    type Batch;

    /// Loads the batches of an epoch, without the first `skipped`.
    fn batches(
        &self,
        epoch: u64,
        skipped: usize,
    ) -> impl Iterator<Item = Result<Self::Batch, TrainingError>>;

    /// Returns the number of batches in an epoch.
    fn batches_in_epoch(&self) -> u64;

    /// Computes the loss of a batch, a scalar.
    ///
    /// # Errors
    /// None but the network's.
    fn loss(&self, batch: &Self::Batch) -> Result<Tensor, TrainingError>;

    /// Returns what errors call the samples of a batch.
    fn names(&self, batch: &Self::Batch) -> Vec<String>;

    /// What is measured on the validation samples with the weights as they are. The first one decides which checkpoint is the
    /// best, as the plan's [`Objective`] says; where it is never defined, the last one is.
    ///
    /// # Errors
    /// None but the network's and those of reading samples.
    fn validate(&self) -> Result<Vec<Measurement>, TrainingError>;

    /// Returns what a user should know before the first step.
    fn notes(&self) -> Vec<String> {
        Vec::new()
    }

    /// Returns the number of dropout masks that were drawn.
    fn draws(&self) -> u64 {
        0
    }

    /// Goes on as if so many dropout masks had been drawn.
    fn resume_draws(&self, _draws: u64) {}
}

/// What a training is told beside its trainer: how long it goes on, and how its steps are made.
#[derive(Clone, Debug)]
pub struct TrainingPlan {
    /// Epochs, accumulation, clipping and checkpoints. What is left at the end of an epoch makes a smaller step.
    pub arguments: TrainingArguments,
    /// Learning rates.
    pub schedule: Schedule,
    /// The rule that says which validation score is the best.
    pub objective: Objective,
    /// Constants of the optimizer.
    pub adam: AdamW,
    /// Heading of the curves.
    pub title: &'static str,
    /// The curves that are drawn.
    pub charts: &'static [Chart],
    /// The hash of the recipe.
    pub recipe: ContentHash,
}

/// The direction in which the validation score improves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Objective {
    /// A larger score is better, as of a measure of quality.
    Maximise,
    /// A smaller score is better, as of a loss.
    Minimise,
}

impl Objective {
    fn is_better(self, score: f64, than: f64) -> bool {
        match self {
            Objective::Maximise => score > than,
            Objective::Minimise => score < than,
        }
    }
}

impl TrainingPlan {
    fn steps_in_epoch(&self, batches: u64) -> u64 {
        batches.div_ceil(self.arguments.accumulation.max(1) as u64)
    }

    /// Computes the learning rate of the step after this progress.
    fn rate(&self, progress: &TrainingProgress, batches: u64) -> f64 {
        let total = self.steps_in_epoch(batches) * self.arguments.epochs;
        self.schedule.rate(
            progress.step,
            total,
            progress.epoch,
            self.steps_in_epoch(progress.in_epoch),
        )
    }
}

/// A training that can be run: a trainer with its plan, variables, optimizer and progress.
pub struct Training<S> {
    trainer: S,
    plan: TrainingPlan,
    out: PathBuf,
    component: ComponentDescription,
    variables: Variables,
    optimizer: Optimizer,
    progress: TrainingProgress,
    times: EpochTimes,
}

/// What a step reports to the user.
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

/// The end of a training's run.
#[derive(Clone, Debug, PartialEq)]
pub enum TrainingOutcome {
    /// All epochs are done; what was measured after each.
    Complete(Vec<EpochMetrics>),
    /// It was asked to stop, and can be resumed.
    Interrupted,
}

/// Returns whether a training that writes to `out` has a checkpoint to go on from.
pub fn can_resume(out: &Path) -> bool {
    checkpoint::find(&out.join(LAST)).is_some()
}

impl<S: Trainer> Training<S> {
    /// Prepares a training, from the start or, with `resume`, from the last checkpoint in `out`.
    pub(super) fn start(
        trainer: S,
        plan: TrainingPlan,
        component: ComponentDescription,
        variables: Variables,
        out: &Path,
        resume: bool,
    ) -> Result<Self, TrainingError> {
        let mut optimizer = Optimizer::new(plan.adam, variables.clone());
        let last = out.join(LAST);
        let progress = match (checkpoint::find(&last), resume) {
            (None, true) => {
                let reason = "there is none to resume: start without --resume".to_owned();
                return Err(TrainingError::Checkpoint { path: last, reason });
            }
            (Some(path), false) => {
                let reason =
                    "a training is there already: add --resume, or name another --out".to_owned();
                return Err(TrainingError::Checkpoint { path, reason });
            }
            (Some(path), true) => {
                checkpoint::restore(&path, &component, &variables, &mut optimizer, &plan.recipe)?
            }
            (None, false) => TrainingProgress::default(),
        };
        let component = match &plan.arguments.start {
            Some(start) => component.with_terms_of(&read_manifest(start)?.license),
            None => component,
        };
        trainer.resume_draws(progress.draws);
        std::fs::create_dir_all(out).map_err(TrainingError::io("create", out))?;
        let times = EpochTimes::open(&out.join("times.csv"), progress.epoch)?;
        Ok(Self {
            times,
            trainer,
            plan,
            out: out.to_owned(),
            component,
            variables,
            optimizer,
            progress,
        })
    }

    /// What a user should know before the first step.
    pub fn notes(&self) -> Vec<String> {
        self.trainer.notes()
    }

    /// Measures the validation samples with the weights as they are: before the first step, those of the start.
    ///
    /// # Errors
    /// As those of the trainer's validation.
    pub fn validate(&self) -> Result<Vec<Measurement>, TrainingError> {
        self.trainer.validate()
    }

    /// Trains until the recipe's end or until `stop` says so, and writes checkpoints, `metrics.csv`, `curves.html` and
    /// `times.csv`, the only one of them in which two trainings of the same recipe differ.
    /// `report` hears of every step.
    ///
    /// # Errors
    /// A sample that cannot be read, a loss that is not a number, a checkpoint that cannot be written.
    pub fn run(
        mut self,
        stop: &dyn Fn() -> bool,
        report: &dyn Fn(StepReport),
    ) -> Result<TrainingOutcome, TrainingError> {
        let in_epoch = self.trainer.batches_in_epoch();
        let total = self.plan.steps_in_epoch(in_epoch) * self.plan.arguments.epochs;
        while self.progress.epoch < self.plan.arguments.epochs && !self.is_out_of_patience() {
            let started = Instant::now();
            let Self {
                trainer,
                plan,
                out,
                component,
                variables,
                optimizer,
                progress,
                ..
            } = &mut self;
            let mut batches = trainer.batches(progress.epoch, progress.in_epoch as usize);
            loop {
                let micro = batches
                    .by_ref()
                    .take(plan.arguments.accumulation.max(1))
                    .collect::<Result<Vec<_>, _>>()?;
                if micro.is_empty() {
                    break;
                }
                let rate = plan.rate(progress, in_epoch);
                step(
                    trainer,
                    plan.arguments.clip,
                    rate,
                    variables,
                    optimizer,
                    progress,
                    &micro,
                )?;
                let loss = progress.loss_sum / progress.in_epoch as f64;
                report(StepReport {
                    step: progress.step,
                    total,
                    epoch: progress.epoch,
                    loss,
                    rate,
                });
                let stopped = stop();
                let is_due = plan
                    .arguments
                    .checkpoint_steps
                    .is_some_and(|every| progress.step.is_multiple_of(every));
                if stopped || is_due {
                    let resume = Some((&*optimizer, &*progress, &plan.recipe));
                    checkpoint::save(&out.join(LAST), component, variables, resume)?;
                }
                if stopped {
                    return Ok(TrainingOutcome::Interrupted);
                }
            }
            drop(batches);
            self.end_epoch(started)?;
        }
        Ok(TrainingOutcome::Complete(self.progress.rows))
    }

    /// Whether so many epochs brought nothing better that the training ends early.
    fn is_out_of_patience(&self) -> bool {
        let patience = self.plan.arguments.patience;
        patience.is_some_and(|epochs| self.progress.since_best >= epochs)
    }

    fn end_epoch(&mut self, started: Instant) -> Result<(), TrainingError> {
        let seconds = started.elapsed().as_secs_f64();
        let train_loss = self.progress.loss_sum / (self.progress.in_epoch as f64).max(1.0);
        let measured = self.trainer.validate()?;
        let rate = self
            .plan
            .rate(&self.progress, self.trainer.batches_in_epoch());
        self.progress.epoch += 1;
        (self.progress.in_epoch, self.progress.loss_sum) = (0, 0.0);
        let counted = [
            ("epoch", self.progress.epoch as f64),
            ("step", self.progress.step as f64),
            ("rate", rate),
            ("train_loss", train_loss),
        ];
        let counted = counted.map(|(name, value)| (name, Some(value)));
        let values = counted.into_iter().chain(measured.iter().copied());
        self.progress.rows.push(EpochMetrics(
            values
                .map(|(name, value)| (name.to_owned(), value))
                .collect(),
        ));
        let score = measured.first().and_then(|(_, score)| *score);
        let is_best = match (score, self.progress.best) {
            (Some(score), Some(best)) => self.plan.objective.is_better(score, best),
            (_, best) => best.is_none(),
        };
        self.progress.since_best += 1;
        if is_best {
            self.progress.best = score;
            self.progress.since_best = 0;
            checkpoint::save(&self.out.join(BEST), &self.component, &self.variables, None)?;
        }
        let resume = Some((&self.optimizer, &self.progress, &self.plan.recipe));
        checkpoint::save(
            &self.out.join(LAST),
            &self.component,
            &self.variables,
            resume,
        )?;
        self.times.add(self.progress.epoch, seconds)?;
        let rows = &self.progress.rows;
        curves::write_csv(&self.out.join("metrics.csv"), rows)?;
        curves::write_html(
            &self.out.join("curves.html"),
            self.plan.title,
            rows,
            "epoch",
            self.plan.charts,
        )
    }
}

/// One step on the mean gradient of some batches.
fn step<S: Trainer>(
    trainer: &S,
    clip: Option<f64>,
    rate: f64,
    variables: &Variables,
    optimizer: &mut Optimizer,
    progress: &mut TrainingProgress,
    batches: &[S::Batch],
) -> Result<(), TrainingError> {
    let mut gradients = Gradients::default();
    let mut sum = 0.0;
    for batch in batches {
        let loss = trainer.loss(batch)?;
        sum += f64::from(loss.to_scalar::<f32>()?);
        gradients.add(variables, &loss.backward()?, 1.0 / batches.len() as f64)?;
    }
    // Gradients may overflow while the loss is still a number; a step with them would break every weight.
    let norm = gradients.clip(clip.unwrap_or(f64::INFINITY))?;
    if !sum.is_finite() || !norm.is_finite() {
        let samples = batches
            .iter()
            .flat_map(|batch| trainer.names(batch))
            .collect();
        return Err(TrainingError::NotANumber {
            step: progress.step + 1,
            samples,
        });
    }
    optimizer.step(&gradients, rate)?;
    progress.step += 1;
    progress.in_epoch += batches.len() as u64;
    progress.loss_sum += sum;
    progress.draws = trainer.draws();
    Ok(())
}
