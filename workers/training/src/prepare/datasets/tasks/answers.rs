//! Tasks of the instruction data set whose answers a language model writes: plain language, summary and region from the
//! radiologist's report (EL, SU, RQA), and corrections of reports of ours (CO). Here are the questions, and what becomes of
//! an answer; the model reads no image, and runs elsewhere.

use std::collections::HashMap;
use std::path::Path;

use radialog_models::prompt::{Prompt, Prompts};
use radialog_schemas::{Finding, Label, Labels};

use crate::error::TrainingError;
use crate::prepare::datasets::instruct::part_rows;
use crate::prepare::datasets::labelled_reports::LabelledReport;
use crate::prepare::datasets::tasks::InstructTask;
use crate::prepare::datasets::tasks::TaskSample;
use crate::prepare::datasets::tasks::prompts::{TaskPrompts, enumerate};
use crate::prepare::formats::json_list::{self, NonAscii};
use crate::prepare::tables::finding_labels::FindingLabels;
use crate::random::Random;

/// The largest number of tokens that an answer may have.
pub const ANSWER_TOKENS: u32 = 256;

/// What stands before a report that is to be corrected.
const WRITE_A_REPORT: &str = "Please write a radiology report for the given x-ray.";

/// A request to the language model that is to write the answer of a task's sample.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AnswerRequest {
    /// The sample that the answer completes.
    pub sample: TaskSample,
    /// The conversation in turn, the user's messages first and last.
    pub messages: Vec<String>,
}

/// A report that a model wrote on an image, and what CheXbert says about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PredictedReport {
    /// The image.
    pub dicom_id: String,
    /// The findings section as generated.
    pub text: String,
    /// The labels that CheXbert gives the text.
    pub labels: Labels,
}

/// Questions about reports, one an image, to a sixth of the images each: [`InstructTask::Explain`], [`InstructTask::Summarise`] or
/// [`InstructTask::Region`]. The same seed asks the same questions.
///
/// # Errors
/// Any other task.
pub fn questions(
    task: InstructTask,
    samples: &[LabelledReport],
    prompts: &Prompts,
    task_prompts: &TaskPrompts,
    seed: u64,
) -> Result<Vec<AnswerRequest>, TrainingError> {
    let part = match task {
        InstructTask::Explain => 0,
        InstructTask::Summarise => 2,
        InstructTask::Region => 4,
        other => {
            return Err(TrainingError::Empty(format!(
                "{} is not answered from reports",
                other.name()
            )));
        }
    };
    let random = &mut Random::stream(seed, &format!("answers {}", task.name()));
    let ask = |row: usize| {
        let sample = &samples[row];
        let asked = task_prompts.request(task, random);
        let messages = vec![format!("Report: {}\n{asked}", sample.target())];
        question(
            prompts,
            TaskSample::new(task, sample.report(), asked, String::new()),
            messages,
        )
    };
    Ok(part_rows(samples.len(), seed, part)
        .into_iter()
        .map(ask)
        .collect())
}

/// Questions for corrections: what our report states and the radiologist's does not is to go, the other way round it is to
/// come in. Reports without a difference are passed over, as are those of images that are not among the samples.
pub fn corrections(
    predicted: impl IntoIterator<Item = PredictedReport>,
    samples: &[LabelledReport],
    prompts: &Prompts,
    task_prompts: &TaskPrompts,
    seed: u64,
) -> Vec<AnswerRequest> {
    let by_image: HashMap<&str, &LabelledReport> = samples
        .iter()
        .map(|sample| (sample.dicom_id.as_str(), sample))
        .collect();
    let random = &mut Random::stream(seed, "answers CO");
    let mut questions = Vec::new();
    for report in predicted {
        let Some(sample) = by_image.get(report.dicom_id.as_str()) else {
            continue;
        };
        let (remove, add) = differences(&report.labels, &sample.labels);
        let Some(asked) = task_prompts.correction(&add, &remove, random) else {
            continue;
        };
        let mut explicit = String::from("Please provide an adapted report. ");
        if !remove.is_empty() {
            explicit += &format!("Do not mention {}. ", enumerate(&remove));
        }
        if !add.is_empty() {
            explicit += &format!("Mention {}. ", enumerate(&add));
        }
        let messages = vec![
            WRITE_A_REPORT.to_owned(),
            report.text.clone(),
            explicit.trim().to_owned(),
        ];
        let mut asked =
            TaskSample::new(InstructTask::Correct, sample.report(), asked, String::new());
        asked.incorrect_report = Some(report.text);
        questions.push(question(prompts, asked, messages));
    }
    questions
}

/// The text of a sample's answer, from all that the model wrote. A model that goes on with turns of its own is cut as in the
/// original: the first turn counts, of a correction the last.
pub fn answer(task: InstructTask, written: &str, prompts: &Prompts) -> String {
    match task {
        InstructTask::Correct => {
            let role = format!("{}:", prompts.roles[1]);
            crate::prepare::sections::strip(written.rsplit(&role).next().unwrap_or(written))
                .to_owned()
        }
        _ => prompts.report_text(written).to_owned(),
    }
}

/// Writes `instruct_large_{TASK}.json` and returns the number of its samples.
///
/// # Errors
/// The file cannot be written.
pub fn write_task_file(
    path: &Path,
    samples: impl Iterator<Item = Result<TaskSample, TrainingError>>,
) -> Result<u64, TrainingError> {
    json_list::write(path, samples, NonAscii::Kept)
}

fn question(prompts: &Prompts, mut sample: TaskSample, messages: Vec<String>) -> AnswerRequest {
    let turns: Vec<Prompt> = messages
        .iter()
        .map(|text| Prompt::text(text))
        .chain([Prompt::default()])
        .collect();
    sample.instruction = Some(prompts.written(&prompts.conversation(&turns)));
    AnswerRequest { sample, messages }
}

/// The names that only our report states, and those that only the radiologist's does.
fn differences(ours: &Labels, reference: &FindingLabels) -> (Vec<Finding>, Vec<Finding>) {
    let (mut remove, mut add) = (Vec::new(), Vec::new());
    for finding in Finding::ALL
        .into_iter()
        .filter(|finding| *finding != Finding::NoFinding)
    {
        let predicted = ours.get(&finding) == Some(&Label::Positive);
        match (predicted, reference[finding as usize] == Label::Positive) {
            (true, false) => remove.push(finding),
            (false, true) => add.push(finding),
            _ => {}
        }
    }
    (remove, add)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(index: usize, positive: &[Finding]) -> LabelledReport {
        LabelledReport {
            patient: None,
            dicom_id: format!("d{index}"),
            note_file: format!("s{index}.txt"),
            findings: format!(" Report {index}. "),
            labels: Finding::ALL.map(|finding| {
                if positive.contains(&finding) {
                    Label::Positive
                } else {
                    Label::Negative
                }
            }),
        }
    }

    fn prompts() -> Prompts {
        Prompts {
            system: "S.".into(),
            ..Prompts::default()
        }
    }

    #[test]
    fn each_task_asks_a_sixth_of_the_images_about_their_report_and_no_image_twice() {
        let samples: Vec<LabelledReport> = (0..60).map(|index| sample(index, &[])).collect();
        let task_prompts = TaskPrompts::own().unwrap();
        let mut asked = std::collections::BTreeSet::new();
        for task in [
            InstructTask::Explain,
            InstructTask::Summarise,
            InstructTask::Region,
        ] {
            let all = questions(task, &samples, &prompts(), &task_prompts, 3).unwrap();
            assert_eq!(
                all,
                questions(task, &samples, &prompts(), &task_prompts, 3).unwrap()
            );
            assert_eq!(all.len(), 10);
            for AnswerRequest { sample, messages } in all {
                let number = &sample.dicom[1..];
                assert!(task_prompts.all().any(|prompt| prompt == sample.task));
                assert_eq!(
                    messages,
                    [format!("Report: Report {number}.\n{}", sample.task)]
                );
                let instruction = format!(
                    "S. USER: Report: Report {number}.\n{} ASSISTANT:",
                    sample.task
                );
                assert_eq!(sample.instruction, Some(instruction));
                assert!(asked.insert(sample.dicom));
            }
        }
        assert!(
            questions(
                InstructTask::Presence,
                &samples,
                &prompts(),
                &task_prompts,
                3
            )
            .is_err()
        );
    }

    #[test]
    fn a_correction_names_what_is_to_go_and_what_is_to_come_in() {
        use Finding::{Atelectasis, Edema, Fracture, NoFinding, Pneumonia};
        let predicted = |index: usize, positive: &[Finding]| PredictedReport {
            dicom_id: format!("d{index}"),
            text: format!("ours {index}"),
            labels: positive
                .iter()
                .map(|finding| (*finding, Label::Positive))
                .collect(),
        };
        let samples = [
            sample(0, &[Edema]),
            sample(1, &[Edema]),
            sample(2, &[NoFinding]),
            sample(3, &[Edema]),
        ];
        let reports = [
            predicted(0, &[Fracture, Atelectasis, Pneumonia, NoFinding]),
            predicted(1, &[]),
            predicted(2, &[Edema]),
            predicted(3, &[Edema, NoFinding]),
            predicted(9, &[Edema]),
        ];
        let all = corrections(
            reports,
            &samples,
            &prompts(),
            &TaskPrompts::own().unwrap(),
            1,
        );
        let asked: Vec<&str> = all
            .iter()
            .map(|question| question.messages[2].as_str())
            .collect();
        let first = "Please provide an adapted report. Do not mention Pneumonia, Atelectasis and Fracture. Mention Edema.";
        let second = "Please provide an adapted report. Mention Edema.";
        assert_eq!(
            asked,
            [
                first,
                second,
                "Please provide an adapted report. Do not mention Edema."
            ]
        );
        assert_eq!(
            all[0].messages[..2],
            [WRITE_A_REPORT.to_owned(), "ours 0".to_owned()]
        );
        assert_eq!(all[0].sample.incorrect_report.as_deref(), Some("ours 0"));
        assert!(
            all[0]
                .sample
                .task
                .contains("Pneumonia, Atelectasis and Fracture"),
            "{}",
            all[0].sample.task
        );
        let instruction = all[1].sample.instruction.as_deref().unwrap();
        assert!(
            instruction.contains("ASSISTANT: ours 1</s>USER: Please provide"),
            "{instruction}"
        );
        assert!(instruction.ends_with("ASSISTANT:"), "{instruction}");
    }

    #[test]
    fn an_answer_is_cut_where_the_model_goes_on_by_itself() {
        let written = " It is fine. ASSISTANT: More. ";
        assert_eq!(
            answer(InstructTask::Explain, written, &prompts()),
            " It is fine. "
        );
        assert_eq!(answer(InstructTask::Correct, written, &prompts()), "More.");
    }
}
