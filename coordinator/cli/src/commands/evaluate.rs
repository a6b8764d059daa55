//! `radialog evaluate`: what a run came to, and what a bundle is worth.

use std::process::ExitCode;

use clap::{Args, Subcommand, ValueEnum};
use radialog_training::evaluation::text_scores::protocol::TextProtocol;

mod bundle;
mod correction;
mod estimates;
mod findings_qa;
mod follow_up;
mod gate;
mod impression;
mod label_rules;
mod out_folder;
mod report;
mod resampling;
mod text;
mod view;

pub(super) use bundle::{progress_bar, show, written};

/// Score runs, predictions, texts and bundles, and what a model answers after its report
#[derive(Args)]
pub(crate) struct EvaluateArgs {
    #[command(subcommand)]
    command: EvaluateCommand,
}

#[derive(Subcommand)]
enum EvaluateCommand {
    #[command(alias = "run")]
    Report(report::ReportArgs),
    Bundle(bundle::BundleArgs),
    Correction(correction::CorrectionArgs),
    FindingsQa(findings_qa::FindingsQaArgs),
    View(view::ViewArgs),
    Impression(impression::ImpressionArgs),
    Text(text::TextArgs),
    Gate(gate::GateArgs),
}

/// The protocols by their names on the command line.
#[derive(Clone, Copy, ValueEnum)]
enum ProtocolName {
    #[value(name = "radialog-2023")]
    Radialog2023,
    #[value(name = "coco-caption")]
    CocoCaption,
    #[value(name = "rexrank")]
    Rexrank,
}

impl ProtocolName {
    fn protocol(self) -> TextProtocol {
        match self {
            Self::Radialog2023 => TextProtocol::Radialog2023,
            Self::CocoCaption => TextProtocol::CocoCaption,
            Self::Rexrank => TextProtocol::Rexrank,
        }
    }
}

pub(crate) async fn run(args: EvaluateArgs) -> anyhow::Result<ExitCode> {
    match args.command {
        EvaluateCommand::Report(args) => report::run(args).await,
        EvaluateCommand::Bundle(args) => bundle::run(args).await,
        EvaluateCommand::Text(args) => {
            tokio::task::spawn_blocking(move || text::run(&args)).await?
        }
        EvaluateCommand::Gate(args) => {
            tokio::task::spawn_blocking(move || gate::run(&args)).await?
        }
        EvaluateCommand::Correction(args) => correction::run(args).await,
        EvaluateCommand::FindingsQa(args) => findings_qa::run(args).await,
        EvaluateCommand::View(args) => view::run(args).await,
        EvaluateCommand::Impression(args) => impression::run(args).await,
    }
}
