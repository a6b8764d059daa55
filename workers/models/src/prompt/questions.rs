//! Questions about a report that the model has just written: corrections and findings, as the original's test program
//! asks them.

use radialog_schemas::Finding;
use serde::{Deserialize, Serialize};

use super::Prompts;

/// Marks the findings that a report has missed.
const MISSED_SLOT: &str = "{missed}";
/// Marks the findings that a report has wrongly.
const WRONG_SLOT: &str = "{wrong}";
/// Marks the finding that a question is about.
const FINDING_SLOT: &str = "{finding}";

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
    /// Which findings are there.
    pub all_findings: String,
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
        Some(template.replace(MISSED_SLOT, &missed).replace(WRONG_SLOT, &wrong))
    }

    /// Asks whether one finding is there.
    pub fn presence(&self, finding: Finding) -> String {
        self.presence.replace(FINDING_SLOT, finding.name())
    }
}

impl Prompts {
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
    let names: Vec<_> =
        findings.iter().filter(|&&finding| finding != Finding::NoFinding).map(|finding| finding.name()).collect();
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
            questions.correction(&missed, &[Finding::LungLesion]).as_deref(),
            Some(
                "Please adapt the report with the following corrections: Include edema, fracture and pleural other and \
                 remove lung lesion. Don't make other changes."
            )
        );
        assert_eq!(questions.correction(&[Finding::NoFinding], &[]), None);
    }

    #[test]
    fn an_earlier_answer_gets_its_blank_when_the_conversation_goes_on() {
        assert_eq!(
            Prompts::default().follow_up("S USER: a ASSISTANT:b", "c?", 1),
            "S USER: a ASSISTANT: b</s>USER: c? ASSISTANT:"
        );
    }
}
