//! A sequence that is being decoded: what it has said, and the choice of what it says next.

use super::turn_caches::CachedTurn;
use super::{Completion, EngineEvent, SequenceId};
use crate::language::cache::KvCache;
use crate::language::sampler::{Candidates, Sampler};
use crate::language::speculation::Speculation;

pub(super) struct ActiveSequence {
    pub(super) id: SequenceId,
    pub(super) cache: KvCache,
    pub(super) sampler: Sampler,
    /// Prompt and answer.
    pub(super) ids: Vec<u32>,
    /// The number of them that are the prompt.
    pub(super) prompt: usize,
    pub(super) max_new_tokens: usize,
    pub(super) cached: usize,
    /// Name of the images, of a turn whose cache is kept.
    pub(super) turn: Option<String>,
    /// Key of the prompt, of batch work whose prompt is kept once it is read.
    pub(super) kept_prompt: Option<String>,
    pub(super) speculation: Speculation,
}

impl ActiveSequence {
    /// The number of tokens that may still be said.
    pub(super) fn left(&self) -> usize {
        (self.prompt + self.max_new_tokens).saturating_sub(self.ids.len())
    }

    /// Takes the next tokens from logits, those behind the last token and those behind each drafted one, as far as the
    /// drafted are what it chooses; what the cache holds beyond is forgotten. Says whether the sequence goes on, and how many
    /// of the drafted were right.
    pub(super) fn push_drafted(
        &mut self,
        drafted: &[u32],
        logits: impl Fn(usize) -> candle_core::Result<Candidates>,
        eos: u32,
        events: &mut Vec<EngineEvent>,
    ) -> (bool, usize) {
        let known = self.cache.len() - 1 - drafted.len();
        let mut accepted = 0;
        let goes_on = loop {
            let goes_on = self.push_next_token(logits(accepted), eos, events);
            if !goes_on || drafted.get(accepted) != self.ids.last() {
                break goes_on;
            }
            accepted += 1;
        };
        self.cache.truncate(known + 1 + accepted);
        self.speculation.learn(drafted.len(), accepted);
        (goes_on, accepted)
    }

    /// Takes the next token from its logits and says whether the sequence goes on.
    pub(super) fn push_next_token(
        &mut self,
        logits: candle_core::Result<Candidates>,
        eos: u32,
        events: &mut Vec<EngineEvent>,
    ) -> bool {
        let sequence = self.id;
        let token = match logits.and_then(|logits| self.sampler.choose(&logits)) {
            Ok(token) => token,
            Err(error) => {
                events.push(EngineEvent::Finished {
                    sequence,
                    result: Err(error.into()),
                });
                return false;
            }
        };
        self.ids.push(token);
        let complete = token == eos;
        if !complete {
            events.push(EngineEvent::Token { sequence, token });
        }
        let ends = complete || self.left() == 0;
        if ends {
            let (tokens, cached) = (self.ids[self.prompt..].to_vec(), self.cached);
            events.push(EngineEvent::Finished {
                sequence,
                result: Ok(Completion {
                    tokens,
                    complete,
                    cached,
                }),
            });
        }
        !ends
    }

    /// The cache that a turn leaves behind for the next one; none where nothing was read yet.
    pub(super) fn into_cached_turn(self) -> Option<CachedTurn> {
        let (images, mut ids) = (self.turn?, self.ids);
        // A turn may be cancelled before its prompt was read to its end.
        let prompt = self.prompt.min(self.cache.len());
        // The last token was chosen and never read.
        ids.truncate(self.cache.len());
        (prompt > 0).then_some(CachedTurn {
            images,
            ids,
            prompt,
            cache: self.cache,
        })
    }
}
