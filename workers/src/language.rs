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
use radialog_runtime::objects::Objects;
use radialog_runtime::stage::{
    ChatWork, Feed, OpenTurn, PreparedTurn, StageOutput, StageWork, WorkItem,
};
use radialog_schemas::{ContentHash, Failure, Stage, Task, Work};
use tokio::sync::oneshot::Sender;

use crate::StageOptions;
use chat::Speech;

mod answer;
mod chat;
mod report;

/// The language stage.
pub struct LanguageStage {
    component: ContentHash,
    language: Arc<LanguagePipeline>,
    limits: EngineLimits,
}

/// A text to write: the request to the model, and what becomes of the answer.
pub struct Prompted {
    request: GenerationRequest,
    text: Text,
}

/// What a text is for.
enum Text {
    Report,
    /// The answer to a text, without an image.
    Answer,
    Turn(Speech),
}

/// A sequence in the engine.
struct Writing {
    text: Text,
    answer: Sender<Result<StageOutput, Failure>>,
    prompt_tokens: usize,
    /// The model's time for this sequence so far.
    time: Duration,
    /// Most sequences that shared a step with it.
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
            usize::try_from(bytes / config.cache_bytes_per_token() as u64).unwrap_or(usize::MAX)
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
        writing: &mut HashMap<SequenceId, Writing>,
        item: WorkItem<Prompted>,
    ) {
        let WorkItem {
            input: Prompted { request, text },
            answer,
            ..
        } = item;
        let prompt_tokens = request.prompt.len();
        match engine.admit(request) {
            Ok(id) => {
                writing.insert(
                    id,
                    Writing {
                        text,
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

    /// Applies what a step did, and answers the sequences that have left.
    fn settle(
        &self,
        writing: &mut HashMap<SequenceId, Writing>,
        events: Vec<EngineEvent>,
        time: Duration,
    ) {
        let sequences: BTreeSet<SequenceId> = events.iter().map(sequence_of).collect();
        let batch = sequences.len() as u32;
        for sequence in sequences {
            if let Some(writing) = writing.get_mut(&sequence) {
                writing.time += time / batch;
                writing.batch = writing.batch.max(batch);
            }
        }
        for event in events {
            match event {
                EngineEvent::Token { sequence, token } => {
                    if let Some(Writing {
                        text: Text::Turn(speech),
                        ..
                    }) = writing.get_mut(&sequence)
                    {
                        speech.say(&self.language.tokenizer, token);
                    }
                }
                EngineEvent::Finished { sequence, result } => {
                    if let Some(writing) = writing.remove(&sequence) {
                        self.finish(writing, result);
                    }
                }
            }
        }
    }

    fn finish(&self, writing: Writing, result: Result<Completion, LanguageError>) {
        let Writing {
            text,
            answer,
            prompt_tokens,
            time,
            batch,
        } = writing;
        let output = result.map_err(failure).map(|completion| {
            let tokens = completion.tokens.len() as u32;
            let content = match text {
                Text::Report => report::content(&self.language, prompt_tokens, &completion),
                Text::Answer => answer::content(&self.language, prompt_tokens, &completion),
                Text::Turn(speech) => {
                    speech.end(&self.language.tokenizer, prompt_tokens, &completion)
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
    type Input = Prompted;

    fn stage(&self) -> Stage {
        Stage::Language
    }

    fn component(&self) -> &ContentHash {
        &self.component
    }

    fn batch_limit(&self) -> usize {
        self.limits.sequences - self.limits.chat.sequences
    }

    async fn fetch(&self, task: &Task, objects: &dyn Objects) -> Result<Prompted, Failure> {
        let (request, text) = match &task.work {
            Work::Answer { prompt, generation } => (
                answer::request(&self.language, prompt, generation, &task.output, objects).await?,
                Text::Answer,
            ),
            _ => (
                report::request(&self.language, task, objects).await?,
                Text::Report,
            ),
        };
        Ok(Prompted { request, text })
    }

    fn run(&self, feed: &mut dyn Feed<Prompted>) {
        let mut engine = self.engine();
        let mut writing: HashMap<SequenceId, Writing> = HashMap::new();
        loop {
            let items = match engine.is_idle() {
                true => feed.wait(self.batch_limit()),
                false => feed.ready(engine.free_slots(), engine.free_chat_slots()),
            };
            if items.is_empty() && engine.is_idle() {
                return;
            }
            for item in items {
                self.admit(&mut engine, &mut writing, item);
            }
            forget_unwanted(&mut engine, &mut writing);
            let started = Instant::now();
            match engine.step() {
                Ok(events) => self.settle(&mut writing, events, started.elapsed()),
                Err(error) => {
                    let failure = failure(error);
                    for (_, lost) in writing.drain() {
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
    type Input = Prompted;

    fn turn_limit(&self) -> usize {
        self.limits.sequences
    }

    async fn prepare(
        &self,
        turn: OpenTurn<'_>,
        objects: &dyn Objects,
    ) -> Result<PreparedTurn<Prompted>, Failure> {
        let window = self
            .language
            .model
            .config()
            .max_position_embeddings
            .min(self.limits.cache_tokens);
        let (request, speech, asked) = chat::request(&self.language, window, turn, objects).await?;
        Ok(PreparedTurn {
            input: Prompted {
                request,
                text: Text::Turn(speech),
            },
            asked,
        })
    }
}

fn forget_unwanted(engine: &mut Engine, writing: &mut HashMap<SequenceId, Writing>) {
    writing.retain(|&id, writing| {
        let unwanted = writing.answer.is_closed();
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
