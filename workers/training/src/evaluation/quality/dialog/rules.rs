//! When an answer is right. The rules are strict where a program can be, and say nothing about style.

use radialog_schemas::Finding;

use super::DialogStudy;
use super::script::{ScriptedTurn, TurnKind};
use crate::evaluation::quality::agreement::Flags;
use crate::evaluation::words::words;

/// Whether an answer, which says the findings `said`, is right. Names in a list of findings count in any case of letters, or
/// with `lower_case_names` in lower case alone.
pub(super) fn is_right(
    turn: &ScriptedTurn,
    study: &DialogStudy,
    answer: &str,
    said: &Flags,
    lower_case_names: bool,
) -> bool {
    // Every finding of the old report, but for the one in question, is said again.
    let kept = |but: Option<Finding>| {
        Finding::ALL
            .into_iter()
            .all(|f| Some(f) == but || !study.said[f as usize] || said[f as usize])
    };
    match turn.kind {
        TurnKind::Add(finding) => said[finding as usize] && kept(None),
        TurnKind::Remove(finding) => {
            !answer.trim().is_empty() && !said[finding as usize] && kept(Some(finding))
        }
        TurnKind::IsThere(_) => yes_or_no(answer) == Some(true),
        TurnKind::IsAbsent(_) => yes_or_no(answer) == Some(false),
        TurnKind::List => {
            !answer.trim().is_empty() && named(answer, lower_case_names) == study.asked_for
        }
        TurnKind::Summary => {
            let length = words(answer).len();
            let says_some = !study.said.contains(&true) || said.contains(&true);
            let invents = said
                .iter()
                .zip(&study.said)
                .any(|(now, before)| *now && !before);
            (1..words(&study.text).len()).contains(&length) && says_some && !invents
        }
    }
}

/// Yes where the word occurs, as the original counts it; no where only "no" does.
fn yes_or_no(answer: &str) -> Option<bool> {
    let words = words(answer);
    let has = |word: &str| words.iter().any(|found| found == word);
    if has("yes") {
        Some(true)
    } else {
        has("no").then_some(false)
    }
}

/// The findings whose names occur, without "No Finding": as RaDialog v1's test program counts them, or with
/// `lower_case_names` as v2's does, which looks for lower-case names in the answer as it was generated.
fn named(answer: &str, lower_case_names: bool) -> Flags {
    let answer = match lower_case_names {
        true => answer.to_owned(),
        false => answer.to_lowercase(),
    };
    Finding::ALL.map(|finding| {
        finding != Finding::NoFinding && answer.contains(&finding.name().to_lowercase())
    })
}

/// The text up to its first full stop.
pub(super) fn first_sentence(text: &str) -> &str {
    text.split_inclusive(". ").next().unwrap_or_default().trim()
}

#[cfg(test)]
mod tests {
    use super::*;
    use Finding::{Cardiomegaly, Edema, Fracture};

    fn flags(findings: &[Finding]) -> Flags {
        Finding::ALL.map(|finding| findings.contains(&finding))
    }

    fn right(kind: TurnKind, answer: &str, said: &[Finding]) -> bool {
        let study = DialogStudy {
            asked_for: flags(&[Edema, Cardiomegaly]),
            text: "The heart is large. There is edema.".into(),
            said: flags(&[Edema, Cardiomegaly]),
        };
        is_right(
            &ScriptedTurn { study: 0, kind },
            &study,
            answer,
            &flags(said),
            false,
        )
    }

    #[test]
    fn a_correction_does_what_was_asked_and_nothing_else() {
        assert!(right(
            TurnKind::Add(Fracture),
            "x",
            &[Edema, Cardiomegaly, Fracture]
        ));
        assert!(
            !right(TurnKind::Add(Fracture), "x", &[Edema, Fracture]),
            "forgets the heart"
        );
        assert!(
            !right(TurnKind::Add(Fracture), "x", &[Edema, Cardiomegaly]),
            "unchanged"
        );
        assert!(right(TurnKind::Remove(Edema), "x", &[Cardiomegaly]));
        assert!(
            !right(TurnKind::Remove(Edema), "x", &[]),
            "forgets the heart"
        );
        assert!(
            !right(TurnKind::Remove(Edema), "x", &[Edema, Cardiomegaly]),
            "unchanged"
        );
    }

    #[test]
    fn yes_and_no_are_words() {
        assert!(right(TurnKind::IsThere(Edema), "Yes, there is.", &[]));
        assert!(!right(TurnKind::IsThere(Edema), "no", &[]));
        assert!(right(TurnKind::IsAbsent(Fracture), "No.", &[]));
        assert!(!right(
            TurnKind::IsAbsent(Fracture),
            "It is not known.",
            &[]
        ));
    }

    #[test]
    fn a_list_names_all_and_no_other() {
        assert!(right(TurnKind::List, "cardiomegaly, edema", &[]));
        assert!(!right(TurnKind::List, "cardiomegaly", &[]));
        assert!(!right(TurnKind::List, "cardiomegaly, edema, fracture", &[]));
    }

    #[test]
    fn a_summary_is_shorter_and_invents_nothing() {
        assert!(right(TurnKind::Summary, "Edema.", &[Edema]));
        assert!(!right(TurnKind::Summary, "", &[]));
        assert!(
            !right(TurnKind::Summary, "Normal.", &[]),
            "says nothing of the report"
        );
        assert!(!right(TurnKind::Summary, "Fracture.", &[Edema, Fracture]));
        assert!(!right(
            TurnKind::Summary,
            "The heart is large. There is edema indeed.",
            &[Edema]
        ));
        assert_eq!(first_sentence("A is b. C."), "A is b.");
    }

    #[test]
    fn names_may_count_in_lower_case_alone() {
        let found = |lower_case| named("Edema and fracture", lower_case);
        assert_eq!(found(false), flags(&[Edema, Fracture]));
        assert_eq!(found(true), flags(&[Fracture]));
    }
}
