//! Logs through `tracing`, as text for people or JSON for collectors. The one task span is opened by the runner.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::ParseError;

/// What a role logs that sets nothing else. Whatever lapin reports, our adapter says with what to do.
pub(crate) const DEFAULT_FILTER: &str = "info,lapin=off";

/// The variable whose filter wins over the configured one.
pub const FILTER_VARIABLE: &str = EnvFilter::DEFAULT_ENV;

/// `[telemetry]`: how logs are written.
#[derive(Clone, Debug)]
pub struct TelemetryConfig {
    /// One JSON object a line instead of text.
    pub json: bool,
    /// Directives as for `RUST_LOG`, e.g. `info,radialog_runtime=debug`; each role has its own default.
    pub filter: Option<String>,
}

/// The log filter is not valid.
#[derive(Debug, thiserror::Error)]
#[error("the log filter '{filter}' is not valid: {reason}; write e.g. info,radialog_runtime=debug")]
pub struct TelemetryError {
    filter: String,
    reason: ParseError,
}

/// Reads a log filter.
///
/// # Errors
/// What is wrong with it, and how one looks.
pub fn directives(filter: &str) -> Result<EnvFilter, TelemetryError> {
    EnvFilter::try_new(filter).map_err(|reason| TelemetryError {
        filter: filter.to_owned(),
        reason,
    })
}

/// Sends the process's logs to standard error; a second call keeps the first one's settings. `RUST_LOG`, where it is
/// set, wins over the configured filter.
///
/// # Errors
/// Where the filter is not valid.
pub fn init(config: &TelemetryConfig) -> Result<(), TelemetryError> {
    let configured = config.filter.as_deref().unwrap_or(DEFAULT_FILTER);
    let filter = std::env::var(FILTER_VARIABLE).unwrap_or_else(|_| configured.to_owned());
    let directives = directives(&filter)?;
    let output = tracing_subscriber::fmt()
        .with_env_filter(directives)
        // It would tell of a log that cannot be written in the same place, and end the process where that fails, too.
        .log_internal_errors(false)
        .with_writer(std::io::stderr);
    let installed = if config.json {
        output.json().flatten_event(true).try_init()
    } else {
        output.with_ansi(std::io::stderr().is_terminal()).try_init()
    };
    // Only a second call fails; the first one's settings stay.
    drop(installed);
    Ok(())
}
