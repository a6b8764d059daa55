//! `radialog train`: trainings, each from one recipe.

use std::cell::{Cell, OnceCell};
use std::io::{IsTerminal, stderr};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::Context;
use clap::{Args, Subcommand, ValueEnum};
use indicatif::{HumanDuration, ProgressBar, ProgressStyle};
use radialog_models::device::{self, Device};
use radialog_runtime::shutdown;
use radialog_training::TrainingError;
use radialog_training::recipe::{
    AlignmentRecipe, ChexbertRecipe, DEMO, FindingsRecipe, GateRecipe, LanguageRecipe,
};
use radialog_training::trainers::curves::EpochMetrics;
use radialog_training::trainers::{StepReport, Trainer, Training, TrainingOutcome, can_resume};
use tokio_util::sync::CancellationToken;

use crate::bundle_source;
use crate::exit::{EXIT_INTERRUPTED, UsageError};
use crate::print;

/// The number of steps after which a line is written where there is no terminal.
const LINE_EVERY: u64 = 20;
/// The time after which a line is written however few steps there were.
const LINE_WITHIN: Duration = Duration::from_secs(60);

/// What is measured after an epoch, and its heading; each training has some of them.
const COLUMNS: [(&str, &str); 8] = [
    ("train_loss", "train loss"),
    ("validation_loss", "valid. loss"),
    ("macro_f1", "macro F1"),
    ("macro_auc", "macro AUC"),
    ("token_accuracy", "token accuracy"),
    ("others_warned", "others warned"),
    ("frontal_warned", "frontal warned"),
    ("threshold", "threshold"),
];

/// Train a model from a recipe
#[derive(Args)]
pub(crate) struct TrainArgs {
    #[command(subcommand)]
    command: TrainCommand,
}

#[derive(Subcommand)]
enum TrainCommand {
    /// Train the classifier of the 14 findings on labelled images
    ///
    /// Writes two bundles with a findings component, OUT/best (by validation macro F1) and OUT/last, which can be resumed;
    /// OUT/metrics.csv; OUT/curves.html. Ctrl-C writes a checkpoint and stops.
    ///
    /// Example: radialog train findings recipe.toml --out runs/findings
    Findings(RecipeArgs),
    /// Train the alignment module (Q-Former) on images and the findings sections of their reports
    ///
    /// The image encoder is that of a bundle and stays as it is. Writes two bundles with an embedding component, OUT/best (by
    /// validation loss) and OUT/last, which can be resumed; OUT/metrics.csv; OUT/curves.html. Ctrl-C writes a checkpoint and
    /// stops.
    ///
    /// Example: radialog train alignment recipe.toml --out runs/alignment
    Alignment(RecipeArgs),
    /// Train the CheXbert labeler on labelled reports
    ///
    /// Writes two bundles with a scoring component, OUT/best (by validation macro F1 of positive labels) and OUT/last, which
    /// can be resumed; OUT/metrics.csv; OUT/curves.html. Ctrl-C writes a checkpoint and stops.
    ///
    /// Example: radialog train chexbert recipe.toml --out runs/chexbert
    Chexbert(RecipeArgs),
    /// Train the language model on report and instruct data sets
    ///
    /// Without `full` it trains LoRA and the image projection beside the frozen model of a bundle: OUT/best (by validation
    /// loss) and OUT/last are bundles that share the frozen weights, and adapter folders that Python PEFT loads as they are.
    /// With `full = true` it trains all weights of a small model, of a bundle or from a geometry with random weights. What is
    /// left out of a recipe is as in the original. Writes OUT/metrics.csv and OUT/curves.html, too. Ctrl-C writes a
    /// checkpoint and stops.
    ///
    /// Example: radialog train language recipe.toml --out runs/language (workers/training/recipes/language.toml is one)
    Language(RecipeArgs),
    /// Train the input gate, which says whether an image is a frontal chest X-ray at all
    ///
    /// The gate is a part of the program and not of a bundle: whoever wants other weights builds the program with them
    /// (workers/models/src/input_gate/weights.safetensors). Writes OUT/best/weights.safetensors (by others warned of) with the threshold
    /// that the recipe asks for, and OUT/last, which can be resumed; OUT/metrics.csv; OUT/curves.html. Ctrl-C writes a checkpoint and
    /// stops. `radialog evaluate gate` measures it.
    ///
    /// Example: radialog train gate recipe.toml --out runs/gate (workers/training/recipes/gate/gate.toml is one)
    Gate(GateArgs),
}

#[derive(Args)]
struct RecipeArgs {
    /// TOML file; paths in it are relative to it; start = "demo" is the demo bundle
    recipe: PathBuf,
    /// Folder of checkpoints and curves
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Where the training computes: cpu, or cuda:0 in a build with --features cuda
    #[arg(long, env = "RADIALOG_DEVICE", default_value = "cpu")]
    device: String,
    /// Go on from OUT/last: the result is that of an uninterrupted training. With --resume=auto a training that has no such
    /// checkpoint yet begins, for jobs that are started again
    #[arg(long, value_name = "WHEN", num_args = 0..=1, require_equals = true, default_value = "never",
          default_missing_value = "always", hide_default_value = true)]
    resume: Resume,
}

/// The gate starts from nothing, and computes on a CPU.
#[derive(Args)]
struct GateArgs {
    /// TOML file; paths in it are relative to it
    recipe: PathBuf,
    /// Folder of checkpoints and curves
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Go on from OUT/last: the result is that of an uninterrupted training. With --resume=auto a training that has no such
    /// checkpoint yet begins, for jobs that are started again
    #[arg(long, value_name = "WHEN", num_args = 0..=1, require_equals = true, default_value = "never",
          default_missing_value = "always", hide_default_value = true)]
    resume: Resume,
}

/// Whether a training goes on from its last checkpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Resume {
    /// It begins; an earlier one in the folder is an error
    Never,
    /// It goes on; where there is no checkpoint is an error
    Always,
    /// It goes on where there is a checkpoint, and begins elsewhere
    Auto,
}

impl Resume {
    fn is_wanted(self, out: &Path) -> bool {
        match self {
            Resume::Never => false,
            Resume::Always => true,
            Resume::Auto => can_resume(out),
        }
    }
}

impl RecipeArgs {
    /// Puts the demo bundle's folder in the place of its name.
    fn with_demo(&self, bundle: &mut Option<PathBuf>) -> anyhow::Result<()> {
        if bundle
            .as_deref()
            .is_some_and(|path| path.as_os_str() == DEMO)
        {
            let beside = self.recipe.parent().unwrap_or(Path::new("."));
            *bundle = Some(bundle_source::named_demo(&beside.join(DEMO))?);
        }
        Ok(())
    }

    /// Prepares a training in the output folder, and runs it.
    fn train<T: Trainer>(
        &self,
        stop: &CancellationToken,
        prepare: impl FnOnce(&Path, bool, &Device) -> Result<Training<T>, TrainingError>,
    ) -> anyhow::Result<ExitCode> {
        let device = device::from_name(&self.device)?;
        let training = prepare(&self.out, self.resume.is_wanted(&self.out), &device)?;
        finish(training, stop, &self.out)
    }
}

/// A recipe that cannot be meant is the command line's fault: a Job does not try again.
fn unusable(error: TrainingError) -> UsageError {
    UsageError(print::chain(&error.into()))
}

pub(crate) async fn run(args: TrainArgs) -> anyhow::Result<ExitCode> {
    if let TrainCommand::Findings(args)
    | TrainCommand::Alignment(args)
    | TrainCommand::Chexbert(args)
    | TrainCommand::Language(args) = &args.command
    {
        // Before all tables of a recipe are read.
        device::from_name(&args.device)?;
    }
    let stop = shutdown::on_signals()?;
    let training = move || match args.command {
        TrainCommand::Findings(args) => {
            let mut recipe = FindingsRecipe::read(&args.recipe).map_err(unusable)?;
            args.with_demo(&mut recipe.recipe.training.start)?;
            args.train(&stop, |out, resume, device| {
                Training::findings(recipe, out, resume, device)
            })
        }
        TrainCommand::Alignment(args) => {
            let mut recipe = AlignmentRecipe::read(&args.recipe).map_err(unusable)?;
            args.with_demo(&mut recipe.recipe.training.start)?;
            args.with_demo(&mut recipe.recipe.image_encoder)?;
            args.train(&stop, |out, resume, device| {
                Training::alignment(recipe, out, resume, device)
            })
        }
        TrainCommand::Chexbert(args) => {
            let mut recipe = ChexbertRecipe::read(&args.recipe).map_err(unusable)?;
            args.with_demo(&mut recipe.recipe.training.start)?;
            args.train(&stop, |out, resume, device| {
                Training::chexbert(recipe, out, resume, device)
            })
        }
        TrainCommand::Language(args) => {
            let mut recipe = LanguageRecipe::read(&args.recipe).map_err(unusable)?;
            args.with_demo(&mut recipe.recipe.training.start)?;
            args.train(&stop, |out, resume, device| {
                Training::language(recipe, out, resume, device)
            })
        }
        TrainCommand::Gate(args) => {
            let recipe = GateRecipe::read(&args.recipe).map_err(unusable)?;
            let resume = args.resume.is_wanted(&args.out);
            let training = Training::gate(recipe, &args.out, resume, &Device::Cpu)?;
            finish(training, &stop, &args.out)
        }
    };
    tokio::task::spawn_blocking(training)
        .await
        .context("the training ended unexpectedly")?
}

fn finish<S: Trainer>(
    training: Training<S>,
    stop: &CancellationToken,
    out: &Path,
) -> anyhow::Result<ExitCode> {
    let outcome = run_with_progress(training, stop)?;
    let shown = out.display();
    let TrainingOutcome::Complete(_) = outcome else {
        outln!("interrupted; the checkpoint is in {shown}/last. Add --resume to go on.");
        return Ok(ExitCode::from(EXIT_INTERRUPTED));
    };
    outln!("checkpoints in {shown}/best and {shown}/last; curves in {shown}/curves.html");
    Ok(ExitCode::SUCCESS)
}

/// Runs a training to its end or until it is told to stop, and says how far it is and what each epoch came to.
pub(super) fn run_with_progress<S: Trainer>(
    training: Training<S>,
    stop: &CancellationToken,
) -> anyhow::Result<TrainingOutcome> {
    for note in training.notes() {
        errln!("{note}");
    }
    let bar = progress_bar()?;
    let pace = Pace::default();
    let outcome = training.run(&|| stop.is_cancelled(), &|step| show(&bar, &pace, &step))?;
    bar.finish_and_clear();
    if let TrainingOutcome::Complete(rows) = &outcome {
        print_rows(rows);
    }
    Ok(outcome)
}

/// What each epoch came to, in the columns that the training has.
fn print_rows(rows: &[EpochMetrics]) {
    let columns = COLUMNS
        .iter()
        .filter(|(name, _)| rows.iter().any(|row| row.get(name).is_some()));
    let columns: Vec<_> = columns.collect();
    let line = |cells: Vec<String>| outln!("  {:>5} {}", cells[0], cells[1..].join(" "));
    let heading = columns.iter().map(|(_, heading)| format!("{heading:>14}"));
    line(["epoch".to_owned()].into_iter().chain(heading).collect());
    for row in rows {
        let cells = columns.iter().map(|(name, _)| match row.get(name) {
            Some(value) => format!("{value:>14.4}"),
            None => format!("{:>14}", "-"),
        });
        let epoch = row.get("epoch").unwrap_or_default();
        line([epoch.to_string()].into_iter().chain(cells).collect());
    }
}

fn progress_bar() -> anyhow::Result<ProgressBar> {
    let bar = if stderr().is_terminal() {
        ProgressBar::new(0)
    } else {
        ProgressBar::hidden()
    };
    let style =
        ProgressStyle::with_template("{bar:40} step {pos}/{len}  {msg}  {per_sec}  {eta} left");
    bar.set_style(style.context("progress bar")?);
    Ok(bar)
}

/// How fast steps are made, for lines where there is no bar.
#[derive(Default)]
struct Pace {
    /// The first step of this process, and when it was done.
    first: OnceCell<(u64, Instant)>,
    /// When the last line was written.
    said: Cell<Option<Instant>>,
}

impl Pace {
    /// What is left if all steps are made, where that can be told yet: a training that gets no better ends earlier.
    fn left(&self, step: &StepReport) -> Option<Duration> {
        let (first, since) = *self.first.get_or_init(|| (step.step, Instant::now()));
        let done = step.step.checked_sub(first).filter(|done| *done > 0)?;
        let remaining = step.total.saturating_sub(step.step);
        Some(since.elapsed().mul_f64(remaining as f64 / done as f64))
    }

    /// Whether a line is due: after some steps, or a while.
    fn is_due(&self, step: &StepReport) -> bool {
        let now = Instant::now();
        let before = self.said.get();
        let is_late = before.is_some_and(|before| now - before >= LINE_WITHIN);
        let is_due = step.step.is_multiple_of(LINE_EVERY) || is_late;
        if is_due || before.is_none() {
            self.said.set(Some(now));
        }
        is_due
    }
}

fn show(bar: &ProgressBar, pace: &Pace, step: &StepReport) {
    bar.set_length(step.total);
    bar.set_position(step.step);
    let message = format!(
        "epoch {}  mean loss {:.4}  rate {:.1e}",
        step.epoch + 1,
        step.loss,
        step.rate
    );
    let left = pace.left(step);
    if bar.is_hidden() && pace.is_due(step) {
        let left = left.map_or(String::new(), |left| {
            format!("  {} left", HumanDuration(left))
        });
        errln!("step {}/{}  {message}{left}", step.step, step.total);
    }
    bar.set_message(message);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_follows_from_what_the_steps_since_the_first_have_taken() {
        let pace = Pace::default();
        let at = |step| StepReport {
            step,
            total: 40,
            epoch: 0,
            loss: 0.5,
            rate: 1e-3,
        };
        assert_eq!(pace.left(&at(10)), None, "of one step nothing is known");
        assert_eq!(pace.left(&at(40)), Some(Duration::ZERO));
        // Ten steps in ten seconds, and twenty more.
        let begun = Instant::now();
        let seconds = Duration::from_secs(10);
        let pace = Pace {
            first: OnceCell::from((10, begun - seconds)),
            ..Pace::default()
        };
        let left = pace.left(&at(20)).unwrap();
        assert!(left >= 2 * seconds, "{left:?}");
        assert!(left <= 2 * (seconds + begun.elapsed()), "{left:?}");
    }
}
