//! Text to token ids and back, exactly as the published weights were trained: the LLaMA tokenizer with its image
//! placeholder, the BERT tokenizer of CheXbert and the Q-Former, and small vocabularies of our own for random bundles.

pub mod bert;
pub mod file;
pub mod llama;
mod prompt;
mod rules;
pub mod sentencepiece;
pub mod synthetic;

pub use bert::BertTokenizer;
pub use llama::{LlamaTokenizer, TextStream};
pub use prompt::{IMAGE, Prompt, PromptSegment};
pub use rules::{BlankRule, ImageRule, MARKER, TokenizerRules};

use std::fmt;
use std::path::{Path, PathBuf};

/// A tokenizer that cannot be loaded or used.
#[derive(Debug, thiserror::Error)]
pub enum TokenizerError {
    /// The file cannot be read.
    #[error("cannot read tokenizer '{}': {source}", path.display())]
    Read {
        /// The file that cannot be read.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// The content is not a `tokenizer.json` of the expected kind.
    #[error("tokenizer: {0}")]
    Format(String),
    /// The ids are not those of the model.
    #[error("it has {tokens} tokens and the language model {rows}: it is of another model")]
    OtherModel {
        /// Tokens of the tokenizer.
        tokens: u32,
        /// Rows of the model's embedding.
        rows: u32,
    },
    /// A token that the model depends on is missing.
    #[error("the tokenizer has no token '{0}': use the tokenizer.json that belongs to the weights")]
    MissingToken(&'static str),
    /// A made vocabulary cannot hold what every text needs.
    #[error("a vocabulary of {asked} tokens is too small: ask for at least {least}")]
    TooSmall {
        /// The number of tokens that was asked for.
        asked: usize,
        /// Special tokens, bytes and single characters together.
        least: usize,
    },
    /// The tokenizer refused a text.
    #[error("the tokenizer failed: {0}")]
    Encode(String),
}

impl TokenizerError {
    /// The error of a content in which a parser finds this.
    fn unparsed<E: fmt::Display>(found: E) -> Self {
        Self::Format(format!(
            "{found}: it is damaged or of another kind; use the tokenizer.json that belongs to the weights"
        ))
    }
}

fn read(path: &Path) -> Result<String, TokenizerError> {
    std::fs::read_to_string(path).map_err(|source| TokenizerError::Read {
        path: path.to_owned(),
        source,
    })
}
