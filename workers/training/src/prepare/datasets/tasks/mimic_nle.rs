//! The reasoning task (RE) from MIMIC-NLE (Kayser et al., 2022): sentences of reports that explain a diagnosis.

use std::collections::HashMap;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::Path;

use radialog_schemas::Finding;
use serde::Deserialize;

use crate::error::TrainingError;
use crate::prepare::datasets::labelled_reports::LabelledReport;
use crate::prepare::datasets::tasks::InstructTask;
use crate::prepare::datasets::tasks::TaskSample;
use crate::prepare::datasets::tasks::prompts::TaskPrompts;
use crate::random::Random;

/// The diagnoses in the order of the file's flags.
const DIAGNOSES: [Finding; 10] = [
    Finding::Atelectasis,
    Finding::Consolidation,
    Finding::Edema,
    Finding::EnlargedCardiomediastinum,
    Finding::LungLesion,
    Finding::LungOpacity,
    Finding::PleuralEffusion,
    Finding::PleuralOther,
    Finding::Pneumonia,
    Finding::Pneumothorax,
];

/// One line of the file.
#[derive(Deserialize)]
struct Explanation {
    #[serde(rename = "report_ID")]
    report: String,
    nle: String,
    diagnosis_label: Vec<f64>,
}

/// The task's samples. An explanation that is not in the findings of its report comes from the impression, which the
/// model never writes; it is left out, as is one whose report has no findings.
pub(crate) fn reasons(
    file: &Path,
    samples: &[LabelledReport],
    prompts: &TaskPrompts,
    random: &mut Random,
) -> Result<Vec<TaskSample>, TrainingError> {
    let mut studies: HashMap<&str, &LabelledReport> = HashMap::new();
    for sample in samples {
        studies
            .entry(sample.note_file.trim_end_matches(".txt"))
            .or_insert(sample);
    }
    let lines = BufReader::new(File::open(file).map_err(TrainingError::io("open", file))?).lines();
    let mut reasons = Vec::new();
    for (number, line) in (1..).zip(lines) {
        let line = line.map_err(TrainingError::io("read", file))?;
        if line.trim().is_empty() {
            continue;
        }
        let explanation: Explanation = serde_json::from_str(&line)
            .map_err(|error| TrainingError::line(file, number, error.to_string()))?;
        if explanation.diagnosis_label.len() != DIAGNOSES.len() {
            let reason = format!(
                "{} flags of diagnosis, expected 10",
                explanation.diagnosis_label.len()
            );
            return Err(TrainingError::line(file, number, reason));
        }
        let Some(sample) = studies.get(explanation.report.as_str()) else {
            continue;
        };
        if !sample.findings.contains(&explanation.nle) {
            continue;
        }
        let flagged = DIAGNOSES
            .into_iter()
            .zip(&explanation.diagnosis_label)
            .filter(|(_, flag)| **flag == 1.0);
        let named: Vec<Finding> = flagged.map(|(finding, _)| finding).collect();
        let question = prompts.reasons(&named, random);
        reasons.push(TaskSample::new(
            InstructTask::Reason,
            sample.report(),
            question,
            explanation.nle,
        ));
    }
    Ok(reasons)
}
