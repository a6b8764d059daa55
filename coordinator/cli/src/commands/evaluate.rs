//! `radialog evaluate`: what a run came to, and what a bundle is worth.

use std::process::ExitCode;

use clap::{Args, Subcommand};

mod bundle;
mod correction;
mod findings_qa;
mod follow_up;
mod impression;
mod run;
mod text;
mod view;

/// Score a finished run, a bundle, or texts in files
#[derive(Args)]
pub(crate) struct EvaluateArgs {
    #[command(subcommand)]
    command: EvaluateCommand,
}

#[derive(Subcommand)]
enum EvaluateCommand {
    Run(run::RunArgs),
    Bundle(bundle::BundleArgs),
    Correction(correction::CorrectionArgs),
    FindingsQa(findings_qa::FindingsQaArgs),
    View(view::ViewArgs),
    Impression(impression::ImpressionArgs),
    Text(text::TextArgs),
}

pub(crate) async fn run(args: EvaluateArgs) -> anyhow::Result<ExitCode> {
    match args.command {
        EvaluateCommand::Run(args) => run::run(&args),
        EvaluateCommand::Bundle(args) => bundle::run(args).await,
        EvaluateCommand::Correction(args) => correction::run(args).await,
        EvaluateCommand::FindingsQa(args) => findings_qa::run(args).await,
        EvaluateCommand::View(args) => view::run(args).await,
        EvaluateCommand::Impression(args) => impression::run(args).await,
        EvaluateCommand::Text(args) => text::run(&args),
    }
}
