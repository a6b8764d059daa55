//! Ten conversations about given findings: what is asked after the report, and how a right answer reads.

use radialog_schemas::{Ask, Finding, Region};
use radialog_training::evaluation::word_rules::{invented, stated};

use Finding::{
    Atelectasis, Cardiomegaly, Consolidation, Edema, Fracture, LungLesion, LungOpacity,
    PleuralEffusion, Pneumonia, Pneumothorax, SupportDevices,
};

/// Turns behind the report.
pub(super) const TURNS: usize = 5;

/// A conversation about a report of these findings.
pub(super) struct ScriptedDialog {
    pub(super) findings: &'static [Finding],
    pub(super) turns: [ScriptedTurn; TURNS],
}

/// A question and what answers it.
pub(super) struct ScriptedTurn {
    pub(super) ask: fn() -> Ask,
    pub(super) expected: Expected,
}

/// How a right answer reads.
pub(super) enum Expected {
    Yes,
    No,
    /// The names of these findings and no other; "no finding" for none.
    Names(&'static [Finding]),
    /// A summary of these findings, shorter than the report.
    Summary(&'static [Finding]),
    /// Words of everyday for each of these: one word of each row.
    Plain(&'static [&'static [&'static str]]),
    /// A report that states these findings and no other.
    Report(&'static [Finding]),
    /// A part of the report, word by word, that states this.
    Quote(Finding),
    /// That this cannot be said.
    Unknown,
}

impl Expected {
    /// Whether an answer is right, after this report.
    pub(super) fn is_met(&self, answer: &str, report: &str) -> bool {
        let answer = answer.trim();
        let small = answer.to_lowercase();
        let count = |text: &str| text.split_whitespace().count();
        match self {
            Expected::Yes => small.starts_with("yes"),
            Expected::No => small.starts_with("no,") || small.starts_with("no."),
            Expected::Names(findings) => {
                let named = |finding: &Finding| small.contains(&finding.name().to_lowercase());
                match findings.is_empty() {
                    true => small == "no finding",
                    false => Finding::ALL
                        .iter()
                        .all(|f| findings.contains(f) == named(f)),
                }
            }
            Expected::Summary(findings) => {
                stated(answer) == *findings && (1..count(report)).contains(&count(answer))
            }
            Expected::Plain(rows) => {
                let has = |row: &&[&str]| row.iter().any(|word| small.contains(*word));
                rows.iter().all(has) && invented(answer).is_empty()
            }
            Expected::Report(findings) => {
                stated(answer) == *findings && invented(answer).is_empty()
            }
            Expected::Quote(finding) => report.contains(answer) && stated(answer).contains(finding),
            Expected::Unknown => [
                "cannot be told",
                "does not show",
                "no earlier",
                "without an earlier",
                "gives no",
                "no measurement",
                "does not say",
                "names no",
                "physician",
                "only answer",
                "about this x-ray",
            ]
            .iter()
            .any(|words| small.contains(words)),
        }
    }
}

const fn turn(ask: fn() -> Ask, expected: Expected) -> ScriptedTurn {
    ScriptedTurn { ask, expected }
}

fn question(text: &str) -> Ask {
    Ask::Question { text: text.into() }
}

fn is_there(finding: Finding) -> Ask {
    Ask::Presence { finding }
}

fn region(region: Region) -> Ask {
    Ask::Region { region }
}

fn reasons(finding: Finding) -> Ask {
    Ask::Reasons {
        findings: vec![finding],
    }
}

fn add(finding: Finding) -> Ask {
    Ask::Correction {
        add: vec![finding],
        remove: vec![],
    }
}

fn remove(finding: Finding) -> Ask {
    Ask::Correction {
        add: vec![],
        remove: vec![finding],
    }
}

/// The conversations. Questions in free words are none of the training's.
pub(super) static DIALOGS: [ScriptedDialog; 10] = [
    ScriptedDialog {
        findings: &[],
        turns: [
            turn(|| is_there(Pneumothorax), Expected::No),
            turn(|| Ask::AllFindings, Expected::Names(&[])),
            turn(|| Ask::Summary, Expected::Summary(&[])),
            turn(
                || question("Does this patient smoke cigarettes?"),
                Expected::Unknown,
            ),
            turn(|| region(Region::Heart), Expected::No),
        ],
    },
    ScriptedDialog {
        findings: &[Cardiomegaly],
        turns: [
            turn(|| question("Is the heart enlarged?"), Expected::Yes),
            turn(|| reasons(Cardiomegaly), Expected::Quote(Cardiomegaly)),
            turn(|| region(Region::Heart), Expected::Yes),
            turn(|| region(Region::Lungs), Expected::No),
            turn(
                || Ask::PlainLanguage,
                Expected::Plain(&[&["heart"], &["large", "big"]]),
            ),
        ],
    },
    ScriptedDialog {
        findings: &[Edema, PleuralEffusion],
        turns: [
            turn(
                || Ask::AllFindings,
                Expected::Names(&[Edema, PleuralEffusion]),
            ),
            turn(|| is_there(PleuralEffusion), Expected::Yes),
            turn(|| is_there(Fracture), Expected::No),
            turn(|| remove(Edema), Expected::Report(&[PleuralEffusion])),
            turn(|| is_there(Edema), Expected::No),
        ],
    },
    ScriptedDialog {
        findings: &[Pneumonia],
        turns: [
            turn(
                || add(PleuralEffusion),
                Expected::Report(&[Pneumonia, PleuralEffusion]),
            ),
            turn(
                || Ask::AllFindings,
                Expected::Names(&[Pneumonia, PleuralEffusion]),
            ),
            turn(
                || Ask::Summary,
                Expected::Summary(&[Pneumonia, PleuralEffusion]),
            ),
            turn(
                || question("Is it worse than last month?"),
                Expected::Unknown,
            ),
            turn(|| reasons(Pneumonia), Expected::Quote(Pneumonia)),
        ],
    },
    ScriptedDialog {
        findings: &[Atelectasis, Pneumothorax],
        turns: [
            turn(
                || Ask::PlainLanguage,
                Expected::Plain(&[&["lung"], &["air"], &["chest wall", "around"]]),
            ),
            turn(|| region(Region::Lungs), Expected::Yes),
            turn(|| region(Region::Bones), Expected::No),
            turn(
                || question("On which side is the pneumothorax?"),
                Expected::Unknown,
            ),
            turn(
                || Ask::Summary,
                Expected::Summary(&[Atelectasis, Pneumothorax]),
            ),
        ],
    },
    ScriptedDialog {
        findings: &[Cardiomegaly, LungOpacity, PleuralEffusion],
        turns: [
            turn(
                || Ask::Summary,
                Expected::Summary(&[Cardiomegaly, LungOpacity, PleuralEffusion]),
            ),
            turn(
                || remove(LungOpacity),
                Expected::Report(&[Cardiomegaly, PleuralEffusion]),
            ),
            turn(
                || add(Edema),
                Expected::Report(&[Cardiomegaly, Edema, PleuralEffusion]),
            ),
            turn(
                || Ask::AllFindings,
                Expected::Names(&[Cardiomegaly, Edema, PleuralEffusion]),
            ),
            turn(|| is_there(LungOpacity), Expected::No),
        ],
    },
    ScriptedDialog {
        findings: &[LungLesion],
        turns: [
            turn(
                || question("How big is the lesion in centimetres?"),
                Expected::Unknown,
            ),
            turn(|| question("Do you see a nodule?"), Expected::Yes),
            turn(|| question("Is the X-ray normal?"), Expected::No),
            turn(
                || question("Which medicine should be given?"),
                Expected::Unknown,
            ),
            turn(|| Ask::AllFindings, Expected::Names(&[LungLesion])),
        ],
    },
    ScriptedDialog {
        findings: &[Fracture, SupportDevices],
        turns: [
            turn(|| region(Region::Bones), Expected::Yes),
            turn(|| is_there(SupportDevices), Expected::Yes),
            turn(
                || Ask::AllFindings,
                Expected::Names(&[Fracture, SupportDevices]),
            ),
            turn(|| reasons(Fracture), Expected::Quote(Fracture)),
            turn(|| remove(SupportDevices), Expected::Report(&[Fracture])),
        ],
    },
    ScriptedDialog {
        findings: &[Consolidation, Edema],
        turns: [
            turn(
                || Ask::Correction {
                    add: vec![Cardiomegaly],
                    remove: vec![Consolidation],
                },
                Expected::Report(&[Cardiomegaly, Edema]),
            ),
            turn(|| is_there(Consolidation), Expected::No),
            turn(|| is_there(Cardiomegaly), Expected::Yes),
            turn(
                || Ask::PlainLanguage,
                Expected::Plain(&[&["heart"], &["fluid", "water"]]),
            ),
            turn(|| Ask::Report, Expected::Report(&[Cardiomegaly, Edema])),
        ],
    },
    ScriptedDialog {
        findings: &[Pneumonia, Atelectasis],
        turns: [
            turn(
                || question("What are the main findings here?"),
                Expected::Names(&[Pneumonia, Atelectasis]),
            ),
            turn(|| question("How old is this patient?"), Expected::Unknown),
            turn(|| is_there(Atelectasis), Expected::Yes),
            turn(|| region(Region::Mediastinum), Expected::No),
            turn(
                || question("Please tell me in plain words what was found."),
                Expected::Plain(&[&["lung"], &["infection"]]),
            ),
        ],
    },
];
