//! `radialog train`: trainings, each from one recipe.

use std::io::{IsTerminal, stderr};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use clap::{Args, Subcommand};
use indicatif::{ProgressBar, ProgressStyle};
use radialog_runtime::shutdown;
use radialog_training::recipe::FindingsRecipe;
use radialog_training::trainers::{FindingsTraining, Outcome, StepReport};

use crate::EXIT_INTERRUPTED;

/// Where there is no terminal, a line is written for this many steps.
const LINE_EVERY: u64 = 20;

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
    Findings {
        /// TOML file; paths in it are relative to it
        recipe: PathBuf,
        /// Folder of checkpoints and curves
        #[arg(long, value_name = "DIR")]
        out: PathBuf,
        /// Go on from OUT/last: the result is that of an uninterrupted training
        #[arg(long)]
        resume: bool,
    },
}

pub(crate) async fn run(args: TrainArgs) -> anyhow::Result<ExitCode> {
    let TrainCommand::Findings { recipe, out, resume } = args.command;
    let shutdown = shutdown::on_signals()?;
    let shown = out.display().to_string();
    let training = move || {
        let training = FindingsTraining::new(FindingsRecipe::read(&recipe)?, &out, resume)?;
        let bar = progress_bar()?;
        let outcome = training.run(&|| shutdown.is_cancelled(), &|step| show(&bar, &step))?;
        bar.finish_and_clear();
        anyhow::Ok(outcome)
    };
    let outcome = tokio::task::spawn_blocking(training).await.context("the training ended unexpectedly")??;
    let Outcome::Complete(rows) = outcome else {
        println!("interrupted; the checkpoint is in {shown}/last. Add --resume to go on.");
        return Ok(ExitCode::from(EXIT_INTERRUPTED));
    };
    println!("  {:>5} {:>11} {:>11} {:>9} {:>9}", "epoch", "train loss", "valid. loss", "macro F1", "macro AUC");
    for row in &rows {
        let value = |name: &str| row.get(name).unwrap_or(f64::NAN);
        let (epoch, train, validation) = (value("epoch"), value("train_loss"), value("validation_loss"));
        println!(
            "  {epoch:>5} {train:>11.4} {validation:>11.4} {:>9.4} {:>9.4}",
            value("macro_f1"),
            value("macro_auc")
        );
    }
    println!("bundles in {shown}/best and {shown}/last; curves in {shown}/curves.html");
    Ok(ExitCode::SUCCESS)
}

fn progress_bar() -> anyhow::Result<ProgressBar> {
    let bar = if stderr().is_terminal() { ProgressBar::new(0) } else { ProgressBar::hidden() };
    let style = ProgressStyle::with_template("{bar:40} step {pos}/{len}  {msg}  {per_sec}  {eta} left");
    bar.set_style(style.context("progress bar")?);
    Ok(bar)
}

fn show(bar: &ProgressBar, step: &StepReport) {
    bar.set_length(step.total);
    bar.set_position(step.step);
    let message = format!("epoch {}  mean loss {:.4}  rate {:.1e}", step.epoch + 1, step.loss, step.rate);
    if bar.is_hidden() && step.step.is_multiple_of(LINE_EVERY) {
        eprintln!("step {}/{}  {message}", step.step, step.total);
    }
    bar.set_message(message);
}
