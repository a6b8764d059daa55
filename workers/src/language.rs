//! Image tokens and findings to a report, and conversations about it, with one model. Sequences join and leave it between
//! decode steps, turns of conversations first.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use candle_core::Device;
use radialog_models::bundle::components::LanguagePipeline;
use radialog_models::bundle::{Bundle, BundleError};
use radialog_models::language::{
    ChatLimits, Completion, Engine, EngineEvent, EngineLimits, GenerationRequest, LanguageError,
    SequenceId,
};
use radialog_runtime::metrics::metrics;
use radialog_runtime::objects::Objects;
use radialog_runtime::stage::{
    ChatWork, Feed, OpenTurn, PreparedTurn, StageOutput, StageWork, WorkItem,
};
use radialog_schemas::{ContentHash, Failure, Stage, Task, Work};
use tokio::sync::oneshot::Sender;

use crate::{StageOptions, input};
use chat::AnswerStream;

mod answer;
mod chat;
mod report;

/// The language stage: reports of a batch, answers to texts, and turns of conversations.
pub struct LanguageStage {
    component: ContentHash,
    language: Arc<LanguagePipeline>,
    limits: EngineLimits,
}

/// What the language stage computes for a task or a turn: the request to the engine, and what becomes of its text.
pub struct LanguageInput {
    request: GenerationRequest,
    purpose: Purpose,
}

/// What a generated text is for.
enum Purpose {
    /// The report of a study.
    Report,
    /// The answer to a text, without an image.
    Answer,
    /// The answer of a turn, which is read while it is written.
    Turn(AnswerStream),
}

/// A sequence in the engine, and who waits for it.
struct RunningSequence {
    purpose: Purpose,
    answer: Sender<Result<StageOutput, Failure>>,
    prompt_tokens: usize,
    /// The model's time for this sequence so far.
    time: Duration,
    /// The largest number of sequences that shared a step with it.
    batch: u32,
}

impl LanguageStage {
    /// Loads the language component onto the device.
    ///
    /// # Errors
    /// A component that is missing or does not load.
    pub fn load(
        bundle: &Bundle,
        device: &Device,
        options: &StageOptions,
    ) -> Result<Self, BundleError> {
        let language = LanguagePipeline::load(bundle, device)?;
        let config = language.model.config();
        let tokens = |bytes: u64| {
            let each = language.model.cache_bytes_per_token() as u64;
            usize::try_from(bytes / each).unwrap_or(usize::MAX)
        };
        let cache_tokens = tokens(options.cache_bytes);
        let chat = ChatLimits {
            sequences: 1,
            // A whole context, unless nothing would be left for reports.
            cache_tokens: config.max_position_embeddings.min(cache_tokens / 2),
            kept_tokens: tokens(options.kept_cache_bytes),
        };
        let sequences = options.batch_limit + chat.sequences;
        Ok(Self {
            component: bundle.manifest().component_hash(Stage::Language),
            limits: EngineLimits {
                sequences,
                cache_tokens,
                chat,
                speculate: options.speculate,
            },
            language: Arc::new(language),
        })
    }

    fn engine(&self) -> Engine {
        Engine::new(self.language.model.clone(), self.limits)
    }

    fn admit(
        &self,
        engine: &mut Engine,
        running: &mut HashMap<SequenceId, RunningSequence>,
        item: WorkItem<LanguageInput>,
    ) {
        let WorkItem {
            input: LanguageInput { request, purpose },
            answer,
            ..
        } = item;
        let prompt_tokens = request.prompt.len();
        match engine.admit(request) {
            Ok(id) => {
                running.insert(
                    id,
                    RunningSequence {
                        purpose,
                        answer,
                        prompt_tokens,
                        time: Duration::ZERO,
                        batch: 0,
                    },
                );
            }
            // Nobody listens any more after a shutdown.
            Err(error) => drop(answer.send(Err(failure(error)))),
        }
    }

    /// Applies the events of a decode step, which took `time`, and answers the sequences that have left.
    fn apply_events(
        &self,
        running: &mut HashMap<SequenceId, RunningSequence>,
        events: Vec<EngineEvent>,
        starting: Option<SequenceId>,
        time: Duration,
    ) {
        // One whose prompt is still being read has had its share of the step, too.
        let sequences = events.iter().map(sequence_of).chain(starting);
        let sequences: BTreeSet<SequenceId> = sequences.collect();
        let batch = sequences.len() as u32;
        for sequence in sequences {
            if let Some(running) = running.get_mut(&sequence) {
                running.time += time / batch;
                running.batch = running.batch.max(batch);
            }
        }
        for event in events {
            match event {
                EngineEvent::Token { sequence, token } => {
                    if let Some(RunningSequence {
                        purpose: Purpose::Turn(stream),
                        ..
                    }) = running.get_mut(&sequence)
                    {
                        stream.push_token(&self.language.tokenizer, token);
                    }
                }
                EngineEvent::Finished { sequence, result } => {
                    if let Some(running) = running.remove(&sequence) {
                        self.finish(running, result);
                    }
                }
            }
        }
    }

    fn finish(&self, running: RunningSequence, result: Result<Completion, LanguageError>) {
        let RunningSequence {
            purpose,
            answer,
            prompt_tokens,
            time,
            batch,
        } = running;
        let output = result.map_err(failure).map(|completion| {
            let tokens = completion.tokens.len() as u32;
            let content = match purpose {
                Purpose::Report => report::content(&self.language, prompt_tokens, &completion),
                Purpose::Answer => answer::content(&self.language, prompt_tokens, &completion),
                Purpose::Turn(stream) => {
                    stream.finish(&self.language.tokenizer, prompt_tokens, &completion)
                }
            };
            StageOutput {
                content,
                tokens,
                model_time: time,
                batch,
            }
        });
        // Nobody listens any more after a shutdown.
        let _ = answer.send(output);
    }
}

#[async_trait]
impl StageWork for LanguageStage {
    type Input = LanguageInput;

    fn stage(&self) -> Stage {
        Stage::Language
    }

    fn component(&self) -> &ContentHash {
        &self.component
    }

    fn batch_limit(&self) -> usize {
        self.limits.sequences - self.limits.chat.sequences
    }

    async fn fetch(&self, task: &Task, objects: &dyn Objects) -> Result<LanguageInput, Failure> {
        let (request, purpose) = match &task.work {
            Work::Answer { prompt, generation } => (
                answer::request(&self.language, prompt, generation, &task.output, objects).await?,
                Purpose::Answer,
            ),
            Work::Report { .. } => (
                report::request(&self.language, task, objects).await?,
                Purpose::Report,
            ),
            Work::Embedding { .. } | Work::Findings { .. } | Work::Scoring { .. } => {
                return Err(input::wrong_stage(Stage::Language));
            }
        };
        Ok(LanguageInput { request, purpose })
    }

    fn run(&self, feed: &mut dyn Feed<LanguageInput>) {
        let mut engine = self.engine();
        let mut running: HashMap<SequenceId, RunningSequence> = HashMap::new();
        loop {
            let items = match engine.is_idle() {
                true => feed.wait(self.batch_limit()),
                false => feed.ready(engine.free_slots(), engine.free_chat_slots()),
            };
            if items.is_empty() && engine.is_idle() {
                return;
            }
            for item in items {
                self.admit(&mut engine, &mut running, item);
            }
            cancel_unwanted(&mut engine, &mut running);
            let started = Instant::now();
            match engine.step() {
                Ok(events) => {
                    let drafts = engine.take_drafts();
                    metrics().drafted(Stage::Language, drafts.drafted, drafts.accepted);
                    let (starting, time) = (engine.starting(), started.elapsed());
                    self.apply_events(&mut running, events, starting, time);
                }
                Err(error) => {
                    let failure = failure(error);
                    for (_, lost) in running.drain() {
                        let _ = lost.answer.send(Err(failure.clone()));
                    }
                    engine = self.engine();
                }
            }
        }
    }
}

#[async_trait]
impl ChatWork for LanguageStage {
    type Input = LanguageInput;

    fn turn_limit(&self) -> usize {
        self.limits.sequences
    }

    async fn prepare(
        &self,
        turn: OpenTurn<'_>,
        objects: &dyn Objects,
    ) -> Result<PreparedTurn<LanguageInput>, Failure> {
        let window = self
            .language
            .model
            .config()
            .max_position_embeddings
            .min(self.limits.cache_tokens);
        let (request, stream, asked) = chat::request(&self.language, window, turn, objects).await?;
        Ok(PreparedTurn {
            input: LanguageInput {
                request,
                purpose: Purpose::Turn(stream),
            },
            asked,
        })
    }
}

fn cancel_unwanted(engine: &mut Engine, running: &mut HashMap<SequenceId, RunningSequence>) {
    running.retain(|&id, running| {
        let unwanted = running.answer.is_closed();
        if unwanted {
            engine.cancel(id);
        }
        !unwanted
    });
}

fn sequence_of(event: &EngineEvent) -> SequenceId {
    match event {
        EngineEvent::Token { sequence, .. } | EngineEvent::Finished { sequence, .. } => *sequence,
    }
}

fn failure(error: LanguageError) -> Failure {
    Failure::new(error.code(), error)
}
