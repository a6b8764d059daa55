//! What a worker is asked to do, and what a run and a study are.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::record::{GivenFile, GivenOutput};
use crate::{
    AdapterName, ComparisonMark, Consistency, ContentHash, ConversationId, Labels, ObjectKey,
    PerStage, QueueGroup, ReportSampling, RunId, SCHEMA_VERSION, Stage, StageSet, StudyId,
};

/// One message to one stage.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Task {
    /// [`SCHEMA_VERSION`] of the writer.
    pub schema_version: u32,
    /// The run it belongs to.
    pub run: RunId,
    /// The study it belongs to.
    pub study: StudyId,
    /// The bundle component that has to do it: [`crate::Manifest::component_hash`].
    pub component: ContentHash,
    /// The revision of the stage's code that the key of the output was made with ([`Stage::REVISIONS`]): a worker whose own is
    /// lower leaves the task to another. None where the writer's release told none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision: Option<u32>,
    /// The group of queues that its bundle's workers take tasks from; none is the queues without a group.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<QueueGroup>,
    /// The key under which the output is stored.
    pub output: ObjectKey,
    /// What to do.
    #[serde(flatten)]
    pub work: Work,
}

/// The inputs of a task, by stage.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "task", rename_all = "snake_case")]
pub enum Work {
    /// Image tokens of an image.
    Embedding {
        /// A PNG or JPEG file.
        image: ObjectKey,
    },
    /// Findings of an image.
    Findings {
        /// A PNG or JPEG file.
        image: ObjectKey,
    },
    /// A report.
    Report {
        /// Image tokens `[32, 768]`.
        embedding: ObjectKey,
        /// A [`crate::FindingsReport`].
        findings: ObjectKey,
        /// The settings with which the report is decoded.
        generation: Generation,
    },
    /// An answer to a text, without an image.
    Answer {
        /// A [`TextPrompt`].
        prompt: ObjectKey,
        /// The settings with which the answer is decoded.
        generation: Generation,
    },
    /// The next answer of a dialog about an image.
    Dialog {
        /// A [`crate::DialogPrompt`].
        prompt: ObjectKey,
        /// The settings with which the answer is decoded.
        generation: Generation,
    },
    /// CheXbert labels.
    Scoring {
        /// A [`GeneratedReport`].
        report: ObjectKey,
        /// The radiologist's text, if there is one.
        reference: Option<ObjectKey>,
    },
}

impl Work {
    /// The stage that does it.
    pub fn stage(&self) -> Stage {
        match self {
            Work::Embedding { .. } => Stage::Embedding,
            Work::Findings { .. } => Stage::Findings,
            Work::Report { .. } | Work::Answer { .. } | Work::Dialog { .. } => Stage::Language,
            Work::Scoring { .. } => Stage::Scoring,
        }
    }

    /// The objects that it reads.
    pub fn inputs(&self) -> Vec<&ObjectKey> {
        match self {
            Work::Embedding { image } | Work::Findings { image } => vec![image],
            Work::Report {
                embedding,
                findings,
                ..
            } => vec![embedding, findings],
            Work::Answer { prompt, .. } | Work::Dialog { prompt, .. } => vec![prompt],
            Work::Scoring { report, reference } => {
                std::iter::once(report).chain(reference).collect()
            }
        }
    }
}

impl Task {
    /// A task of the current schema version, and of this release's revision of the stage.
    pub fn new(
        run: &RunId,
        study: &StudyId,
        component: &ContentHash,
        output: ObjectKey,
        work: Work,
    ) -> Self {
        let (run, study, component) = (run.clone(), study.clone(), component.clone());
        Self {
            schema_version: SCHEMA_VERSION,
            run,
            study,
            component,
            revision: Some(*Stage::REVISIONS.get(work.stage())),
            group: None,
            output,
            work,
        }
    }
}

/// The settings with which text is decoded.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Generation {
    /// Stop after this many tokens. The original uses 300 for reports.
    pub max_new_tokens: u32,
    /// The temperature of the sampling; none is greedy decoding.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub temperature: Option<f64>,
    /// Nucleus of this probability mass; only with a temperature.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub top_p: Option<f64>,
    /// Seed of the sampler; each study draws from its own stream.
    #[serde(default)]
    pub seed: u64,
    /// The adapter that writes the text, of a bundle that has several; none is the bundle's own for the task.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub adapter: Option<AdapterName>,
    /// Further reports that are sampled of a study, to see how far they agree with its report; of reports alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub samples: Option<ReportSampling>,
}

impl Default for Generation {
    fn default() -> Self {
        Self {
            max_new_tokens: 300,
            temperature: None,
            top_p: None,
            seed: 0,
            adapter: None,
            samples: None,
        }
    }
}

impl Generation {
    /// What of these options determines the text: the seed counts only when something is sampled. The adapter that a task
    /// has by default follows from the component.
    pub fn fingerprint(&self) -> String {
        let decoding = self.decoding();
        let decoding = match &self.adapter {
            None => decoding,
            Some(adapter) => format!("{decoding}/adapter/{adapter}"),
        };
        match &self.samples {
            None => decoding,
            Some(ReportSampling { count, temperature }) => {
                format!("{decoding}/samples/{count}/{temperature}/{}", self.seed)
            }
        }
    }

    fn decoding(&self) -> String {
        match self.temperature {
            None => format!("greedy/{}", self.max_new_tokens),
            Some(t) => format!(
                "sampled/{}/{t}/{}/{}",
                self.max_new_tokens,
                self.top_p.unwrap_or(1.0),
                self.seed
            ),
        }
    }
}

/// A conversation without an image that the language model is to go on with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct TextPrompt {
    /// The messages in turn; the user's are first and last.
    pub messages: Vec<String>,
}

/// The output object of a report task, or of an answer: its text is then all that the model wrote.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct GeneratedReport {
    /// The findings section as generated.
    pub text: String,
    /// Number of tokens in the prompt.
    pub prompt_tokens: u32,
    /// Number of generated tokens, the end token included.
    pub tokens: u32,
    /// True when the end token stopped it, false when the limit did.
    pub complete: bool,
    /// What further reports say that were sampled of the study, where that was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub consistency: Option<Consistency>,
}

/// The output object of the scoring stage.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ReportLabels {
    /// Labels of the generated report.
    pub report: Labels,
    /// Labels of the reference, where there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reference: Option<Labels>,
    /// Sentences of the generated report that compare with an earlier image; none where an earlier release looked for none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub comparisons: Option<Vec<ComparisonMark>>,
}

/// What the studies of a run begin with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Source {
    /// An X-ray.
    #[default]
    Image,
    /// A text to label: a [`GeneratedReport`], whoever wrote it.
    Report,
    /// A text to answer: a [`TextPrompt`].
    Prompt,
    /// A dialog about an image to go on with: a [`crate::DialogPrompt`].
    Dialog,
}

impl Source {
    /// The key under which content that a study begins with is stored.
    pub fn key(self, content: &ContentHash) -> ObjectKey {
        match self {
            Source::Image => ObjectKey::image(content),
            Source::Report | Source::Prompt | Source::Dialog => ObjectKey::text(content),
        }
    }

    /// The stages that a stage waits for in such a run: none where it reads what the study begins with.
    pub fn needs(self, stage: Stage) -> &'static [Stage] {
        match (self, stage) {
            (Source::Report, Stage::Scoring)
            | (Source::Prompt | Source::Dialog, Stage::Language) => &[],
            _ => stage.needs(),
        }
    }

    fn is_image(&self) -> bool {
        *self == Source::Image
    }
}

/// What all studies of a run share. Any coordinator on the results queue can continue a run from it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct RunSpec {
    /// [`SCHEMA_VERSION`] of the writer.
    pub schema_version: u32,
    /// The id of the run.
    pub run: RunId,
    /// What its studies begin with.
    #[serde(default, skip_serializing_if = "Source::is_image")]
    pub source: Source,
    /// The stages that the run goes through.
    pub stages: StageSet,
    /// The settings with which reports are decoded.
    pub generation: Generation,
    /// Hash of the whole bundle.
    pub bundle: ContentHash,
    /// Hash of each stage's component, in pipeline order.
    pub components: PerStage<ContentHash>,
    /// The group of queues that the bundle's workers take tasks from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<QueueGroup>,
    /// The files that stand in for stages.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub given: BTreeMap<Stage, Vec<GivenFile>>,
    /// The conversation whose image the run prepares: its end then starts the first turn, and no line is written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub conversation: Option<ConversationId>,
}

impl RunSpec {
    /// The bundle component of a stage.
    pub fn component(&self, stage: Stage) -> &ContentHash {
        self.components.get(stage)
    }
}

/// One study as the archive describes it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct StudySpec {
    /// The study's id, which is unique within the run.
    pub study: StudyId,
    /// The image's name in the archive, for people.
    pub file: String,
    /// The stored image; where the run's [`Source`] is another, the stored text.
    #[serde(rename = "image")]
    pub input: ObjectKey,
    /// Further images of the study, which the v1 model does not read.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub other_files: Vec<String>,
    /// The stored reference report.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reference: Option<ObjectKey>,
    /// The reason why the image was taken, as the archive says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub indication: Option<String>,
    /// The data split, as the archive says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub split: Option<String>,
    /// Outputs of stages that were given with the run: these stages do not run.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub given: BTreeMap<Stage, GivenOutput>,
}
