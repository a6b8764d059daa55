//! Dialogs: the instruction data set as whole conversations of which every answer is learned. The original's samples learn
//! their last answer alone and read the rest; for a small model on few processors that is five times the work.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use radialog_models::prompt::{Prompt, Prompts};
use serde::Serialize;

use crate::error::TrainingError;
use crate::prepare::datasets::labelled_reports::{LabelledReport, report_findings};
use crate::prepare::datasets::tasks::InstructTask;
use crate::prepare::datasets::tasks::TaskSample;
use crate::prepare::formats::json_list::{self, NonAscii};
use crate::prepare::sections::strip;
use crate::prepare::tables::finding_labels::positives;
use crate::random::Random;

/// Questions behind a correction.
const AFTER_CORRECTION: usize = 2;

/// The dialog data set: from what and how it is made.
#[derive(Clone, Debug)]
pub struct DialogDataset<'a> {
    /// Rows of the common table.
    pub samples: &'a [LabelledReport],
    /// Prompts of the model.
    pub prompts: &'a Prompts,
    /// Folder of the task files, as `prepare tasks` and `prepare instruct` write them.
    pub tasks: PathBuf,
    /// Decides the order of questions.
    pub seed: u64,
}

/// The counts of a dialog data set that was written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DialogSummary {
    /// Conversations.
    pub dialogs: u64,
    /// Questions that were left out since their answer is empty.
    pub empty: u64,
}

/// One conversation.
#[derive(Serialize)]
pub(super) struct DialogSample<'a> {
    pub(super) instruction: String,
    pub(super) input: &'static str,
    pub(super) output: String,
    pub(super) dicom: &'a str,
    pub(super) task_type: &'static str,
    /// The number of answers that are learned, from the last one back.
    pub(super) answers: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) patient: Option<&'a str>,
}

impl DialogDataset<'_> {
    /// Writes a conversation an image (its report, then all that is asked about it) and one a correction (the wrong report,
    /// after a request that names what it states; its correction; some of the questions). A question without an answer is left
    /// out and counted.
    ///
    /// # Errors
    /// Task files that cannot be read or hold something else; an output that cannot be written.
    pub fn run(&self, output: &Path) -> Result<DialogSummary, TrainingError> {
        let mut summary = DialogSummary::default();
        let mut asked: BTreeMap<String, Vec<TaskSample>> = BTreeMap::new();
        for task in InstructTask::ALL {
            let path = task.file(&self.tasks);
            if !path.is_file() {
                continue;
            }
            let text = fs::read(&path).map_err(TrainingError::io("read", &path))?;
            let samples: Vec<TaskSample> =
                serde_json::from_slice(&text).map_err(TrainingError::content(&path))?;
            for sample in samples {
                if strip(&sample.output).is_empty() {
                    summary.empty += 1;
                    continue;
                }
                asked.entry(sample.dicom.clone()).or_default().push(sample);
            }
        }
        if asked.is_empty() {
            let shown = self.tasks.display();
            return Err(TrainingError::Empty(format!(
                "no task file in '{shown}': make some with radialog prepare tasks and radialog prepare instruct"
            )));
        }
        let mut random = Random::stream(self.seed, "dialogs");
        let mut dialogs = Vec::new();
        for sample in self.samples {
            let asked = asked.get(&sample.dicom_id).map_or(&[][..], Vec::as_slice);
            let (corrections, mut questions): (Vec<_>, Vec<_>) = asked
                .iter()
                .partition(|task| task.incorrect_report.is_some());
            random.shuffle(&mut questions);
            let findings = sample.report_findings();
            dialogs.push(self.dialog(
                sample,
                &findings,
                sample.target(),
                &questions,
                questions.len() + 1,
            ));
            for correction in corrections {
                let wrong = correction.incorrect_report.as_deref().unwrap_or_default();
                let stated = correction.incorrect_findings.as_deref();
                // A report that states what is there is led away from it: the questions are about another report.
                let leads_away = stated == Some(positives(&sample.labels).as_slice());
                let after = if leads_away {
                    0
                } else {
                    AFTER_CORRECTION.min(questions.len())
                };
                let first = random.below(questions.len().max(1));
                let some = questions.iter().cycle().skip(first).take(after);
                let turns: Vec<_> = [correction].into_iter().chain(some.copied()).collect();
                // A report that is what its own findings ask for is learned, too.
                let answers = turns.len() + usize::from(stated.is_some());
                let stated = stated.map_or_else(|| findings.clone(), report_findings);
                dialogs.push(self.dialog(sample, &stated, wrong, &turns, answers));
            }
        }
        random.shuffle(&mut dialogs);
        summary.dialogs = json_list::write(output, dialogs.into_iter().map(Ok), NonAscii::Kept)?;
        Ok(summary)
    }

    fn dialog<'s>(
        &self,
        sample: &'s LabelledReport,
        findings: &str,
        report: &str,
        turns: &[&TaskSample],
        answers: usize,
    ) -> DialogSample<'s> {
        let mut messages = vec![self.prompts.report_message(findings)];
        let mut output = report.to_owned();
        for turn in turns {
            messages.extend([Prompt::text(&output), Prompt::text(&turn.task)]);
            output = match turn.task_type == InstructTask::AllFindings.name() {
                // As in the original's samples.
                true => turn.output.to_lowercase(),
                false => strip(&turn.output).to_owned(),
            };
        }
        messages.push(Prompt::default());
        DialogSample {
            instruction: self.prompts.written(&self.prompts.conversation(&messages)),
            input: "",
            output,
            dicom: &sample.dicom_id,
            task_type: "dialog",
            answers,
            patient: sample.patient.as_deref(),
        }
    }
}

#[cfg(test)]
mod tests {
    use radialog_schemas::{Finding, Label};
    use serde_json::{Value, json};

    use super::*;

    fn sample(image: &str, report: &str, positive: &[Finding]) -> LabelledReport {
        LabelledReport {
            patient: None,
            dicom_id: image.into(),
            note_file: format!("{image}.txt"),
            findings: report.into(),
            labels: Finding::ALL.map(|finding| {
                if positive.contains(&finding) {
                    Label::Positive
                } else {
                    Label::Blank
                }
            }),
        }
    }

    fn task(task: InstructTask, image: &str, question: &str, answer: &str) -> Value {
        json!({"gt_report": "", "task": question, "output": answer, "dicom": image, "task_type": task.name()})
    }

    fn dialogs(tasks: &Path, seed: u64) -> Result<Vec<Value>, TrainingError> {
        let samples = [
            sample("one", " The heart is large.", &[Finding::Cardiomegaly]),
            sample("two", "Clear lungs.", &[]),
        ];
        let prompts = Prompts::default();
        let out = tasks.join("dialogs.json");
        let made = DialogDataset {
            samples: &samples,
            prompts: &prompts,
            tasks: tasks.to_owned(),
            seed,
        }
        .run(&out)?;
        let read: Vec<Value> = serde_json::from_slice(&fs::read(&out).unwrap()).unwrap();
        assert_eq!(made.dialogs, read.len() as u64);
        assert_eq!(made.empty, u64::from(tasks.join("empty").exists()));
        Ok(read)
    }

    #[test]
    fn an_image_has_a_conversation_and_so_has_each_correction() {
        let dir = tempfile::tempdir().unwrap();
        let error = dialogs(dir.path(), 1).unwrap_err().to_string();
        assert!(error.contains("prepare tasks"), "{error}");

        let write = |task: InstructTask, samples: &[Value]| {
            fs::write(task.file(dir.path()), serde_json::to_vec(samples).unwrap()).unwrap();
        };
        write(
            InstructTask::AllFindings,
            &[task(
                InstructTask::AllFindings,
                "one",
                "Which findings?",
                "Cardiomegaly",
            )],
        );
        write(
            InstructTask::Summarise,
            &[task(
                InstructTask::Summarise,
                "one",
                "In short?",
                " Cardiomegaly. ",
            )],
        );
        let mut correction = task(
            InstructTask::Correct,
            "one",
            "There is no Edema.",
            "The heart is large.",
        );
        correction["incorrect_report"] = "The heart is large. There is edema.".into();
        correction["incorrect_findings"] = json!(["Cardiomegaly", "Edema"]);
        let mut away = task(
            InstructTask::Correct,
            "one",
            "Add Edema.",
            "The heart is large. Edema.",
        );
        away["incorrect_report"] = "The heart is large.".into();
        away["incorrect_findings"] = json!(["Cardiomegaly"]);
        write(InstructTask::Correct, &[correction, away]);

        // A question whose answer is empty teaches nothing.
        fs::write(dir.path().join("empty"), "").unwrap();
        write(
            InstructTask::Region,
            &[task(InstructTask::Region, "two", "The left lung?", "  ")],
        );
        let made = dialogs(dir.path(), 1).unwrap();
        assert_eq!(made, dialogs(dir.path(), 1).unwrap());
        assert_eq!(made.len(), 4);
        let text = |at: &Value| {
            format!(
                "{} {}",
                at["instruction"].as_str().unwrap(),
                at["output"].as_str().unwrap()
            )
        };
        let find = |part: &str| {
            made.iter()
                .find(|dialog| text(dialog).contains(part))
                .unwrap()
        };

        let about = made.iter().find(|dialog| dialog["answers"] == 3).unwrap();
        assert!(text(about).contains("Predicted Findings: cardiomegaly."));
        assert!(text(about).contains("ASSISTANT: The heart is large.</s>USER: "));
        assert!(
            text(about).contains("USER: Which findings? ASSISTANT: cardiomegaly"),
            "{}",
            text(about)
        );
        assert!(text(about).contains("USER: In short? ASSISTANT: Cardiomegaly."));

        let corrected = find("There is no Edema.");
        assert!(
            text(corrected).contains("Predicted Findings: cardiomegaly, edema."),
            "{}",
            text(corrected)
        );
        let turns = "ASSISTANT: The heart is large. There is edema.</s>USER: There is no Edema. ASSISTANT: The heart is large.</s>";
        assert!(text(corrected).contains(turns), "{}", text(corrected));
        assert_eq!(
            corrected["answers"], 4,
            "the wrong report is learned as one of its findings"
        );

        let away = find("Add Edema.");
        assert_eq!(
            away["output"], "The heart is large. Edema.",
            "the questions are about a heart without edema"
        );
        assert_eq!(away["answers"], 2);

        let bare = find("Clear lungs.");
        assert!(
            text(bare).contains("Predicted Findings: no common findings."),
            "{}",
            text(bare)
        );
        assert_eq!(
            (bare["output"].as_str(), &bare["answers"]),
            (Some("Clear lungs."), &json!(1))
        );
    }
}
