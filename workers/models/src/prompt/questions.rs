//! Questions about a report that the model has just written. Corrections and findings are asked as in the original's test
//! program. The others were trained in many wordings, of which none is published as the right one; here is one of our own
//! for each.

use radialog_schemas::{Ask, Finding, Region};
use serde::{Deserialize, Serialize};

use super::{FINDINGS_SLOT, Prompt, Prompts};

/// Marks the findings that a report has missed.
const MISSED_SLOT: &str = "{missed}";
/// Marks the findings that a report has wrongly.
const WRONG_SLOT: &str = "{wrong}";
/// Marks the finding that a question is about.
const FINDING_SLOT: &str = "{finding}";
/// Marks the region that a question is about.
const REGION_SLOT: &str = "{region}";

/// The wording of the questions.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Questions {
    /// Some findings are missed, others are wrong: `{missed}`, `{wrong}`.
    pub correct_both: String,
    /// Findings are wrong: `{wrong}`.
    pub correct_wrong: String,
    /// Findings are missed: `{missed}`.
    pub correct_missed: String,
    /// Whether one finding is there: `{finding}`. The published wording starts with a blank.
    pub presence: String,
    /// The question which findings are there.
    pub all_findings: String,
    /// A report once more, later in the conversation.
    pub report: String,
    /// A summary.
    pub summary: String,
    /// The report for a patient.
    pub plain_language: String,
    /// The question how one region is: `{region}`.
    pub region: String,
    /// The question which parts of the report support findings: `{findings}`.
    pub reasons: String,
}

impl Default for Questions {
    fn default() -> Self {
        Self {
            correct_both:
                "Please adapt the report with the following corrections: Include {missed} and remove {wrong}. \
                           Don't make other changes."
                    .into(),
            correct_wrong: "The patient does not have {wrong}. Update the report. Don't make other changes.".into(),
            correct_missed: "The patient also has {missed}, correct the report. Don't make other changes.".into(),
            presence: " Is there any {finding}?".into(),
            all_findings: "List all the findings in this report.".into(),
            report:
                "You are to act as a radiologist and write the finding section of a chest x-ray radiology report for \
                     this X-ray image and the given predicted findings. Write in the style of a radiologist, write one \
                     fluent text without enumeration, be concise and don't provide explanations or reasons."
                    .into(),
            summary: "Summarize this report in one or two sentences.".into(),
            plain_language:
                "Explain this report in plain language that a patient without medical knowledge understands.".into(),
            region: "Is there anything abnormal about the {region} according to this report?".into(),
            reasons: "Which parts of this report support that the patient has {findings}?".into(),
        }
    }
}

impl Questions {
    /// Asks to add what a report missed and to remove what it has wrongly. "No Finding" is neither. None where there is
    /// nothing to correct.
    pub fn correction(&self, missed: &[Finding], wrong: &[Finding]) -> Option<String> {
        let (missed, wrong) = (list(missed), list(wrong));
        let template = match (missed.is_empty(), wrong.is_empty()) {
            (true, true) => return None,
            (false, false) => &self.correct_both,
            (true, false) => &self.correct_wrong,
            (false, true) => &self.correct_missed,
        };
        Some(
            template
                .replace(MISSED_SLOT, &missed)
                .replace(WRONG_SLOT, &wrong),
        )
    }

    /// The question how one region is.
    pub fn region(&self, region: Region) -> String {
        let name = match region {
            Region::Heart => "heart",
            Region::Lungs => "lungs",
            Region::Bones => "bones",
            Region::Mediastinum => "mediastinum",
        };
        self.region.replace(REGION_SLOT, name)
    }

    /// Asks what speaks for findings. None where there is nothing to explain.
    pub fn reasons(&self, findings: &[Finding]) -> Option<String> {
        let findings = list(findings);
        (!findings.is_empty()).then(|| self.reasons.replace(FINDINGS_SLOT, &findings))
    }

    /// Asks whether one finding is there.
    pub fn presence(&self, finding: Finding) -> String {
        self.presence.replace(FINDING_SLOT, finding.name())
    }
}

impl Prompts {
    /// The user's message that asks this. The first message of a conversation with an image brings the image, with its
    /// `findings`. None where there is nothing to ask: a correction of nothing, reasons for nothing, a task that the model was
    /// not trained for.
    pub fn message(&self, ask: &Ask, findings: Option<&str>) -> Option<Prompt> {
        let questions = &self.questions;
        let question = match (ask, findings) {
            (Ask::Report, Some(findings)) => return Some(self.report_message(findings)),
            (Ask::Report, None) => Prompt::text(&questions.report),
            (Ask::View, Some(_)) => return self.view_message(true),
            (Ask::View, None) => self.view_message(false)?,
            (Ask::Impression, _) => Prompt::text(self.impression.as_deref()?),
            (Ask::Question { text }, _) => self.untrusted(text),
            (Ask::Correction { add, remove }, _) => {
                Prompt::text(&questions.correction(add, remove)?)
            }
            (Ask::AllFindings, _) => Prompt::text(&questions.all_findings),
            (Ask::Presence { finding }, _) => Prompt::text(&questions.presence(*finding)),
            (Ask::Summary, _) => Prompt::text(&questions.summary),
            (Ask::PlainLanguage, _) => Prompt::text(&questions.plain_language),
            (Ask::Region { region }, _) => Prompt::text(&questions.region(*region)),
            (Ask::Reasons { findings }, _) => Prompt::text(&questions.reasons(findings)?),
        };
        let mut message = findings
            .map(|findings| self.fill(&self.image, findings))
            .unwrap_or_default();
        message.push(&question);
        Some(message)
    }

    /// A written conversation continued by a question. In training a blank separates an earlier answer from its role, so
    /// `blanks` are put there: 1, except to repeat the original's yes-or-no questions, of which the k-th has k.
    pub fn follow_up(&self, history: &str, question: &str, blanks: usize) -> String {
        let [user, assistant] = &self.roles;
        let open = format!("{assistant}:");
        let history = history.replace(&open, &format!("{open}{}", " ".repeat(blanks)));
        format!("{history}</s>{user}: {question} {open}")
    }
}

/// `a, b and c` in lower case.
fn list(findings: &[Finding]) -> String {
    let names: Vec<_> = findings
        .iter()
        .filter(|&&finding| finding != Finding::NoFinding)
        .map(|finding| finding.name())
        .collect();
    match names.as_slice() {
        [] => String::new(),
        [name] => name.to_lowercase(),
        [first @ .., last] => format!("{} and {last}", first.join(", ")).to_lowercase(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_correction_names_what_to_add_and_what_to_remove() {
        let questions = Questions::default();
        let missed = [Finding::Edema, Finding::Fracture, Finding::PleuralOther];
        assert_eq!(
            questions
                .correction(&missed, &[Finding::LungLesion])
                .as_deref(),
            Some(
                "Please adapt the report with the following corrections: Include edema, fracture and pleural other and \
                 remove lung lesion. Don't make other changes."
            )
        );
        assert_eq!(questions.correction(&[Finding::NoFinding], &[]), None);
    }

    #[test]
    fn every_task_has_its_words_and_the_first_message_brings_the_image() {
        let prompts = Prompts::default();
        let say = |ask: Ask, findings: Option<&str>| {
            prompts
                .message(&ask, findings)
                .map(|message| message.readable())
        };
        let question = |text: &str| Ask::Question { text: text.into() };
        let bring = "Image information: <IMG>. Predicted Findings: edema. ";
        for (ask, words) in [
            (question("Sure?"), "Sure?"),
            (Ask::AllFindings, "List all the findings in this report."),
            (
                Ask::Presence {
                    finding: Finding::LungOpacity,
                },
                " Is there any Lung Opacity?",
            ),
            (
                Ask::Correction {
                    add: vec![Finding::Edema],
                    remove: vec![],
                },
                "The patient also has edema, correct the report. Don't make other changes.",
            ),
            (
                Ask::Summary,
                "Summarize this report in one or two sentences.",
            ),
            (
                Ask::Region {
                    region: Region::Heart,
                },
                "Is there anything abnormal about the heart according to this report?",
            ),
            (
                Ask::Reasons {
                    findings: vec![Finding::Edema, Finding::Pneumonia],
                },
                "Which parts of this report support that the patient has edema and pneumonia?",
            ),
        ] {
            assert_eq!(say(ask.clone(), None).as_deref(), Some(words));
            assert_eq!(say(ask, Some("edema")), Some(format!("{bring}{words}")));
        }
        let first = say(Ask::Report, Some("edema")).unwrap();
        assert_eq!(first, prompts.report_message("edema").readable());
        assert_eq!(
            say(Ask::Report, None),
            first.strip_prefix(bring).map(str::to_owned)
        );
        assert_eq!(say(Ask::Reasons { findings: vec![] }, None), None);
        assert_eq!(
            say(
                Ask::Correction {
                    add: vec![],
                    remove: vec![Finding::NoFinding]
                },
                None
            ),
            None
        );
    }

    #[test]
    fn an_earlier_answer_gets_its_blank_when_the_conversation_goes_on() {
        assert_eq!(
            Prompts::default().follow_up("S USER: a ASSISTANT:b", "c?", 1),
            "S USER: a ASSISTANT: b</s>USER: c? ASSISTANT:"
        );
    }
}
