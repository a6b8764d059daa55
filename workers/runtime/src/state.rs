//! The state contract: what coordinators that share a results queue must agree on. A study's state is a set of facts
//! (fields that are written once), so that two coordinators can add to it in any order without a lock.

use std::collections::BTreeMap;
use std::time::Duration;

use async_trait::async_trait;
use radialog_schemas::{QueueGroup, RunId, StudyId};

mod keys;
pub mod memory;
pub mod redis;

/// The state store does not answer or refuses; may work later.
#[derive(Debug, thiserror::Error)]
#[error(
    "the state store failed: {0}. Check --redis (RADIALOG_REDIS_URL), and that Redis runs and accepts this user"
)]
pub struct StateError(pub String);

/// The field of a study's facts that holds its description ([`StudySpec`](radialog_schemas::StudySpec)), with which it begins; the others
/// are stage names with a [`StageResult`](radialog_schemas::StageResult).
pub const STUDY_FIELD: &str = "study";

/// One fact about a study: a field that is written once, with its value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fact {
    /// The run that the study belongs to.
    pub run: RunId,
    /// The study that the fact is about.
    pub study: StudyId,
    /// The field's name.
    pub field: String,
    /// The value in JSON.
    pub value: String,
    /// What the study's [`STUDY_FIELD`] must hold for [`State::record`] to add the fact: a study may end, and be begun again as
    /// another, behind the back of whoever decided. None adds it whatever that is.
    pub of: Option<String>,
}

/// All facts of a study: values in JSON by field.
pub type Facts = BTreeMap<String, String>;

/// Shared state of runs and studies. One conformance suite, in the tests crate, holds every implementation to this
/// contract. Batches cost one round trip.
#[async_trait]
pub trait State: Send + Sync + 'static {
    /// Stores a document of a run, e.g. its specification or its progress; replaces what is there.
    async fn put_document(&self, run: &RunId, name: &str, value: String) -> Result<(), StateError>;

    /// Stores a document of a run where there is none of this name, and returns the one that is there then: of several
    /// writers exactly one finds its own. The call may be repeated when its answer was lost.
    async fn create_document(
        &self,
        run: &RunId,
        name: &str,
        value: String,
    ) -> Result<String, StateError>;

    /// Reads a document of a run; none where it was never stored.
    async fn document(&self, run: &RunId, name: &str) -> Result<Option<String>, StateError>;

    /// Creates the studies of these facts where they are not there, and adds each fact that is not there.
    async fn begin(&self, facts: &[Fact]) -> Result<(), StateError>;

    /// Adds each fact whose field is not there yet, and returns all facts of its study; none where the study does not
    /// exist (never begun, or finished), or is another than the fact is `of`: then nothing is added.
    async fn record(&self, facts: &[Fact]) -> Result<Vec<Option<Facts>>, StateError>;

    /// Removes each study and appends its line to its run's finished list, both or neither. False where the study did
    /// not exist any more, or its run has ended: then nothing is appended. `field` and `of` of the facts are ignored, `value` is the line.
    async fn finish(&self, lines: &[Fact]) -> Result<Vec<bool>, StateError>;

    /// Removes a study that nobody waits for a line of. It may be repeated, and a study that does not exist is none.
    async fn forget(&self, run: &RunId, study: &StudyId) -> Result<(), StateError>;

    /// Says of each of these studies whether it exists (is begun and not finished).
    async fn exist(&self, run: &RunId, studies: &[StudyId]) -> Result<Vec<bool>, StateError>;

    /// Reads the first `limit` lines of the finished list.
    async fn finished(&self, run: &RunId, limit: usize) -> Result<Vec<String>, StateError>;

    /// Removes the first `count` lines of the finished list.
    async fn discard_finished(&self, run: &RunId, count: usize) -> Result<(), StateError>;

    /// Ends a run that has all its lines: its finished list is emptied and takes no more. A study that was begun twice,
    /// because an answer was lost, may still finish afterwards, and nobody would collect its second line.
    async fn end_run(&self, run: &RunId) -> Result<(), StateError>;

    /// Lets a run take lines, whether or not it had ended.
    async fn open_run(&self, run: &RunId) -> Result<(), StateError>;

    /// Notes a group of queues whose workers somebody gives work to, so that who looks after all queues learns of it. It may
    /// be repeated.
    async fn note_group(&self, group: &QueueGroup) -> Result<(), StateError>;

    /// Forgets a group of queues that was given up, until somebody notes it again. False where it was not noted.
    async fn forget_group(&self, group: &QueueGroup) -> Result<bool, StateError>;

    /// Lists the groups that were noted, in the order of their names.
    async fn groups(&self) -> Result<Vec<QueueGroup>, StateError>;

    /// Says that a gateway serves a group of queues, which counts for so long from now on; what was said before does not.
    async fn serve_group(&self, group: &QueueGroup, during: Duration) -> Result<(), StateError>;

    /// Whether a gateway serves a group, as it was last said, noted or not. A group of which that was never said counts as served
    /// while it is noted: gateways of earlier releases do not say it.
    async fn is_served(&self, group: &QueueGroup) -> Result<bool, StateError>;
}
