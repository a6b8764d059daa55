//! The four stages without a model: outputs of the right form whose content follows from the task alone, for tests of
//! everything around the models and for the benchmarks. A study's name can make them misbehave. The fake of the language
//! stage also answers turns of conversations, see [`chat`].

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use radialog_runtime::objects::Objects;
use radialog_runtime::stage::{Feed, StageOutput, StageWork, WorkItem};
use radialog_schemas::{
    ContentHash, ErrorCode, Failure, Finding, FindingsReport, GeneratedReport, Label, ObjectKey,
    PredictedFinding, ReportLabels, Stage, StudyId, Task, Work,
};
use tokio::runtime::Builder;
use tokio::sync::oneshot::Sender;

pub mod chat;

use crate::stepping::Gate;
use chat::AnswerInProgress;

/// Studies whose name contains this panic in the model.
pub const PANICS: &str = "panics";
/// Studies whose name contains this fail in the model, in a way that may work later.
pub const FAILS: &str = "fails";
/// Studies whose name contains this fail for good.
pub const CORRUPT: &str = "corrupt";

/// A stage without a model.
pub struct FakeStage {
    stage: Stage,
    component: ContentHash,
    batch_limit: usize,
    delay: Duration,
    gate: Option<Arc<Gate>>,
    payload: usize,
    words: usize,
    pause: Duration,
    sees: Option<FindingsReport>,
    batches: Mutex<Vec<Vec<StudyId>>>,
}

/// An item of a fake stage's model.
pub enum FakeInput {
    /// A task.
    Task(Box<Task>),
    /// A turn of a conversation.
    Turn(AnswerInProgress),
}

impl FakeStage {
    /// Makes a stage that answers at once, in batches of up to 16.
    pub fn new(stage: Stage) -> Self {
        let component = Self::component_of(stage);
        let (delay, pause) = (Duration::ZERO, Duration::ZERO);
        Self {
            stage,
            component,
            batch_limit: 16,
            delay,
            gate: None,
            payload: 64,
            words: 20,
            pause,
            sees: None,
            batches: Mutex::default(),
        }
    }

    /// Returns the component that this stage's tasks must name.
    pub fn component_of(stage: Stage) -> ContentHash {
        ContentHash::of_parts([b"fake".as_slice(), stage.name().as_bytes()])
    }

    /// Takes at most so many items at a time.
    pub fn batch_limit(self, batch_limit: usize) -> Self {
        Self {
            batch_limit,
            ..self
        }
    }

    /// Makes every batch take so long.
    pub fn delay(self, delay: Duration) -> Self {
        Self { delay, ..self }
    }

    /// Makes every batch pass this gate.
    pub fn behind(self, gate: &Arc<Gate>) -> Self {
        Self {
            gate: Some(gate.clone()),
            ..self
        }
    }

    /// Sets the size of an embedding's object, in bytes.
    pub fn payload(self, payload: usize) -> Self {
        Self { payload, ..self }
    }

    /// Gives the answers of turns so many tokens; all turns together get one more after each pause.
    pub fn chat_answers(self, words: usize, pause: Duration) -> Self {
        Self {
            words,
            pause,
            ..self
        }
    }

    /// Makes the findings stage say this of every image.
    pub fn sees(self, report: FindingsReport) -> Self {
        Self {
            sees: Some(report),
            ..self
        }
    }

    /// Returns the studies of each batch so far. Batches without a delay or a gate are not kept, so that
    /// benchmarks stay flat.
    pub fn batches(&self) -> Vec<Vec<StudyId>> {
        self.batches
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    fn answer_all(&self, batch: Vec<(Task, Sender<Result<StageOutput, Failure>>)>) {
        let started = Instant::now();
        if !self.delay.is_zero() || self.gate.is_some() {
            let studies = batch.iter().map(|(task, _)| task.study.clone()).collect();
            self.batches
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .push(studies);
            std::thread::sleep(self.delay);
        }
        if let Some(gate) = &self.gate {
            // The model's thread has no runtime.
            let runtime = Builder::new_current_thread().build();
            runtime.expect("a runtime").block_on(gate.pass());
        }
        assert!(
            !batch
                .iter()
                .any(|(task, _)| task.study.as_str().contains(PANICS)),
            "told to panic"
        );
        let size = u32::try_from(batch.len()).unwrap_or(u32::MAX);
        let model_time = started.elapsed() / size;
        for (task, answer) in batch {
            let output = self.answer(&task).map(|content| StageOutput {
                content: content.into(),
                model_time,
                batch: size,
                ..StageOutput::default()
            });
            // Nobody listens any more after a shutdown.
            let _ = answer.send(output);
        }
    }

    fn answer(&self, task: &Task) -> Result<Vec<u8>, Failure> {
        let study = task.study.as_str();
        if study.contains(FAILS) {
            return Err(Failure::new(ErrorCode::Model, "told to fail"));
        }
        if study.contains(CORRUPT) {
            return Err(Failure::new(ErrorCode::ImageCorrupt, "told to be corrupt"));
        }
        Ok(match (&self.sees, &task.work) {
            (Some(report), Work::Findings { .. }) => json(report),
            _ => content(task, self.payload),
        })
    }
}

#[async_trait::async_trait]
impl StageWork for FakeStage {
    type Input = FakeInput;

    fn stage(&self) -> Stage {
        self.stage
    }

    fn component(&self) -> &ContentHash {
        &self.component
    }

    fn batch_limit(&self) -> usize {
        self.batch_limit
    }

    async fn fetch(&self, task: &Task, objects: &dyn Objects) -> Result<FakeInput, Failure> {
        for key in inputs(&task.work) {
            objects.get(key).await?;
        }
        Ok(FakeInput::Task(Box::new(task.clone())))
    }

    fn run(&self, feed: &mut dyn Feed<FakeInput>) {
        let mut answers: Vec<AnswerInProgress> = Vec::new();
        loop {
            let items = match answers.is_empty() {
                true => feed.wait(self.batch_limit),
                false => feed.ready(self.batch_limit, chat::TURN_LIMIT),
            };
            if items.is_empty() && answers.is_empty() {
                return;
            }
            let mut batch = Vec::new();
            for WorkItem { input, answer, .. } in items {
                match input {
                    FakeInput::Task(task) => batch.push((*task, answer)),
                    FakeInput::Turn(in_progress) => answers.push(in_progress.answered_by(answer)),
                }
            }
            if !batch.is_empty() {
                self.answer_all(batch);
            }
            if !answers.is_empty() {
                std::thread::sleep(self.pause);
                answers = answers
                    .into_iter()
                    .filter_map(AnswerInProgress::next_token)
                    .collect();
            }
        }
    }
}

/// Returns what the fake stage makes of a task, which follows from the task alone.
pub fn content(task: &Task, payload: usize) -> Vec<u8> {
    let digest = ContentHash::of(task.output.as_str().as_bytes());
    let chance = |finding: Finding| digest.as_str().as_bytes()[finding as usize];
    match &task.work {
        Work::Embedding { .. } => {
            let mut content = digest
                .as_str()
                .repeat(payload.div_ceil(digest.as_str().len()))
                .into_bytes();
            content.truncate(payload);
            content
        }
        Work::Findings { .. } => {
            let predict = |finding| {
                let probability = f32::from(chance(finding)) / 255.0;
                PredictedFinding {
                    finding,
                    probability: Some(probability),
                    present: probability > 0.3,
                    threshold: None,
                }
            };
            json(&FindingsReport {
                findings: Finding::ALL.map(predict).to_vec(),
                text: digest.short().into(),
                warnings: Vec::new(),
                input_gate: None,
            })
        }
        Work::Report { .. } => {
            let text = format!("Report {}.", digest.short());
            json(&GeneratedReport {
                text,
                prompt_tokens: 100,
                tokens: 20,
                complete: true,
                consistency: None,
            })
        }
        Work::Answer { .. } | Work::Dialog { .. } => {
            let text = format!("Answer {}.", digest.short());
            json(&GeneratedReport {
                text,
                prompt_tokens: 50,
                tokens: 10,
                complete: true,
                consistency: None,
            })
        }
        Work::Scoring { reference, .. } => {
            let label = |finding| {
                (
                    finding,
                    Label::from_class(usize::from(chance(finding) % 4)).unwrap_or(Label::Blank),
                )
            };
            let labels: BTreeMap<_, _> = Finding::ALL.map(label).into();
            json(&ReportLabels {
                report: labels.clone(),
                reference: reference.as_ref().map(|_| labels),
                comparisons: Some(Vec::new()),
            })
        }
    }
}

fn json(value: &impl serde::Serialize) -> Vec<u8> {
    serde_json::to_vec(value).expect("plain data with text keys")
}

fn inputs(work: &Work) -> Vec<&ObjectKey> {
    match work {
        Work::Embedding { image } | Work::Findings { image } => vec![image],
        Work::Report {
            embedding,
            findings,
            ..
        } => vec![embedding, findings],
        Work::Answer { prompt, .. } | Work::Dialog { prompt, .. } => vec![prompt],
        Work::Scoring { report, reference } => std::iter::once(report).chain(reference).collect(),
    }
}
