//! Image to image tokens.

use async_trait::async_trait;
use bytes::Bytes;
use candle_core::{Device, Tensor};
use radialog_models::bundle::components::ImageEmbedder;
use radialog_models::bundle::{Bundle, BundleError};
use radialog_models::preprocess::ImageLimits;
use radialog_models::{ModelError, image_tokens};
use radialog_runtime::objects::Objects;
use radialog_runtime::stage::{Feed, StageWork};
use radialog_schemas::{ContentHash, Failure, Stage, Task, Work};

use crate::input::{self, InputImage};
use crate::{StageOptions, batch};

/// The embedding stage: images to image tokens.
pub struct EmbeddingStage {
    component: ContentHash,
    embedder: ImageEmbedder,
    device: Device,
    batch_limit: usize,
    image_limits: ImageLimits,
}

impl EmbeddingStage {
    /// Loads the embedding component onto the device.
    ///
    /// # Errors
    /// A component that is missing or does not load.
    pub fn load(
        bundle: &Bundle,
        device: &Device,
        options: &StageOptions,
    ) -> Result<Self, BundleError> {
        Ok(Self {
            component: bundle.manifest().component_hash(Stage::Embedding),
            embedder: ImageEmbedder::load(bundle, device)?,
            device: device.clone(),
            batch_limit: options.batch_limit,
            image_limits: options.image_limits,
        })
    }

    fn embed(&self, images: &Tensor) -> Result<Vec<Bytes>, ModelError> {
        let tokens = self.embedder.embed(images)?;
        (0..tokens.dim(0)?)
            .map(|i| Ok(image_tokens::encode(&tokens.get(i)?)?.into()))
            .collect()
    }
}

#[async_trait]
impl StageWork for EmbeddingStage {
    type Input = InputImage;

    fn stage(&self) -> Stage {
        Stage::Embedding
    }

    fn component(&self) -> &ContentHash {
        &self.component
    }

    fn batch_limit(&self) -> usize {
        self.batch_limit
    }

    async fn fetch(&self, task: &Task, objects: &dyn Objects) -> Result<InputImage, Failure> {
        let Work::Embedding { image } = &task.work else {
            return Err(input::wrong_stage(Stage::Embedding));
        };
        input::fetch_image(
            objects,
            image,
            self.embedder.input(),
            self.image_limits,
            None,
        )
        .await
    }

    fn run(&self, feed: &mut dyn Feed<InputImage>) {
        batch::run_batches(feed, self.batch_limit, |images| {
            let tensors: Vec<&Tensor> = images.iter().map(|image| &image.tensor).collect();
            let whole_batch = self.embedder.sees_whole_batch();
            batch::run_on_images(&self.device, whole_batch, &tensors, |images| {
                self.embed(images)
            })
        });
    }
}
