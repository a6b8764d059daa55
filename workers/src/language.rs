//! Image tokens and findings to a report, and conversations about it, with one model. Sequences join and leave it between
//! decode steps, turns of conversations first.

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

use crate::{StageOptions, input};
use chat::AnswerStream;
use running::{Running, RunningItem};

mod answer;
mod chat;
mod dialog;
mod report;
mod running;

/// The language stage: reports of a batch, answers to texts, and turns of conversations.
pub struct LanguageStage {
    component: ContentHash,
    language: Arc<LanguagePipeline>,
    limits: EngineLimits,
}

/// What the language stage computes for a task or a turn: the requests to the engine, of the same prompt, and what becomes of
/// their texts.
pub struct LanguageInput {
    requests: Vec<GenerationRequest>,
    purpose: Purpose,
}

/// What a generated text is for.
enum Purpose {
    /// The report of a study, and the samples behind it.
    Report,
    /// The answer to a text, without an image.
    Answer,
    /// The next answer of a dialog about an image.
    Dialog,
    /// The answer of a turn, which is read while it is written.
    Turn(AnswerStream),
    /// The answer of a turn that the model has no part in, all of which is sent.
    Said(AnswerStream, Completion),
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

    fn admit(&self, engine: &mut Engine, running: &mut Running, item: WorkItem<LanguageInput>) {
        let WorkItem {
            input: LanguageInput { requests, purpose },
            answer,
            ..
        } = item;
        let purpose = match purpose {
            Purpose::Said(stream, completion) => {
                let content = stream.finish(&self.language.tokenizer, 0, &completion);
                let output = StageOutput {
                    content,
                    tokens: 0,
                    model_time: Duration::ZERO,
                    batch: 0,
                };
                // Nobody listens any more after a shutdown.
                drop(answer.send(Ok(output)));
                return;
            }
            purpose => purpose,
        };
        let prompt_tokens = requests.first().map_or(0, |request| request.prompt.len());
        let mut sequences = Vec::new();
        for request in requests {
            match engine.admit(request) {
                Ok(id) => sequences.push(id),
                Err(error) => {
                    sequences.into_iter().for_each(|id| engine.cancel(id));
                    // Nobody listens any more after a shutdown.
                    drop(answer.send(Err(failure(error))));
                    return;
                }
            }
        }
        let item = RunningItem {
            purpose,
            answer,
            prompt_tokens,
            completions: vec![None; sequences.len()],
            time: Duration::ZERO,
            batch: 0,
        };
        running.add(sequences, item);
    }

    /// Applies the events of a decode step, which took `time`, and answers the items that have left.
    fn apply_events(
        &self,
        engine: &mut Engine,
        running: &mut Running,
        events: Vec<EngineEvent>,
        time: Duration,
    ) {
        // One whose prompt is still being read has had its share of the step, too.
        let sequences = events.iter().map(sequence_of).chain(engine.starting());
        running.add_time(&sequences.collect(), time);
        for event in events {
            match event {
                EngineEvent::Token { sequence, token } => {
                    if let Some(RunningItem {
                        purpose: Purpose::Turn(stream),
                        ..
                    }) = running.of(sequence)
                    {
                        stream.push_token(&self.language.tokenizer, token);
                        // The answer has come to its end, though the model has not.
                        if stream.is_stopped()
                            && let Some(completion) = engine.stop(sequence)
                            && let Some(item) = running.complete(sequence, completion)
                        {
                            self.finish(item);
                        }
                    }
                }
                EngineEvent::Finished {
                    sequence,
                    result: Ok(completion),
                } => {
                    if let Some(item) = running.complete(sequence, completion) {
                        self.finish(item);
                    }
                }
                EngineEvent::Finished {
                    sequence,
                    result: Err(error),
                } => {
                    if let Some(item) = running.fail(sequence, engine) {
                        // Nobody listens any more after a shutdown.
                        drop(item.answer.send(Err(failure(error))));
                    }
                }
            }
        }
    }

    fn finish(&self, item: RunningItem) {
        let RunningItem {
            purpose,
            answer,
            prompt_tokens,
            completions,
            time,
            batch,
        } = item;
        let mut completions = completions.into_iter().flatten();
        let Some(completion) = completions.next() else {
            return;
        };
        let samples: Vec<Completion> = completions.collect();
        let all = std::iter::once(&completion).chain(&samples);
        let tokens = all.map(|completion| completion.tokens.len() as u32).sum();
        let output = move |content| StageOutput {
            content,
            tokens,
            model_time: time,
            batch,
        };
        let content = match purpose {
            Purpose::Report if !samples.is_empty() => {
                // Samples are compared for some milliseconds, in which all other answers would wait.
                let language = self.language.clone();
                rayon::spawn(move || {
                    let content = report::content(&language, prompt_tokens, &completion, &samples);
                    drop(answer.send(Ok(output(content))));
                });
                return;
            }
            Purpose::Report => report::content(&self.language, prompt_tokens, &completion, &[]),
            Purpose::Answer => answer::content(&self.language, prompt_tokens, &completion),
            Purpose::Dialog => dialog::content(&self.language, prompt_tokens, &completion),
            Purpose::Turn(stream) | Purpose::Said(stream, _) => {
                stream.finish(&self.language.tokenizer, prompt_tokens, &completion)
            }
        };
        // Nobody listens any more after a shutdown.
        drop(answer.send(Ok(output(content))));
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
        let (requests, purpose) = match &task.work {
            Work::Answer { prompt, generation } => {
                let (language, output) = (&self.language, &task.output);
                let request = answer::request(language, prompt, generation, output, objects);
                (vec![request.await?], Purpose::Answer)
            }
            Work::Dialog { prompt, generation } => {
                let (language, output) = (&self.language, &task.output);
                let request = dialog::request(language, prompt, generation, output, objects);
                (vec![request.await?], Purpose::Dialog)
            }
            Work::Report { .. } => (
                report::requests(&self.language, task, objects).await?,
                Purpose::Report,
            ),
            Work::Embedding { .. } | Work::Findings { .. } | Work::Scoring { .. } => {
                return Err(input::wrong_stage(Stage::Language));
            }
        };
        Ok(LanguageInput { requests, purpose })
    }

    fn run(&self, feed: &mut dyn Feed<LanguageInput>) {
        let mut engine = self.engine();
        let mut running = Running::default();
        loop {
            // One by one: an item may be many sequences, and what has no room here is left to other workers.
            let next = |feed: &mut dyn Feed<_>, engine: &Engine| {
                feed.ready(engine.free_slots().min(1), engine.free_chat_slots())
            };
            let mut items = match engine.is_idle() {
                true => feed.wait(1),
                false => next(feed, &engine),
            };
            if items.is_empty() && engine.is_idle() {
                return;
            }
            while !items.is_empty() {
                for item in items {
                    self.admit(&mut engine, &mut running, item);
                }
                items = next(feed, &engine);
            }
            running.cancel_unwanted(&mut engine);
            let started = Instant::now();
            match engine.step() {
                Ok(events) => {
                    let drafts = engine.take_drafts();
                    metrics().drafted(Stage::Language, drafts.drafted, drafts.accepted);
                    let time = started.elapsed();
                    self.apply_events(&mut engine, &mut running, events, time);
                }
                Err(error) => {
                    let failure = failure(error);
                    for lost in running.drain() {
                        drop(lost.answer.send(Err(failure.clone())));
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
        if let Some((stream, completion, asked)) = chat::without_image(&self.language, &turn)? {
            return Ok(PreparedTurn {
                input: LanguageInput {
                    requests: Vec::new(),
                    purpose: Purpose::Said(stream, completion),
                },
                asked,
            });
        }
        let mut cache_tokens = self.limits.cache_tokens;
        if turn.snapshot.conversation.of_batch {
            // What the engine keeps for turns that somebody waits for is not its.
            cache_tokens = cache_tokens.saturating_sub(self.limits.chat.cache_tokens);
        }
        let config = self.language.model.config();
        let window = config.max_position_embeddings.min(cache_tokens);
        let (request, stream, asked) = chat::request(&self.language, window, turn, objects).await?;
        Ok(PreparedTurn {
            input: LanguageInput {
                requests: vec![request],
                purpose: Purpose::Turn(stream),
            },
            asked,
        })
    }
}

fn sequence_of(event: &EngineEvent) -> SequenceId {
    match event {
        EngineEvent::Token { sequence, .. } | EngineEvent::Finished { sequence, .. } => *sequence,
    }
}

fn failure(error: LanguageError) -> Failure {
    Failure::new(error.code(), error)
}
