//! A sequence whose prompt is being read: some positions in each step, between the tokens of those that run.

use candle_core::Tensor;

use super::{ActiveSequence, SequenceId};
use crate::language::LanguageError;
use crate::language::llama::{LanguageModel, SequenceChunk};

/// Positions of a prompt that are read in one step. A 7B model with weights of four bits reads so many in one to two seconds
/// on two cores; answers that run wait no longer for it.
pub(super) const POSITIONS: usize = 64;

/// A sequence and what is left of its prompt.
pub(super) struct StartingSequence {
    sequence: ActiveSequence,
    /// The decoder's input for what its cache did not know, `[positions, hidden]`.
    input: Tensor,
    /// Positions of it that have been read.
    read: usize,
    /// The length of the prompt's beginning, where it is worth keeping and not kept yet.
    beginning: Option<usize>,
}

impl StartingSequence {
    pub(super) fn new(sequence: ActiveSequence, input: Tensor, beginning: Option<usize>) -> Self {
        Self {
            sequence,
            input,
            read: 0,
            beginning,
        }
    }

    pub(super) fn id(&self) -> SequenceId {
        self.sequence.id
    }

    pub(super) fn sequence(&self) -> &ActiveSequence {
        &self.sequence
    }

    pub(super) fn into_sequence(self) -> ActiveSequence {
        self.sequence
    }

    /// The length of a beginning that is worth keeping, once it has been read; only once.
    pub(super) fn take_beginning(&mut self) -> Option<usize> {
        let known = self.sequence.cache.len();
        self.beginning.take_if(|length| *length <= known)
    }

    /// Reads some more of the prompt; with the last of it, gives the logits `[vocab]` of the first token.
    pub(super) fn read_on(
        &mut self,
        model: &LanguageModel,
    ) -> Result<Option<Tensor>, LanguageError> {
        let adapter = self.sequence.cache.adapter();
        let mut most = POSITIONS;
        loop {
            let left = self.input.dim(0)? - self.read;
            let known = self.sequence.cache.len();
            // A pass ends where the beginning does, as where it is known already.
            let beginning = self.beginning.map(|length| length.saturating_sub(known));
            let to_cut = beginning.filter(|&length| length > 0);
            let len = left.min(most).min(to_cut.unwrap_or(most));
            let hidden = model.forward(
                &self.input.narrow(0, self.read, len)?,
                &mut [SequenceChunk {
                    cache: &mut self.sequence.cache,
                    len,
                }],
            )?;
            self.read += len;
            most -= len;
            if len == left {
                let last = hidden.narrow(0, len - 1, 1)?;
                return Ok(Some(model.logits_of(&last, [adapter].into_iter())?.get(0)?));
            }
            if most == 0 {
                return Ok(None);
            }
        }
    }
}
