//! `radialog doctor`: is everything there that a run needs, and if not, what to do.

use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use bytes::Bytes;
use clap::Args;
use radialog_coordinator::OpenBatches;
use radialog_runtime::backends::Backends;
use radialog_runtime::config::Config;
use radialog_runtime::objects::Objects;
use radialog_runtime::queue::{Message, QueueError};
use radialog_schemas::{ContentHash, ObjectKey, Stage};

use crate::args::{ModelArgs, ServiceArgs};
use crate::bundle_source;
use crate::private_folder::PrivateFolder;
use crate::seen_groups::SeenGroups;

/// How long a service may take to answer.
const LONGEST_WAIT: Duration = Duration::from_secs(10);
/// Where no queue is.
const NO_QUEUE: &str = "radialog.doctor";
/// Open files that a worker with full batches needs.
const OPEN_FILES: u64 = 1024;

/// Check broker, object store, state, batches of requests, bundle and limits, and say what to fix
///
/// Example: radialog doctor --amqp amqp://host --s3 http://host:9000/radialog --redis redis://host --bundle /bundles/radialog-v1
#[derive(Args)]
pub(crate) struct DoctorArgs {
    /// Download the weights of a bundle in a bucket into the cache and check them, as a worker would
    #[arg(long)]
    weights: bool,
    #[command(flatten)]
    models: ModelArgs,
    #[command(flatten)]
    services: ServiceArgs,
}

/// Prints one line a check and remembers whether any failed.
#[derive(Default)]
struct CheckReport {
    failed: usize,
}

impl CheckReport {
    fn report(&mut self, what: &str, outcome: anyhow::Result<String>) {
        match outcome {
            Ok(text) => outln!("ok    {what:<12} {text}"),
            Err(error) => {
                self.failed += 1;
                outln!("FAIL  {what:<12} {error:#}");
            }
        }
    }
}

pub(crate) async fn run(args: DoctorArgs) -> anyhow::Result<ExitCode> {
    let mut config = args.services.load_quiet(&[])?;
    // A person waits, and wants to be told what is away.
    config.start_timeout = config.start_timeout.min(LONGEST_WAIT);
    if let Some(amqp) = &mut config.amqp {
        amqp.publish_timeout = amqp.publish_timeout.min(LONGEST_WAIT);
    }
    let own = PrivateFolder::new()?;
    config
        .objects
        .directory
        .get_or_insert_with(|| own.path().to_owned());
    let mut checks = CheckReport::default();
    checks.report("broker", broker(&config).await);
    checks.report("objects", objects(&config).await);
    checks.report("state", state(&config).await);
    checks.report("batches", batches(&config).await);
    // Of a bundle in a bucket the weights are many GB, for which the process may have no room.
    let is_remote =
        (args.models.source.bundle.as_deref()).is_some_and(|url| url.starts_with("s3://"));
    let (stages, found): (&[Stage], _) = match is_remote && !args.weights {
        true => (
            &[],
            "its manifest is right; --weights downloads and checks the weights, too",
        ),
        false => (&Stage::ALL, "opens and its hashes are right"),
    };
    let bundle = bundle_source::open(&args.models.source, stages, &config).await;
    checks.report(
        "bundle",
        bundle.map(|bundle| format!("'{}': {found}", bundle.manifest().name)),
    );
    let device = radialog_models::device::from_name(&args.models.device);
    checks.report(
        "device",
        device
            .map(|device| match device.is_cpu() {
                true => format!("cpu: {}", cpu_kernels()),
                false => args.models.device.clone(),
            })
            .map_err(Into::into),
    );
    checks.report("limits", limits());
    if checks.failed > 0 {
        outln!("{} checks failed", checks.failed);
        return Ok(ExitCode::FAILURE);
    }
    Ok(ExitCode::SUCCESS)
}

async fn broker(config: &Config) -> anyhow::Result<String> {
    if config.amqp.is_none() {
        return Ok("in-memory (no --amqp)".into());
    }
    let queue = Backends::queue(config).await?;
    // A broker with an alarm hears a connection until its first message has come, and nothing after it. These have no queue, so
    // that a broker that takes them returns them.
    for _ in 0..2 {
        match queue.publish(NO_QUEUE, Message::default()).await {
            Err(QueueError::NoQueue(_)) => {}
            Err(error) => return Err(error.into()),
            Ok(()) => anyhow::bail!("somebody has a queue '{NO_QUEUE}'; delete it"),
        }
    }
    let groups = SeenGroups::of(config).await;
    let (mut dead, mut retrying) = (0, 0);
    for seen in groups.queues(&*queue).await? {
        dead += seen.dead;
        retrying += seen.retrying;
    }
    let letters = match dead {
        0 => "no dead letters".to_owned(),
        dead => format!("{dead} dead letters: see `radialog dlq list`"),
    };
    let again = match retrying {
        0 => String::new(),
        retrying => format!("; waiting to be tried again: {retrying}"),
    };
    Ok(format!(
        "reachable, queues declared, {letters}{again} (queues {})",
        groups.description()
    ))
}

async fn objects(config: &Config) -> anyhow::Result<String> {
    let store = Backends::objects(config).await?;
    // Of each call its own: two may look at once.
    let drawn = format!("radialog doctor {}", uuid::Uuid::new_v4());
    let content = Bytes::from(drawn);
    let key = ObjectKey::image(&ContentHash::of(&content));
    let tried = knows_conditions(&*store, &key, &content).await;
    // Whatever came of it.
    let removed = store.delete(&key).await;
    let conditions = match tried? {
        true => "conditional writes, too",
        false => {
            "no conditional writes: results in a bucket (--out s3://...) and /v1/batches are refused"
        }
    };
    removed?;
    let location = match &config.s3 {
        Some(s3) => format!("bucket '{}'", s3.bucket),
        None => format!(
            "folder {}",
            config
                .objects
                .directory
                .as_deref()
                .unwrap_or(Path::new(""))
                .display()
        ),
    };
    Ok(format!(
        "{location}: put, get and delete work; {conditions}"
    ))
}

/// How the batches of requests stand that have not ended.
async fn batches(config: &Config) -> anyhow::Result<String> {
    let store = Backends::objects(config).await?;
    let OpenBatches {
        open,
        paused,
        damaged,
        lines,
        written,
    } = radialog_coordinator::open_batches(&*store).await?;
    Ok(match open {
        0 => "no batch of requests is open".into(),
        open => format!(
            "{open} batches of requests are open ({paused} paused, {damaged} damaged), with {written} of {lines} lines answered"
        ),
    })
}

/// Puts an object and gets it; returns whether the store knows conditional writes.
async fn knows_conditions(
    store: &dyn Objects,
    key: &ObjectKey,
    content: &Bytes,
) -> anyhow::Result<bool> {
    store.put(key, content.clone()).await?;
    anyhow::ensure!(
        store.get(key).await? == *content,
        "the store returned something else than was put"
    );
    store.delete(key).await?;
    Ok(radialog_runtime::objects::knows_conditions(store, key).await?)
}

async fn state(config: &Config) -> anyhow::Result<String> {
    if config.redis.is_none() {
        return Ok("in-memory (no --redis)".into());
    }
    // To connect is to try keys, scripts and channels.
    drop(Backends::state(config).await?);
    Ok("reachable; keys, scripts and channels work".into())
}

/// The kernels that this processor gets; last bits of outputs in bf16 follow from them.
fn cpu_kernels() -> String {
    match radialog_models::device::cpu_instructions().as_slice() {
        [] => "kernels for any processor".to_owned(),
        names => format!("kernels for {}", names.join(", ")),
    }
}

fn limits() -> anyhow::Result<String> {
    let text = std::fs::read_to_string("/proc/self/limits").unwrap_or_default();
    let line = text.lines().find(|line| line.starts_with("Max open files"));
    let soft: Option<u64> = line.and_then(|line| line.split_whitespace().nth(3)?.parse().ok());
    let cores = std::thread::available_parallelism().map_or(1, |count| count.get());
    match soft {
        Some(soft) if soft < OPEN_FILES => {
            anyhow::bail!("only {soft} open files are allowed: run `ulimit -n {OPEN_FILES}` first")
        }
        Some(soft) => Ok(format!("{cores} cores, {soft} open files")),
        None => Ok(format!("{cores} cores")),
    }
}
