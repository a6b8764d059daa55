//! Image tokens by the name of their image, read from memory-mapped files when a sample needs them.

use std::path::PathBuf;

use candle_core::{DType, Device, Tensor};
use candle_nn::VarBuilder;
use radialog_models::bundle::weights::MappedWeights;
use radialog_models::language::LlamaConfig;

use crate::data::tokenized_dataset::TrainingSample;
use crate::error::TrainingError;

/// Files of image tokens.
pub(super) struct ImageTokens {
    files: Vec<PathBuf>,
    tensors: VarBuilder<'static>,
    placeholder: u32,
    shape: (usize, usize),
}

impl ImageTokens {
    /// Maps the files.
    pub(super) fn open(
        files: &[PathBuf],
        llama: &LlamaConfig,
        device: &Device,
    ) -> Result<Self, TrainingError> {
        Ok(Self {
            files: files.to_vec(),
            tensors: MappedWeights::open(files)?.var_builder(DType::F32, device),
            placeholder: llama.image_token(),
            shape: (llama.num_image_tokens, llama.image_dim),
        })
    }

    /// Finds before the first step what [`ImageTokens::of`] would find.
    pub(super) fn check(&self, sample: &TrainingSample) -> Result<(), TrainingError> {
        let count = sample
            .ids
            .iter()
            .filter(|&&id| id == self.placeholder)
            .count();
        let TrainingSample { dicom, name, .. } = sample;
        if count != 0 && count != self.shape.0 {
            let reason = format!(
                "{name} has {count} image placeholders and an image has {}: it belongs to another model",
                self.shape.0
            );
            return Err(TrainingError::Empty(reason));
        }
        if count != 0 && !self.tensors.contains_tensor(dicom) {
            let files: Vec<String> = self
                .files
                .iter()
                .map(|file| file.display().to_string())
                .collect();
            let place = if files.is_empty() {
                "no embeddings are named".to_owned()
            } else {
                files.join(", ")
            };
            let reason = format!(
                "there are no image tokens of '{dicom}', which {name} needs ({place}): name a file of embeddings that has \
                 them, or leave the sample out"
            );
            return Err(TrainingError::Empty(reason));
        }
        Ok(())
    }

    /// The image tokens of a sample's image, `[32, dim]`; none where its prompt shows no image.
    pub(super) fn of(&self, sample: &TrainingSample) -> Result<Vec<Tensor>, TrainingError> {
        if !sample.ids.contains(&self.placeholder) {
            return Ok(Vec::new());
        }
        Ok(vec![self.tensors.get(self.shape, &sample.dicom)?])
    }
}
