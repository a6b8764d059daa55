//! The uncased BERT WordPiece tokenizer of CheXbert and of the Q-Former's text side.

use std::path::Path;

use tokenizers::{AddedToken, Tokenizer};

use super::{TokenizerError, read};

/// Starts a caption that the Q-Former writes.
const DECODER: &str = "[DEC]";

/// WordPiece with `[CLS]` and `[SEP]` around every text and `[PAD]` after it.
pub struct BertTokenizer {
    tokenizer: Tokenizer,
    cls: u32,
    sep: u32,
    pad: u32,
}

impl BertTokenizer {
    /// Reads a `tokenizer.json`.
    ///
    /// # Errors
    /// Unreadable file, not a tokenizer, or one without `[CLS]`, `[SEP]`, `[PAD]`.
    pub fn from_file(path: &Path) -> Result<Self, TokenizerError> {
        Self::from_json(&read(path)?)
    }

    /// Reads the content of a `tokenizer.json`.
    ///
    /// # Errors
    /// Not a tokenizer, or one without `[CLS]`, `[SEP]`, `[PAD]`.
    pub fn from_json(json: &str) -> Result<Self, TokenizerError> {
        let tokenizer: Tokenizer = json.parse().map_err(TokenizerError::unparsed)?;
        let find = |token: &'static str| {
            tokenizer
                .token_to_id(token)
                .ok_or(TokenizerError::MissingToken(token))
        };
        let (cls, sep, pad) = (find("[CLS]")?, find("[SEP]")?, find("[PAD]")?);
        Ok(Self {
            tokenizer,
            cls,
            sep,
            pad,
        })
    }

    /// The Q-Former's variant: `[DEC]`, which starts its captions, gets the first id after the vocabulary.
    ///
    /// # Errors
    /// Only a broken tokenizer file.
    pub fn with_decoder_token(mut self) -> Result<Self, TokenizerError> {
        self.tokenizer
            .add_special_tokens([AddedToken::from(DECODER, true)])
            .map_err(|error| TokenizerError::Format(error.to_string()))?;
        Ok(self)
    }

    /// The id of `[DEC]`, where there is one.
    pub fn decoder_id(&self) -> Option<u32> {
        self.tokenizer.token_to_id(DECODER)
    }

    /// Number of ids.
    pub fn len(&self) -> usize {
        self.tokenizer.get_vocab_size(true)
    }

    /// False for every tokenizer, since all have special tokens.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The id of `[PAD]`.
    pub fn pad_id(&self) -> u32 {
        self.pad
    }

    /// `[CLS]`, the text's ids, `[SEP]`; a longer text loses its end, so that at most `limit` ids remain and the last
    /// is `[SEP]`.
    ///
    /// # Errors
    /// Only a broken tokenizer file.
    pub fn encode(&self, text: &str, limit: usize) -> Result<Vec<u32>, TokenizerError> {
        let encoding = self
            .tokenizer
            .encode_fast(text, false)
            .map_err(|error| TokenizerError::Encode(error.to_string()))?;
        let words = encoding
            .get_ids()
            .iter()
            .copied()
            .take(limit.saturating_sub(2));
        Ok(std::iter::once(self.cls)
            .chain(words)
            .chain([self.sep])
            .collect())
    }
}
