//! Which turns are asked about which reports: drawn by a seed, so that every kind has studies to be asked about.

use radialog_schemas::{Ask, Finding};

use super::DialogStudy;
use crate::evaluation::quality::agreement::{Flags, findings};
use crate::random::Random;

/// The number of turns of each kind, the ones that fit the fewest reports first.
const PLAN: [(Draw, usize); 8] = [
    (Draw::Remove, 6),
    (Draw::IsThere, 7),
    (Draw::ListSome, 8),
    (Draw::SummaryOfSome, 6),
    (Draw::Add, 7),
    (Draw::IsAbsent, 6),
    (Draw::ListNone, 4),
    (Draw::SummaryOfAny, 6),
];

/// What a turn asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TurnKind {
    Add(Finding),
    Remove(Finding),
    IsThere(Finding),
    IsAbsent(Finding),
    List,
    Summary,
}

/// A turn about a report.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ScriptedTurn {
    pub(super) study: usize,
    pub(super) kind: TurnKind,
}

/// What kinds of turns are drawn.
#[derive(Clone, Copy)]
enum Draw {
    Add,
    Remove,
    IsThere,
    IsAbsent,
    ListSome,
    ListNone,
    SummaryOfSome,
    SummaryOfAny,
}

impl TurnKind {
    /// Names of the kinds, as they are counted.
    pub(super) const NAMES: [&'static str; 5] = [
        "correct: add",
        "correct: remove",
        "is there",
        "list",
        "summary",
    ];

    pub(super) fn name(self) -> &'static str {
        match self {
            TurnKind::Add(_) => Self::NAMES[0],
            TurnKind::Remove(_) => Self::NAMES[1],
            TurnKind::IsThere(_) | TurnKind::IsAbsent(_) => Self::NAMES[2],
            TurnKind::List => Self::NAMES[3],
            TurnKind::Summary => Self::NAMES[4],
        }
    }
}

impl ScriptedTurn {
    /// The request, as a page or a program makes it.
    pub(super) fn ask(&self) -> Ask {
        match self.kind {
            TurnKind::Add(finding) => Ask::Correction {
                add: vec![finding],
                remove: Vec::new(),
            },
            TurnKind::Remove(finding) => Ask::Correction {
                add: Vec::new(),
                remove: vec![finding],
            },
            TurnKind::IsThere(finding) | TurnKind::IsAbsent(finding) => Ask::Presence { finding },
            TurnKind::List => Ask::AllFindings,
            TurnKind::Summary => Ask::Summary,
        }
    }
}

/// Draws the turns. A report is asked about once, unless there are fewer of its kind than turns. Findings that are not
/// there are drawn in proportion to `frequencies`.
pub(super) fn draw(
    studies: &[DialogStudy],
    frequencies: &[f32; Finding::ALL.len()],
    seed: u64,
) -> Vec<ScriptedTurn> {
    let mut random = Random::stream(seed, "dialog");
    let mut order: Vec<usize> = (0..studies.len())
        .filter(|&study| !studies[study].text.is_empty())
        .collect();
    random.shuffle(&mut order);
    let mut asked = vec![false; studies.len()];
    let mut turns = Vec::new();
    for (draw, count) in PLAN {
        let fits = |study: &&usize| draw.fits(&studies[**study], frequencies);
        let (fresh, used): (Vec<usize>, Vec<usize>) =
            order.iter().filter(fits).partition(|&&study| !asked[study]);
        for study in fresh.into_iter().chain(used).take(count) {
            asked[study] = true;
            turns.push(ScriptedTurn {
                study,
                kind: draw.kind(&studies[study], frequencies, &mut random),
            });
        }
    }
    turns
}

impl Draw {
    fn fits(self, study: &DialogStudy, frequencies: &[f32; Finding::ALL.len()]) -> bool {
        let some = |flags: &Flags| flags.contains(&true);
        match self {
            Draw::Remove => some(&study.said),
            Draw::IsThere | Draw::ListSome => some(&study.asked_for),
            Draw::ListNone => !some(&study.asked_for),
            Draw::Add | Draw::IsAbsent => absent(study, frequencies)
                .iter()
                .any(|&frequency| frequency > 0.0),
            Draw::SummaryOfSome => some(&study.said) && sentences(&study.text) > 1,
            Draw::SummaryOfAny => sentences(&study.text) > 1,
        }
    }

    fn kind(
        self,
        study: &DialogStudy,
        frequencies: &[f32; Finding::ALL.len()],
        random: &mut Random,
    ) -> TurnKind {
        let other =
            |random: &mut Random| Finding::ALL[random.weighted(&absent(study, frequencies))];
        match self {
            Draw::Remove => TurnKind::Remove(*random.pick(&findings(&study.said))),
            Draw::IsThere => TurnKind::IsThere(*random.pick(&findings(&study.asked_for))),
            Draw::Add => TurnKind::Add(other(random)),
            Draw::IsAbsent => TurnKind::IsAbsent(other(random)),
            Draw::ListSome | Draw::ListNone => TurnKind::List,
            Draw::SummaryOfSome | Draw::SummaryOfAny => TurnKind::Summary,
        }
    }
}

/// The frequency of the findings that the request did not name and the report does not say; 0 for the others.
fn absent(
    study: &DialogStudy,
    frequencies: &[f32; Finding::ALL.len()],
) -> [f32; Finding::ALL.len()] {
    std::array::from_fn(|class| {
        if study.asked_for[class] || study.said[class] {
            0.0
        } else {
            frequencies[class]
        }
    })
}

fn sentences(text: &str) -> usize {
    text.split(['.', '!', '?'])
        .filter(|sentence| !sentence.trim().is_empty())
        .count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fifty_turns_are_planned_and_drawn_alike_by_the_same_seed() {
        assert_eq!(PLAN.iter().map(|(_, count)| count).sum::<usize>(), 50);
        let flags =
            |finding: Finding, there: bool| Finding::ALL.map(|other| there && other == finding);
        let study = |index: usize| DialogStudy {
            asked_for: flags(Finding::Edema, index.is_multiple_of(2)),
            text: "Edema. Large heart.".into(),
            said: flags(Finding::Cardiomegaly, index % 4 < 2),
        };
        let studies: Vec<DialogStudy> = (0..200).map(study).collect();
        let mut frequencies = [1.0; Finding::ALL.len()];
        frequencies[Finding::NoFinding as usize] = 0.0;
        let turns = draw(&studies, &frequencies, 5);
        assert_eq!(turns.len(), 50);
        assert_eq!(turns, draw(&studies, &frequencies, 5));
        assert_ne!(turns, draw(&studies, &frequencies, 6));
        let mut asked: Vec<usize> = turns.iter().map(|turn| turn.study).collect();
        asked.sort_unstable();
        asked.dedup();
        assert_eq!(asked.len(), 50, "no report is asked about twice");
        for turn in turns {
            let study = &studies[turn.study];
            match turn.kind {
                TurnKind::Add(finding) | TurnKind::IsAbsent(finding) => {
                    assert!(!study.asked_for[finding as usize] && !study.said[finding as usize]);
                    assert_ne!(finding, Finding::NoFinding);
                }
                TurnKind::Remove(finding) => assert!(study.said[finding as usize]),
                TurnKind::IsThere(finding) => assert!(study.asked_for[finding as usize]),
                TurnKind::List | TurnKind::Summary => {}
            }
        }
        assert!(draw(&[], &frequencies, 5).is_empty());
    }
}
