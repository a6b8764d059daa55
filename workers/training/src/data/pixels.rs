//! Image files as pixels, and pixels as network input: the same ones as in inference.

use std::fs;
use std::path::Path;

use candle_core::{Device, Tensor};
use radialog_models::preprocess::{ImageLimits, InputSize, Preprocessed};

use crate::error::TrainingError;

/// The grey pixels of an image file, from 0 to 1, as inference sees them.
pub(crate) fn pixels(path: &Path, input: InputSize) -> Result<Vec<f32>, TrainingError> {
    let bytes = fs::read(path).map_err(TrainingError::io("read", path))?;
    let read = Preprocessed::from_bytes(&bytes, &ImageLimits::default(), input.short_side);
    let read = read.map_err(|failure| TrainingError::content(path)(failure.message))?;
    Ok(read
        .crop(input.side)
        .pixels()
        .iter()
        .map(|&pixel| f32::from(pixel) / 255.0)
        .collect())
}

/// Grey planes as network input `[B, 3, side, side]`.
pub(crate) fn stack(
    planes: Vec<Vec<f32>>,
    side: usize,
    device: &Device,
) -> Result<Tensor, TrainingError> {
    let count = planes.len();
    let planes = Tensor::from_vec(planes.concat(), (count, 1, side, side), device)?;
    Ok(planes.expand((count, 3, side, side))?.contiguous()?)
}
