//! Whose queues an operator's command looks at: those of the worker group that it names, or of all that there are.

use std::time::Duration;

use radialog_coordinator::retrying;
use radialog_runtime::backends::Backends;
use radialog_runtime::config::Config;
use radialog_runtime::queue::{Queue, QueueError};
use radialog_schemas::{QueueGroup, queues};

/// How long a person waits to hear which groups there are.
const LONGEST_WAIT: Duration = Duration::from_secs(10);

/// Worker groups, of which none is the first one.
pub(crate) struct SeenGroups {
    groups: Vec<Option<QueueGroup>>,
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
        if let Some(named) = &config.worker.group {
            return Self {
                groups: vec![Some(named.clone())],
                unknown: None,
            };
        }
        let mut seen = Self {
            groups: vec![None],
            unknown: None,
        };
        if config.redis.is_none() {
            seen.unknown =
                Some("Redis knows them: give --redis URL (RADIALOG_REDIS_URL)".to_owned());
            return seen;
        }
        match noted(config).await {
            Ok(groups) => seen.groups.extend(groups.into_iter().map(Some)),
            Err(error) => seen.unknown = Some(format!("{error:#}")),
        }
        seen
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
    pub(crate) async fn queues(&self, queue: &dyn Queue) -> Result<Vec<SeenQueue>, QueueError> {
        let names = self
            .groups
            .iter()
            .flat_map(|group| queues::of_group(group.as_ref()))
            .chain([queues::RESULTS.to_owned()]);
        let mut seen = Vec::new();
        for name in names {
            match look(queue, &name).await {
                // Of a group that was given up.
                Err(QueueError::NoQueue(_)) => {}
                found => seen.push(found?),
            }
        }
        Ok(seen)
    }
}

async fn noted(config: &Config) -> anyhow::Result<Vec<QueueGroup>> {
    let mut config = config.clone();
    config.start_timeout = config.start_timeout.min(LONGEST_WAIT);
    let state = Backends::state(&config).await?;
    Ok(state.groups().await?)
}

async fn look(queue: &dyn Queue, name: &str) -> Result<SeenQueue, QueueError> {
    Ok(SeenQueue {
        name: name.to_owned(),
        waiting: queue.depth(name).await?,
        retrying: retrying(queue, name).await?.unwrap_or(0),
        dead: queue.depth(&queues::dead(name)).await?,
    })
}
