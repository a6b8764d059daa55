//! Samples of the language model as ids: the prompt is read, the answer is learned.

use std::ops::Range;

use radialog_models::tokenizers::{LlamaTokenizer, TokenizerError};

/// The model speaks behind this role name.
const ANSWER: &str = "ASSISTANT:";
/// What ends an answer.
const END: &str = "</s>";

/// One sample of the language model as ids, with the places that are not learned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenizedSample {
    /// Prompt and answer, `<s>` first.
    pub ids: Vec<u32>,
    /// Places of ids that are not learned, in order: the prompt; and where earlier answers of a conversation are learned,
    /// what is asked between them.
    pub read: Vec<Range<usize>>,
}

impl TokenizedSample {
    /// Encodes a sample of which the answer is learned: it follows the prompt without a blank. Both are cut at `cutoff` ids;
    /// the end token is added where there is room.
    ///
    /// # Errors
    /// Only a broken tokenizer file.
    pub fn encode(
        tokenizer: &LlamaTokenizer,
        instruction: &str,
        output: &str,
        cutoff: usize,
    ) -> Result<Self, TokenizerError> {
        Self::encode_conversation(tokenizer, instruction, output, 1, cutoff)
    }

    /// Encodes a sample of which the last `answers` of the conversation are learned, the one in `output` included.
    ///
    /// # Errors
    /// Only a broken tokenizer file.
    pub fn encode_conversation(
        tokenizer: &LlamaTokenizer,
        instruction: &str,
        output: &str,
        answers: usize,
        cutoff: usize,
    ) -> Result<Self, TokenizerError> {
        let mut ids = tokenizer.encode(&format!("{instruction}{output}"))?;
        ids.truncate(cutoff);
        if ids.len() < cutoff && ids.last() != Some(&tokenizer.eos_id()) {
            ids.push(tokenizer.eos_id());
        }
        let place = |end: usize| Ok(tokenizer.encode(&instruction[..end])?.len().min(ids.len()));
        let mut starts: Vec<usize> = instruction
            .match_indices(ANSWER)
            .map(|(at, word)| at + word.len())
            .collect();
        // A prompt of another form is read whole.
        if starts.last() != Some(&instruction.len()) {
            starts.push(instruction.len());
        }
        let first = starts.len().saturating_sub(answers.max(1));
        let mut read = Vec::new();
        read.push(0..place(starts[first])?);
        for pair in starts[first..].windows(2) {
            let end = instruction[pair[0]..pair[1]]
                .find(END)
                .map_or(pair[1], |at| pair[0] + at + END.len());
            read.push(place(end)?..place(pair[1])?);
        }
        Ok(Self { ids, read })
    }

    /// Returns the id at each position where it is learned, and `None` elsewhere.
    pub fn targets(&self) -> Vec<Option<u32>> {
        let mut targets: Vec<Option<u32>> = self.ids.iter().copied().map(Some).collect();
        for read in &self.read {
            targets[read.clone()].fill(None);
        }
        targets
    }

    /// Returns whether anything is learned; a prompt that fills the cutoff leaves nothing.
    pub fn teaches(&self) -> bool {
        self.targets().iter().any(Option::is_some)
    }
}

#[cfg(test)]
mod tests {
    use radialog_models::tokenizers::toy;

    use super::*;

    #[test]
    fn earlier_answers_are_learned_with_their_end_and_questions_are_not() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("tokenizer.json");
        std::fs::write(&file, toy::llama(1000).unwrap().json).unwrap();
        let tokenizer = LlamaTokenizer::from_file(&file).unwrap();
        let instruction = "Be kind. USER: a ASSISTANT: heart is big</s>USER: b ASSISTANT: no</s>USER: c ASSISTANT:";
        let learned = |answers| {
            let example =
                TokenizedSample::encode_conversation(&tokenizer, instruction, "yes", answers, 500)
                    .unwrap();
            let mut parts = vec![Vec::new()];
            for target in example.targets() {
                match target {
                    Some(id) => parts.last_mut().unwrap().push(id),
                    None if parts.last().unwrap().is_empty() => {}
                    None => parts.push(Vec::new()),
                }
            }
            parts
                .into_iter()
                .map(|ids| tokenizer.decode(&ids).trim().to_owned())
                .collect::<Vec<_>>()
        };
        assert_eq!(learned(1), ["yes</s>"]);
        assert_eq!(learned(2), ["no</s>", "yes</s>"]);
        assert_eq!(learned(9), ["heart is big</s>", "no</s>", "yes</s>"]);
    }
}
