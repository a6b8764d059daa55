//! The four stages. A stage has one name, the same in its queue, metric label, subcommand and Deployment.

use std::fmt;
use std::str::FromStr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::Source;

/// A kind of work with its own queue and its own workers.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// Image to 32 x 768 image tokens.
    Embedding,
    /// Image to the probabilities of the 14 CheXpert findings.
    Findings,
    /// Image tokens and findings to a report.
    Language,
    /// Report (and reference) to CheXbert labels.
    Scoring,
}

impl Stage {
    /// All stages in pipeline order.
    pub const ALL: [Stage; 4] = [
        Stage::Embedding,
        Stage::Findings,
        Stage::Language,
        Stage::Scoring,
    ];

    /// The one word for this stage.
    pub fn name(self) -> &'static str {
        match self {
            Stage::Embedding => "embedding",
            Stage::Findings => "findings",
            Stage::Language => "language",
            Stage::Scoring => "scoring",
        }
    }

    /// The stages whose outputs this one reads.
    pub fn needs(self) -> &'static [Stage] {
        match self {
            Stage::Embedding | Stage::Findings => &[],
            Stage::Language => &[Stage::Embedding, Stage::Findings],
            Stage::Scoring => &[Stage::Language],
        }
    }
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Stage {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        Self::ALL
            .into_iter()
            .find(|stage| stage.name() == name)
            .ok_or_else(|| {
                format!("'{name}' is not a stage; use embedding, findings, language or scoring")
            })
    }
}

/// The stages of a run, closed under [`Stage::needs`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
pub struct StageSet(Vec<Stage>);

impl StageSet {
    /// Every stage.
    pub fn all() -> Self {
        Self(Stage::ALL.to_vec())
    }

    /// The wanted stages and everything they need, in pipeline order.
    pub fn closure(wanted: &[Stage]) -> Self {
        Self::closure_from(Source::Image, wanted)
    }

    /// The wanted stages and everything they need in a run whose studies begin with something else than an image.
    pub fn closure_from(source: Source, wanted: &[Stage]) -> Self {
        let mut stages = wanted.to_vec();
        let mut next = 0;
        while let Some(&stage) = stages.get(next) {
            next += 1;
            stages.extend(source.needs(stage));
        }
        Self(
            Stage::ALL
                .into_iter()
                .filter(|stage| stages.contains(stage))
                .collect(),
        )
    }

    /// Whether the run has this stage.
    pub fn contains(&self, stage: Stage) -> bool {
        self.0.contains(&stage)
    }

    /// The stages in pipeline order.
    pub fn iter(&self) -> impl Iterator<Item = Stage> + '_ {
        self.0.iter().copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn asking_for_scoring_brings_every_stage_and_findings_only_itself() {
        assert_eq!(StageSet::closure(&[Stage::Scoring]), StageSet::all());
        assert_eq!(
            StageSet::closure(&[Stage::Findings]),
            StageSet(vec![Stage::Findings])
        );
    }

    #[test]
    fn a_text_needs_no_stage_before_the_one_that_reads_it() {
        assert_eq!(
            StageSet::closure_from(Source::Report, &[Stage::Scoring]),
            StageSet(vec![Stage::Scoring])
        );
        let labelled_answers = StageSet(vec![Stage::Language, Stage::Scoring]);
        assert_eq!(
            StageSet::closure_from(Source::Prompt, &[Stage::Scoring]),
            labelled_answers
        );
    }
}
