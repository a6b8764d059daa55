//! What is asked and answered after a report: every answer follows from the report as it stands by then, and from its findings.

use radialog_models::prompt::Questions;
use radialog_schemas::{Finding, Region};

use super::report::{Report, capital, joined};
use super::wordings::Wordings;
use crate::prepare::datasets::tasks::InstructTask;
use crate::prepare::datasets::tasks::prompts::TaskPrompts;
use crate::random::Random;

/// What a turn asks, and how often.
const KINDS: [(Kind, f32); 11] = [
    (Kind::Presence, 5.0),
    (Kind::AllFindings, 2.5),
    (Kind::Summary, 2.5),
    (Kind::PlainLanguage, 2.0),
    (Kind::Region, 2.0),
    (Kind::Reasons, 1.5),
    (Kind::Add, 3.0),
    (Kind::Remove, 3.0),
    (Kind::IsNormal, 1.0),
    (Kind::Report, 0.7),
    (Kind::Unanswerable, 2.5),
];
/// Corrections and repeated reports of a conversation, at most: each is as long as the report.
const LONG: usize = 2;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Presence,
    AllFindings,
    Summary,
    PlainLanguage,
    Region,
    Reasons,
    Add,
    Remove,
    IsNormal,
    Report,
    Unanswerable,
}

/// A conversation as it stands.
pub(super) struct Conversation<'a> {
    wordings: &'a Wordings,
    task_prompts: &'a TaskPrompts,
    report: Option<Report>,
    found: Vec<Finding>,
    long: usize,
}

impl<'a> Conversation<'a> {
    /// About an image with these findings.
    pub(super) fn new(
        wordings: &'a Wordings,
        task_prompts: &'a TaskPrompts,
        found: Vec<Finding>,
    ) -> Self {
        Self {
            wordings,
            task_prompts,
            report: None,
            found,
            long: 0,
        }
    }

    /// About its report, too.
    pub(super) fn about(mut self, report: Report) -> Self {
        self.report = Some(report);
        self
    }

    /// A question and its answer.
    pub(super) fn turn(&mut self, random: &mut Random) -> (String, String) {
        let weights = KINDS.map(|(_, weight)| weight);
        loop {
            let (kind, _) = KINDS[random.weighted(&weights)];
            if let Some(turn) = self.of_kind(kind, random) {
                return turn;
            }
        }
    }

    fn of_kind(&mut self, kind: Kind, random: &mut Random) -> Option<(String, String)> {
        let wordings = self.wordings;
        let questions = &wordings.questions;
        let ask = |list: &[String], task: InstructTask, random: &mut Random| match random.below(2) {
            0 => random.pick(list).clone(),
            _ => self.task_prompts.request(task, random),
        };
        Some(match kind {
            Kind::Presence => self.presence(random),
            Kind::AllFindings => {
                let question = ask(&questions.all_findings, InstructTask::AllFindings, random);
                (question, self.list())
            }
            Kind::Summary => {
                let question = ask(&questions.summary, InstructTask::Summarise, random);
                (question, self.summary(random))
            }
            Kind::PlainLanguage => {
                let question = ask(&questions.plain_language, InstructTask::Explain, random);
                (question, self.plain_language())
            }
            Kind::Region => self.region(random),
            Kind::Reasons => self.reasons(random)?,
            Kind::Add | Kind::Remove => self.correction(kind, random)?,
            Kind::IsNormal => self.is_normal(random)?,
            Kind::Report => {
                let text = self.report.as_ref().filter(|_| self.long < LONG)?.text();
                self.long += 1;
                let question = match random.below(2) {
                    0 => Questions::default().report,
                    _ => random.pick(&questions.report).clone(),
                };
                (question, text)
            }
            Kind::Unanswerable => {
                let of = random.pick(&wordings.unanswerable);
                let at = random.below(of.questions.len());
                let answer = of.answers[at % of.answers.len()].clone();
                (of.questions[at].clone(), answer)
            }
        })
    }

    fn presence(&self, random: &mut Random) -> (String, String) {
        let is_there = !self.found.is_empty() && random.below(2) == 0;
        let finding = match is_there {
            true => *random.pick(&self.found),
            false => *random.pick(&Finding::ALL[1..]),
        };
        let words = self.wordings.of(finding);
        let question = match random.below(2) {
            0 => self.task_prompts.presence(finding, random),
            _ => {
                let mut names = [&words.asked[..], &words.there].concat();
                names.push(finding.name().to_lowercase());
                let wording = random.pick(&self.wordings.questions.presence);
                filled(wording, random.pick(&names).as_str())
            }
        };
        let answer = match self.found.contains(&finding) {
            true => format!("Yes, there is {}.", words.there[0]),
            false => format!("No, there is no {}.", words.none[0]),
        };
        (question, answer)
    }

    fn list(&self) -> String {
        let names: Vec<String> = match self.found.is_empty() {
            true => vec![Finding::NoFinding.name().to_lowercase()],
            false => self
                .found
                .iter()
                .map(|finding| finding.name().to_lowercase())
                .collect(),
        };
        names.join(", ")
    }

    /// `a, b and c`, as stands behind "There is".
    fn enumeration(&self, findings: &[Finding]) -> String {
        let words: Vec<&str> = findings
            .iter()
            .map(|finding| self.wordings.of(*finding).there[0].as_str())
            .collect();
        joined(&words, "and")
    }

    fn summary(&self, random: &mut Random) -> String {
        match self.found.is_empty() {
            true => random.pick(&self.wordings.nothing.summaries[..2]).clone(),
            false => format!("{}.", capital(&self.enumeration(&self.found))),
        }
    }

    fn plain_language(&self) -> String {
        if self.found.is_empty() {
            return self.wordings.nothing.patient[0].clone();
        }
        let sentences: Vec<&str> = self
            .found
            .iter()
            .map(|finding| self.wordings.of(*finding).patient[0].as_str())
            .collect();
        sentences.join(" ")
    }

    fn region(&self, random: &mut Random) -> (String, String) {
        let regions = [
            (Region::Heart, "heart"),
            (Region::Lungs, "lungs"),
            (Region::Bones, "bones"),
            (Region::Mediastinum, "mediastinum"),
        ];
        let (region, name) = *random.pick(&regions);
        let there: Vec<Finding> = self
            .found
            .iter()
            .copied()
            .filter(|finding| self.wordings.of(*finding).region.is_of(region))
            .collect();
        let nothing = &self.wordings.nothing.region;
        let what = self.enumeration(&there);
        let questions = &self.wordings.questions;
        if random.below(3) == 0 {
            let question = random.pick(&questions.region_open);
            let answer = match there.is_empty() {
                true => capital(nothing),
                false => format!("There is {what}."),
            };
            return (question.replace("{region}", name), answer);
        }
        let question = match random.below(2) {
            0 => Questions::default().region(region),
            _ => random.pick(&questions.region).replace("{region}", name),
        };
        let answer = match there.is_empty() {
            true => format!("No, {nothing}"),
            false => format!("Yes, there is {what}."),
        };
        (question, answer)
    }

    fn reasons(&self, random: &mut Random) -> Option<(String, String)> {
        let report = self.report.as_ref()?;
        let count = 1 + random.below(2).min(self.found.len().saturating_sub(1));
        let mut asked = self.found.clone();
        random.shuffle(&mut asked);
        asked.truncate(count);
        if asked.is_empty() || random.below(6) == 0 {
            asked = vec![*random.pick(&Finding::ALL[1..])];
        }
        asked.sort_unstable();
        let words = self.wordings.of(asked[0]);
        let question = match asked.len() == 1 && random.below(2) == 0 {
            true => {
                let wording = random.pick(&self.wordings.questions.reasons);
                filled(wording, random.pick(&words.there).as_str())
            }
            false => self.task_prompts.reasons(&asked, random),
        };
        let answer = match self.found.contains(&asked[0]) {
            true => report.stating(&asked),
            false => format!("The report does not describe {}.", words.there[0]),
        };
        Some((question, answer))
    }

    fn correction(&mut self, kind: Kind, random: &mut Random) -> Option<(String, String)> {
        let report = self.report.as_ref().filter(|_| self.long < LONG)?;
        let absent: Vec<Finding> = Finding::ALL[1..]
            .iter()
            .copied()
            .filter(|finding| !self.found.contains(finding))
            .collect();
        let (mut add, mut remove) = (Vec::new(), Vec::new());
        if kind == Kind::Add {
            add.push(*random.pick(&absent));
            if random.below(6) == 0 {
                add.push(*random.pick(&absent));
            }
        }
        if kind == Kind::Remove || random.below(6) == 0 {
            if self.found.is_empty() {
                return None;
            }
            remove.push(*random.pick(&self.found));
        }
        add.sort_unstable();
        add.dedup();
        let mut corrected = report.clone();
        for finding in &remove {
            corrected = corrected.without(*finding, self.wordings)?;
        }
        for finding in &add {
            corrected = corrected.with(*finding, self.wordings)?;
        }
        let questions = &self.wordings.questions;
        let own = |list: &[String], finding: Finding, random: &mut Random| {
            let words = self.wordings.of(finding);
            let names = [words.none[0].clone(), finding.name().to_lowercase()];
            filled(random.pick(list).as_str(), random.pick(&names).as_str())
        };
        let question = match (add.as_slice(), remove.as_slice()) {
            ([finding], []) if random.below(3) == 0 => own(&questions.add, *finding, random),
            ([], [finding]) if random.below(3) == 0 => own(&questions.remove, *finding, random),
            _ => self.task_prompts.correction(&add, &remove, random)?,
        };
        self.found.retain(|finding| !remove.contains(finding));
        self.found.extend(add);
        self.found.sort_unstable();
        self.long += 1;
        let text = corrected.text();
        self.report = Some(corrected);
        Some((question, text))
    }

    fn is_normal(&self, random: &mut Random) -> Option<(String, String)> {
        // A device is no disease, and not normal either.
        if self.found == [Finding::SupportDevices] {
            return None;
        }
        let questions = &self.wordings.questions;
        let asks_for_normal = random.below(2) == 0;
        let (list, yes) = match asks_for_normal {
            true => (&questions.is_normal, self.found.is_empty()),
            false => (&questions.is_abnormal, !self.found.is_empty()),
        };
        let begin = if yes { "Yes" } else { "No" };
        let answer = match self.found.is_empty() {
            true => format!("{begin}, {}", self.wordings.nothing.all),
            false => format!("{begin}, there is {}.", self.enumeration(&self.found)),
        };
        Some((random.pick(list).clone(), answer))
    }
}

/// A question with what it asks for.
fn filled(wording: &str, what: &str) -> String {
    match wording.starts_with("{finding}") {
        true => wording.replace("{finding}", &capital(what)),
        false => wording.replace("{finding}", what),
    }
}
