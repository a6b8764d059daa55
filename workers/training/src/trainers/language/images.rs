//! Image tokens by the name of their image, read from memory-mapped files when a sample needs them.

use std::path::PathBuf;

use candle_core::{DType, Device, Tensor};
use candle_nn::VarBuilder;
use radialog_models::bundle::read_manifest;
use radialog_models::bundle::weights::MappedWeights;
use radialog_models::language::LlamaConfig;
use radialog_schemas::{ContentHash, Stage};

use crate::data::tokenized_dataset::TrainingSample;
use crate::error::TrainingError;
use crate::prepare::tensors_made_by;
use crate::recipe::LanguageRecipe;

/// Files of image tokens.
pub(super) struct ImageTokens {
    files: Vec<PathBuf>,
    tensors: VarBuilder<'static>,
    placeholder: u32,
    shape: (usize, usize),
}

/// The origin of the embedding component that made the image tokens of a recipe: what its files say, else what the bundle that it
/// starts from has learned from. None where neither is known.
///
/// # Errors
/// Files of two components, since the same numbers mean something else in each.
pub(super) fn made_by(recipe: &LanguageRecipe) -> Result<Option<ContentHash>, TrainingError> {
    let mut first: Option<(&PathBuf, ContentHash)> = None;
    for path in &recipe.embeddings {
        let Some(made) = tensors_made_by(path)? else {
            continue;
        };
        match &first {
            Some((earlier, before)) if *before != made => {
                return Err(TrainingError::Empty(format!(
                    "embeddings: '{}' has image tokens of the embedding component {}, and '{}' of {}: make them with one bundle",
                    earlier.display(),
                    before.short(),
                    path.display(),
                    made.short()
                )));
            }
            _ => first = Some((path, made)),
        }
    }
    if let Some((_, made)) = first {
        return Ok(Some(made));
    }
    let Some(start) = recipe
        .training
        .start
        .as_ref()
        .filter(|_| recipe.embeddings.is_empty())
    else {
        return Ok(None);
    };
    let mut components = read_manifest(start)?.components;
    let language = components.remove(&Stage::Language);
    Ok(language.and_then(|language| language.image_tokens_of))
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
