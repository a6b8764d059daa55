//! The command line: its help, its subcommands, and which module runs each.

use std::process::ExitCode;

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};

use crate::interruption::{ended_by_signals, ended_by_sigterm, ended_with_its_bundle};
use crate::version::VERSION;

mod batch;
mod bundle;
mod chaos;
mod chat;
mod config;
mod coordinator;
mod dlq;
mod doctor;
mod evaluate;
mod export;
mod finetune;
mod former_files;
mod gateway;
mod plan;
mod prepare;
mod purge;
mod report;
mod rexrank;
mod serve;
mod status;
mod train;
mod verify;
mod worker;

/// The whole command line.
#[derive(Parser)]
#[command(
    name = "radialog",
    version = VERSION,
    about = "Chest X-ray findings, reports and CheXbert labels at scale",
    long_about = "Chest X-ray findings, reports and CheXbert labels at scale.\n\n\
        `radialog serve` opens a page to talk about X-rays, `radialog batch` scores an archive: each does everything in one \
        process, with nothing to install. With --amqp, --s3 and --redis the same work is done by `radialog worker`, \
        `radialog gateway` and `radialog coordinator` processes on any number of machines.\n\n\
        Research software, not a medical device.",
    after_help = "Every setting can also come from an environment variable RADIALOG_<AREA>_<FIELD> (e.g. \
        RADIALOG_AMQP_URL) or a TOML file (--config). Logs: RUST_LOG=radialog_runtime=debug."
)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

impl Cli {
    /// The command line of this process, with the environment's variables.
    ///
    /// # Errors
    /// What clap prints: its help, its version, or what is wrong.
    pub(crate) fn of_process() -> Result<Self, clap::Error> {
        let mut command = without_empty_variables(Self::command());
        let mut matches = command.try_get_matches_from_mut(std::env::args_os())?;
        Self::from_arg_matches_mut(&mut matches).map_err(|error| error.format(&mut command))
    }
}

/// A variable that is empty is one that is not set, for flags as for every other setting: Kubernetes has nothing else to write
/// where a ConfigMap's entry is to unset another one's.
fn without_empty_variables(command: clap::Command) -> clap::Command {
    command
        .mut_args(|flag| {
            let is_empty = flag
                .get_env()
                .is_some_and(|name| std::env::var_os(name).is_some_and(|value| value.is_empty()));
            match is_empty {
                true => flag.env(None::<&'static str>),
                false => flag,
            }
        })
        .mut_subcommands(without_empty_variables)
}

/// The subcommands; each is the module of its name, and its help is that module's `Args`.
#[derive(Subcommand)]
pub(crate) enum Command {
    Serve(serve::ServeArgs),
    Batch(batch::BatchArgs),
    Report(report::ReportArgs),
    Plan(plan::PlanArgs),
    Chat(chat::ChatArgs),
    Gateway(gateway::GatewayArgs),
    Coordinator(coordinator::CoordinatorArgs),
    Worker(worker::WorkerArgs),
    Status(status::StatusArgs),
    Dlq(dlq::DlqArgs),
    Purge(purge::PurgeArgs),
    Doctor(doctor::DoctorArgs),
    Config(config::ConfigArgs),
    Chaos(chaos::ChaosArgs),
    Bundle(bundle::BundleArgs),
    Evaluate(evaluate::EvaluateArgs),
    Rexrank(rexrank::RexrankArgs),
    Export(export::ExportArgs),
    Prepare(prepare::PrepareArgs),
    Train(train::TrainArgs),
    Finetune(finetune::FinetuneArgs),
    Verify(verify::VerifyArgs),
    /// Print a shell's completion script
    ///
    /// Example: radialog completions bash > /etc/bash_completion.d/radialog
    Completions {
        /// Which shell
        shell: clap_complete::Shell,
    },
}

impl Command {
    /// Whether it reads its settings by [`crate::args::ServiceArgs::load_role`], which tells all that is wrong with them at once.
    pub(crate) fn is_role(&self) -> bool {
        match self {
            Self::Worker(_) | Self::Coordinator(_) => true,
            Self::Gateway(args) => args.is_role(),
            _ => false,
        }
    }
}

pub(crate) async fn run(command: Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::Serve(args) => serve::run(args).await,
        Command::Batch(args) => batch::run(args).await,
        Command::Report(args) => report::run(args).await,
        Command::Plan(args) => ended_by_signals(plan::run(args)).await,
        Command::Chat(args) => ended_by_sigterm(chat::run(args)).await,
        Command::Gateway(args) => gateway::run(args).await,
        Command::Coordinator(args) => coordinator::run(args).await,
        Command::Worker(args) => worker::run(args).await,
        Command::Status(args) => ended_by_signals(status::run(args)).await,
        Command::Dlq(args) => ended_by_signals(dlq::run(args)).await,
        Command::Purge(args) => ended_by_signals(purge::run(args)).await,
        Command::Doctor(args) => ended_by_signals(doctor::run(args)).await,
        Command::Config(args) => config::run(args),
        Command::Chaos(args) => chaos::run(args).await,
        Command::Bundle(args) => ended_with_its_bundle(bundle::run(args)).await,
        Command::Evaluate(args) => ended_by_signals(evaluate::run(args)).await,
        Command::Rexrank(args) => rexrank::run(args).await,
        Command::Export(args) => ended_by_signals(export::run(args)).await,
        Command::Prepare(args) => ended_by_signals(prepare::run(args)).await,
        Command::Train(args) => train::run(args).await,
        Command::Finetune(args) => finetune::run(args).await,
        Command::Verify(args) => ended_by_signals(verify::run(args)).await,
        Command::Completions { shell } => {
            // It gives up on an output that cannot be written.
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "radialog", &mut script);
            crate::print::bytes(&script);
            Ok(ExitCode::SUCCESS)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// In columns. Clap wraps at 100 what is longer, and leaves the rest of a line that was broken by hand on a line of its own.
    const LONGEST_LINE: usize = 98;

    #[test]
    fn no_line_of_a_help_that_is_broken_by_hand_is_broken_again_but_an_examples() {
        let mut long = Vec::new();
        let mut commands = vec![Cli::command()];
        while let Some(command) = commands.pop() {
            let arguments = command.get_arguments();
            let texts = arguments.filter_map(clap::Arg::get_long_help);
            for text in texts.chain(command.get_long_about()) {
                let text = text.to_string();
                let paragraphs = text.split("\n\n");
                let by_hand = paragraphs.filter(|paragraph| {
                    paragraph.trim_end().contains('\n') && !paragraph.starts_with("Example")
                });
                let lines = by_hand.flat_map(str::lines);
                long.extend(
                    lines
                        .filter(|line| line.chars().count() > LONGEST_LINE)
                        .map(|line| format!("{}: {line}", command.get_name())),
                );
            }
            commands.extend(command.get_subcommands().cloned());
        }
        assert!(long.is_empty(), "{long:#?}");
    }

    #[test]
    fn each_subcommand_has_its_row_in_the_readme() {
        let page = include_str!("../README.md");
        let rows = page.lines().filter_map(|row| row.strip_prefix("| `"));
        let cells: Vec<&str> = rows.filter_map(|row| row.split(" | ").next()).collect();
        let command = Cli::command();
        let mut missing = Vec::new();
        for role in command.get_subcommands() {
            let name = role.get_name();
            // A row is of one role and its parts, or of several roles.
            let rows = cells.iter().map(|cell| cell.split([' ', '`', ',']));
            let of_role = || {
                rows.clone()
                    .filter(|words| words.clone().next() == Some(name))
            };
            let has = |word: &str| of_role().any(|mut words| words.any(|found| found == word));
            let beside_others = |cell: &&str| {
                let names = || cell.trim_end_matches('`').split("`, `");
                names().all(|found| !found.contains(' ')) && names().any(|found| found == name)
            };
            if of_role().next().is_none() && !cells.iter().any(beside_others) {
                missing.push(name.to_owned());
            }
            if has("...") {
                continue;
            }
            let parts = role.get_subcommands().map(clap::Command::get_name);
            missing.extend(
                parts
                    .filter(|part| !has(part))
                    .map(|part| format!("{name} {part}")),
            );
        }
        assert!(
            missing.is_empty(),
            "no row in coordinator/cli/README.md: {missing:?}"
        );
    }
}
