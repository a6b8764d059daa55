//! The tasks of the instruction data set: which there are, and one sample of each as its file has it.

use std::path::{Path, PathBuf};

use radialog_schemas::Finding;
use serde::{Deserialize, Serialize};

pub(crate) mod answers;
pub(crate) mod from_reports;
pub(crate) mod mimic_nle;
pub(crate) mod prompts;

/// A task of the instruction data set, in the order in which they are fused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum InstructTask {
    /// Explain the report in plain language.
    Explain,
    /// Why the report supports a diagnosis.
    Reason,
    /// Correct a report.
    Correct,
    /// Summarise the report.
    Summarise,
    /// A question about a region.
    Region,
    /// Whether one finding is present.
    Presence,
    /// Which findings are present.
    AllFindings,
}

impl InstructTask {
    /// All tasks, in the order in which they are fused.
    pub const ALL: [InstructTask; 7] = [
        InstructTask::Explain,
        InstructTask::Reason,
        InstructTask::Correct,
        InstructTask::Summarise,
        InstructTask::Region,
        InstructTask::Presence,
        InstructTask::AllFindings,
    ];

    /// Returns the short name of the task in the original's files.
    pub fn name(self) -> &'static str {
        match self {
            InstructTask::Explain => "EL",
            InstructTask::Reason => "RE",
            InstructTask::Correct => "CO",
            InstructTask::Summarise => "SU",
            InstructTask::Region => "RQA",
            InstructTask::Presence => "CPbQA",
            InstructTask::AllFindings => "CPaQA",
        }
    }

    /// Returns the path of the task file in a folder, named as the original names it.
    pub fn file(self, folder: &Path) -> PathBuf {
        folder.join(format!("instruct_large_{}.json", self.name()))
    }
}

/// One sample of a task file, as the original stores it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskSample {
    /// The radiologist's report.
    pub gt_report: String,
    /// The report that is corrected, in the correction task.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub incorrect_report: Option<String>,
    /// What that report states, where it was made to state it. The original's files do not have it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub incorrect_findings: Option<Vec<Finding>>,
    /// The question.
    pub task: String,
    /// What the language model was told that wrote the answer; none where none did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instruction: Option<String>,
    /// Always empty; the original's format has it.
    #[serde(default)]
    pub input: String,
    /// The answer.
    pub output: String,
    /// The image.
    pub dicom: String,
    /// Short name of the task.
    pub task_type: String,
}

impl TaskSample {
    /// A question about the report of an image.
    pub(crate) fn new(
        task: InstructTask,
        (image, report): (&str, &str),
        question: String,
        answer: String,
    ) -> Self {
        Self {
            gt_report: report.to_owned(),
            incorrect_report: None,
            incorrect_findings: None,
            task: question,
            instruction: None,
            input: String::new(),
            output: answer,
            dicom: image.to_owned(),
            task_type: task.name().to_owned(),
        }
    }
}
