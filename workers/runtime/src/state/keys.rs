//! Redis keys of runs and queues, built here and nowhere else. The run stands in braces: in a Redis Cluster all keys of a run lie together,
//! as the scripts need them.

use radialog_schemas::{QueueGroup, RunId, StudyId};

/// Set of the groups of queues that somebody gives work to.
pub(super) const GROUPS: &str = "radialog:groups";

/// Set of the groups of which a gateway has ever said that it serves them.
pub(super) const EVER_SERVED: &str = "radialog:groups:served";

/// There as long as it counts that a gateway serves a group.
pub(super) fn served(group: &QueueGroup) -> String {
    format!("radialog:group:{group}:served")
}

/// Hash of a run's documents.
pub(super) fn documents(run: &RunId) -> String {
    format!("radialog:run:{{{run}}}:documents")
}

/// Hash of a study's facts.
pub(super) fn study(run: &RunId, study: &StudyId) -> String {
    format!("radialog:run:{{{run}}}:study:{study}")
}

/// There as long as it is known that a run has ended.
pub(super) fn ended(run: &RunId) -> String {
    format!("radialog:run:{{{run}}}:ended")
}

/// List of the lines of finished studies.
pub(super) fn finished(run: &RunId) -> String {
    format!("radialog:run:{{{run}}}:finished")
}
