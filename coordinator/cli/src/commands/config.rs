//! `radialog config`: which settings a role would have, and where each is from.

use std::process::ExitCode;

use clap::{Args, Subcommand};
use serde_json::json;

use crate::args::ServiceArgs;

/// Show the settings that a role would have
#[derive(Args)]
pub(crate) struct ConfigArgs {
    #[command(subcommand)]
    command: ConfigCommand,
}

#[derive(Subcommand)]
enum ConfigCommand {
    Show(ShowArgs),
}

/// Print every setting with its value and its source: a flag, a variable, the configuration file
///
/// Passwords and keys are not shown. What is not set has its default, which the README and the help of each role name.
/// Faults are told as a role would tell them, with exit code 64.
///
/// Example: radialog config show --config radialog.toml
#[derive(Args)]
struct ShowArgs {
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    services: ServiceArgs,
}

pub(crate) fn run(args: ConfigArgs) -> anyhow::Result<ExitCode> {
    let ConfigCommand::Show(args) = args.command;
    let config = args.services.load_quiet(&[])?;
    if args.json {
        let settings = config.settings.iter().map(|setting| {
            json!({"name": setting.name, "value": setting.value, "source": setting.source})
        });
        let settings: Vec<_> = settings.collect();
        outln!("{}", serde_json::to_string_pretty(&settings)?);
        return Ok(ExitCode::SUCCESS);
    }
    for setting in &config.settings {
        match (&setting.value, &setting.source) {
            (Some(value), Some(source)) => {
                outln!("{:<34} {value}  ({source})", setting.name);
            }
            _ => outln!("{:<34} default", setting.name),
        }
    }
    Ok(ExitCode::SUCCESS)
}
