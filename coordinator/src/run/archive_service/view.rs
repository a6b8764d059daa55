//! What is asked for and what is told of a run, and how both are kept.

use radialog_schemas::Stage;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::result_files::PartCounts;
use crate::run::progress::RunProgress;

/// A run over an archive that is asked for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct NewArchiveRun {
    /// `s3://bucket/prefix` of a folder of images, a MIMIC-CXR-JPG tree, or a CSV manifest.
    #[schemars(length(min = 1, max = 1024))]
    pub archive: String,
    /// The stages to run, together with those that they need; all where none is given.
    #[serde(default)]
    pub stages: Vec<Stage>,
    /// The number of studies from the archive's beginning that are taken; all where it is not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<u64>,
    /// Longest report in tokens; 300 where none is given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 2048))]
    pub max_new_tokens: Option<u32>,
    /// One of `/v1/models`; the first of them where none is given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 300))]
    pub model: Option<String>,
}

/// A run over an archive as a client asks for it: a field that is not known is refused.
// What is kept may be of a later release, and is read all the same.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AskedArchiveRun {
    /// `s3://bucket/prefix` of a folder of images, a MIMIC-CXR-JPG tree, or a CSV manifest.
    #[schemars(length(min = 1, max = 1024))]
    pub archive: String,
    /// The stages to run, together with those that they need; all where none is given.
    #[serde(default)]
    pub stages: Vec<Stage>,
    /// The number of studies from the archive's beginning that are taken; all where it is not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<u64>,
    /// Longest report in tokens; 300 where none is given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 2048))]
    pub max_new_tokens: Option<u32>,
    /// One of `/v1/models`; the first of them where none is given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 300))]
    pub model: Option<String>,
}

impl From<AskedArchiveRun> for NewArchiveRun {
    fn from(asked: AskedArchiveRun) -> Self {
        let AskedArchiveRun {
            archive,
            stages,
            limit,
            max_new_tokens,
            model,
        } = asked;
        Self {
            archive,
            stages,
            limit,
            max_new_tokens,
            model,
        }
    }
}

/// The state of a run over an archive.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ArchiveRunStatus {
    /// Waits for another run, or for its gateway to start again.
    Queued,
    /// Studies are being read or computed.
    Running,
    /// It stands still until it is resumed.
    Paused,
    /// Every study has its line.
    Done,
    /// It could not go on.
    Failed,
    /// Nobody wanted it any more; the lines until then are in its results.
    Cancelled,
}

impl ArchiveRunStatus {
    /// It has not ended.
    pub(super) fn is_open(self) -> bool {
        matches!(self, Self::Queued | Self::Running | Self::Paused)
    }
}

/// A run over an archive as it stands.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ArchiveRunView {
    /// Its name.
    pub id: String,
    /// The time at which it was asked for, in milliseconds since 1970.
    pub created_ms: u64,
    /// What was asked for.
    pub request: NewArchiveRun,
    /// The state of the run.
    pub status: ArchiveRunStatus,
    /// The reason why it failed, what went wrong with one that was cancelled, or what its results lack.
    pub error: Option<String>,
    /// Counts, rates and time left, once it runs.
    pub progress: Option<RunProgress>,
    /// Names of its result files, once it has ended.
    pub results: Vec<String>,
}

/// A request for a run, as it is kept.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct ArchiveRunRequest {
    pub(super) id: String,
    /// The try that began the run, by a name that no other one has: it is that gateway's run alone.
    #[serde(default)]
    pub(super) attempt: String,
    pub(super) owner: String,
    pub(super) created_ms: u64,
    pub(super) request: NewArchiveRun,
}

/// The end of a run.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct ArchiveRunEnd {
    pub(super) status: ArchiveRunStatus,
    pub(super) error: Option<String>,
    #[serde(flatten)]
    pub(super) parts: PartCounts,
}

impl ArchiveRunRequest {
    /// Shows the run as its owner sees it.
    pub(super) fn view(
        self,
        status: ArchiveRunStatus,
        progress: Option<RunProgress>,
        end: Option<ArchiveRunEnd>,
    ) -> ArchiveRunView {
        let Self {
            id,
            created_ms,
            request,
            ..
        } = self;
        let written = end.iter().flat_map(|end| end.parts.written());
        let results = written.map(|(file, _)| file.to_owned()).collect();
        ArchiveRunView {
            id,
            created_ms,
            request,
            status,
            error: end.and_then(|end| end.error),
            progress,
            results,
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_field_of_a_later_release_is_passed_over_in_a_kept_run_and_refused_in_an_asked_one() {
        let asked = json!({"archive": "s3://archive/cxr", "later": 1});
        let refused = serde_json::from_value::<AskedArchiveRun>(asked.clone());
        assert!(refused.unwrap_err().to_string().contains("`later`"));
        let kept = json!({"id": "a", "owner": "me", "created_ms": 1, "request": asked});
        let kept: ArchiveRunRequest = serde_json::from_value(kept).unwrap();
        assert_eq!(kept.request.archive, "s3://archive/cxr");
    }
}
