//! Continuous batching: sequences join and leave between decode steps. What a sequence says does not depend on the
//! others; on a CPU not even in its last bit.

use std::collections::VecDeque;
use std::sync::Arc;

use candle_core::Tensor;

use super::LanguageError;
use super::cache::KvCache;
use super::llama::{LanguageModel, Span};
use super::sampler::{Sampler, Sampling};

/// Beginnings of prompts that are kept: one for each wording in use.
const KEPT_PREFIXES: usize = 4;
/// A longer beginning belongs to one conversation and is not worth keeping.
const LONGEST_PREFIX: usize = 256;

/// One answer to generate.
pub struct Request {
    /// Token ids of the prompt, placeholders included.
    pub prompt: Vec<u32>,
    /// An embedding `[32, 768]` for each block of placeholders, in order.
    pub images: Vec<Tensor>,
    /// How tokens are chosen.
    pub sampling: Sampling,
    /// Stop after this many tokens, or where the context ends.
    pub max_new_tokens: usize,
}

/// How much an engine may hold at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Most sequences that are decoded together.
    pub sequences: usize,
    /// Most cache tokens of all running sequences; each one counts with its prompt and its longest possible answer.
    /// One token takes [`super::LlamaConfig::cache_bytes_per_token`]. Shared beginnings of prompts come on top, at most
    /// 1024 tokens.
    pub cache_tokens: usize,
}

/// Names a sequence within its engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SequenceId(u64);

/// What a step did.
#[derive(Debug)]
pub enum Event {
    /// A sequence has one more token.
    Token {
        /// Which sequence.
        sequence: SequenceId,
        /// The token; the end token is not reported here.
        token: u32,
    },
    /// A sequence has left the engine.
    Finished {
        /// Which sequence.
        sequence: SequenceId,
        /// Its answer, or why it has none.
        result: Result<Completion, LanguageError>,
    },
}

/// A finished answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Completion {
    /// Generated ids, the end token included where it was generated.
    pub tokens: Vec<u32>,
    /// True when the end token stopped it, false when a limit did.
    pub complete: bool,
}

/// Decodes many sequences together.
pub struct Engine {
    model: Arc<LanguageModel>,
    limits: Limits,
    waiting: VecDeque<Waiting>,
    running: Vec<Running>,
    /// The most recently used first.
    prefixes: Vec<Prefix>,
    next: u64,
}

struct Waiting {
    id: SequenceId,
    request: Request,
}

struct Running {
    id: SequenceId,
    cache: KvCache,
    sampler: Sampler,
    tokens: Vec<u32>,
    max_new_tokens: usize,
}

struct Prefix {
    ids: Vec<u32>,
    cache: KvCache,
}

impl Engine {
    /// An engine without sequences.
    pub fn new(model: Arc<LanguageModel>, limits: Limits) -> Self {
        Self { model, limits, waiting: VecDeque::new(), running: Vec::new(), prefixes: Vec::new(), next: 0 }
    }

    /// Takes a sequence in; it starts in the next step that has room for it, in order of admission.
    ///
    /// # Errors
    /// A prompt that is empty, leaves no room for an answer in the context, or could never fit the cache limit.
    pub fn admit(&mut self, request: Request) -> Result<SequenceId, LanguageError> {
        let (tokens, context) = (request.prompt.len(), self.model.config().max_position_embeddings);
        if tokens == 0 {
            return Err(LanguageError::EmptyPrompt);
        }
        if tokens >= context {
            return Err(LanguageError::ContextLength { tokens, context });
        }
        let (tokens, limit) = (self.reservation(&request), self.limits.cache_tokens);
        if tokens > limit {
            return Err(LanguageError::CacheLimit { tokens, limit });
        }
        let id = SequenceId(self.next);
        self.next += 1;
        self.waiting.push_back(Waiting { id, request });
        Ok(id)
    }

    /// How many more sequences could run now, as far as their number goes.
    pub fn room(&self) -> usize {
        self.limits.sequences.saturating_sub(self.running.len() + self.waiting.len())
    }

    /// Whether there is nothing to do.
    pub fn is_idle(&self) -> bool {
        self.running.is_empty() && self.waiting.is_empty()
    }

    /// Number of sequences that are being decoded.
    pub fn running(&self) -> usize {
        self.running.len()
    }

    /// Forgets a sequence; nothing more is reported of it.
    pub fn cancel(&mut self, id: SequenceId) {
        self.waiting.retain(|waiting| waiting.id != id);
        self.running.retain(|running| running.id != id);
    }

    /// Gives every running sequence one more token, then starts at most one that waits, so that running answers never
    /// wait for more than one prompt. A sequence that cannot start finishes with its error.
    ///
    /// # Errors
    /// The network failed on the running sequences; they are all lost and must be admitted again.
    pub fn step(&mut self) -> Result<Vec<Event>, LanguageError> {
        let mut events = Vec::new();
        self.decode(&mut events).inspect_err(|_| self.running.clear())?;
        if let Some(Waiting { id, request }) = self.next_to_start() {
            match self.start(id, request) {
                Ok((mut running, logits)) => {
                    if running.go_on(Ok(logits), self.model.config().eos_token_id, &mut events) {
                        self.running.push(running);
                    }
                }
                Err(error) => events.push(Event::Finished { sequence: id, result: Err(error) }),
            }
        }
        Ok(events)
    }

    fn decode(&mut self, events: &mut Vec<Event>) -> Result<(), LanguageError> {
        if self.running.is_empty() {
            return Ok(());
        }
        let last: Vec<u32> = self.running.iter().filter_map(|running| running.tokens.last().copied()).collect();
        let input = self.model.embed(&last, &[])?;
        let mut spans: Vec<Span> =
            self.running.iter_mut().map(|running| Span { cache: &mut running.cache, len: 1 }).collect();
        let logits = self.model.logits(&self.model.forward(&input, &mut spans)?)?;
        let mut row = 0;
        let eos = self.model.config().eos_token_id;
        self.running.retain_mut(|running| {
            let logits = logits.get(row);
            row += 1;
            running.go_on(logits, eos, events)
        });
        Ok(())
    }

    fn next_to_start(&mut self) -> Option<Waiting> {
        let reserved: usize = self.running.iter().map(|running| running.cache.capacity()).sum();
        let needed = self.reservation(&self.waiting.front()?.request);
        let fits = self.running.len() < self.limits.sequences && reserved + needed <= self.limits.cache_tokens;
        if fits { self.waiting.pop_front() } else { None }
    }

    /// Cache tokens that a request needs at most.
    fn reservation(&self, request: &Request) -> usize {
        (request.prompt.len() + request.max_new_tokens.max(1)).min(self.model.config().max_position_embeddings)
    }

    /// Runs the prompt; returns the logits `[vocab]` of the first token with the sequence.
    fn start(&mut self, id: SequenceId, request: Request) -> Result<(Running, Tensor), LanguageError> {
        let mut cache = self.model.cache(self.reservation(&request))?;
        // The same cut for every prompt, whether its beginning is known or not.
        let image = self.model.config().image_token();
        let cut = request.prompt.iter().position(|&id| id == image).unwrap_or(0);
        let (prefix, rest) = request.prompt.split_at(cut);
        self.run_prefix(prefix, &mut cache)?;
        let input = self.model.embed(rest, &request.images)?;
        let len = input.dim(0)?;
        let hidden = self.model.forward(&input, &mut [Span { cache: &mut cache, len }])?;
        let logits = self.model.logits(&hidden.narrow(0, len - 1, 1)?)?.get(0)?;
        let sampler = Sampler::new(request.sampling, image as usize);
        let max_new_tokens = cache.capacity() - request.prompt.len();
        Ok((Running { id, cache, sampler, tokens: Vec::new(), max_new_tokens }, logits))
    }

    /// Fills an empty cache with what comes before the first image: the same for all prompts of one wording, so it is
    /// computed once.
    fn run_prefix(&mut self, ids: &[u32], cache: &mut KvCache) -> Result<(), LanguageError> {
        if ids.is_empty() {
            return Ok(());
        }
        if let Some(index) = self.prefixes.iter().position(|prefix| prefix.ids == ids) {
            self.prefixes[..=index].rotate_right(1);
            return Ok(cache.copy_from(&self.prefixes[0].cache)?);
        }
        let input = self.model.embed(ids, &[])?;
        self.model.forward(&input, &mut [Span { cache, len: ids.len() }])?;
        if ids.len() <= LONGEST_PREFIX {
            let mut kept = self.model.cache(ids.len())?;
            kept.copy_from(cache)?;
            self.prefixes.insert(0, Prefix { ids: ids.to_vec(), cache: kept });
            self.prefixes.truncate(KEPT_PREFIXES);
        }
        Ok(())
    }
}

impl Running {
    /// Takes the next token from its logits `[vocab]` and says whether the sequence goes on.
    fn go_on(&mut self, logits: candle_core::Result<Tensor>, eos: u32, events: &mut Vec<Event>) -> bool {
        let sequence = self.id;
        let token = match logits.and_then(|logits| self.sampler.next(&logits)) {
            Ok(token) => token,
            Err(error) => {
                events.push(Event::Finished { sequence, result: Err(error.into()) });
                return false;
            }
        };
        self.tokens.push(token);
        let complete = token == eos;
        if !complete {
            events.push(Event::Token { sequence, token });
        }
        let ends = complete || self.tokens.len() >= self.max_new_tokens;
        if ends {
            let tokens = std::mem::take(&mut self.tokens);
            events.push(Event::Finished { sequence, result: Ok(Completion { tokens, complete }) });
        }
        !ends
    }
}

#[cfg(test)]
mod tests;
