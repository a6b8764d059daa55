//! Dialogs: the instruction data set as whole conversations of which every answer is learned. The original's samples learn
//! their last answer alone and read the rest; for a small model on few processors that is five times the work.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use radialog_models::prompt::{Prompt, Prompts};
use serde::Serialize;

use super::instruct::TaskSample;
use super::json_list::{self, Characters};
use super::table::Sample;
use super::task_prompts::Task;
use crate::error::TrainingError;
use crate::random::Random;

/// Questions behind a correction.
const AFTER_CORRECTION: usize = 2;

/// How dialogs are made.
#[derive(Clone, Debug)]
pub struct Dialogs<'a> {
    /// Rows of the common table.
    pub samples: &'a [Sample],
    /// Prompts of the model.
    pub prompts: &'a Prompts,
    /// Folder of the task files, as `prepare tasks` and `prepare instruct` write them.
    pub tasks: PathBuf,
    /// Decides the order of questions.
    pub seed: u64,
}

/// One conversation.
#[derive(Serialize)]
struct DialogSample<'a> {
    instruction: String,
    input: &'static str,
    output: String,
    dicom: &'a str,
    task_type: &'static str,
    /// How many answers are learned, from the last one back.
    answers: usize,
}

impl Dialogs<'_> {
    /// Writes a conversation an image (its report, then all that is asked about it) and one a correction (the wrong report,
    /// which is read, its correction, and some of the questions). Returns their number.
    ///
    /// # Errors
    /// Task files that cannot be read or hold something else; an output that cannot be written.
    pub fn run(&self, output: &Path) -> Result<u64, TrainingError> {
        let mut asked: BTreeMap<String, Vec<TaskSample>> = BTreeMap::new();
        for task in Task::ALL {
            let path = task.file(&self.tasks);
            if !path.is_file() {
                continue;
            }
            let text = fs::read(&path).map_err(TrainingError::io("read", &path))?;
            let samples: Vec<TaskSample> = serde_json::from_slice(&text).map_err(TrainingError::content(&path))?;
            for sample in samples {
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
            let (corrections, mut questions): (Vec<_>, Vec<_>) =
                asked.iter().partition(|task| task.incorrect_report.is_some());
            random.shuffle(&mut questions);
            dialogs.push(self.dialog(sample, sample.target(), &questions, questions.len() + 1));
            for correction in corrections {
                let wrong = correction.incorrect_report.as_deref().unwrap_or_default();
                let first = random.below(questions.len().max(1));
                let some = questions.iter().cycle().skip(first).take(AFTER_CORRECTION.min(questions.len()));
                let turns: Vec<_> = [correction].into_iter().chain(some.copied()).collect();
                dialogs.push(self.dialog(sample, wrong, &turns, turns.len()));
            }
        }
        random.shuffle(&mut dialogs);
        json_list::write(output, dialogs.into_iter().map(Ok), Characters::Kept)
    }

    fn dialog<'s>(&self, sample: &'s Sample, report: &str, turns: &[&TaskSample], answers: usize) -> DialogSample<'s> {
        let mut messages = vec![self.prompts.report_message(&sample.report_findings())];
        let mut output = report.to_owned();
        for turn in turns {
            messages.extend([Prompt::text(&output), Prompt::text(&turn.task)]);
            output = match turn.task_type == Task::AllFindings.name() {
                // As in the original's samples.
                true => turn.output.to_lowercase(),
                false => crate::sections::strip(&turn.output).to_owned(),
            };
        }
        messages.push(Prompt::default());
        DialogSample {
            instruction: self.prompts.conversation(&messages).to_string(),
            input: "",
            output,
            dicom: &sample.dicom_id,
            task_type: "dialog",
            answers,
        }
    }
}
