//! The instruction data set (INS): the report task, fused with follow-up tasks about the report. Tasks whose answers follow
//! from labels or from MIMIC-NLE are made here; those that a language model answers are read from their files.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

use radialog_models::prompt::{Prompt, Prompts};
use radialog_schemas::Finding;

use crate::error::TrainingError;
use crate::prepare::datasets::labelled_reports::LabelledReport;
use crate::prepare::datasets::reports::{Coverage, ReportSample, report_samples};
use crate::prepare::datasets::tasks::mimic_nle;
use crate::prepare::datasets::tasks::prompts::TaskPrompts;
use crate::prepare::datasets::tasks::{InstructTask, TaskSample};
use crate::prepare::formats::json_list::{self, NonAscii};
use crate::prepare::tables::finding_labels::positives;
use crate::random::Random;

/// Share of presence questions that ask for a finding which is there.
const PRESENT_SHARE: f64 = 0.6;
/// Parts that the images are divided into; each task that asks about any image has its own.
const PARTS: usize = 6;
/// The part that both questions about findings share.
const FINDINGS_PART: usize = 5;

/// A task file that went into the data set, with the number of its samples.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TaskFile {
    /// The task that is asked.
    pub task: InstructTask,
    /// The number of its samples.
    pub samples: u64,
    /// False where the file was there before and was only read.
    pub made: bool,
}

/// The instruction data set: from what and how it is made.
#[derive(Clone, Debug)]
pub struct InstructDataset<'a> {
    /// Train rows of the common table.
    pub samples: &'a [LabelledReport],
    /// Prompts of the model.
    pub prompts: &'a Prompts,
    /// Wording of the tasks.
    pub task_prompts: &'a TaskPrompts,
    /// Folder of the task files: written, and read where a task needs a language model.
    pub tasks: PathBuf,
    /// `mimic-nle-train.json`, for the reasoning task.
    pub mimic_nle: Option<PathBuf>,
    /// The images that each task asks about.
    pub coverage: Coverage,
    /// Decides all that is drawn.
    pub seed: u64,
}

/// The counts of an instruction data set that was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InstructSummary {
    /// The task files that went in.
    pub tasks: Vec<TaskFile>,
    /// Tasks without a file, which therefore are not in the data set.
    pub missing: Vec<InstructTask>,
    /// Requests for reports.
    pub reports: u64,
    /// All samples.
    pub samples: u64,
    /// The number of them whose answer is empty: in the original's data set, the findings of an image without any.
    pub empty: u64,
}

impl InstructDataset<'_> {
    /// Makes what can be made here, then fuses everything into `output`.
    ///
    /// # Errors
    /// Files that cannot be read or written, or hold something else.
    pub fn run(&self, output: &Path) -> Result<InstructSummary, TrainingError> {
        fs::create_dir_all(&self.tasks).map_err(TrainingError::io("create", &self.tasks))?;
        let mut made = vec![
            (InstructTask::Presence, self.presence()),
            (InstructTask::AllFindings, self.all_findings()),
        ];
        if let Some(file) = &self.mimic_nle {
            let random = &mut self.random("reasons");
            made.push((
                InstructTask::Reason,
                mimic_nle::reasons(file, self.samples, self.task_prompts, random)?,
            ));
        }
        for (task, samples) in &made {
            json_list::write(
                &task.file(&self.tasks),
                samples.iter().map(Ok),
                NonAscii::Kept,
            )?;
        }
        let mut summary = InstructSummary {
            tasks: Vec::new(),
            missing: Vec::new(),
            reports: 0,
            samples: 0,
            empty: 0,
        };
        let mut all: Vec<ReportSample> =
            report_samples(self.samples, self.prompts, self.coverage, self.seed).collect();
        summary.reports = all.len() as u64;
        let texts: HashMap<&str, String> = self
            .samples
            .iter()
            .map(|sample| (sample.dicom_id.as_str(), sample.positive_text()))
            .collect();
        let patients = self
            .samples
            .iter()
            .filter_map(|sample| Some((sample.dicom_id.as_str(), sample.patient.clone()?)));
        let patients: HashMap<&str, String> = patients.collect();
        for task in InstructTask::ALL {
            let path = task.file(&self.tasks);
            if !path.is_file() {
                summary.missing.push(task);
                continue;
            }
            let text = fs::read(&path).map_err(TrainingError::io("read", &path))?;
            let samples: Vec<TaskSample> =
                serde_json::from_slice(&text).map_err(TrainingError::content(&path))?;
            let made = made.iter().any(|(other, _)| *other == task);
            summary.tasks.push(TaskFile {
                task,
                samples: samples.len() as u64,
                made,
            });
            all.extend(
                samples
                    .iter()
                    .map(|sample| self.fused(task, sample, &texts, &patients)),
            );
        }
        if self.coverage != Coverage::Original {
            all.retain(|sample| !sample.output.is_empty());
        }
        let is_empty = |sample: &&ReportSample| sample.output.is_empty();
        summary.empty = all.iter().filter(is_empty).count() as u64;
        self.random("fuse").shuffle(&mut all);
        summary.samples = json_list::write(output, all.into_iter().map(Ok), NonAscii::Escaped)?;
        Ok(summary)
    }

    /// A conversation that asks for the report, has it answered, and asks the task's question.
    fn fused(
        &self,
        task: InstructTask,
        sample: &TaskSample,
        findings: &HashMap<&str, String>,
        patients: &HashMap<&str, String>,
    ) -> ReportSample {
        let findings = findings
            .get(sample.dicom.as_str())
            .map_or("", String::as_str);
        let report = match (task, &sample.incorrect_report) {
            (InstructTask::Correct, Some(incorrect)) => incorrect,
            _ => &sample.gt_report,
        };
        let messages = [
            self.prompts.report_message(findings),
            Prompt::text(report),
            Prompt::text(&sample.task),
            Prompt::default(),
        ];
        let output = crate::prepare::sections::strip(&sample.output);
        ReportSample {
            instruction: self.prompts.written(&self.prompts.conversation(&messages)),
            input: String::new(),
            output: if task == InstructTask::AllFindings {
                output.to_lowercase()
            } else {
                output.to_owned()
            },
            dicom: sample.dicom.clone(),
            patient: patients.get(sample.dicom.as_str()).cloned(),
        }
    }

    /// Whether one finding is present. A finding that is not positive counts as absent: unmentioned, denied and possible
    /// alike. Of one image nothing is asked twice.
    fn presence(&self) -> Vec<TaskSample> {
        let random = &mut self.random("presence");
        let (rows, _) = self.findings_rows();
        let questions = match self.coverage {
            Coverage::Original => 1,
            Coverage::EachImage { questions } => questions,
        };
        let mut asked = Vec::new();
        for row in rows {
            let sample = &self.samples[row];
            let positive = positives(&sample.labels);
            let (mut present, mut absent): (Vec<Finding>, Vec<Finding>) = Finding::ALL
                .into_iter()
                .skip(1)
                .partition(|finding| positive.contains(finding));
            for _ in 0..questions.min(present.len() + absent.len()) {
                let is_there =
                    random.unit() < PRESENT_SHARE && !present.is_empty() || absent.is_empty();
                let from = if is_there { &mut present } else { &mut absent };
                let finding = from.remove(random.below(from.len()));
                let question = self.task_prompts.presence(finding, random);
                let answer = if is_there { "yes" } else { "no" };
                asked.push(TaskSample::new(
                    InstructTask::Presence,
                    sample.report(),
                    question,
                    answer.to_owned(),
                ));
            }
        }
        asked
    }

    fn all_findings(&self) -> Vec<TaskSample> {
        let random = &mut self.random("all findings");
        let (_, rows) = self.findings_rows();
        let ask = |row: usize| {
            let sample = &self.samples[row];
            let mut found = positives(&sample.labels);
            // The published weights have seen an empty answer, which teaches any other model to say nothing.
            if found.is_empty() && self.coverage != Coverage::Original {
                found.push(Finding::NoFinding);
            }
            let names: Vec<_> = found.into_iter().map(Finding::name).collect();
            let question = self.task_prompts.request(InstructTask::AllFindings, random);
            TaskSample::new(
                InstructTask::AllFindings,
                sample.report(),
                question,
                names.join(", "),
            )
        };
        rows.into_iter().map(ask).collect()
    }

    /// The images of the two questions about findings: the last of six equal parts, halved; or all of them for each.
    fn findings_rows(&self) -> (Vec<usize>, Vec<usize>) {
        if self.coverage != Coverage::Original {
            let rows: Vec<usize> = (0..self.samples.len()).collect();
            return (rows.clone(), rows);
        }
        let mut presence = part_rows(self.samples.len(), self.seed, FINDINGS_PART);
        let halves = parts(presence.len(), 2).next().unwrap_or_default().len();
        let all = presence.split_off(halves);
        (presence, all)
    }

    fn random(&self, what: &str) -> Random {
        stream(self.seed, what)
    }
}

/// The images of one of six equal parts, the same for all tasks of a seed.
pub(crate) fn part_rows(count: usize, seed: u64, part: usize) -> Vec<usize> {
    let mut rows: Vec<usize> = (0..count).collect();
    stream(seed, "parts").shuffle(&mut rows);
    rows[parts(count, PARTS).nth(part).unwrap_or_default()].to_vec()
}

fn stream(seed: u64, what: &str) -> Random {
    Random::stream(seed, &format!("instruct {what}"))
}

/// `count` items in `parts` almost equal parts; a remainder goes one each to the first.
fn parts(count: usize, parts: usize) -> impl Iterator<Item = std::ops::Range<usize>> {
    let (size, rest) = (count / parts, count % parts);
    (0..parts).map(move |part| {
        let start = part * size + part.min(rest);
        start..start + size + usize::from(part < rest)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_remainder_goes_to_the_first_parts() {
        let sizes: Vec<usize> = parts(20, 6).map(|part| part.len()).collect();
        assert_eq!(sizes, [4, 4, 3, 3, 3, 3]);
        assert_eq!(parts(20, 6).last(), Some(17..20));
    }
}
