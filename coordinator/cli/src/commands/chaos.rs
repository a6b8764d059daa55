//! `radialog chaos`: proves on this machine that nothing is lost while things break.

use std::fs::{File, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use clap::Args;
use radialog_files::left_behind;
use radialog_runtime::shutdown;

use crate::args::{BundleSource, ServiceArgs};
use crate::bundle_source;
use crate::chaos::{self, ChaosOptions, End, Report, Scale};
use crate::exit::{EXIT_INTERRUPTED, UsageError};
use crate::length_of_time::LengthOfTime;

/// How its folders are called, and the file in one that is to be looked at.
const FOLDER: &str = "radialog-chaos-run-";
const KEPT: &str = "kept";

/// Break an installation on purpose while it works, and prove that nothing is lost
///
/// Starts workers of each stage, a coordinator and two gateways as processes of this program, runs an
/// archive over and over, holds conversations, has responses written in the background and batches of
/// requests answered. Meanwhile processes are killed, frozen and told to stop; links are cut, stalled
/// and reset; broker and Redis are killed; stored objects are deleted and damaged. Then everything is
/// mended, the work is brought to its end, and compared with the same work in one undisturbed
/// process: each study and each line of a batch has its line once, each turn and response has ended
/// once with every event in its place, and queues, Redis and store hold nothing that belongs to
/// nothing.
///
/// Without --amqp, --redis and --s3 it starts RabbitMQ and Redis itself (rabbitmq-server and
/// redis-server must be installed), with a folder as object store, and removes all of it at the end.
/// With them it breaks its own roles and their links only, and works in a virtual host, a Redis
/// database and a prefix that nobody else uses: it refuses the virtual host /, database 0, a bucket
/// without a prefix, and whatever is not empty. Never name places of a production.
///
/// The same seed over the same roles gives the same order of faults. Objects are damaged only while
/// no study in flight relies on them; those of conversations, files and batches of requests never. A
/// store that is given must know conditional writes. Ctrl-C mends everything, stops and cleans up: of
/// services that were given, it removes its queues, keys and objects, as it does at the end of a run
/// that holds. Exit code 0: everything holds; 1: it does not, and the logs are kept, as is all that
/// lies in the services that were given: empty them before the next run; 130: stopped.
///
/// Examples:
///   radialog chaos --for 10m
///   radialog chaos --faults 200 --seed 7 --archive xrays/ --json chaos.json
///   radialog chaos --for 8h --amqp amqp://user:password@host/chaos --redis redis://host/9 --s3 http://host:9000/bucket/chaos
#[derive(Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct ChaosArgs {
    /// How long faults happen, e.g. 10m, 8h
    #[arg(
        long = "for",
        value_name = "TIME",
        default_value = "10m",
        conflicts_with = "faults"
    )]
    time: LengthOfTime,
    /// How many faults happen, instead of a time
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    faults: Option<u64>,
    /// Decides the order of faults and what the drawn images show
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
    /// Folder of PNG and JPEG files to run, the first ones by name. Default: images are drawn that look like chest X-rays
    #[arg(long, value_name = "DIR")]
    archive: Option<PathBuf>,
    /// Images of the archive; each run has them twice
    #[arg(long, value_name = "N", default_value_t = 24, value_parser = clap::value_parser!(u32).range(2..=1000))]
    studies: u32,
    /// Conversations at a time
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u32).range(0..=100))]
    conversations: u32,
    /// Workers of each stage
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=32))]
    workers: u32,
    /// How long a run, a turn or everything may stand still before it counts as stuck. Tasks that a broker has lost are
    /// published again after ten minutes
    #[arg(long, value_name = "TIME", default_value = "15m")]
    patience: LengthOfTime,
    /// Write the results to this file, too, as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Bundle of weights: a folder, or demo [default: demo]
    #[arg(long, value_name = "DIR")]
    bundle: Option<PathBuf>,
    #[command(flatten)]
    services: ServiceArgs,
}

pub(crate) async fn run(args: ChaosArgs) -> anyhow::Result<ExitCode> {
    let config = args.services.load_quiet(&[])?;
    let absolute = |path: &Path| -> anyhow::Result<String> {
        let path = std::path::absolute(path)?;
        Ok(path
            .to_str()
            .context("--bundle is no UTF-8 path")?
            .to_owned())
    };
    let bundle = args.bundle.as_deref().map(bundle_source::named);
    let bundle = bundle.transpose()?.map(|dir| absolute(&dir)).transpose()?;
    if bundle.is_some() {
        // Its manifest, before anything begins.
        bundle_source::open(&BundleSource::of(bundle.as_deref()), &[], &config).await?;
    }
    let options = ChaosOptions {
        seed: args.seed,
        end: match args.faults {
            Some(faults) => End::Faults(faults),
            None => End::After(args.time.0),
        },
        archive: args.archive,
        studies: args.studies as usize,
        people: args.conversations as usize,
        scale: Scale {
            workers: args.workers,
            bundle,
        },
        patience: args.patience.0.max(Duration::from_secs(1)),
    };
    if let Some(file) = &args.json {
        check_place(file)?;
    }
    let stop = shutdown::on_signals()?;
    // Copies of the archive's images are in it, and in those that were killed.
    let all = std::env::temp_dir();
    left_behind::remove(&all, |name| {
        name.starts_with(FOLDER) && !all.join(name).join(KEPT).exists()
    });
    let directory = tempfile::Builder::new()
        .prefix(FOLDER)
        .permissions(Permissions::from_mode(0o700))
        .tempdir()?;
    let held = File::open(directory.path())?;
    left_behind::hold(&held);
    let say = |what: &str| errln!("chaos: {what}");
    let report = chaos::run(options, config, directory.path(), stop.clone(), say).await;
    let is_kept = match &report {
        Ok(report) => !report.holds() && !report.interrupted,
        // What was refused before it began has left nothing to look at.
        Err(_) => !stop.is_cancelled() && !is_empty(directory.path()),
    };
    if is_kept {
        let kept = directory.keep();
        drop(File::create(kept.join(KEPT))?);
        errln!("note: logs and files are kept in {}", kept.display());
    }
    let report = match report {
        Err(_) if stop.is_cancelled() => {
            errln!("stopped before the first fault");
            return Ok(ExitCode::from(EXIT_INTERRUPTED));
        }
        report => report?,
    };
    out!("{report}");
    if let Some(file) = &args.json {
        write(file, &report)?;
    }
    Ok(match (report.holds(), report.interrupted) {
        (true, _) => ExitCode::SUCCESS,
        (false, true) => ExitCode::from(EXIT_INTERRUPTED),
        (false, false) => ExitCode::FAILURE,
    })
}

fn is_empty(directory: &Path) -> bool {
    directory
        .read_dir()
        .is_ok_and(|mut entries| entries.next().is_none())
}

/// Refuses a file that could not be written after hours.
fn check_place(file: &Path) -> anyhow::Result<()> {
    let folder = file.parent().filter(|folder| *folder != Path::new(""));
    let tried = match file.is_dir() {
        true => Err(std::io::ErrorKind::IsADirectory.into()),
        false => tempfile::tempfile_in(folder.unwrap_or(Path::new("."))).map(drop),
    };
    tried.map_err(|error| {
        let detail = format!("cannot write --json {}: {error}", file.display());
        UsageError(detail).into()
    })
}

fn write(file: &Path, report: &Report) -> anyhow::Result<()> {
    let text = serde_json::to_string_pretty(report)? + "\n";
    radialog_files::durable::replace(file, text.as_bytes())
        .with_context(|| format!("cannot write --json {}", file.display()))
}
