//! Continuous batching: sequences join and leave between decode steps. What a sequence says does not depend on the
//! others, nor on what is known of its prompt already; on a CPU not even in its last bit.
//!
//! Turns of conversations come first: while one waits, nothing else starts, and there is always a place and a cache
//! that only they may take. Their caches are kept for the turns that follow.

use std::collections::VecDeque;
use std::sync::Arc;

use candle_core::Tensor;

use super::LanguageError;
use super::adapter_id::AdapterId;
use super::llama::{LanguageModel, SequenceChunk};
use super::sampler::{Sampler, Sampling};
use super::speculation::{self, Drafts, Speculation};
use super::step_logits::StepLogits;
use super::threads::on_own_threads;
use sequence::ActiveSequence;
use shared_prefixes::SharedPrefixes;
use starting::StartingSequence;
use turn_caches::{CachedTurn, TurnCaches};

mod sequence;
mod shared_prefixes;
mod starting;
mod turn_caches;

/// The cache of all running sequences is so many times what is kept of the prompts of batch work, for those that begin alike.
const CACHE_OVER_KEPT_PROMPTS: usize = 8;
/// More running sequences than these draft nothing: a drafted row that is wrong then costs them all more than one that is right
/// saves.
const MOST_DRAFTING: usize = 2;
/// A longer beginning belongs to one conversation and is not worth keeping.
const MAX_PREFIX_LENGTH: usize = 256;

/// One answer to generate.
#[derive(Default)]
pub struct GenerationRequest {
    /// The adapter that writes it.
    pub adapter: AdapterId,
    /// Token ids of the prompt, placeholders included.
    pub prompt: Vec<u32>,
    /// An embedding `[32, 768]` for each block of placeholders, in order.
    pub images: Vec<Tensor>,
    /// The way in which tokens are chosen.
    pub sampling: Sampling,
    /// Stop after this many tokens, or where the context ends.
    pub max_new_tokens: usize,
    /// A name of what [`GenerationRequest::images`] hold, for batch work whose prompts begin alike: what is known of the prompt
    /// of an earlier request with this name is not computed again.
    pub prompt_key: Option<String>,
    /// Tokens of the answer that were generated elsewhere, e.g. by a worker that is gone: it goes on behind them. They
    /// count as generated.
    pub generated: Vec<u32>,
    /// A name of what [`GenerationRequest::images`] hold, for a turn that somebody waits for: with equal names, the cache of an
    /// earlier turn is used again. None for batch work.
    pub turn_key: Option<String>,
}

/// Limits of what an engine holds at once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EngineLimits {
    /// The largest number of sequences that are decoded together.
    pub sequences: usize,
    /// The largest number of cache tokens of all running sequences; each one counts with its prompt and its longest
    /// possible answer from its start, so that what runs can always go on. One token takes
    /// [`LanguageModel::cache_bytes_per_token`]. On a CPU memory is taken as positions are written, in pages of 32 that sequences
    /// which begin alike share: less than is counted, but for the rest of a sequence's last page. Shared beginnings of
    /// prompts come on top, at most 1024 tokens, and whole prompts with a [`GenerationRequest::prompt_key`], at most an eighth.
    pub cache_tokens: usize,
    /// The part of it that belongs to conversations, and what comes on top for them.
    pub chat: ChatLimits,
    /// The largest number of tokens that one step drafts for a sequence, of the text before; nothing drafts nothing. Only a
    /// model on a CPU drafts: elsewhere the bytes of logits depend on how many are computed together.
    pub speculate: usize,
}

/// The capacity that an engine holds ready for turns of conversations.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ChatLimits {
    /// The number of [`EngineLimits::sequences`] that only turns may be.
    pub sequences: usize,
    /// The number of [`EngineLimits::cache_tokens`] that only turns may take.
    pub cache_tokens: usize,
    /// The largest number of cache tokens of turns that have ended, on top of those of running ones.
    pub kept_tokens: usize,
}

/// The name of a sequence within its engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SequenceId(u64);

/// An event of one decode step.
#[derive(Debug)]
pub enum EngineEvent {
    /// A sequence has one more token.
    Token {
        /// The sequence that has the token.
        sequence: SequenceId,
        /// The token; the end token is not reported here.
        token: u32,
    },
    /// A sequence has left the engine.
    Finished {
        /// The sequence that has left.
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
    /// The number of the prompt's tokens that were known from an earlier turn.
    pub cached: usize,
}

/// A continuous-batching engine: it decodes many sequences together.
pub struct Engine {
    model: Arc<LanguageModel>,
    limits: EngineLimits,
    /// The requests that wait, turns first.
    waiting: [VecDeque<QueuedRequest>; 2],
    running: Vec<ActiveSequence>,
    /// The sequence whose prompt is being read, some positions a step.
    starting: Option<StartingSequence>,
    shared_prefixes: SharedPrefixes,
    turn_caches: TurnCaches,
    /// Prompts of batch work with a key.
    prompt_caches: TurnCaches,
    drafts: Drafts,
    next: u64,
}

struct QueuedRequest {
    id: SequenceId,
    request: GenerationRequest,
}

impl Engine {
    /// An engine without sequences.
    pub fn new(model: Arc<LanguageModel>, mut limits: EngineLimits) -> Self {
        if !model.device().is_cpu() {
            limits.speculate = 0;
        }
        let turn_caches = TurnCaches::new(limits.chat.kept_tokens);
        let prompt_caches = TurnCaches::new(limits.cache_tokens / CACHE_OVER_KEPT_PROMPTS);
        Self {
            model,
            limits,
            waiting: Default::default(),
            running: Vec::new(),
            starting: None,
            shared_prefixes: SharedPrefixes::default(),
            turn_caches,
            prompt_caches,
            drafts: Drafts::default(),
            next: 0,
        }
    }

    /// Takes a sequence in; it starts in the next step that has room for it: turns first, and each kind in order of
    /// admission.
    ///
    /// # Errors
    /// A prompt that is empty, leaves no room for an answer in the context, or could never fit the cache limit; an
    /// adapter of another model.
    pub fn admit(&mut self, request: GenerationRequest) -> Result<SequenceId, LanguageError> {
        let (tokens, context) = (
            request.prompt.len(),
            self.model.config().max_position_embeddings,
        );
        if tokens == 0 {
            return Err(LanguageError::EmptyPrompt);
        }
        let AdapterId(adapter) = request.adapter;
        if self.model.adapter(adapter).is_none() {
            return Err(LanguageError::UnknownAdapter { index: adapter });
        }
        if tokens >= context {
            return Err(LanguageError::ContextLength { tokens, context });
        }
        let (tokens, limit) = (
            self.reservation(&request),
            self.limits_of(request.turn_key.is_some()).1,
        );
        if tokens > limit {
            return Err(LanguageError::CacheLimit { tokens, limit });
        }
        let id = SequenceId(self.next);
        self.next += 1;
        self.waiting[usize::from(request.turn_key.is_none())]
            .push_back(QueuedRequest { id, request });
        Ok(id)
    }

    /// The number of further sequences that are no turns and could run now; none while a turn waits.
    pub fn free_slots(&self) -> usize {
        let [turns, others] = &self.waiting;
        if !turns.is_empty() {
            return 0;
        }
        let all = self.limits.sequences.saturating_sub(self.usage(true).0);
        all.min(self.limits_of(false).0.saturating_sub(self.usage(false).0))
            .saturating_sub(others.len())
    }

    /// The number of further turns that could run now; none while one waits already.
    pub fn free_chat_slots(&self) -> usize {
        if self.waiting[0].is_empty() {
            self.limits.sequences.saturating_sub(self.usage(true).0)
        } else {
            0
        }
    }

    /// Whether there is nothing to do.
    pub fn is_idle(&self) -> bool {
        self.usage(true).0 == 0 && self.waiting.iter().all(VecDeque::is_empty)
    }

    /// The sequence whose prompt is being read, where one step did not read all of it.
    pub fn starting(&self) -> Option<SequenceId> {
        self.starting.as_ref().map(StartingSequence::id)
    }

    /// Number of sequences that are being decoded.
    pub fn running(&self) -> usize {
        self.running.len()
    }

    /// Ends a running sequence with the tokens that it has; nothing more is reported of it. None where it does not run, or has
    /// ended.
    pub fn stop(&mut self, id: SequenceId) -> Option<Completion> {
        let running = self.running.iter().find(|running| running.id == id)?;
        let completion = Completion {
            tokens: running.ids[running.prompt..].to_vec(),
            complete: true,
            cached: running.cached,
        };
        self.cancel(id);
        Some(completion)
    }

    /// What was drafted since the last call.
    pub fn take_drafts(&mut self) -> Drafts {
        std::mem::take(&mut self.drafts)
    }

    /// Forgets a sequence; nothing more is reported of it. What it knew is kept if it was a turn.
    pub fn cancel(&mut self, id: SequenceId) {
        self.waiting
            .iter_mut()
            .for_each(|waiting| waiting.retain(|waiting| waiting.id != id));
        let cancelled = self.running.extract_if(.., |running| running.id == id);
        self.turn_caches
            .extend(cancelled.filter_map(ActiveSequence::into_cached_turn));
        let starting = self.starting.take_if(|starting| starting.id() == id);
        let known = starting.and_then(|starting| starting.into_sequence().into_cached_turn());
        self.turn_caches.extend(known);
    }

    /// Gives every running sequence one more token, or several where a draft was right, then reads at most 64 positions of the
    /// prompt of one that starts, its beginning included, so that running answers never wait for longer than that takes. On a
    /// CPU this computes on threads of its own, beside those that images share. A sequence that cannot start finishes with its error.
    ///
    /// # Errors
    /// The network failed on the running sequences; they are all lost and must be admitted again.
    pub fn step(&mut self) -> Result<Vec<EngineEvent>, LanguageError> {
        if self.model.device().is_cpu() {
            on_own_threads(|| self.step_here())
        } else {
            self.step_here()
        }
    }

    fn step_here(&mut self) -> Result<Vec<EngineEvent>, LanguageError> {
        let mut events = Vec::new();
        self.decode(&mut events).inspect_err(|_| {
            self.running.clear();
            self.starting = None;
        })?;
        if self.starting.is_none()
            && let Some(QueuedRequest { id, request }) = self.next_admissible()
        {
            match self.start(id, request, &mut events) {
                Ok(starting) => self.starting = starting,
                Err(error) => events.push(failed(id, error)),
            }
        }
        if let Some(mut starting) = self.starting.take() {
            let read = starting.read_on(&self.model);
            let kept = |logits| self.keep_beginning(&mut starting).map(|()| logits);
            match read.and_then(kept) {
                Ok(None) => self.starting = Some(starting),
                Ok(Some(logits)) => {
                    let mut sequence = starting.into_sequence();
                    match self.keep_prompt(&mut sequence) {
                        Ok(()) => self.join(sequence, &logits, &mut events),
                        Err(error) => events.push(failed(sequence.id, error)),
                    }
                }
                Err(error) => events.push(failed(starting.id(), error)),
            }
        }
        Ok(events)
    }

    fn decode(&mut self, events: &mut Vec<EngineEvent>) -> Result<(), LanguageError> {
        if self.running.is_empty() {
            return Ok(());
        }
        let drafts = self.draft();
        let mut rows = Vec::new();
        let mut adapters = Vec::new();
        let mut greedy = Vec::new();
        let mut spans = Vec::with_capacity(self.running.len());
        for (running, draft) in self.running.iter_mut().zip(&drafts) {
            let len = 1 + draft.len();
            rows.extend(running.ids.last().into_iter().chain(draft));
            adapters.extend(std::iter::repeat_n(running.cache.adapter(), len));
            greedy.extend(std::iter::repeat_n(running.sampler.is_greedy(), len));
            let cache = &mut running.cache;
            spans.push(SequenceChunk { cache, len });
        }
        let input = self.model.embed(&rows, &[])?;
        let hidden = self.model.forward(&input, &mut spans)?;
        let logits = self.model.logits_of(&hidden, adapters.into_iter())?;
        let logits = self.step_logits(logits, &greedy)?;
        let eos = self.model.config().eos_token_id;
        let (mut row, mut drafts) = (0, drafts.into_iter());
        let counted = &mut self.drafts;
        let ended = self.running.extract_if(.., |running| {
            let draft = drafts.next().unwrap_or_default();
            let first = row;
            row += 1 + draft.len();
            let (goes_on, accepted) =
                running.push_drafted(&draft, |at| logits.row(first + at), eos, events);
            counted.drafted += draft.len() as u64;
            counted.accepted += accepted as u64;
            !goes_on
        });
        self.turn_caches
            .extend(ended.filter_map(ActiveSequence::into_cached_turn));
        Ok(())
    }

    /// What is chosen from of logits `[rows, vocab]`, where these rows are greedy.
    fn step_logits(&self, logits: Tensor, greedy: &[bool]) -> candle_core::Result<StepLogits> {
        // Behind the vocabulary may lie the row of the image's placeholder.
        let vocabulary = self.model.config().image_token() as usize;
        match self.model.is_ragged() {
            true => StepLogits::fetch(&logits, vocabulary, greedy),
            false => Ok(StepLogits::Rows(logits)),
        }
    }

    /// What each running sequence may say next, as far as a pass has rows to spare.
    fn draft(&mut self) -> Vec<Vec<u32>> {
        let (image, eos) = (
            self.model.config().image_token(),
            self.model.config().eos_token_id,
        );
        let count = self.running.len();
        if count > MOST_DRAFTING {
            return vec![Vec::new(); count];
        }
        let mut spare = speculation::ROWS.saturating_sub(count);
        let each = self.running.iter_mut().enumerate();
        let drafts = each.map(|(index, running)| {
            // The last token that it may say needs no row.
            let most = self.limits.speculate.min(running.left().saturating_sub(1));
            let most = most.min(spare.div_ceil(count - index));
            let draft = match most {
                0 => &[][..],
                _ => running.speculation.draft(&running.ids, most, image, eos),
            };
            spare -= draft.len();
            draft.to_vec()
        });
        drafts.collect()
    }

    /// Takes the first token of a sequence from its logits `[vocab]`, and puts it behind those of its adapter, so that each
    /// adapter's rows are one part of a pass.
    fn join(&mut self, mut new: ActiveSequence, logits: &Tensor, events: &mut Vec<EngineEvent>) {
        let eos = self.model.config().eos_token_id;
        let greedy = new.sampler.is_greedy();
        let logits = logits.unsqueeze(0);
        let logits = logits.and_then(|logits| self.step_logits(logits, &[greedy])?.row(0));
        if !new.push_next_token(logits, eos, events) {
            self.turn_caches.extend(new.into_cached_turn());
            return;
        }
        let adapter = new.cache.adapter();
        let place = self
            .running
            .partition_point(|running| running.cache.adapter() <= adapter);
        self.running.insert(place, new);
    }

    /// Keeps what was read of a prompt that others may begin like.
    fn keep_prompt(&mut self, sequence: &mut ActiveSequence) -> Result<(), LanguageError> {
        let Some(images) = sequence.kept_prompt.take() else {
            return Ok(());
        };
        let ids = sequence.ids[..sequence.prompt].to_vec();
        let mut cache = self.model.cache_of(sequence.cache.adapter(), ids.len())?;
        cache.copy_from(&sequence.cache, ids.len())?;
        self.prompt_caches.extend([CachedTurn {
            images,
            prompt: ids.len(),
            ids,
            cache,
        }]);
        Ok(())
    }

    fn next_admissible(&mut self) -> Option<QueuedRequest> {
        let kind = usize::from(self.waiting[0].is_empty());
        let is_turn = kind == 0;
        let needed = self.reservation(&self.waiting[kind].front()?.request);
        let fits = |(sequences, tokens): (usize, usize), (most, most_tokens): (usize, usize)| {
            sequences < most && tokens + needed <= most_tokens
        };
        let (all, limits) = (
            self.usage(true),
            (self.limits.sequences, self.limits.cache_tokens),
        );
        let fits = fits(all, limits) && (is_turn || fits(self.usage(false), self.limits_of(false)));
        if fits {
            self.waiting[kind].pop_front()
        } else {
            None
        }
    }

    /// Sequences and cache tokens that run: all of them, or those that are no turns.
    fn usage(&self, with_turns: bool) -> (usize, usize) {
        let starting = self.starting.iter().map(StartingSequence::sequence);
        let counted = self
            .running
            .iter()
            .chain(starting)
            .filter(|running| with_turns || running.turn.is_none());
        counted.fold((0, 0), |(sequences, tokens), running| {
            (sequences + 1, tokens + running.cache.capacity())
        })
    }

    /// The largest number of sequences and cache tokens of turns, or of what is none.
    fn limits_of(&self, turns: bool) -> (usize, usize) {
        let EngineLimits {
            sequences,
            cache_tokens,
            chat,
            ..
        } = self.limits;
        match turns {
            true => (sequences, cache_tokens),
            false => (
                sequences.saturating_sub(chat.sequences),
                cache_tokens.saturating_sub(chat.cache_tokens),
            ),
        }
    }

    /// Cache tokens that a request needs at most.
    fn reservation(&self, request: &GenerationRequest) -> usize {
        (request.prompt.len() + request.max_new_tokens.max(1))
            .min(self.model.config().max_position_embeddings)
    }

    /// Prepares the reading of a prompt; none where there is nothing more to say.
    fn start(
        &mut self,
        id: SequenceId,
        request: GenerationRequest,
        events: &mut Vec<EngineEvent>,
    ) -> Result<Option<StartingSequence>, LanguageError> {
        let mut cache = self
            .model
            .cache_of(request.adapter, self.reservation(&request))?;
        let GenerationRequest {
            adapter,
            prompt,
            images,
            sampling,
            prompt_key,
            generated: tokens,
            turn_key,
            ..
        } = request;
        let max_new_tokens = cache.capacity() - prompt.len();
        let (image, eos) = (
            self.model.config().image_token(),
            self.model.config().eos_token_id,
        );
        let complete = tokens.last() == Some(&eos);
        if complete || tokens.len() >= max_new_tokens {
            events.push(EngineEvent::Finished {
                sequence: id,
                result: Ok(Completion {
                    tokens,
                    complete,
                    cached: 0,
                }),
            });
            return Ok(None);
        }
        let ids = [prompt.as_slice(), &tokens].concat();
        let mut cached = 0;
        if let Some(name) = &turn_key {
            cached = self.turn_caches.recall(name, &ids, image, &mut cache)?;
        }
        let mut kept_prompt = None;
        if let Some(key) = prompt_key {
            let known = self.prompt_caches.recall(&key, &ids, image, &mut cache)?;
            kept_prompt = (known == 0).then_some(key);
        }
        let mut beginning = None;
        if cache.is_empty() {
            // The same cut for every prompt, whether its beginning is known or not.
            let cut = ids.iter().position(|&id| id == image).unwrap_or(0);
            if (1..=MAX_PREFIX_LENGTH).contains(&cut)
                && !self.shared_prefixes.recall(&ids[..cut], &mut cache)?
            {
                beginning = Some(cut);
            }
        }
        let (known, rest) = ids.split_at(cache.len());
        let seen =
            known.iter().filter(|&&id| id == image).count() / self.model.config().num_image_tokens;
        let images = images.get(seen..).unwrap_or_default();
        let input = self.model.embed_for(adapter, rest, images)?;
        let mut sampler = Sampler::new(sampling, image as usize);
        sampler.skip(tokens.len())?;
        let prompt = prompt.len();
        let cached = cached.min(prompt);
        let sequence = ActiveSequence {
            id,
            cache,
            sampler,
            prompt,
            max_new_tokens,
            cached,
            turn: turn_key,
            ids,
            speculation: Speculation::default(),
            kept_prompt,
        };
        Ok(Some(StartingSequence::new(sequence, input, beginning)))
    }

    /// Keeps the beginning of a prompt that is being read, once it is known.
    fn keep_beginning(&mut self, starting: &mut StartingSequence) -> Result<(), LanguageError> {
        let Some(length) = starting.take_beginning() else {
            return Ok(());
        };
        let ActiveSequence { cache, ids, .. } = starting.sequence();
        let mut kept = self.model.cache_of(cache.adapter(), length)?;
        kept.copy_from(cache, length)?;
        self.shared_prefixes.keep(&ids[..length], kept);
        Ok(())
    }
}

/// The event of a sequence that cannot go on.
fn failed(sequence: SequenceId, error: LanguageError) -> EngineEvent {
    EngineEvent::Finished {
        sequence,
        result: Err(error),
    }
}

#[cfg(test)]
mod tests;
