//! Queue and header names, and the shape of the broker's topology: one work queue per stage, its retry steps, its
//! dead letters, and the one results queue.

use std::borrow::Cow;
use std::time::Duration;

use crate::{QueueGroup, Stage};

/// The queue in which workers publish what they did.
pub const RESULTS: &str = "radialog.results";

/// Turns of conversations, for the language stage; apart from its batch work, which they never wait behind.
pub const CHAT: &str = "radialog.chat";

/// The times that a failed task waits before its further attempts. Their number is the number of retries.
pub const RETRY_DELAYS: [Duration; 4] = [
    Duration::from_secs(1),
    Duration::from_secs(5),
    Duration::from_secs(25),
    Duration::from_secs(120),
];

/// How many further times what only a worker of another release or bundle can do is tried again, after the last of
/// [`RETRY_DELAYS`] each time: together a quarter of an hour, in which new workers load their weights. Counted in
/// [`header::PASSED_ON`].
pub const ROLL_OUT_RETRIES: usize = 6;

/// A backstop against a message that kills every worker: attempts are counted in [`header::ATTEMPT`].
pub const DELIVERY_LIMIT: u32 = 1000;

/// Names of the headers that travel beside a body.
pub mod header {
    /// The number of earlier attempts. The count is ours, because brokers disagree about their own.
    pub const ATTEMPT: &str = "x-radialog-attempt";
    /// How often, since the last attempt, it was passed on to wait for a worker of another release or bundle: no attempt.
    pub const PASSED_ON: &str = "x-radialog-passed-on";
    /// The time at which the message was published, in milliseconds since 1970.
    pub const PUBLISHED: &str = "x-radialog-published";
    /// The W3C trace context.
    pub const TRACEPARENT: &str = "traceparent";
    /// Dead letters: the stable error code.
    pub const CODE: &str = "x-radialog-code";
    /// Dead letters: what happened, in words.
    pub const REASON: &str = "x-radialog-reason";
    /// Dead letters: the queue that the message was taken from.
    pub const SOURCE: &str = "x-radialog-source";
    /// Dead letters: the worker that gave up.
    pub const WORKER: &str = "x-radialog-worker";
}

/// The work queue of a stage. The language stage's batch work is `radialog.report`, apart from interactive chat.
pub fn work(stage: Stage) -> &'static str {
    match stage {
        Stage::Embedding => "radialog.embedding",
        Stage::Findings => "radialog.findings",
        Stage::Language => "radialog.report",
        Stage::Scoring => "radialog.scoring",
    }
}

/// The queue of this name that belongs to the workers of one bundle, where several bundles share a broker: each worker
/// takes the tasks of its group alone. Without a group it is the queue itself.
pub fn in_group<'a>(queue: &'a str, group: Option<&QueueGroup>) -> Cow<'a, str> {
    match group {
        None => queue.into(),
        // No name of a group has an '@' or a dot, so that no queue can be taken for another one's retry queue.
        Some(group) => format!("{queue}@{group}").into(),
    }
}

/// The queues of one bundle's workers. Their results go where all results go.
pub fn of_group(group: Option<&QueueGroup>) -> impl Iterator<Item = String> {
    let work = Stage::ALL.into_iter().map(work).chain([CHAT]);
    work.map(move |queue| in_group(queue, group).into_owned())
}

/// The delay before the next attempt, after so many that were retries. Beyond the last delay it stays the same.
pub fn retry_delay(step: usize) -> Duration {
    RETRY_DELAYS[step.min(RETRY_DELAYS.len() - 1)]
}

/// The queue in which a failed message of `queue` waits for [`retry_delay`]`(step)`.
pub fn retry(queue: &str, step: usize) -> String {
    format!("{queue}.retry.{}s", retry_delay(step).as_secs())
}

/// The queue to which messages of `queue` go when they cannot be done.
pub fn dead(queue: &str) -> String {
    format!("{queue}.dead")
}

/// The queue of ours, of a group or none, that this one is or whose retries or dead letters it has; none of another's.
pub fn base(queue: &str) -> Option<&str> {
    let retried = || queue.rsplit_once(".retry.").map_or(queue, |(base, _)| base);
    let base = queue.strip_suffix(".dead").unwrap_or_else(retried);
    let name = base.split_once('@').map_or(base, |(name, _)| name);
    all().any(|own| own == name).then_some(base)
}

/// Every queue that holds work or results where there are no groups; each has retry and dead-letter queues.
pub fn all() -> impl Iterator<Item = &'static str> {
    Stage::ALL.into_iter().map(work).chain([CHAT, RESULTS])
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn no_two_groups_share_a_queue_and_none_takes_the_place_of_retries() {
        let groups = ["dead", "retry", "a", "a-b"].map(|name| name.parse::<QueueGroup>().unwrap());
        let mut queues: Vec<String> = groups
            .iter()
            .flat_map(|group| of_group(Some(group)))
            .chain(all().map(str::to_owned))
            .collect();
        for queue in queues.clone() {
            queues.push(dead(&queue));
            queues.extend((0..RETRY_DELAYS.len()).map(|step| retry(&queue, step)));
        }
        assert_eq!(queues.iter().collect::<BTreeSet<_>>().len(), queues.len());
        assert_eq!(in_group(CHAT, None), CHAT);
        let base_of = "radialog.report@v2";
        for queue in [base_of.to_owned(), retry(base_of, 3), dead(base_of)] {
            assert_eq!(base(&queue), Some(base_of));
        }
        assert_eq!(base("radialog.nowhere"), None);
    }
}
