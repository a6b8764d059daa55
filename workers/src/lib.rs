#![doc = include_str!("../README.md")]

mod batch;
pub mod bundle_cache;
pub mod bundle_upload;
pub mod embedding;
pub mod findings;
mod input;
pub mod language;
pub mod scoring;

use std::sync::Arc;

use candle_core::Device;
use radialog_models::bundle::{Bundle, BundleError};
use radialog_models::preprocess::ImageLimits;
use radialog_runtime::backends::Backends;
use radialog_runtime::runner::{RunError, Runner, RunnerSettings};
use radialog_schemas::Stage;
use tokio_util::sync::CancellationToken;

use embedding::EmbeddingStage;
use findings::FindingsStage;
use language::LanguageStage;
use scoring::ScoringStage;

/// The settings of a stage; nothing here changes an output, but for a cache that is too small for it.
#[derive(Clone, Debug)]
pub struct StageOptions {
    /// The largest number of items in the model at a time.
    pub batch_limit: usize,
    /// The bytes that the language stage may spend on the cache of running texts. What one conversation needs at most is
    /// never taken of it by reports, and no more than half of it is kept from them.
    pub cache_bytes: u64,
    /// The bytes that the language stage may spend, on top, on the cache of conversations that may go on.
    pub kept_cache_bytes: u64,
    /// The largest number of tokens that one step of the language stage drafts for a text, of what it says already and of its
    /// prompt; the model takes them over where it would choose them. Nothing drafts nothing, as everywhere but on a CPU.
    pub speculate: usize,
    /// The largest size of an image file, and of its decoded image.
    pub image_limits: ImageLimits,
}

impl Default for StageOptions {
    fn default() -> Self {
        Self {
            batch_limit: 8,
            cache_bytes: 4 << 30,
            kept_cache_bytes: 2 << 30,
            // Longer ones are rarely right to their end.
            speculate: 8,
            image_limits: ImageLimits::default(),
        }
    }
}

/// A stage with its model, ready to run.
pub enum LoadedStage {
    /// The embedding stage.
    Embedding(Arc<EmbeddingStage>),
    /// The findings stage.
    Findings(Arc<FindingsStage>),
    /// The language stage, which also answers turns of conversations.
    Language(Arc<LanguageStage>),
    /// The scoring stage.
    Scoring(Arc<ScoringStage>),
}

/// Loads a stage's component of the bundle onto the device.
///
/// # Errors
/// A component that is missing or does not load.
pub fn load_stage(
    stage: Stage,
    bundle: &Bundle,
    device: &Device,
    options: &StageOptions,
) -> Result<LoadedStage, BundleError> {
    Ok(match stage {
        Stage::Embedding => {
            LoadedStage::Embedding(Arc::new(EmbeddingStage::load(bundle, device, options)?))
        }
        Stage::Findings => {
            LoadedStage::Findings(Arc::new(FindingsStage::load(bundle, device, options)?))
        }
        Stage::Language => {
            LoadedStage::Language(Arc::new(LanguageStage::load(bundle, device, options)?))
        }
        Stage::Scoring => {
            LoadedStage::Scoring(Arc::new(ScoringStage::load(bundle, device, options)?))
        }
    })
}

impl LoadedStage {
    /// Runs the stage over these adapters until `shutdown`, as [`Runner::run`] does.
    ///
    /// # Errors
    /// As [`Runner::run`].
    pub async fn run(
        self,
        backends: &Backends,
        settings: RunnerSettings,
        shutdown: CancellationToken,
    ) -> Result<(), RunError> {
        let Backends {
            queue,
            objects,
            conversations,
            ..
        } = backends.clone();
        match self {
            LoadedStage::Embedding(stage) => {
                Runner::new(stage, queue, objects, settings)
                    .run(shutdown)
                    .await
            }
            LoadedStage::Findings(stage) => {
                Runner::new(stage, queue, objects, settings)
                    .run(shutdown)
                    .await
            }
            LoadedStage::Language(stage) => {
                Runner::new(stage, queue, objects, settings)
                    .with_chat(conversations)
                    .run(shutdown)
                    .await
            }
            LoadedStage::Scoring(stage) => {
                Runner::new(stage, queue, objects, settings)
                    .run(shutdown)
                    .await
            }
        }
    }
}
