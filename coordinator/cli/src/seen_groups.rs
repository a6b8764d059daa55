//! Whose queues an operator's command looks at: those of the worker group that it names, or of all that there are.

use std::time::Duration;

use radialog_coordinator::{depth, retrying};
use radialog_runtime::backends::Backends;
use radialog_runtime::config::Config;
use radialog_runtime::queue::{Queue, QueueError};
use radialog_schemas::queues::RETRY_DELAYS;
use radialog_schemas::{QueueGroup, queues};

use crate::exit::UsageError;

/// How long a person waits to hear which groups there are.
const LONGEST_WAIT: Duration = Duration::from_secs(10);

/// Worker groups, of which none is the first one.
pub(crate) struct SeenGroups {
    groups: Vec<Option<QueueGroup>>,
    /// The one that is named.
    named: Option<QueueGroup>,
    /// Those that Redis knows; none where it was not asked, or does not answer.
    noted: Option<Vec<QueueGroup>>,
    /// Why there may be others; none where these are all, or those that were named.
    unknown: Option<String>,
}

/// What lies in a queue.
pub(crate) struct SeenQueue {
    pub(crate) name: String,
    pub(crate) waiting: u64,
    /// Messages that have failed and wait for their next attempt.
    pub(crate) retrying: u64,
    pub(crate) dead: u64,
}

impl SeenGroups {
    /// The group that is named, or none and all that work was given to.
    pub(crate) async fn of(config: &Config) -> Self {
        let noted = match config.redis {
            Some(_) => noted(config).await.map_err(|error| format!("{error:#}")),
            None => Err("Redis knows them: give --redis URL (RADIALOG_REDIS_URL)".to_owned()),
        };
        let named = config.worker.group.clone();
        let (groups, unknown) = match (&named, &noted) {
            (Some(named), _) => (vec![Some(named.clone())], None),
            (None, Ok(noted)) => {
                let all = noted.iter().cloned().map(Some);
                (std::iter::once(None).chain(all).collect(), None)
            }
            (None, Err(reason)) => (vec![None], Some(reason.clone())),
        };
        Self {
            groups,
            named,
            noted: noted.ok(),
            unknown,
        }
    }

    /// Whose they are, in words.
    pub(crate) fn description(&self) -> String {
        let named: Vec<&str> = self
            .groups
            .iter()
            .flatten()
            .map(QueueGroup::as_str)
            .collect();
        let has_first = self.groups.contains(&None);
        let seen = match (has_first, named.as_slice()) {
            (true, []) => "of no worker group".to_owned(),
            (true, named) => format!("of no worker group, of {}", named.join(", ")),
            (false, named) => format!("of worker group {}", named.join(", ")),
        };
        match &self.unknown {
            None => seen,
            Some(reason) => format!("{seen}; others may be there, see --worker-group ({reason})"),
        }
    }

    /// What lies in their queues, and in the one of results, as far as they are there.
    ///
    /// # Errors
    /// Where the broker does not answer; where a group was named that has no queue.
    pub(crate) async fn queues(&self, queue: &dyn Queue) -> anyhow::Result<Vec<SeenQueue>> {
        self.require_named(queue).await?;
        let names = self
            .groups
            .iter()
            .flat_map(|group| queues::of_group(group.as_ref()))
            .chain([queues::RESULTS.to_owned()]);
        let mut seen = Vec::new();
        for name in names {
            // None of a group that was given up.
            seen.extend(look(queue, &name).await?);
        }
        Ok(seen)
    }

    /// Refuses a group that was named and has no queue: most likely its name is mistyped, and zeros would be told of it.
    pub(crate) async fn require_named(&self, queue: &dyn Queue) -> anyhow::Result<()> {
        let Some(named) = &self.named else {
            return Ok(());
        };
        let work = || queues::of_group(Some(named));
        let dead = || work().map(|name| queues::dead(&name));
        // Dead letters may outlast the queues that they are from.
        if !there(queue, work()).await?.is_empty() || !there(queue, dead()).await?.is_empty() {
            return Ok(());
        }
        let others = match &self.noted {
            Some(groups) => {
                let others = groups.iter().filter(|group| *group != named);
                let names: Vec<&str> = others.map(QueueGroup::as_str).collect();
                match names.is_empty() {
                    true => "there is no other".to_owned(),
                    false => format!("there are {}", names.join(", ")),
                }
            }
            None => "with --redis URL this says which there are".to_owned(),
        };
        let refusal =
            format!("worker group '{named}' has no queues: nobody gave it work; {others}");
        Err(UsageError(refusal).into())
    }
}

/// The queues of a group that are there, with those of retries and dead letters.
///
/// # Errors
/// Where the broker does not answer.
pub(crate) async fn left_of(
    queue: &dyn Queue,
    group: &QueueGroup,
) -> Result<Vec<String>, QueueError> {
    let mut names = Vec::new();
    for work in queues::of_group(Some(group)) {
        names.extend((0..RETRY_DELAYS.len()).map(|step| queues::retry(&work, step)));
        names.push(queues::dead(&work));
        names.push(work);
    }
    there(queue, names).await
}

/// Those of these queues that are there.
async fn there(
    queue: &dyn Queue,
    names: impl IntoIterator<Item = String>,
) -> Result<Vec<String>, QueueError> {
    let mut found = Vec::new();
    for name in names {
        if depth(queue, &name).await?.is_some() {
            found.push(name);
        }
    }
    Ok(found)
}

async fn noted(config: &Config) -> anyhow::Result<Vec<QueueGroup>> {
    let mut config = config.clone();
    config.start_timeout = config.start_timeout.min(LONGEST_WAIT);
    let state = Backends::state(&config).await?;
    Ok(state.groups().await?)
}

/// What lies in a queue; none where neither it nor that of its dead letters is there.
async fn look(queue: &dyn Queue, name: &str) -> Result<Option<SeenQueue>, QueueError> {
    let waiting = depth(queue, name).await?;
    let dead = depth(queue, &queues::dead(name)).await?;
    if waiting.is_none() && dead.is_none() {
        return Ok(None);
    }
    Ok(Some(SeenQueue {
        name: name.to_owned(),
        waiting: waiting.unwrap_or(0),
        retrying: retrying(queue, name).await?.unwrap_or(0),
        dead: dead.unwrap_or(0),
    }))
}
