//! `prepare tasks`: task files that need no language model, for open data. The summary (SU) is the radiologist's own
//! impression. The correction (CO) is sentence surgery: sentences that state a finding are taken out of a report, or one of
//! another report is put in, and the right report is the answer. Which sentence states what is told by the weak rule.

use std::fs;
use std::path::Path;

use radialog_schemas::{Finding, Label};

use super::instruct::TaskSample;
use super::json_list::{self, Characters};
use super::mimic_nle::enumerate;
use super::report_table::ReportRow;
use super::task_prompts::{Task, TaskPrompts};
use super::weak_labels::{WeakRule, sentences};
use crate::error::TrainingError;
use crate::random::Random;

/// Longest impression that is a summary, in characters; longer ones bring new matter.
const LONGEST_SUMMARY: usize = 240;
/// An impression with one of these points elsewhere and is no answer.
const POINTERS: [&str; 6] = ["above", "see ", "discussed", "as described", "findings section", "dr."];

/// What to make.
#[derive(Clone, Debug)]
pub struct ReportTasks<'a> {
    /// Reports of one side.
    pub reports: &'a [ReportRow],
    /// Wording of the tasks.
    pub task_prompts: &'a TaskPrompts,
    /// Most corrections a report.
    pub corrections: usize,
    /// Decides all that is drawn.
    pub seed: u64,
}

/// A report as sentences, and what each states, thinks possible or denies.
struct Read<'a> {
    row: &'a ReportRow,
    sentences: Vec<&'a str>,
    said: Vec<Vec<(Finding, Label)>>,
}

impl<'a> ReportTasks<'a> {
    /// Writes `instruct_large_SU.json` and `instruct_large_CO.json` into a folder; returns how many samples each has.
    ///
    /// # Errors
    /// A folder or file that cannot be written, or reports that none of the tasks can be made from.
    pub fn write(&self, folder: &Path) -> Result<[(Task, u64); 2], TrainingError> {
        let summaries = self.summaries();
        let corrections = self.corrections()?;
        if summaries.is_empty() && corrections.is_empty() {
            let reason = "no report has an impression or a sentence that states a finding: there is no task to make";
            return Err(TrainingError::Empty(reason.to_owned()));
        }
        fs::create_dir_all(folder).map_err(TrainingError::io("create", folder))?;
        let write = |task: Task, samples: Vec<TaskSample>| {
            Ok::<_, TrainingError>((
                task,
                json_list::write(&task.file(folder), samples.iter().map(Ok), Characters::Kept)?,
            ))
        };
        Ok([write(Task::Summarise, summaries)?, write(Task::Correct, corrections)?])
    }

    /// The impression where it is short and speaks for itself.
    fn summaries(&self) -> Vec<TaskSample> {
        let random = &mut Random::stream(self.seed, "summaries");
        let prompts = self.task_prompts.list(Task::Summarise.name());
        let is_answer = |text: &str| {
            let small = text.to_lowercase();
            !text.is_empty() && text.len() <= LONGEST_SUMMARY && !POINTERS.iter().any(|pointer| small.contains(pointer))
        };
        let rows = self.reports.iter().filter(|row| !row.findings.is_empty() && is_answer(&row.impression));
        rows.map(|row| sample(Task::Summarise, row, random.pick(prompts).clone(), row.impression.clone())).collect()
    }

    fn corrections(&self) -> Result<Vec<TaskSample>, TrainingError> {
        let rule = WeakRule::own()?;
        let read = |row: &'a ReportRow| {
            let sentences = sentences(&row.findings);
            let said = sentences.iter().map(|sentence| rule.sentence_and_contraries(sentence)).collect();
            Read { row, sentences, said }
        };
        let reports: Vec<Read<'_>> = self.reports.iter().map(read).collect();
        let donors = donors(&reports);
        let random = &mut Random::stream(self.seed, "corrections");
        let mut samples = Vec::new();
        for report in &reports {
            let mut made: Vec<TaskSample> = Vec::new();
            for _ in 0..self.corrections {
                let sample = report.correction(self.task_prompts, &donors, random);
                made.extend(
                    sample.filter(|sample| made.iter().all(|other| other.incorrect_report != sample.incorrect_report)),
                );
            }
            samples.append(&mut made);
        }
        Ok(samples)
    }
}

impl Read<'_> {
    /// One wrong form of the report, and the request that puts it right.
    fn correction(&self, prompts: &TaskPrompts, donors: &[(Finding, &str)], random: &mut Random) -> Option<TaskSample> {
        let kind = random.below(3);
        let removed = if kind == 1 { None } else { self.without_a_finding(random) };
        let (kept, lost) = removed.unwrap_or_else(|| ((0..self.sentences.len()).collect(), Vec::new()));
        let mut wrong: Vec<&str> = kept.iter().map(|at| self.sentences[*at]).collect();
        let added = if kind == 0 { None } else { self.put_in(&kept, donors, &mut wrong, random) };
        let (list, add, rem) = match (lost.is_empty(), added) {
            (false, Some(added)) => ("CO_both", lost, vec![added]),
            (false, None) => ("CO_add", lost, Vec::new()),
            (true, Some(added)) => ("CO_rem", Vec::new(), vec![added]),
            (true, None) => return None,
        };
        if wrong.is_empty() {
            return None;
        }
        let names =
            |findings: &[Finding]| enumerate(&findings.iter().map(|finding| finding.name()).collect::<Vec<_>>());
        let question = random.pick(prompts.list(list)).replace("<add>", &names(&add)).replace("<rem>", &names(&rem));
        let mut sample = sample(Task::Correct, self.row, question, self.row.findings.clone());
        sample.incorrect_report = Some(wrong.join(" "));
        Some(sample)
    }

    /// Takes out every sentence that states or thinks possible one finding, which the labels must confirm. Returns the
    /// sentences that stay, and all findings that are stated no more.
    fn without_a_finding(&self, random: &mut Random) -> Option<(Vec<usize>, Vec<Finding>)> {
        let stated = |at: usize, finding: Finding| {
            self.said[at]
                .iter()
                .any(|(of, label)| *of == finding && matches!(label, Label::Positive | Label::Uncertain))
        };
        let all = 0..self.sentences.len();
        let confirmed = |finding: &Finding| {
            self.row.labels[*finding as usize] == Label::Positive && all.clone().any(|at| stated(at, *finding))
        };
        let candidates: Vec<Finding> = Finding::ALL.into_iter().filter(confirmed).collect();
        if candidates.is_empty() {
            return None;
        }
        let finding = *random.pick(&candidates);
        let kept: Vec<usize> = all.clone().filter(|at| !stated(*at, finding)).collect();
        let lost = candidates.into_iter().filter(|finding| !kept.iter().any(|at| stated(*at, *finding))).collect();
        (!kept.is_empty()).then_some((kept, lost))
    }

    /// Puts in a sentence of another report that states a finding which this one does not have. Sentences that deny it go,
    /// and where one of them denies something else too, another finding is taken.
    fn put_in<'a>(
        &self,
        kept: &[usize],
        donors: &[(Finding, &'a str)],
        wrong: &mut Vec<&'a str>,
        random: &mut Random,
    ) -> Option<Finding>
    where
        Self: 'a,
    {
        let fits = |finding: Finding| {
            let blank = !matches!(self.row.labels[finding as usize], Label::Positive | Label::Uncertain);
            let alone = self
                .said
                .iter()
                .filter(|said| said.iter().any(|(of, _)| *of == finding))
                .all(|said| said.len() == 1 && said[0].1 == Label::Negative);
            blank && alone
        };
        let findings: Vec<Finding> = Finding::ALL
            .into_iter()
            .filter(|finding| fits(*finding) && donors.iter().any(|(of, _)| of == finding))
            .collect();
        if findings.is_empty() {
            return None;
        }
        let finding = *random.pick(&findings);
        let sentences: Vec<&str> =
            donors.iter().filter(|(of, _)| *of == finding).map(|(_, sentence)| *sentence).collect();
        let denies = |at: &usize| self.said[*at].iter().any(|(of, _)| *of == finding);
        let stay: Vec<bool> = kept.iter().map(|at| !denies(at)).collect();
        let mut stays = stay.into_iter();
        wrong.retain(|_| stays.next().unwrap_or(true));
        let at = random.below(wrong.len() + 1);
        wrong.insert(at, *random.pick(sentences.as_slice()));
        Some(finding)
    }
}

/// Sentences that state one finding, which the labels confirm, and say nothing else: sorted, each once.
fn donors<'a>(reports: &[Read<'a>]) -> Vec<(Finding, &'a str)> {
    let mut donors = Vec::new();
    for report in reports {
        for (sentence, said) in report.sentences.iter().zip(&report.said) {
            if let [(finding, Label::Positive)] = said.as_slice()
                && report.row.labels[*finding as usize] == Label::Positive
            {
                donors.push((*finding, *sentence));
            }
        }
    }
    donors.sort_unstable();
    donors.dedup();
    donors
}

fn sample(task: Task, row: &ReportRow, question: String, answer: String) -> TaskSample {
    TaskSample {
        gt_report: row.findings.clone(),
        incorrect_report: None,
        task: question,
        instruction: None,
        input: String::new(),
        output: answer,
        dicom: row.study.clone(),
        task_type: task.name().to_owned(),
    }
}

#[cfg(test)]
mod tests;
