//! Our weak rule: what a report says about each finding, from phrase lists and cues. It is no labeler to score with; it
//! tells denied and hedged from stated where a source has only tags, and which sentence says what.

use radialog_schemas::{Finding, Label};
use serde::Deserialize;

use self::phrases::{Phrase, is_stop, words};
use crate::error::TrainingError;
use crate::prepare::tables::finding_labels::FindingLabels;

mod phrases;

pub(crate) use phrases::sentences;

/// The phrase lists.
const OWN: &str = include_str!("../../weak-labels.toml");
/// The number of words that a hedge reaches forward.
const HEDGE_REACH: usize = 9;
/// The largest number of words behind a mention at which a cue may stand.
const REACH_BACK: usize = 6;

/// A labeler of reports by phrase lists and cues, for texts that nobody has labelled.
#[derive(Clone, Debug)]
pub struct WeakLabeler {
    denies: Vec<Phrase>,
    denied: Vec<Phrase>,
    hedges: Vec<Phrase>,
    hedged: Vec<Phrase>,
    neutral: Vec<Phrase>,
    ends: Vec<Phrase>,
    turns: Vec<Phrase>,
    findings: Vec<FindingPhrases>,
}

#[derive(Clone, Debug)]
struct FindingPhrases {
    finding: Finding,
    mentions: Vec<Phrase>,
    absent: Vec<Phrase>,
    contrary: Vec<Phrase>,
    other: Vec<Phrase>,
}

/// What one sentence says about one finding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mention {
    /// The number of the sentence, from 0 on.
    pub sentence: usize,
    /// The finding that is stated.
    pub finding: Finding,
    /// Positive, uncertain or negative; never blank.
    pub label: Label,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Lists {
    denies: Vec<String>,
    denied: Vec<String>,
    hedges: Vec<String>,
    hedged: Vec<String>,
    neutral: Vec<String>,
    ends: Vec<String>,
    turns: Vec<String>,
    finding: Vec<FindingLists>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FindingLists {
    name: Finding,
    mentions: Vec<String>,
    #[serde(default)]
    absent: Vec<String>,
    #[serde(default)]
    contrary: Vec<String>,
    #[serde(default)]
    other: Vec<String>,
}

impl WeakLabeler {
    /// Returns the labeler with our own lists.
    ///
    /// # Errors
    /// None that a test would not have found.
    pub fn own() -> Result<Self, TrainingError> {
        let path = std::path::Path::new("weak-labels.toml");
        let lists: Lists = toml::from_str(OWN).map_err(TrainingError::content(path))?;
        let compile = |phrases: &[String]| {
            let parse = |text: &String| {
                let reason = || format!("'{text}' does not start and end with a word");
                Phrase::parse(text).ok_or_else(|| TrainingError::content(path)(reason()))
            };
            phrases.iter().map(parse).collect::<Result<Vec<_>, _>>()
        };
        let finding = |lists: &FindingLists| {
            Ok(FindingPhrases {
                finding: lists.name,
                mentions: compile(&lists.mentions)?,
                absent: compile(&lists.absent)?,
                contrary: compile(&lists.contrary)?,
                other: compile(&lists.other)?,
            })
        };
        Ok(Self {
            denies: compile(&lists.denies)?,
            denied: compile(&lists.denied)?,
            hedges: compile(&lists.hedges)?,
            hedged: compile(&lists.hedged)?,
            neutral: compile(&lists.neutral)?,
            ends: compile(&lists.ends)?,
            turns: compile(&lists.turns)?,
            findings: lists
                .finding
                .iter()
                .map(finding)
                .collect::<Result<_, TrainingError>>()?,
        })
    }

    /// What each sentence of a text says, in order; at most one statement about a finding and sentence, the strongest.
    pub fn mentions(&self, text: &str) -> Vec<Mention> {
        let sentences = sentences(text);
        let read = sentences.iter().enumerate().flat_map(|(sentence, text)| {
            self.sentence(text)
                .into_iter()
                .map(move |(finding, label)| Mention {
                    sentence,
                    finding,
                    label,
                })
        });
        read.collect()
    }

    /// What one sentence says, as CheXpert's labels count it.
    pub fn sentence(&self, sentence: &str) -> Vec<(Finding, Label)> {
        self.read(sentence, false)
    }

    /// What one sentence says, and what cannot be true beside it, as denied.
    pub(crate) fn sentence_and_contraries(&self, sentence: &str) -> Vec<(Finding, Label)> {
        self.read(sentence, true)
    }

    fn read(&self, sentence: &str, contraries: bool) -> Vec<(Finding, Label)> {
        let words = words(sentence);
        let cues = Cues::of(self, &words);
        let mut said = Vec::new();
        for phrases in &self.findings {
            let hidden: Vec<_> = phrases
                .other
                .iter()
                .flat_map(|phrase| phrase.find(&words))
                .collect();
            let mentions = phrases
                .mentions
                .iter()
                .flat_map(|phrase| phrase.find(&words));
            let seen = mentions.filter(|place| !hidden.iter().any(|other| overlap(other, place)));
            let contrary = phrases.contrary.iter().filter(|_| contraries);
            let absent = phrases
                .absent
                .iter()
                .chain(contrary)
                .any(|phrase| phrase.find(&words).next().is_some());
            let labels = seen.map(|place| cues.label(place.start, place.end));
            let strongest = labels
                .chain(absent.then_some(Label::Negative))
                .max_by_key(|label| strength(*label));
            said.extend(strongest.map(|label| (phrases.finding, label)));
        }
        said
    }
}

/// The labels that statements come to: what is stated anywhere is positive, else what is possible anywhere uncertain, else
/// what is denied negative. "No Finding" is always blank: it does not follow from mentions.
pub fn summary(mentions: &[Mention]) -> FindingLabels {
    strongest(
        mentions
            .iter()
            .map(|mention| (mention.finding, mention.label)),
    )
}

/// The strongest label that is said of each finding.
pub(crate) fn strongest(said: impl Iterator<Item = (Finding, Label)>) -> FindingLabels {
    let mut labels = [Label::Blank; Finding::ALL.len()];
    for (finding, said) in said {
        let label = &mut labels[finding as usize];
        if strength(said) > strength(*label) {
            *label = said;
        }
    }
    labels
}

/// The strength of a statement: of two about the same finding the stronger counts.
fn strength(label: Label) -> u8 {
    match label {
        Label::Blank => 0,
        Label::Negative => 1,
        Label::Uncertain => 2,
        Label::Positive => 3,
    }
}

/// Cues of one sentence, by the word where they start or end.
struct Cues<'a> {
    rule: &'a WeakLabeler,
    words: &'a [String],
    /// Words that belong to a phrase that only looks like a cue.
    neutral: Vec<bool>,
    /// Words that belong to a hedge, in which a "not" denies nothing.
    hedge: Vec<bool>,
}

impl<'a> Cues<'a> {
    fn of(rule: &'a WeakLabeler, words: &'a [String]) -> Self {
        let mark = |lists: &[&Vec<Phrase>]| {
            let mut marked = vec![false; words.len()];
            for place in lists
                .iter()
                .flat_map(|list| list.iter())
                .flat_map(|phrase| phrase.find(words))
            {
                marked[place].fill(true);
            }
            marked
        };
        Self {
            rule,
            words,
            neutral: mark(&[&rule.neutral]),
            hedge: mark(&[&rule.hedges, &rule.hedged]),
        }
    }

    /// The label of a mention on the words `start..end`. Cues inside of it count: "heart is not enlarged".
    fn label(&self, start: usize, end: usize) -> Label {
        let last = end - 1;
        let denied = self.before(&self.rule.denies, last, self.words.len(), true)
            || self.after(&self.rule.denied, end) && !self.after(&self.rule.hedged, end);
        if denied {
            return Label::Negative;
        }
        let hedged = self.before(&self.rule.hedges, last, HEDGE_REACH + (last - start), false)
            || self.after(&self.rule.hedged, end);
        if hedged {
            Label::Uncertain
        } else {
            Label::Positive
        }
    }

    /// Whether a cue stands before `last` and reaches it.
    fn before(&self, cues: &[Phrase], last: usize, reach: usize, denial: bool) -> bool {
        let starts = last.saturating_sub(reach)..=last;
        starts.rev().any(|start| {
            let masked = self.neutral[start] || (denial && self.hedge[start]);
            let cue = cues
                .iter()
                .filter_map(|cue| cue.end(self.words, start))
                .max()
                .filter(|end| *end <= last + 1);
            !masked && cue.is_some_and(|end| !(end..last).any(|at| self.ends(at, denial)))
        })
    }

    /// Whether a cue starts close behind, in the same clause.
    fn after(&self, cues: &[Phrase], from: usize) -> bool {
        let clause = (from..self.words.len())
            .take(REACH_BACK)
            .take_while(|&at| self.words[at] != "," && !self.ends(at, false));
        clause.into_iter().any(|start| {
            !self.neutral[start] && cues.iter().any(|cue| cue.end(self.words, start).is_some())
        })
    }

    /// Whether the reach of a cue ends at this word.
    fn ends(&self, at: usize, denial: bool) -> bool {
        let starts = |phrases: &[Phrase]| {
            phrases
                .iter()
                .any(|phrase| phrase.end(self.words, at).is_some())
        };
        let behind_list = at > 0 && matches!(self.words[at - 1].as_str(), "," | "and");
        is_stop(&self.words[at])
            || starts(&self.rule.ends)
            || (denial && behind_list && starts(&self.rule.turns))
    }
}

fn overlap(one: &std::ops::Range<usize>, other: &std::ops::Range<usize>) -> bool {
    one.start < other.end && other.start < one.end
}

#[cfg(test)]
mod tests;
