//! `prepare tasks`: task files that need no language model, for open data. The summary (SU) is the radiologist's own
//! impression. The correction (CO) is sentence surgery: sentences that state a finding are taken out of a report, or ones of
//! other reports are put in; one form is the wrong report, the other the answer, so that all that is not asked for stays word
//! by word. Which sentence states what is told by the weak rule.

use std::fs;
use std::path::Path;

use radialog_schemas::{Finding, Label};

use crate::error::TrainingError;
use crate::prepare::datasets::tasks::InstructTask;
use crate::prepare::datasets::tasks::TaskSample;
use crate::prepare::datasets::tasks::prompts::TaskPrompts;
use crate::prepare::formats::json_list::{self, NonAscii};
use crate::prepare::tables::report_table::ReportRow;
use crate::prepare::weak_labels::{WeakLabeler, sentences};
use crate::random::Random;

/// Longest impression that is a summary, in characters; longer ones bring new matter.
const LONGEST_SUMMARY: usize = 240;
/// An impression with one of these points elsewhere and is no answer.
const POINTERS: [&str; 6] = [
    "above",
    "see ",
    "discussed",
    "as described",
    "findings section",
    "dr.",
];

/// How many findings are put in at once, drawn from these.
const PUT_IN: [usize; 6] = [1, 1, 1, 1, 2, 3];
/// Sentences that state one finding.
const DONOR_SENTENCES: usize = 6;

/// Task files that are made from reports alone: from which, and how many samples of each.
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
struct ParsedReport<'a> {
    row: &'a ReportRow,
    sentences: Vec<&'a str>,
    said: Vec<Vec<(Finding, Label)>>,
}

impl<'a> ReportTasks<'a> {
    /// Writes `instruct_large_SU.json` and `instruct_large_CO.json` into a folder; returns how many samples each has.
    ///
    /// # Errors
    /// A folder or file that cannot be written, or reports that none of the tasks can be made from.
    pub fn write(&self, folder: &Path) -> Result<[(InstructTask, u64); 2], TrainingError> {
        let summaries = self.summaries();
        let corrections = self.corrections()?;
        if summaries.is_empty() && corrections.is_empty() {
            let reason = "no report has an impression or a sentence that states a finding: there is no task to make";
            return Err(TrainingError::Empty(reason.to_owned()));
        }
        fs::create_dir_all(folder).map_err(TrainingError::io("create", folder))?;
        let write = |task: InstructTask, samples: Vec<TaskSample>| {
            Ok::<_, TrainingError>((
                task,
                json_list::write(&task.file(folder), samples.iter().map(Ok), NonAscii::Kept)?,
            ))
        };
        Ok([
            write(InstructTask::Summarise, summaries)?,
            write(InstructTask::Correct, corrections)?,
        ])
    }

    /// The impression where it is short and speaks for itself.
    fn summaries(&self) -> Vec<TaskSample> {
        let random = &mut Random::stream(self.seed, "summaries");
        let is_answer = |text: &str| {
            let small = text.to_lowercase();
            !text.is_empty()
                && text.len() <= LONGEST_SUMMARY
                && !POINTERS.iter().any(|pointer| small.contains(pointer))
        };
        let rows = self
            .reports
            .iter()
            .filter(|row| !row.findings.is_empty() && is_answer(&row.impression));
        rows.map(|row| {
            let request = self.task_prompts.request(InstructTask::Summarise, random);
            TaskSample::new(
                InstructTask::Summarise,
                (&row.study, &row.findings),
                request,
                row.impression.clone(),
            )
        })
        .collect()
    }

    fn corrections(&self) -> Result<Vec<TaskSample>, TrainingError> {
        let rule = WeakLabeler::own()?;
        let read = |row: &'a ReportRow| {
            let sentences = sentences(&row.findings);
            let said = sentences
                .iter()
                .map(|sentence| rule.sentence_and_contraries(sentence))
                .collect();
            ParsedReport {
                row,
                sentences,
                said,
            }
        };
        let reports: Vec<ParsedReport<'_>> = self.reports.iter().map(read).collect();
        let donors = donors(&reports);
        let random = &mut Random::stream(self.seed, "corrections");
        let is_same = |one: &TaskSample, other: &TaskSample| {
            one.incorrect_report == other.incorrect_report && one.output == other.output
        };
        let mut samples = Vec::new();
        for report in &reports {
            let mut made: Vec<TaskSample> = Vec::new();
            for _ in 0..self.corrections {
                let sample = report.correction(self.task_prompts, &donors, random);
                made.extend(
                    sample.filter(|sample| made.iter().all(|other| !is_same(other, sample))),
                );
            }
            samples.append(&mut made);
        }
        Ok(samples)
    }
}

/// How a report and its correction differ. The report's own statements are those that the labels confirm; others are put in.
#[derive(Clone, Copy)]
enum Edit {
    AddOwn,
    RemoveOwn,
    AddOther,
    RemoveOther,
    /// One of its own is missed, and another is wrong.
    Both,
}

impl Edit {
    const ALL: [Edit; 5] = [
        Edit::AddOwn,
        Edit::RemoveOwn,
        Edit::AddOther,
        Edit::RemoveOther,
        Edit::Both,
    ];
    /// For reports that state nothing.
    const OF_OTHERS: [Edit; 2] = [Edit::AddOther, Edit::RemoveOther];
}

impl<'a> ParsedReport<'a> {
    /// Two forms of the report, and the request that makes one of the other. What comes in comes in at the end: a place
    /// that nothing tells would have to be guessed.
    fn correction(
        &self,
        prompts: &TaskPrompts,
        donors: &[(Finding, &'a str)],
        random: &mut Random,
    ) -> Option<TaskSample> {
        let whole: Vec<usize> = (0..self.sentences.len()).collect();
        let without = self.without_a_finding(random);
        let edit = *random.pick(if without.is_some() {
            &Edit::ALL[..]
        } else {
            &Edit::OF_OTHERS
        });
        let (kept, lost) = without.unwrap_or_else(|| (whole.clone(), Vec::new()));
        let (stay, others, added) = match edit {
            Edit::AddOwn | Edit::RemoveOwn => (Vec::new(), Vec::new(), Vec::new()),
            Edit::AddOther | Edit::RemoveOther => self.put_in(&whole, donors, random)?,
            Edit::Both => self.put_in(&kept, donors, random)?,
        };
        let text = |places: &[usize]| {
            places
                .iter()
                .map(|at| self.sentences[*at])
                .collect::<Vec<_>>()
        };
        let own = text(
            &whole
                .iter()
                .copied()
                .filter(|at| !kept.contains(at))
                .collect::<Vec<_>>(),
        );
        let (whole, kept, stay) = (text(&whole), text(&kept), text(&stay));
        let none = Vec::new();
        let (wrong, right, missed, not_there) = match edit {
            Edit::AddOwn => (kept.clone(), [kept, own].concat(), &lost, &none),
            Edit::RemoveOwn => (whole, kept, &none, &lost),
            Edit::AddOther => (whole, [stay, others].concat(), &added, &none),
            Edit::RemoveOther => ([stay.clone(), others].concat(), stay, &none, &added),
            Edit::Both => (
                [stay.clone(), others].concat(),
                [stay, own].concat(),
                &lost,
                &added,
            ),
        };
        if wrong.is_empty() || right.is_empty() {
            return None;
        }
        let question = prompts.correction(missed, not_there, random)?;
        let report = (self.row.study.as_str(), self.row.findings.as_str());
        let mut sample = TaskSample::new(InstructTask::Correct, report, question, right.join(" "));
        sample.incorrect_report = Some(wrong.join(" "));
        let lacks = if matches!(edit, Edit::AddOwn | Edit::Both) {
            &lost
        } else {
            &none
        };
        let has = if matches!(edit, Edit::RemoveOther | Edit::Both) {
            &added
        } else {
            &none
        };
        sample.incorrect_findings = Some(self.stated(has, lacks));
        Some(sample)
    }

    /// What a form of the report states that has some findings more and lacks others.
    fn stated(&self, more: &[Finding], lost: &[Finding]) -> Vec<Finding> {
        let is_own = |finding: &Finding| self.row.labels[*finding as usize] == Label::Positive;
        let is_stated = |finding: &Finding| {
            more.contains(finding) || is_own(finding) && !lost.contains(finding)
        };
        let mut stated: Vec<Finding> = Finding::ALL.into_iter().filter(is_stated).collect();
        if stated.len() > 1 {
            stated.retain(|finding| *finding != Finding::NoFinding);
        }
        stated
    }

    /// Takes out every sentence that states or thinks possible one finding, which the labels must confirm. Returns the
    /// sentences that stay, and all findings that are stated no more.
    fn without_a_finding(&self, random: &mut Random) -> Option<(Vec<usize>, Vec<Finding>)> {
        let stated = |at: usize, finding: Finding| {
            self.said[at].iter().any(|(of, label)| {
                *of == finding && matches!(label, Label::Positive | Label::Uncertain)
            })
        };
        let all = 0..self.sentences.len();
        let confirmed = |finding: &Finding| {
            self.row.labels[*finding as usize] == Label::Positive
                && all.clone().any(|at| stated(at, *finding))
        };
        let candidates: Vec<Finding> = Finding::ALL.into_iter().filter(confirmed).collect();
        if candidates.is_empty() {
            return None;
        }
        let finding = *random.pick(&candidates);
        let kept: Vec<usize> = all.clone().filter(|at| !stated(*at, finding)).collect();
        let lost = candidates
            .into_iter()
            .filter(|finding| !kept.iter().any(|at| stated(*at, *finding)))
            .collect();
        (!kept.is_empty()).then_some((kept, lost))
    }

    /// Sentences of other reports that state findings which this one does not have; one finding mostly, sometimes two or
    /// three. Returns the sentences that stay (those that deny one of the findings go), the new ones, and the findings.
    fn put_in(
        &self,
        base: &[usize],
        donors: &[(Finding, &'a str)],
        random: &mut Random,
    ) -> Option<(Vec<usize>, Vec<&'a str>, Vec<Finding>)> {
        let fits = |finding: &Finding| {
            !matches!(self.row.labels[*finding as usize], Label::Positive | Label::Uncertain)
                && donors.iter().any(|(of, _)| of == finding)
                // Sentences that deny it go, whatever else they deny; one that states something has to stay.
                && self
                    .said
                    .iter()
                    .filter(|said| said.iter().any(|(of, _)| of == finding))
                    .all(|said| said.iter().all(|(_, label)| *label == Label::Negative))
        };
        let mut fitting: Vec<Finding> = Finding::ALL.into_iter().filter(fits).collect();
        random.shuffle(&mut fitting);
        fitting.truncate(*random.pick(&PUT_IN));
        fitting.sort_unstable();
        if fitting.is_empty() {
            return None;
        }
        let denies = |at: &&usize| self.said[**at].iter().any(|(of, _)| fitting.contains(of));
        let stay = base.iter().filter(|at| !denies(at)).copied().collect();
        let sentence = |finding: &Finding| {
            let sentences: Vec<&str> = donors
                .iter()
                .filter(|(of, _)| of == finding)
                .map(|(_, sentence)| *sentence)
                .collect();
            *random.pick(&sentences)
        };
        Some((stay, fitting.iter().map(sentence).collect(), fitting))
    }
}

/// Sentences that state one finding, which the labels confirm, and say nothing else: sorted, each once, and of a finding
/// the shortest alone. Whoever learns from a hundred ways to say one thing says none of them.
fn donors<'a>(reports: &[ParsedReport<'a>]) -> Vec<(Finding, &'a str)> {
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
    donors.sort_unstable_by_key(|(finding, sentence): &(Finding, &str)| {
        (*finding, sentence.len(), *sentence)
    });
    donors.dedup();
    let of_each = donors.chunk_by(|(one, _), (other, _)| one == other);
    of_each
        .flat_map(|of| of.iter().take(DONOR_SENTENCES))
        .copied()
        .collect()
}

#[cfg(test)]
mod tests;
