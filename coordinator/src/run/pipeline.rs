//! What to do next for a study: a pure function of its facts. Everything that makes a run survive duplicates, late
//! results and restarts is decided here and tested as a table.

use std::collections::BTreeMap;

use radialog_runtime::state::{Facts, STUDY_FIELD};
use radialog_schemas::record::GivenOutput;
use radialog_schemas::{
    ChatImage, Failure, ObjectKey, Outcome, PerStage, RunSpec, Source, Stage, StageResult,
    StudySpec, Task, Work,
};

/// The facts about a study in flight.
#[derive(Clone, Debug, PartialEq)]
pub struct StudyFacts {
    /// The study as the archive describes it.
    pub spec: StudySpec,
    /// The first result of each stage that reported.
    pub results: BTreeMap<Stage, StageResult>,
}

/// Something that happened to a study.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StudyEvent<'a> {
    /// The study began, or begins again after a restart: nothing that was published before is counted on.
    Begun,
    /// These stages reported, perhaps not for the first time.
    Reported(&'a [Stage]),
}

/// Something to do for a study.
#[derive(Clone, Debug, PartialEq)]
pub enum StudyCommand {
    /// Give this task to its stage.
    Publish(Box<Task>),
    /// Nothing more will be known: write the record.
    Finish,
}

/// The keys under which the outputs of a study are stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OutputKeys(PerStage<ObjectKey>);

impl StudyFacts {
    /// Reads the facts of a study.
    ///
    /// # Errors
    /// When a field is not JSON of its type.
    pub fn parse(facts: &Facts) -> Result<Self, serde_json::Error> {
        let spec = serde_json::from_str(facts.get(STUDY_FIELD).map_or("", String::as_str))?;
        let mut results = BTreeMap::new();
        for stage in Stage::ALL {
            if let Some(value) = facts.get(stage.name()) {
                results.insert(stage, serde_json::from_str(value)?);
            }
        }
        Ok(Self { spec, results })
    }

    /// Says whether this stage's output is in the store: it was computed, or given with the run.
    pub fn is_done(&self, stage: Stage) -> bool {
        self.spec.given.contains_key(&stage) || self.told_output(stage).is_some()
    }

    /// Says whether nothing more is to come from this stage.
    fn has_ended(&self, stage: Stage) -> bool {
        self.spec.given.contains_key(&stage) || self.results.contains_key(&stage)
    }

    /// The key that this stage's worker says it has stored its output under.
    fn told_output(&self, stage: Stage) -> Option<&ObjectKey> {
        match &self.results.get(&stage)?.outcome {
            Outcome::Done { output } => Some(output),
            Outcome::Failed(_) => None,
        }
    }

    /// Says whether a result is of a task that a release makes of these facts. A late one may be of a task for the image that the
    /// study had before; where a worker of an earlier release failed, nothing tells.
    pub(crate) fn takes(&self, run: &RunSpec, result: &StageResult) -> bool {
        let (study, stage) = (&self.spec, result.stage);
        let Some(output) = result.output_of_task() else {
            // What was given is asked of nobody.
            return !study.given.contains_key(&stage);
        };
        let reference = study.reference.as_ref();
        let keys = OutputKeys::with_told(run, &study.input, reference, &study.given, |told| {
            match told == stage {
                true => Some(output),
                false => self.told_output(told),
            }
        });
        keys.output(stage) == output
    }

    /// Finds the failure of the first stage in pipeline order that failed. Stages run side by side, so that the first one in
    /// time would differ between runs.
    pub fn failure(&self) -> Option<(Stage, &Failure)> {
        self.results
            .iter()
            .find_map(|(stage, result)| match &result.outcome {
                Outcome::Failed(failure) => Some((*stage, failure)),
                Outcome::Done { .. } => None,
            })
    }
}

impl OutputKeys {
    /// Derives the keys that a run gives the outputs of what a study begins with (and its reference report, where there is one). In
    /// a run over reports, the report itself stands for the output of the language stage.
    pub fn of(run: &RunSpec, input: &ObjectKey, reference: Option<&ObjectKey>) -> Self {
        Self::with_given(run, input, reference, &BTreeMap::new())
    }

    /// The keys of a study in flight: where a stage has reported, the key that its worker stored the output under, which is another
    /// than this process would derive where the release before began the study. What follows is derived from that.
    pub(crate) fn of_facts(run: &RunSpec, facts: &StudyFacts) -> Self {
        let study = &facts.spec;
        let reference = study.reference.as_ref();
        Self::with_told(run, &study.input, reference, &study.given, |stage| {
            facts.told_output(stage)
        })
    }

    /// Derives the keys of what a study begins with, is compared with, and was given.
    pub(crate) fn with_given(
        run: &RunSpec,
        input: &ObjectKey,
        reference: Option<&ObjectKey>,
        given: &BTreeMap<Stage, GivenOutput>,
    ) -> Self {
        Self::with_told(run, input, reference, given, |_| None)
    }

    fn with_told<'a>(
        run: &RunSpec,
        input: &ObjectKey,
        reference: Option<&ObjectKey>,
        given: &BTreeMap<Stage, GivenOutput>,
        told: impl Fn(Stage) -> Option<&'a ObjectKey>,
    ) -> Self {
        let key = |stage, by: &dyn Fn(u32) -> ObjectKey| match given.get(&stage) {
            Some(given) => given.object.clone(),
            None => of_these_inputs(stage, told(stage), by),
        };
        let component = |stage| run.component(stage);
        let embedding = key(Stage::Embedding, &|revision| {
            ObjectKey::embedding_by(revision, component(Stage::Embedding), input)
        });
        let findings = key(Stage::Findings, &|revision| {
            ObjectKey::findings_by(revision, component(Stage::Findings), input)
        });
        let language = component(Stage::Language);
        let report = match run.source {
            Source::Image => key(Stage::Language, &|revision| {
                let inputs = (&embedding, &findings);
                ObjectKey::report_by(revision, language, inputs, &run.generation)
            }),
            Source::Prompt | Source::Dialog => key(Stage::Language, &|revision| {
                ObjectKey::answer_by(revision, language, input, &run.generation)
            }),
            Source::Report => input.clone(),
        };
        let labels = key(Stage::Scoring, &|revision| {
            ObjectKey::labels_by(revision, component(Stage::Scoring), &report, reference)
        });
        Self(PerStage {
            embedding,
            findings,
            language: report,
            scoring: labels,
        })
    }

    /// Gives the key of one stage's output.
    pub fn output(&self, stage: Stage) -> &ObjectKey {
        self.0.get(stage)
    }
}

/// Revisions that a later release may have come to while this one is still at work beside it.
const LATER: u32 = 8;

/// Revisions of a stage's code, this release's first.
fn revisions(stage: Stage) -> impl Iterator<Item = u32> {
    let own = *Stage::REVISIONS.get(stage);
    let others = (1..=own + LATER).filter(move |revision| *revision != own);
    std::iter::once(own).chain(others)
}

/// The revision with which a release derives this key from a stage's inputs; none where none does.
fn revision_of(stage: Stage, key: &ObjectKey, by: &dyn Fn(u32) -> ObjectKey) -> Option<u32> {
    revisions(stage).find(|revision| *key == by(*revision))
}

/// The keys of an image's tokens by the revisions of the releases that derive them, this release's first.
pub(super) fn embeddings(
    run: &RunSpec,
    image: &ObjectKey,
) -> impl Iterator<Item = (u32, ObjectKey)> {
    let component = run.component(Stage::Embedding);
    revisions(Stage::Embedding).map(move |revision| {
        let key = ObjectKey::embedding_by(revision, component, image);
        (revision, key)
    })
}

/// The key that was told, where a release derives it from these inputs; else this release's. The late result of a task that was made
/// for another image of the same study tells a key, too, of what nobody wants to know here.
fn of_these_inputs(
    stage: Stage,
    told: Option<&ObjectKey>,
    by: &dyn Fn(u32) -> ObjectKey,
) -> ObjectKey {
    match told.filter(|told| revision_of(stage, told, by).is_some()) {
        Some(told) => told.clone(),
        None => by(*Stage::REVISIONS.get(stage)),
    }
}

/// Has the task of an image stage store its output where the image's conversation looks for it: under another release's key,
/// where that one has begun the conversation.
pub(crate) fn store_for_conversation(task: &mut Task, own: &ChatImage) {
    let component = &task.component;
    let (stage, key, image) = match &task.work {
        Work::Embedding { image } => (Stage::Embedding, &own.embedding, image),
        Work::Findings { image } => (Stage::Findings, &own.findings, image),
        Work::Report { .. } | Work::Answer { .. } | Work::Dialog { .. } | Work::Scoring { .. } => {
            return;
        }
    };
    let revision = revision_of(stage, key, &|revision| match stage {
        Stage::Embedding => ObjectKey::embedding_by(revision, component, image),
        _ => ObjectKey::findings_by(revision, component, image),
    });
    if revision.is_some() {
        task.output = key.clone();
        task.revision = revision;
    }
}

/// Decides which commands follow from an event. A stage runs when everything it needs is done and it has not reported.
/// A study is finished when no stage runs: all are done, or what is missing needs a stage that failed. So the sibling
/// of a failed stage is always waited for, and a study's record does not depend on which of them was faster.
pub fn next_commands(
    run: &RunSpec,
    facts: &StudyFacts,
    event: StudyEvent<'_>,
) -> Vec<StudyCommand> {
    let needs = |stage: &Stage| run.source.needs(*stage).iter();
    let runs = |stage: &Stage| {
        !facts.has_ended(*stage) && needs(stage).all(|needed| facts.is_done(*needed))
    };
    let running: Vec<Stage> = run.stages.iter().filter(runs).collect();
    if running.is_empty() {
        return vec![StudyCommand::Finish];
    }
    let made_ready = |stage: &Stage| match event {
        StudyEvent::Begun => true,
        StudyEvent::Reported(stages) => needs(stage).any(|needed| stages.contains(needed)),
    };
    let keys = OutputKeys::of_facts(run, facts);
    running
        .into_iter()
        .filter(made_ready)
        .map(|stage| StudyCommand::Publish(Box::new(task(run, facts, &keys, stage))))
        .collect()
}

fn task(run: &RunSpec, facts: &StudyFacts, keys: &OutputKeys, stage: Stage) -> Task {
    let input = facts.spec.input.clone();
    let key = |stage| keys.output(stage).clone();
    let work = match stage {
        Stage::Embedding => Work::Embedding { image: input },
        Stage::Findings => Work::Findings { image: input },
        Stage::Language if run.source == Source::Prompt => Work::Answer {
            prompt: input,
            generation: run.generation.clone(),
        },
        Stage::Language if run.source == Source::Dialog => Work::Dialog {
            prompt: input,
            generation: run.generation.clone(),
        },
        Stage::Language => Work::Report {
            embedding: key(Stage::Embedding),
            findings: key(Stage::Findings),
            generation: run.generation.clone(),
        },
        Stage::Scoring => Work::Scoring {
            report: key(Stage::Language),
            reference: facts.spec.reference.clone(),
        },
    };
    Task {
        group: run.group.clone(),
        ..Task::new(
            &run.run,
            &facts.spec.study,
            run.component(stage),
            key(stage),
            work,
        )
    }
}

#[cfg(test)]
mod tests;
