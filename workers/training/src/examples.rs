//! Samples of the language model as ids: the prompt is read, the answer is learned.

use radialog_models::tokenizers::{LlamaTokenizer, TokenizerError};

/// One sample as the model sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Example {
    /// Prompt and answer, `<s>` first.
    pub ids: Vec<u32>,
    /// How many ids at the start are not learned.
    pub prompt: usize,
}

impl Example {
    /// Encodes a sample: the answer follows the prompt without a blank. Both are cut at `cutoff` ids; the end token is
    /// added where there is room.
    ///
    /// # Errors
    /// Only a broken tokenizer file.
    pub fn encode(
        tokenizer: &LlamaTokenizer,
        instruction: &str,
        output: &str,
        cutoff: usize,
    ) -> Result<Self, TokenizerError> {
        let mut ids = tokenizer.encode(&format!("{instruction}{output}"))?;
        ids.truncate(cutoff);
        if ids.len() < cutoff && ids.last() != Some(&tokenizer.eos_id()) {
            ids.push(tokenizer.eos_id());
        }
        let prompt = tokenizer.encode(instruction)?.len().min(cutoff).min(ids.len());
        Ok(Self { ids, prompt })
    }

    /// The id at each position where it is learned.
    pub fn targets(&self) -> Vec<Option<u32>> {
        let learned = |(position, &id): (usize, &u32)| (position >= self.prompt).then_some(id);
        self.ids.iter().enumerate().map(learned).collect()
    }

    /// Whether anything is learned; a prompt that fills the cutoff leaves nothing.
    pub fn teaches(&self) -> bool {
        self.prompt < self.ids.len()
    }
}
