//! `radialog evaluate`: what a run came to, and what a bundle is worth.

use std::process::ExitCode;

use clap::{Args, Subcommand};

mod bundle;
mod run;
mod text;

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
    Text(text::TextArgs),
}

pub(crate) async fn run(args: EvaluateArgs) -> anyhow::Result<ExitCode> {
    match args.command {
        EvaluateCommand::Run(args) => run::run(&args),
        EvaluateCommand::Bundle(args) => bundle::run(args).await,
        EvaluateCommand::Text(args) => text::run(&args),
    }
}
