//! Composed conversations: reports and answers made of lists of wordings, from findings that are drawn, so that each text says
//! exactly the findings of its request. Reports that people wrote go in where they, too, say these and nothing else. A small model
//! that learns from radiologists' reports alone writes fluent sentences and loses findings: what they say of a label differs from
//! one to the next.

use std::path::Path;

use radialog_models::findings::TextRule;
use radialog_models::prompt::{Prompt, Prompts};
use radialog_schemas::{Ask, Finding};

use self::conversation::Conversation;
use self::report::{Report, Writer};
pub(crate) use self::wordings::Wordings;
use crate::error::TrainingError;
use crate::prepare::datasets::dialogs::DialogSample;
use crate::prepare::datasets::labelled_reports::LabelledReport;
use crate::prepare::datasets::tasks::prompts::TaskPrompts;
use crate::prepare::formats::json_list::{self, NonAscii};
use crate::prepare::tables::finding_labels::positives;
use crate::prepare::weak_labels::WeakLabeler;
use crate::random::Random;

mod conversation;
mod report;
mod wordings;

/// Share of the requests whose findings are those of the row's labels, and of those that differ from them by one or two. The
/// others are drawn, so that every finding is met in every company.
const AS_LABELLED: f64 = 0.3;
const NEARLY: f64 = 0.15;
/// How many findings are drawn, by weight.
const DRAWN: [f32; 8] = [1.0, 4.0, 4.0, 4.0, 3.0, 2.0, 1.0, 0.5];
/// Share of the requests that a person's report answers, of those that one could.
const BY_PEOPLE: f64 = 0.5;
/// Share of the conversations that begin with a question and not with a report.
const WITHOUT_REPORT: f64 = 0.12;
/// The least and the largest number of turns behind a report.
const TURNS: [usize; 2] = [3, 6];

/// The data set of composed conversations: from what and how it is made.
#[derive(Clone, Debug)]
pub struct ComposedDataset<'a> {
    /// Rows of the common table: their images, labels and reports.
    pub samples: &'a [LabelledReport],
    /// Prompts of the model.
    pub prompts: &'a Prompts,
    /// Wording of the tasks, beside the lists' own.
    pub task_prompts: &'a TaskPrompts,
    /// The number of conversations of a row.
    pub times: usize,
    /// Decides all that is drawn.
    pub seed: u64,
}

/// The counts of a data set that was written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ComposedSummary {
    /// Conversations.
    pub conversations: u64,
    /// The number of them whose report a person wrote.
    pub by_people: u64,
    /// Rows whose report says its labels and nothing else, as far as word lists tell.
    pub usable: u64,
}

impl ComposedDataset<'_> {
    /// Writes the conversations. The same seed gives the same bytes.
    ///
    /// # Errors
    /// No rows, or an output that cannot be written.
    pub fn run(&self, output: &Path) -> Result<ComposedSummary, TrainingError> {
        if self.samples.is_empty() || self.times == 0 {
            let reason = "no conversation to compose: give rows, and --times of 1 or more";
            return Err(TrainingError::Empty(reason.to_owned()));
        }
        let wordings = Wordings::own()?;
        let labeler = WeakLabeler::own()?;
        let people: Vec<Option<Report>> = self
            .samples
            .iter()
            .map(|sample| Report::of_person(sample, &wordings, &labeler))
            .collect();
        let mut summary = ComposedSummary {
            usable: people.iter().flatten().count() as u64,
            ..ComposedSummary::default()
        };
        let mut random = Random::stream(self.seed, "composed");
        let mut made = Vec::new();
        for _ in 0..self.times {
            for (sample, person) in self.samples.iter().zip(&people) {
                let labelled = stated(sample);
                let found = drawn(&labelled, &mut random);
                let person = person
                    .as_ref()
                    .filter(|_| found == labelled && random.unit() < BY_PEOPLE);
                summary.by_people += u64::from(person.is_some());
                made.push(self.conversation(sample, found, person, &wordings, &mut random));
            }
        }
        random.shuffle(&mut made);
        summary.conversations = json_list::write(output, made.into_iter().map(Ok), NonAscii::Kept)?;
        Ok(summary)
    }

    fn conversation<'s>(
        &self,
        sample: &'s LabelledReport,
        found: Vec<Finding>,
        person: Option<&Report>,
        wordings: &Wordings,
        random: &mut Random,
    ) -> DialogSample<'s> {
        let request = request(&found, random);
        let report = match person {
            Some(report) => report.clone(),
            None => Writer::new(wordings, &found).report(random),
        };
        let begins_with_report = random.unit() >= WITHOUT_REPORT;
        let mut messages = Vec::new();
        let mut conversation = Conversation::new(wordings, self.task_prompts, found);
        if begins_with_report {
            messages.push(self.prompts.report_message(&request));
            messages.push(Prompt::text(&report.text()));
            conversation = conversation.about(report);
        }
        let turns = TURNS[0] + random.below(TURNS[1] - TURNS[0] + 1);
        for _ in 0..turns {
            let (question, answer) = conversation.turn(random);
            let brought = messages.is_empty().then_some(request.as_str());
            let question = Ask::Question { text: question };
            // A question without anything to ask does not occur.
            let question = self.prompts.message(&question, brought).unwrap_or_default();
            messages.extend([question, Prompt::text(&answer)]);
        }
        let answers = messages.len() / 2;
        let output = messages.pop().map(|last| last.to_string());
        messages.push(Prompt::default());
        DialogSample {
            instruction: self.prompts.written(&self.prompts.conversation(&messages)),
            input: "",
            output: output.unwrap_or_default(),
            dicom: &sample.dicom_id,
            task_type: "dialog",
            answers,
            patient: sample.patient.as_deref(),
        }
    }
}

/// The positives but for "No Finding".
fn stated(sample: &LabelledReport) -> Vec<Finding> {
    let mut found = positives(&sample.labels);
    found.retain(|finding| *finding != Finding::NoFinding);
    found
}

/// The findings of a request, in the published order.
fn drawn(labelled: &[Finding], random: &mut Random) -> Vec<Finding> {
    let mut all = Finding::ALL[1..].to_vec();
    let kind = random.unit();
    let mut found = match kind {
        _ if kind < AS_LABELLED + NEARLY => labelled.to_vec(),
        _ => {
            random.shuffle(&mut all);
            all[..random.weighted(&DRAWN)].to_vec()
        }
    };
    if (AS_LABELLED..AS_LABELLED + NEARLY).contains(&kind) {
        for _ in 0..=random.below(2) {
            let other = *random.pick(&all);
            match found.iter().position(|finding| *finding == other) {
                Some(at) => drop(found.remove(at)),
                None => found.push(other),
            }
        }
    }
    found.sort_unstable();
    found
}

/// Findings as a request names them: where there are none, a classifier says so or says nothing.
fn request(found: &[Finding], random: &mut Random) -> String {
    let is_clear = found
        .iter()
        .all(|finding| *finding == Finding::SupportDevices);
    let mut present = found.to_vec();
    if is_clear && random.below(2) == 0 {
        present.insert(0, Finding::NoFinding);
    }
    TextRule::TestProgram.text(&present)
}

#[cfg(test)]
mod tests;
