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
use radialog_schemas::{ContentHash, ObjectKey, Stage, counted};
use serde::Serialize;

use crate::args::{ModelArgs, ServiceArgs};
use crate::bundle_source;
use crate::print::chain;
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
    /// Print JSON: whether all is well, and each check with its name, whether it is well, and what it says
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    models: ModelArgs,
    #[command(flatten)]
    services: ServiceArgs,
}

/// One check and what came of it.
#[derive(Serialize)]
struct Check {
    name: &'static str,
    ok: bool,
    text: String,
}

/// Prints one line a check, or all of them as JSON at the end.
struct CheckReport {
    json: bool,
    checks: Vec<Check>,
}

impl CheckReport {
    fn report(&mut self, name: &'static str, outcome: anyhow::Result<String>) {
        let check = Check {
            name,
            ok: outcome.is_ok(),
            text: outcome.unwrap_or_else(|error| in_words(name, &chain(&error))),
        };
        if !self.json {
            let mark = if check.ok { "ok  " } else { "FAIL" };
            outln!("{mark}  {name:<12} {}", check.text);
        }
        self.checks.push(check);
    }

    /// Ends the report.
    fn finish(self) -> anyhow::Result<ExitCode> {
        let failed = self.checks.iter().filter(|check| !check.ok).count();
        if self.json {
            let report = serde_json::json!({"ok": failed == 0, "checks": self.checks});
            outln!("{}", serde_json::to_string_pretty(&report)?);
        } else if failed > 0 {
            let checks = if failed == 1 { "check" } else { "checks" };
            outln!("{failed} {checks} failed");
        }
        Ok(match failed {
            0 => ExitCode::SUCCESS,
            _ => ExitCode::FAILURE,
        })
    }
}

/// Causes as libraries and services say them, in small letters, and what they mean.
const CAUSES: [(&[&str], &str); 7] = [
    (
        &["connection refused"],
        "nobody listens at that address: is it started, and are host and port right?",
    ),
    (
        &[
            "dns error",
            "failed to lookup",
            "name or service not known",
            "no such host",
        ],
        "no machine of that name is known from here",
    ),
    (
        &[
            "access_refused",
            "noauth",
            "wrongpass",
            "invalidaccesskeyid",
            "signaturedoesnotmatch",
            "accessdenied",
            "no credentials",
            "credentialsnotloaded",
        ],
        "user, password or keys are missing or wrong, or may not do this",
    ),
    (&["nosuchbucket"], "there is no such bucket: make it first"),
    (
        &["certificate", "tls ", "tls:", "handshake"],
        "no secure connection: is the certificate trusted, and does the service speak TLS?",
    ),
    (
        &["network is unreachable", "no route to host"],
        "there is no way to that address from here",
    ),
    (
        &["timed out", "timeout", "deadline"],
        "no answer in time: is a firewall between, or the service overloaded?",
    ),
];

/// What is wrong in words, with the flag to look at; what the service said comes last.
fn in_words(check: &str, said: &str) -> String {
    let lower = said.to_lowercase();
    let is_said = |words: &&[&str]| words.iter().any(|word| lower.contains(word));
    let flag = match check {
        "broker" => "--amqp",
        "objects" | "batches" => "--s3",
        "state" => "--redis",
        _ => return said.to_owned(),
    };
    match CAUSES.iter().find(|(words, _)| is_said(words)) {
        Some((_, meaning)) => format!("{meaning} (see {flag}; it said: {said})"),
        None => said.to_owned(),
    }
}

pub(crate) async fn run(args: DoctorArgs) -> anyhow::Result<ExitCode> {
    let mut config = args.services.load_silent()?;
    // A person waits, and wants to be told what is away.
    config.start_timeout = config.start_timeout.min(LONGEST_WAIT);
    if let Some(amqp) = &mut config.amqp {
        amqp.publish_timeout = amqp.publish_timeout.min(LONGEST_WAIT);
    }
    let own = PrivateFolder::new()?;
    let is_own = config.objects.directory.is_none();
    config
        .objects
        .directory
        .get_or_insert_with(|| own.path().to_owned());
    let mut checks = CheckReport {
        json: args.json,
        checks: Vec::new(),
    };
    checks.report("broker", broker(&config).await);
    checks.report("objects", objects(&config, is_own).await);
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
    let device = radialog_models::device::from_name(args.models.device());
    checks.report(
        "device",
        device
            .map(|device| match device.is_cpu() {
                true => format!("cpu: {}", cpu_kernels()),
                false => args.models.device().to_owned(),
            })
            .map_err(Into::into),
    );
    checks.report("limits", limits());
    checks.finish()
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
        dead => format!(
            "{}: see `radialog dlq list`",
            counted(dead, "dead letter", "dead letters")
        ),
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

/// Tries the store; `is_own` says that its folder was made to try.
async fn objects(config: &Config, is_own: bool) -> anyhow::Result<String> {
    let store = Backends::existing_objects(config).await?;
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
        None if is_own => "temporary folder (no --s3, no --objects)".to_owned(),
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
    let store = Backends::existing_objects(config).await?;
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
            "{} open ({paused} paused, {damaged} damaged), with {written} of {} answered",
            counted(open, "batch of requests is", "batches of requests are"),
            counted(lines, "line", "lines")
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_libraries_say_is_told_in_words_with_the_flag_to_look_at() {
        let said = "dispatch failure: io error: client error (Connect): tcp connect error: Connection refused (os error 111)";
        let words = in_words("objects", said);
        assert!(
            words.starts_with("nobody listens at that address"),
            "{words}"
        );
        assert!(
            words.contains("--s3") && words.ends_with(&format!("{said})")),
            "{words}"
        );
        for (check, said, expected) in [
            (
                "state",
                "WRONGPASS invalid username-password pair",
                "user, password or keys",
            ),
            (
                "broker",
                "failed to lookup address information",
                "no machine of that name",
            ),
            ("objects", "NoSuchBucket", "there is no such bucket"),
            ("state", "TLS: bad record", "no secure connection"),
            (
                "objects",
                "http://atlstore:9000 says: SlowDown",
                "http://atlstore:9000",
            ),
            ("bundle", "connection refused", "connection refused"),
            ("state", "something else", "something else"),
        ] {
            assert!(in_words(check, said).starts_with(expected), "{said}");
        }
    }
}
