//! `radialog gateway new-key`: an API key, shown once.

use std::process::ExitCode;

use clap::Args;
use radialog_coordinator::gateway::is_key_name;
use radialog_schemas::ContentHash;
use uuid::Uuid;

use crate::exit::UsageError;

/// Makes keys easy to find where they should not be, e.g. in a repository.
const PREFIX: &str = "rd-";

/// Make an API key: it is shown once, and the configuration holds its SHA-256 only
///
/// Example: radialog gateway new-key ward-3
#[derive(Args)]
pub(crate) struct NewKeyArgs {
    /// Whose key; conversations belong to this name
    name: String,
}

pub(crate) fn run(args: &NewKeyArgs) -> anyhow::Result<ExitCode> {
    if !is_key_name(&args.name) {
        let message = format!(
            "'{}' is no name for a key; use up to 64 letters, digits, '-', '_' and '.'",
            args.name
        );
        return Err(UsageError(message).into());
    }
    // Two of them are 244 random bits.
    let key = format!(
        "{PREFIX}{}{}",
        Uuid::new_v4().simple(),
        Uuid::new_v4().simple()
    );
    let hash = ContentHash::of(key.as_bytes());
    outln!("key for {} (not shown again): {key}", args.name);
    outln!(
        "entry for gateway.keys, or RADIALOG_GATEWAY_KEYS (several with commas): {}:{hash}",
        args.name
    );
    Ok(ExitCode::SUCCESS)
}
