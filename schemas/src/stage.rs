//! The four stages. A stage has one name, the same in metric labels, subcommand, bundle and Deployment. Its queue is
//! named in [`queues::work`](crate::queues::work).

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

use schemars::{JsonSchema, Schema, SchemaGenerator};
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
    pub const ALL: [Stage; Stage::COUNT] = [
        Stage::Embedding,
        Stage::Findings,
        Stage::Language,
        Stage::Scoring,
    ];

    /// The number of stages. The match names this place to whoever adds one: the last stage's number and one.
    const COUNT: usize = match Stage::Scoring {
        last @ (Stage::Embedding | Stage::Findings | Stage::Language | Stage::Scoring) => {
            last as usize + 1
        }
    };

    /// The one word for this stage.
    pub fn name(self) -> &'static str {
        match self {
            Stage::Embedding => "embedding",
            Stage::Findings => "findings",
            Stage::Language => "language",
            Stage::Scoring => "scoring",
        }
    }

    /// The revision of each stage's code. It is part of the keys of the stage's outputs and, since those are inputs of later
    /// stages, of theirs.
    ///
    /// Whoever changes what a stage makes of its inputs (preprocessing, a network, a prompt, decoding, the form of the
    /// output) raises its number, so that no output of the old code is taken for one of the new. A component's hash covers
    /// weights and configuration and knows nothing of the code. `tests/it/revisions.rs` fails where outputs change and the
    /// number does not.
    pub const REVISIONS: PerStage<u32> = PerStage {
        embedding: 3,
        findings: 5,
        language: 1,
        scoring: 3,
    };

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
                let names = Self::ALL.map(Stage::name);
                let [first @ .., last] = &names;
                format!(
                    "'{name}' is not a stage; use {} or {last}",
                    first.join(", ")
                )
            })
    }
}

/// One value for each stage. As a message it is an array in pipeline order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "[T; Stage::COUNT]", into = "[T; Stage::COUNT]")]
#[serde(bound(serialize = "T: Clone + Serialize"))]
#[allow(missing_docs)] // the fields are the stages
pub struct PerStage<T> {
    pub embedding: T,
    pub findings: T,
    pub language: T,
    pub scoring: T,
}

impl<T> PerStage<T> {
    /// The value of each stage, made in pipeline order.
    pub fn from_fn(mut make: impl FnMut(Stage) -> T) -> Self {
        Self {
            embedding: make(Stage::Embedding),
            findings: make(Stage::Findings),
            language: make(Stage::Language),
            scoring: make(Stage::Scoring),
        }
    }

    /// The value of one stage.
    pub fn get(&self, stage: Stage) -> &T {
        match stage {
            Stage::Embedding => &self.embedding,
            Stage::Findings => &self.findings,
            Stage::Language => &self.language,
            Stage::Scoring => &self.scoring,
        }
    }

    /// The value of one stage, to be changed.
    pub fn get_mut(&mut self, stage: Stage) -> &mut T {
        match stage {
            Stage::Embedding => &mut self.embedding,
            Stage::Findings => &mut self.findings,
            Stage::Language => &mut self.language,
            Stage::Scoring => &mut self.scoring,
        }
    }

    /// Stages with their values, in pipeline order.
    pub fn iter(&self) -> impl Iterator<Item = (Stage, &T)> {
        Stage::ALL.into_iter().map(|stage| (stage, self.get(stage)))
    }
}

impl<T> From<[T; Stage::COUNT]> for PerStage<T> {
    fn from([embedding, findings, language, scoring]: [T; Stage::COUNT]) -> Self {
        Self {
            embedding,
            findings,
            language,
            scoring,
        }
    }
}

impl<T> From<PerStage<T>> for [T; Stage::COUNT] {
    fn from(values: PerStage<T>) -> Self {
        let PerStage {
            embedding,
            findings,
            language,
            scoring,
        } = values;
        [embedding, findings, language, scoring]
    }
}

impl<T: JsonSchema> JsonSchema for PerStage<T> {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        <[T; Stage::COUNT]>::schema_name()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        <[T; Stage::COUNT]>::json_schema(generator)
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
    fn a_value_for_each_stage_is_an_array_in_pipeline_order() {
        let names = PerStage::from_fn(Stage::name);
        let json = r#"["embedding","findings","language","scoring"]"#;
        assert_eq!(serde_json::to_string(&names).ok().as_deref(), Some(json));
        for (stage, name) in names.iter() {
            assert_eq!(*name, stage.name());
        }
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
