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

/// Print every setting with its value and its source: a flag, a variable, the configuration file, the default
///
/// Passwords and keys are not shown. What is not set and has no default is `none`. In JSON the source is null where a value is
/// the default, and the value, too, where there is none. Where no objects.directory is set, each role has a folder of its own.
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
        let value = setting.value.as_deref().unwrap_or("none");
        let source = setting.source.as_deref().unwrap_or("default");
        outln!("{:<34} {value}  ({source})", setting.name);
    }
    Ok(ExitCode::SUCCESS)
}
