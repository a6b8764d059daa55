//! When an answer is right. The rules are strict where a program can be, and say nothing about style.

use radialog_schemas::Finding;

use super::Study;
use super::script::{Kind, Turn};
use crate::quality::agreement::Flags;
use crate::text_scores::words;

/// Whether an answer, which says the findings `said`, is right.
pub(super) fn is_right(turn: &Turn, study: &Study, answer: &str, said: &Flags) -> bool {
    // Every finding of the old report, but for the one in question, is said again.
    let kept = |but: Option<Finding>| {
        Finding::ALL
            .into_iter()
            .all(|f| Some(f) == but || !study.said[f as usize] || said[f as usize])
    };
    match turn.kind {
        Kind::Add(finding) => said[finding as usize] && kept(None),
        Kind::Remove(finding) => {
            !answer.trim().is_empty() && !said[finding as usize] && kept(Some(finding))
        }
        Kind::IsThere(_) => yes_or_no(answer) == Some(true),
        Kind::IsAbsent(_) => yes_or_no(answer) == Some(false),
        Kind::List => !answer.trim().is_empty() && named(answer) == study.asked_for,
        Kind::Summary => {
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

/// The findings whose names occur, as the original counts them, without "No Finding".
fn named(answer: &str) -> Flags {
    let answer = answer.to_lowercase();
    Finding::ALL.map(|finding| {
        finding != Finding::NoFinding && answer.contains(&finding.name().to_lowercase())
    })
}

/// Up to the first full stop.
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

    fn right(kind: Kind, answer: &str, said: &[Finding]) -> bool {
        let study = Study {
            asked_for: flags(&[Edema, Cardiomegaly]),
            text: "The heart is large. There is edema.".into(),
            said: flags(&[Edema, Cardiomegaly]),
        };
        is_right(&Turn { study: 0, kind }, &study, answer, &flags(said))
    }

    #[test]
    fn a_correction_does_what_was_asked_and_nothing_else() {
        assert!(right(
            Kind::Add(Fracture),
            "x",
            &[Edema, Cardiomegaly, Fracture]
        ));
        assert!(
            !right(Kind::Add(Fracture), "x", &[Edema, Fracture]),
            "forgets the heart"
        );
        assert!(
            !right(Kind::Add(Fracture), "x", &[Edema, Cardiomegaly]),
            "unchanged"
        );
        assert!(right(Kind::Remove(Edema), "x", &[Cardiomegaly]));
        assert!(!right(Kind::Remove(Edema), "x", &[]), "forgets the heart");
        assert!(
            !right(Kind::Remove(Edema), "x", &[Edema, Cardiomegaly]),
            "unchanged"
        );
    }

    #[test]
    fn yes_and_no_are_words() {
        assert!(right(Kind::IsThere(Edema), "Yes, there is.", &[]));
        assert!(!right(Kind::IsThere(Edema), "no", &[]));
        assert!(right(Kind::IsAbsent(Fracture), "No.", &[]));
        assert!(!right(Kind::IsAbsent(Fracture), "It is not known.", &[]));
    }

    #[test]
    fn a_list_names_all_and_no_other() {
        assert!(right(Kind::List, "cardiomegaly, edema", &[]));
        assert!(!right(Kind::List, "cardiomegaly", &[]));
        assert!(!right(Kind::List, "cardiomegaly, edema, fracture", &[]));
    }

    #[test]
    fn a_summary_is_shorter_and_invents_nothing() {
        assert!(right(Kind::Summary, "Edema.", &[Edema]));
        assert!(!right(Kind::Summary, "", &[]));
        assert!(
            !right(Kind::Summary, "Normal.", &[]),
            "says nothing of the report"
        );
        assert!(!right(Kind::Summary, "Fracture.", &[Edema, Fracture]));
        assert!(!right(
            Kind::Summary,
            "The heart is large. There is edema indeed.",
            &[Edema]
        ));
        assert_eq!(first_sentence("A is b. C."), "A is b.");
    }
}
