//! RaDialog: the one binary, whose subcommands are the roles.
#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "this is the command line"
)]

mod args;
mod batch;
mod bundle;
mod bundle_source;
mod chat;
mod coordinator;
mod dead_letters;
mod demo_bundle;
mod doctor;
mod embedded;
mod evaluate;
mod export;
mod gateway;
mod keys;
mod prepare;
mod progress;
mod serve;
mod status;
mod table;
mod train;
mod worker;

use std::process::ExitCode;

use anyhow::Context;
use clap::{CommandFactory, Parser, Subcommand};
use radialog_runtime::config::ConfigError;

/// As in sysexits.h: the command line or the configuration is wrong.
const EXIT_USAGE: u8 = 64;
/// As a shell reports a process that was ended by Ctrl-C: the run can be resumed.
const EXIT_INTERRUPTED: u8 = 130;

#[derive(Parser)]
#[command(
    name = "radialog",
    version,
    about = "Chest X-ray findings, reports and CheXbert labels at scale",
    long_about = "Chest X-ray findings, reports and CheXbert labels at scale.\n\n\
        `radialog serve` opens a page to talk about X-rays, `radialog batch` scores an archive: each does everything in one \
        process, with nothing to install. With --amqp, --s3 and --redis the same work is done by `radialog worker`, \
        `radialog gateway` and `radialog coordinator` processes on any number of machines.\n\n\
        Research software, not a medical device.",
    after_help = "Every setting can also come from an environment variable RADIALOG_<AREA>_<FIELD> (e.g. \
        RADIALOG_AMQP_URL) or a TOML file (--config). Logs: RUST_LOG=radialog_runtime=debug."
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Serve(serve::ServeArgs),
    Batch(batch::BatchArgs),
    Chat(chat::ChatArgs),
    Gateway(gateway::GatewayArgs),
    Coordinator(coordinator::CoordinatorArgs),
    Worker(worker::WorkerArgs),
    Status(status::StatusArgs),
    Dlq(dead_letters::DlqArgs),
    Doctor(doctor::DoctorArgs),
    Bundle(bundle::BundleArgs),
    Evaluate(evaluate::EvaluateArgs),
    Export(export::ExportArgs),
    Prepare(prepare::PrepareArgs),
    Train(train::TrainArgs),
    /// Print a shell's completion script
    ///
    /// Example: radialog completions bash > /etc/bash_completion.d/radialog
    Completions {
        /// Which shell
        shell: clap_complete::Shell,
    },
}

async fn run(command: Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::Serve(args) => serve::run(args).await,
        Command::Batch(args) => batch::run(args).await,
        Command::Chat(args) => chat::run(args).await,
        Command::Gateway(args) => gateway::run(args).await,
        Command::Coordinator(args) => coordinator::run(args).await,
        Command::Worker(args) => worker::run(args).await,
        Command::Status(args) => status::run(args).await,
        Command::Dlq(args) => dead_letters::run(args).await,
        Command::Doctor(args) => doctor::run(args).await,
        Command::Bundle(args) => bundle::run(args),
        Command::Evaluate(args) => evaluate::run(args).await,
        Command::Export(args) => export::run(args).await,
        Command::Prepare(args) => prepare::run(args).await,
        Command::Train(args) => train::run(args).await,
        Command::Completions { shell } => {
            clap_complete::generate(
                shell,
                &mut Cli::command(),
                "radialog",
                &mut std::io::stdout(),
            );
            Ok(ExitCode::SUCCESS)
        }
    }
}

/// Four models may load at once, and file operations are short. Every thread more keeps a heap of its own.
const BLOCKING_THREADS: usize = 6;

fn main() -> ExitCode {
    let command = match Cli::try_parse() {
        Ok(cli) => cli.command,
        Err(error) => {
            drop(error.print());
            return if error.use_stderr() {
                ExitCode::from(EXIT_USAGE)
            } else {
                ExitCode::SUCCESS
            };
        }
    };
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    builder.enable_all().max_blocking_threads(BLOCKING_THREADS);
    let runtime = builder.build().context("cannot start threads");
    let outcome = runtime.and_then(|runtime| runtime.block_on(run(command)));
    outcome.unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        ExitCode::from(
            if error.is::<ConfigError>() || error.is::<args::UsageError>() {
                EXIT_USAGE
            } else {
                1
            },
        )
    })
}
