//! Image tokens and findings to a report. Sequences join and leave the model between decode steps.

use std::collections::{BTreeSet, HashMap};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use candle_core::{Device, Tensor};
use radialog_models::bundle::networks::Language;
use radialog_models::bundle::{Bundle, BundleError};
use radialog_models::image_tokens;
use radialog_models::language::{Completion, Engine, Event, LanguageError, Limits, Request, Sampling, SequenceId};
use radialog_runtime::objects::Objects;
use radialog_runtime::stage::{Feed, Item, Output, StageWork};
use radialog_schemas::{
    ContentHash, ErrorCode, Failure, FindingsReport, GeneratedReport, Generation, ObjectKey, Stage, Task, Work,
};

use crate::{StageOptions, input};

/// The language stage.
pub struct LanguageStage {
    component: ContentHash,
    language: Language,
    limits: Limits,
}

/// A report to write.
pub struct Prompted {
    prompt: Vec<u32>,
    image_tokens: Tensor,
    generation: Generation,
}

/// A sequence in the engine.
struct Writing {
    item: Item<Prompted>,
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
    pub fn load(bundle: &Bundle, device: &Device, options: &StageOptions) -> Result<Self, BundleError> {
        let language = Language::load(bundle, device)?;
        let bytes = language.model.config().cache_bytes_per_token() as u64;
        let cache_tokens = usize::try_from(options.cache_bytes / bytes).unwrap_or(usize::MAX);
        Ok(Self {
            component: bundle.manifest().component_hash(Stage::Language),
            language,
            limits: Limits { sequences: options.batch_limit, cache_tokens },
        })
    }

    fn admit(&self, engine: &mut Engine, item: &Item<Prompted>) -> Result<SequenceId, LanguageError> {
        let Prompted { prompt, image_tokens, generation } = &item.input;
        engine.admit(Request {
            prompt: prompt.clone(),
            images: vec![image_tokens.clone()],
            sampling: Sampling { seed: seed_of(generation, &item.task.output), ..Sampling::from(generation) },
            max_new_tokens: generation.max_new_tokens as usize,
        })
    }

    fn report(&self, prompt_tokens: usize, completion: &Completion) -> GeneratedReport {
        let answer = self.language.tokenizer.decode_continuation(&completion.tokens);
        GeneratedReport {
            text: self.language.prompts.report_text(&answer).to_owned(),
            prompt_tokens: prompt_tokens as u32,
            tokens: completion.tokens.len() as u32,
            complete: completion.complete,
        }
    }

    /// Applies what a step did, and answers the sequences that have left.
    fn settle(&self, writing: &mut HashMap<SequenceId, Writing>, events: Vec<Event>, time: Duration) {
        let sequences: BTreeSet<SequenceId> = events.iter().map(sequence_of).collect();
        let batch = sequences.len() as u32;
        for sequence in sequences {
            if let Some(writing) = writing.get_mut(&sequence) {
                writing.time += time / batch;
                writing.batch = writing.batch.max(batch);
            }
        }
        for event in events {
            if let Event::Finished { sequence, result } = event
                && let Some(Writing { item, time, batch }) = writing.remove(&sequence)
            {
                let output = result.map_err(failure).map(|completion| {
                    let report = self.report(item.input.prompt.len(), &completion);
                    Output { content: input::to_json(&report), tokens: report.tokens, model_time: time, batch }
                });
                // Nobody listens any more after a shutdown.
                let _ = item.answer.send(output);
            }
        }
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
        self.limits.sequences
    }

    async fn fetch(&self, task: &Task, objects: &dyn Objects) -> Result<Prompted, Failure> {
        let Work::Report { embedding, findings, generation } = &task.work else {
            return Err(input::not_ours(Stage::Language));
        };
        let (content, findings) =
            tokio::try_join!(input::object(objects, embedding), input::json::<FindingsReport>(objects, findings))?;
        let image_tokens = image_tokens::decode(&content).map_err(|error| input::corrupt(embedding, error))?;
        let prompt = self.language.prompts.report(&findings.text);
        let prompt = self.language.tokenizer.encode_prompt(&prompt).map_err(|e| Failure::new(ErrorCode::Model, e))?;
        Ok(Prompted { prompt, image_tokens, generation: generation.clone() })
    }

    fn run(&self, feed: &mut dyn Feed<Prompted>) {
        let mut engine = Engine::new(self.language.model.clone(), self.limits);
        let mut writing: HashMap<SequenceId, Writing> = HashMap::new();
        loop {
            let items = if engine.is_idle() { feed.wait(self.limits.sequences) } else { feed.ready(engine.room()) };
            if items.is_empty() && engine.is_idle() {
                return;
            }
            for item in items {
                match self.admit(&mut engine, &item) {
                    Ok(id) => drop(writing.insert(id, Writing { item, time: Duration::ZERO, batch: 0 })),
                    Err(error) => drop(item.answer.send(Err(failure(error)))),
                }
            }
            forget_unwanted(&mut engine, &mut writing);
            let started = Instant::now();
            match engine.step() {
                Ok(events) => self.settle(&mut writing, events, started.elapsed()),
                Err(error) => {
                    let failure = failure(error);
                    for (_, lost) in writing.drain() {
                        let _ = lost.item.answer.send(Err(failure.clone()));
                    }
                    engine = Engine::new(self.language.model.clone(), self.limits);
                }
            }
        }
    }
}

fn forget_unwanted(engine: &mut Engine, writing: &mut HashMap<SequenceId, Writing>) {
    writing.retain(|&id, writing| {
        let unwanted = writing.item.answer.is_closed();
        if unwanted {
            engine.cancel(id);
        }
        !unwanted
    });
}

fn sequence_of(event: &Event) -> SequenceId {
    match event {
        Event::Token { sequence, .. } | Event::Finished { sequence, .. } => *sequence,
    }
}

/// Each study draws from a stream of its own, so that a sampled report does not depend on what else is in the batch.
fn seed_of(generation: &Generation, output: &ObjectKey) -> u64 {
    let hash = ContentHash::of_parts([&generation.seed.to_le_bytes()[..], output.as_str().as_bytes()]);
    u64::from_str_radix(&hash.as_str()[..16], 16).expect("a hash is hexadecimal")
}

fn failure(error: LanguageError) -> Failure {
    Failure::new(error.code(), error)
}
