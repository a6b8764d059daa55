//! The original's protocols that ask on after a report: corrections from its labels, questions for findings, the view. What to
//! ask follows from labels, and what an answer says from its words; whoever generates is elsewhere.

use radialog_schemas::{Ask, Finding, Label, Labels};

use super::clinical::UncertainAs;

mod paired;
mod scores;
mod stratified;
mod study_cells;
mod study_table;
mod texts;
mod truths;
mod view;

pub use paired::{PairedAnswers, PairedEstimate};
pub use scores::{FindingCounts, FindingScores};
pub use stratified::StratifiedSelection;
pub use study_cells::StudyCells;
pub use study_table::RowPlace;
pub use texts::{AnsweredText, AnsweredTexts, SideEstimates, TextsScores};
pub use truths::{TruthRule, TruthTable};
pub use view::{ViewAnswers, ViewScores, answered_view};

/// The number of findings.
const CLASSES: usize = Finding::ALL.len();

/// What is said of each finding, in the published order.
pub type Said = [bool; CLASSES];
/// What is true of each finding, in the published order; none where it is not known.
pub type Truth = [Option<bool>; CLASSES];

/// What a report says by its labels; in the original, uncertain counts as not there.
pub fn said(labels: &Labels, uncertain: UncertainAs) -> Said {
    Finding::ALL.map(|finding| {
        let label = labels.get(&finding).copied().unwrap_or(Label::Blank);
        uncertain.is_present(label)
    })
}

/// What is true by the labels of a radiologist's report: a finding that it does not mention is not there, as in the original.
pub fn truth(labels: &Labels, uncertain: UncertainAs) -> Truth {
    said(labels, uncertain).map(Some)
}

/// Asks for what the report missed and for what it has wrongly; none where there is nothing to correct. "No Finding" is
/// neither, and of what is not known nothing is asked.
pub fn correction(truth: &Truth, said: &Said) -> Option<Ask> {
    let wanted = |truth_is: bool, said_is: bool| -> Vec<Finding> {
        Finding::ALL
            .into_iter()
            .filter(|finding| *finding != Finding::NoFinding)
            .filter(|finding| {
                let class = *finding as usize;
                truth[class] == Some(truth_is) && said[class] == said_is
            })
            .collect()
    };
    let (add, remove) = (wanted(true, false), wanted(false, true));
    (!add.is_empty() || !remove.is_empty()).then_some(Ask::Correction { add, remove })
}

/// Whether an answer to "Is there any ...?" says yes: it has the letters `yes` somewhere, in any case.
pub fn says_yes(answer: &str) -> bool {
    answer.to_lowercase().contains("yes")
}

/// What yes-or-no answers say: "No Finding" follows from the others, and its own answer does not count.
pub fn from_answers(mut answers: Said) -> Said {
    let mut others = Finding::ALL
        .into_iter()
        .filter(|finding| *finding != Finding::NoFinding);
    let is_any = others.any(|finding| answers[finding as usize]);
    answers[Finding::NoFinding as usize] = !is_any;
    answers
}

/// The findings whose names an answer to "List all the findings" has in lower case. The test program of v1 lowers the answer's
/// case first (`lowered`), that of v2 does not.
pub fn listed(answer: &str, lowered: bool) -> Said {
    let answer = match lowered {
        true => answer.to_lowercase(),
        false => answer.to_owned(),
    };
    Finding::ALL.map(|finding| answer.contains(&finding.name().to_lowercase()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flags(findings: &[Finding]) -> Said {
        Finding::ALL.map(|finding| findings.contains(&finding))
    }

    #[test]
    fn what_is_wrong_goes_what_is_missed_comes_and_no_finding_is_neither() {
        let mut truth = flags(&[Finding::Edema, Finding::NoFinding]).map(Some);
        let said = flags(&[Finding::Fracture, Finding::Pneumonia]);
        truth[Finding::Pneumonia as usize] = None;
        let asked = correction(&truth, &said);
        let expected = Ask::Correction {
            add: vec![Finding::Edema],
            remove: vec![Finding::Fracture],
        };
        assert_eq!(asked, Some(expected));
        let right = flags(&[Finding::Edema]);
        assert_eq!(correction(&right.map(Some), &right), None);
    }

    #[test]
    fn uncertain_labels_are_not_there_unless_told_otherwise() {
        let labels = Labels::from([
            (Finding::Edema, Label::Uncertain),
            (Finding::Fracture, Label::Positive),
        ]);
        let negative = said(&labels, UncertainAs::Negative);
        assert_eq!(negative, flags(&[Finding::Fracture]));
        let positive = said(&labels, UncertainAs::Positive);
        assert_eq!(positive, flags(&[Finding::Edema, Finding::Fracture]));
    }

    #[test]
    fn no_finding_follows_from_the_other_answers() {
        let none = from_answers(flags(&[Finding::NoFinding]));
        assert_eq!(none, flags(&[Finding::NoFinding]));
        let device = [Finding::SupportDevices, Finding::NoFinding];
        assert_eq!(from_answers(flags(&device)), flags(&device[..1]));
        assert!(says_yes("YES, there is.") && says_yes("eyes") && !says_yes("no"));
    }

    #[test]
    fn names_are_found_inside_of_an_answer_and_case_counts_in_v2() {
        let answer = "Cardiomegaly, pleural effusion and no pneumonia";
        let v1 = [
            Finding::Cardiomegaly,
            Finding::PleuralEffusion,
            Finding::Pneumonia,
        ];
        assert_eq!(listed(answer, true), flags(&v1));
        assert_eq!(listed(answer, false), flags(&v1[1..]));
    }
}
