//! `radialog purge`: removes conversations and files of requests by their age, and what conversations have left.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::ensure;
use clap::Args;
use radialog_coordinator::conversation::retention::{self, Unowned};
use radialog_runtime::backends::Backends;
use radialog_runtime::queue::memory::MemoryQueue;
use radialog_runtime::state::memory::MemoryState;
use radialog_schemas::{ConversationId, counted};

use crate::args::ServiceArgs;
use crate::length_of_time::LengthOfTime;
use crate::shared_services::{self, SharedService};

/// Remove conversations, and the images and outputs that conversations have left
///
/// Without options, removes what belongs to no conversation any more and is older than retention.grace, and files of requests
/// (/v1/files) and batches (/v1/batches) that are older than 30 days: the same as gateways and coordinators do from time to
/// time. Without --redis, nobody here knows which conversations there are: what a running process has not renewed within the
/// grace goes.
///
/// Example: radialog purge --older-than 30d --redis redis://host --s3 s3://radialog
#[derive(Args)]
pub(crate) struct PurgeArgs {
    /// Also remove the conversations that began longer ago than this, with all that belongs to them, and the files of requests
    /// and batches that are older, of all keys, e.g. 30d, 12h, 45m
    #[arg(long, value_name = "AGE", conflicts_with = "conversation")]
    older_than: Option<LengthOfTime>,
    /// Remove this conversation alone, with its corrections, its ratings and all that belongs to it
    #[arg(long, value_name = "ID")]
    conversation: Option<String>,
    /// Say what would be removed, and leave it
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    services: ServiceArgs,
}

pub(crate) async fn run(args: PurgeArgs) -> anyhow::Result<ExitCode> {
    let config = args.services.load_quiet(&[])?;
    shared_services::require("`radialog purge`", &[SharedService::Store], &config)?;
    let objects = Backends::existing_objects(&config);
    let conversations = Backends::conversations(&config);
    let (objects, conversations) = futures::try_join!(objects, conversations)?;
    // Nothing is begun here.
    let backends = Backends {
        queue: Arc::new(MemoryQueue::default()),
        state: Arc::new(MemoryState::default()),
        objects,
        conversations,
    };
    let verb = if args.dry_run {
        "would be removed"
    } else {
        "removed"
    };
    if let Some(id) = args.conversation {
        let id = ConversationId(id);
        let objects = retention::count_objects(&*backends.objects, &id).await?;
        let data = retention::count_data(&*backends.objects, &id).await?;
        let existed = match args.dry_run {
            true => exist(&backends, std::slice::from_ref(&id)).await? == 1,
            false => retention::remove(&backends, &id).await?,
        };
        let known = if existed {
            ""
        } else {
            "no such conversation is known here; "
        };
        outln!(
            "{known}conversation {id} with {} {verb}, and {}",
            counted(objects, "object", "objects"),
            counted(data, "correction or rating", "corrections and ratings")
        );
        return Ok(ExitCode::SUCCESS);
    }
    let mut grace = config.retention.grace;
    if let Some(LengthOfTime(age)) = args.older_than {
        let old = begun_before(age);
        let old = backends.conversations.begun_before(old).await?;
        let count = exist(&backends, &old).await?;
        if !args.dry_run {
            for id in &old {
                retention::remove(&backends, id).await?;
            }
        }
        let count = counted(count, "conversation", "conversations");
        outln!("{count} {verb} by age");
        if config.redis.is_none() {
            grace = grace.max(age);
        }
    }
    let Unowned {
        conversations,
        objects,
        bytes,
        not_swept,
    } = retention::sweep(&backends, grace, args.dry_run).await?;
    outln!(
        "{} ({}) of {} gone {verb}",
        counted(objects, "object", "objects"),
        counted(bytes, "byte", "bytes"),
        counted(
            conversations,
            "conversation that is",
            "conversations that are"
        )
    );
    let older_than = args.older_than.map(|LengthOfTime(age)| age);
    let requests = retention::sweep_requests(&*backends.objects, older_than, args.dry_run).await?;
    let requests = counted(requests, "file", "files");
    outln!("{requests} of requests and batches {verb} by age");
    if !args.dry_run {
        backends.conversations.forget_ended().await?;
    }
    ensure!(
        not_swept == 0,
        "{}; the lines above say which and why. Where a later release has written them, run its `radialog purge`; one that is \
         damaged goes with `radialog purge --conversation ID`",
        counted(
            not_swept,
            "conversation is not swept, and keeps what it has",
            "conversations are not swept, and keep what they have"
        )
    );
    Ok(ExitCode::SUCCESS)
}

/// How many of these conversations exist.
async fn exist(backends: &Backends, ids: &[ConversationId]) -> anyhow::Result<usize> {
    let exist = backends.conversations.exist(ids).await?;
    Ok(exist.into_iter().filter(|exists| *exists).count())
}

/// The time so long ago, in milliseconds since 1970.
fn begun_before(age: Duration) -> u64 {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    u64::try_from(now.saturating_sub(age).as_millis()).unwrap_or(u64::MAX)
}
