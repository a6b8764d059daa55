#![doc = include_str!("../README.md")]

#[macro_use]
mod print;

mod archive_source;
mod args;
mod batch_output;
mod batch_run;
mod bundle_source;
mod cache_folder;
mod chaos;
mod commands;
mod demo_bundle;
mod embedded_gateway;
mod embedded_workers;
mod exit;
mod flag_faults;
mod gateway_server;
mod given_outputs;
mod interruption;
mod length_of_time;
mod lifecycle;
mod line_editor;
mod named_path;
mod predictions;
mod private_folder;
mod progress;
mod results_page;
mod results_place;
mod run_summary;
mod seen_groups;
mod served_bundle;
mod server_sent_events;
mod shared_services;
mod version;

use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use commands::Cli;
use exit::{EXIT_USAGE, is_usage};
use radialog_runtime::config::ConfigError;
use radialog_runtime::shutdown;
use tokio::runtime::{Builder, Runtime};

/// Four models may load at once, and file operations are short. Every thread more keeps a heap of its own.
const BLOCKING_THREADS: usize = 6;
/// How long work on other threads that nobody waits for any more may take at the end, e.g. the loading of a model in a start
/// that SIGTERM has ended.
const ABANDONED: Duration = Duration::from_millis(500);

fn main() -> ExitCode {
    let runtime = match runtime() {
        Ok(runtime) => runtime,
        Err(error) => {
            errln!("error: {}", print::chain(&error));
            return ExitCode::FAILURE;
        }
    };
    let command = match Cli::of_process() {
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
    // A role tells them with what else is wrong.
    let faults = match command.is_role() {
        true => Vec::new(),
        false => flag_faults::take(),
    };
    if !faults.is_empty() {
        errln!("error: {}", ConfigError { faults });
        return ExitCode::from(EXIT_USAGE);
    }
    let outcome = runtime.block_on(commands::run(command));
    runtime.shutdown_timeout(ABANDONED);
    cache_folder::remove_private();
    match outcome {
        Ok(ExitCode::SUCCESS) if print::is_lost() => ExitCode::FAILURE,
        Ok(code) => code,
        Err(error) => {
            errln!("error: {}", print::chain(&error));
            ExitCode::from(if is_usage(&error) { EXIT_USAGE } else { 1 })
        }
    }
}

/// The threads, which hear SIGTERM before anything else is done.
fn runtime() -> anyhow::Result<Runtime> {
    let mut builder = Builder::new_multi_thread();
    builder.enable_all().max_blocking_threads(BLOCKING_THREADS);
    let runtime = builder.build().context("cannot start threads")?;
    {
        let _within = runtime.enter();
        shutdown::hear_from_the_start().context("cannot listen to signals")?;
    }
    Ok(runtime)
}
