//! Files of embeddings by image, which stand in for the embedding stage: the original's pickles, or the safetensors that
//! `radialog prepare embeddings` writes. An entry is read when it is wanted, since a split has tens of gigabytes of them.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use candle_core::{DType, Device, Tensor};

use crate::bundle::BundleError;
use crate::bundle::weights::MappedWeights;
use crate::checkpoint::CheckpointError;
use crate::checkpoint::embeddings::StoredEmbeddings;
use crate::image_tokens;

/// A file of embeddings, f32 of one shape an image.
pub struct EmbeddingFile {
    path: PathBuf,
    content: Content,
}

enum Content {
    /// With the place of each image. Reading moves the file's own place, so that one reads at a time.
    Pickle(Mutex<StoredEmbeddings>, HashMap<String, usize>),
    Safetensors(MappedWeights),
}

/// A file of embeddings that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum EmbeddingFileError {
    /// It is of no kind that is read.
    #[error(
        "'{}' is no file of embeddings: give the release's .pkl, or the .safetensors of `radialog prepare embeddings`",
        .0.display()
    )]
    Kind(PathBuf),
    /// An image stands in it twice.
    #[error("'{image}' stands twice in '{}': it is not clear which embedding counts", file.display())]
    Twice {
        /// The image.
        image: String,
        /// The file.
        file: PathBuf,
    },
    /// It has nothing.
    #[error("'{}' has no embedding", .0.display())]
    Empty(PathBuf),
    /// An entry has a value that is not finite.
    #[error("'{image}' of '{}' has a value that is not finite", file.display())]
    NotFinite {
        /// The image.
        image: String,
        /// The file.
        file: PathBuf,
    },
    /// A pickle that cannot be read.
    #[error(transparent)]
    Pickle(#[from] CheckpointError),
    /// A safetensors file that cannot be read.
    #[error(transparent)]
    Safetensors(#[from] BundleError),
    /// A tensor that cannot be read.
    #[error("an embedding cannot be read: {0}")]
    Tensor(#[from] candle_core::Error),
}

impl EmbeddingFile {
    /// Opens a file by its ending, `.pkl`, `.pickle` or `.safetensors`.
    ///
    /// # Errors
    /// Another ending, a file that cannot be read or is not what its ending says, an image that stands twice, or none.
    pub fn open(path: &Path) -> Result<Self, EmbeddingFileError> {
        let ending = path.extension().and_then(|ending| ending.to_str());
        let content = match ending.map(str::to_ascii_lowercase).as_deref() {
            Some("safetensors") => Content::Safetensors(MappedWeights::open(&[path.to_owned()])?),
            Some("pkl" | "pickle") => {
                let stored = StoredEmbeddings::open(path)?;
                let mut places = HashMap::new();
                for (place, array) in stored.arrays().iter().enumerate() {
                    if places.insert(array.image.clone(), place).is_some() {
                        return Err(EmbeddingFileError::Twice {
                            image: array.image.clone(),
                            file: path.to_owned(),
                        });
                    }
                }
                Content::Pickle(Mutex::new(stored), places)
            }
            _ => return Err(EmbeddingFileError::Kind(path.to_owned())),
        };
        let file = Self {
            path: path.to_owned(),
            content,
        };
        match file.shapes().is_empty() {
            true => Err(EmbeddingFileError::Empty(path.to_owned())),
            false => Ok(file),
        }
    }

    /// Every image with the shape of its embedding, by name.
    pub fn shapes(&self) -> Vec<(String, Vec<usize>)> {
        let mut shapes: Vec<_> = match &self.content {
            Content::Pickle(stored, _) => {
                let stored = stored.lock().unwrap_or_else(PoisonError::into_inner);
                let arrays = stored.arrays().iter();
                arrays
                    .map(|array| (array.image.clone(), array.shape.clone()))
                    .collect()
            }
            Content::Safetensors(weights) => weights
                .shapes()
                .map(|(image, shape)| (image.to_owned(), shape.to_vec()))
                .collect(),
        };
        shapes.sort_unstable();
        shapes
    }

    /// The object that the embedding stage would store for an image; none where the file does not know it.
    ///
    /// # Errors
    /// A file that cannot be read, or values that are not finite.
    pub fn object(&self, image: &str) -> Result<Option<Vec<u8>>, EmbeddingFileError> {
        let tokens = match &self.content {
            Content::Pickle(stored, places) => {
                let Some(&place) = places.get(image) else {
                    return Ok(None);
                };
                let stored = stored.lock().unwrap_or_else(PoisonError::into_inner);
                let array = &stored.arrays()[place];
                Tensor::from_vec(stored.read(array)?, array.shape.as_slice(), &Device::Cpu)?
            }
            Content::Safetensors(weights) => {
                let Some(shape) = weights.shape(image) else {
                    return Ok(None);
                };
                let weights = weights.var_builder(DType::F32, &Device::Cpu);
                weights.get(shape, image)?
            }
        };
        let values = tokens.flatten_all()?.to_vec1::<f32>()?;
        if values.iter().any(|value| !value.is_finite()) {
            return Err(EmbeddingFileError::NotFinite {
                image: image.to_owned(),
                file: self.path.clone(),
            });
        }
        Ok(Some(image_tokens::encode(&tokens)?))
    }
}
