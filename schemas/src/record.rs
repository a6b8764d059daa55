//! One line of `results.jsonl`.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    ComparisonMark, Consistency, ContentHash, Failure, Finding, GateVerdict, Generation, Labels,
    ObjectKey, PredictedFinding, Stage, StageTimings, StudyId,
};

/// A file that stands in for a stage of a run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct GivenFile {
    /// Its name, without folders.
    pub name: String,
    /// The SHA-256 of its content.
    pub sha256: ContentHash,
}

/// An output that was given with the run, instead of being computed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct GivenOutput {
    /// Where it is stored.
    pub object: ObjectKey,
    /// The file that it is from.
    pub file: GivenFile,
}

/// Whether a study has everything that was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum StudyStatus {
    /// Every stage of the run is done.
    Done,
    /// [`StudyRecord::error`] says why not.
    Failed,
}

/// Everything a run knows about one study. Same bundle and same input give the same record, `timings` aside.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct StudyRecord {
    /// The study that the line is about.
    #[serde(rename = "study_id", alias = "study")]
    pub study: StudyId,
    /// The image's name in the archive.
    pub file: String,
    /// The stored image, or text that the study began with: the keys of all outputs follow from it. None where it could not be
    /// read. Where all that is made of an image was given, the image was not read, and this is what was given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub input: Option<ObjectKey>,
    /// The end of the study: done or failed.
    pub status: StudyStatus,
    /// The reason why it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<Failure>,
    /// The first stage in pipeline order that failed; none where the image never reached one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failed_stage: Option<Stage>,
    /// Outputs of image stages that were given with the run, and the files that they are from. Findings that were given are
    /// a list of names, so that their probabilities are 0 and 1.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub given: BTreeMap<Stage, GivenOutput>,
    /// The 14 findings of the image, in the published order.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub findings: Option<Vec<PredictedFinding>>,
    /// What people should know of the image first: that it does not look like a frontal chest X-ray; what was wrong with the file
    /// and was tolerated.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
    /// What the image looks like, where the findings stage has read it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub input_gate: Option<GateVerdict>,
    /// The findings as they stand in the prompt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub findings_text: Option<String>,
    /// The findings section as generated, without the white space in front of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub report: Option<String>,
    /// The white space that the model wrote in front of the report, behind its name. Whoever shows the report to the model again
    /// shows this, too ([`StudyRecord::written_report`]).
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub report_lead: String,
    /// False when the token limit cut the report.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub report_complete: Option<bool>,
    /// Number of generated tokens.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub report_tokens: Option<u32>,
    /// How far further reports that were sampled agree with it, where that was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub consistency: Option<Consistency>,
    /// CheXbert labels of the generated report.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub report_labels: Option<Labels>,
    /// Sentences of the generated report that compare with an earlier image, which the model has not seen: found by the scoring
    /// stage. None without it, and where an earlier release looked for none; empty where no sentence compares.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub comparisons: Option<Vec<ComparisonMark>>,
    /// CheXbert labels of the reference report.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reference_labels: Option<Labels>,
    /// The stored reference report.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reference: Option<ObjectKey>,
    /// Findings that the classifier sees and our own report does not state, or the other way round.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disagreement: Option<Vec<Finding>>,
    /// Further images of the study, which the model did not read.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub other_files: Vec<String>,
    /// The reason why the image was taken, as the archive says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub indication: Option<String>,
    /// The data split, as the archive says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub split: Option<String>,
    /// Hash of the bundle.
    pub bundle: ContentHash,
    /// The settings with which the report was decoded, the seed among them; none where the run has no reports.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub generation: Option<Generation>,
    /// The times of each stage: the only part that may differ between runs.
    #[serde(default)]
    pub timings: BTreeMap<Stage, StageTimings>,
}

impl StudyRecord {
    /// All that the model wrote as the report, as it stands in a prompt that goes on from there.
    pub fn written_report(&self) -> Option<String> {
        let report = self.report.as_ref()?;
        Some(format!("{}{report}", self.report_lead))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_names_its_study_as_manifests_do_and_is_read_by_its_former_name_too() {
        let record = |name: &str| {
            let hash = "0".repeat(64);
            let text = format!(
                r#"{{"{name}": "s1", "file": "1.png", "status": "done", "bundle": "{hash}"}}"#
            );
            serde_json::from_str::<StudyRecord>(&text).unwrap()
        };
        assert_eq!(record("study"), record("study_id"));
        let written = serde_json::to_value(record("study")).unwrap();
        assert_eq!(written["study_id"], "s1");
        assert_eq!(written.get("study"), None);
    }
}
