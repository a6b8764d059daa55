//! The language model: a LLaMA-family decoder with LoRA, image tokens spliced into its input, and continuous batching.
//!
//! On a CPU a sequence's logits do not depend on which other sequences are decoded with it, bit for bit; see
//! [`linear`] for how. On other devices all sequences of a step are batches, padded to like lengths (`llama::ragged_attention`),
//! over the pages of one pool (`device_cache`); their logits are only close.

mod adapter_id;
mod attention;
pub mod cache;
pub mod config;
mod device_cache;
pub mod engine;
pub mod linear;
pub mod llama;
pub mod lora;
mod projection;
pub mod quantized;
pub mod sampler;
mod speculation;
mod step_logits;
mod threads;
mod trained;

pub use adapter_id::AdapterId;
pub use config::{ImageProjectionKind, LlamaConfig, LlamaConfigError};
pub use engine::{
    ChatLimits, Completion, Engine, EngineEvent, EngineLimits, GenerationRequest, SequenceId,
};
pub use llama::{LanguageModel, TrainingSequence};
pub use lora::{LoraAdapter, LoraConfig, LoraConfigError};
pub use quantized::{BaseWeights, QuantizedMatrices, QuantizedMatrix};
pub use sampler::Sampling;
pub use speculation::Drafts;

use radialog_schemas::{AdapterName, ErrorCode};

/// A sequence that cannot be decoded.
#[derive(Debug, thiserror::Error)]
pub enum LanguageError {
    /// The prompt leaves no room for an answer.
    #[error(
        "the prompt has {tokens} tokens and the model's context is {context}: shorten the conversation"
    )]
    ContextLength {
        /// Tokens of the prompt.
        tokens: usize,
        /// Tokens that the model can attend to.
        context: usize,
    },
    /// The sequence would need more cache than the engine may ever use.
    #[error(
        "prompt and answer need a cache of {tokens} tokens and the limit is {limit}: ask for fewer new tokens or raise the limit"
    )]
    CacheLimit {
        /// Prompt and answer together.
        tokens: usize,
        /// The engine's limit.
        limit: usize,
    },
    /// The prompt has no tokens.
    #[error("the prompt is empty: encode it with the bundle's tokenizer")]
    EmptyPrompt,
    /// An id that the embedding does not have.
    #[error(
        "token {token} is not in the model's vocabulary of {vocabulary}: the tokenizer belongs to other weights"
    )]
    UnknownToken {
        /// The id.
        token: u32,
        /// Rows of the embedding.
        vocabulary: usize,
    },
    /// Placeholders that do not form whole images.
    #[error("{run} image placeholders in a row are not a multiple of {block}: write whole blocks")]
    PlaceholderRun {
        /// Length of the run.
        run: usize,
        /// Placeholders of one image.
        block: usize,
    },
    /// There is not one embedding per block of placeholders.
    #[error(
        "the prompt has {blocks} image blocks and {images} image embeddings were given: give one per block"
    )]
    ImageCount {
        /// Blocks in the prompt.
        blocks: usize,
        /// Embeddings given.
        images: usize,
    },
    /// An image embedding of the wrong shape.
    #[error(
        "an image embedding has shape {found:?} and the model takes {expected:?}: it belongs to another bundle"
    )]
    ImageShape {
        /// The shape of the embedding.
        found: Vec<usize>,
        /// The shape that the model takes.
        expected: [usize; 2],
    },
    /// Image embeddings for a model that cannot see.
    #[error("the weights have no {0}: load the adapter that brings it")]
    NoImageProjection(&'static str),
    /// A request for an adapter that this model was not loaded with.
    #[error(
        "the request is for adapter {index}, which this model was not loaded with: take the id from the model that answers"
    )]
    UnknownAdapter {
        /// Its place.
        index: usize,
    },
    /// A request for an adapter that the bundle does not have.
    #[error("the bundle has no adapter '{name}'; its adapters are: {known}")]
    NoAdapter {
        /// The name that was asked for.
        name: AdapterName,
        /// Those that it has.
        known: String,
    },
    /// A geometry that the decoder cannot have.
    #[error(transparent)]
    Config(#[from] LlamaConfigError),
    /// An adapter that the decoder cannot have.
    #[error(transparent)]
    Adapter(#[from] LoraConfigError),
    /// The network failed, or tensors do not fit the configuration.
    #[error("the language model failed: {0}")]
    Candle(#[from] candle_core::Error),
}

impl LanguageError {
    /// The stable code of this failure.
    pub fn code(&self) -> ErrorCode {
        match self {
            LanguageError::ContextLength { .. } | LanguageError::CacheLimit { .. } => {
                ErrorCode::ContextLength
            }
            LanguageError::ImageShape { .. } => ErrorCode::ObjectCorrupt,
            // The task names what its component does not have: trying again changes nothing.
            LanguageError::NoAdapter { .. } => ErrorCode::MessageInvalid,
            _ => ErrorCode::Model,
        }
    }
}
