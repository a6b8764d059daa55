//! Is this a frontal chest X-ray at all? A small network says so of every image, whatever the bundle: the classifier and the
//! language model answer a photograph as they answer an X-ray, and nothing in their answers tells the two apart.
//!
//! It sees the whole image as 64 x 64 grey pixels, and is a part of the program, weights and all: `radialog train gate` makes them
//! (`workers/training/recipes/gate`). Who ships other weights raises the revision of the findings stage, whose output has the verdict.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use candle_core::safetensors::load_buffer;
use candle_core::{DType, Device, Tensor};
use candle_nn::VarBuilder;
use candle_nn::ops::softmax_last_dim;
use radialog_schemas::{ContentHash, GateVerdict, ImageKind};
use safetensors::tensor::Dtype;

use crate::error::ModelError;
use crate::layers::{
    BatchNormShape, BatchNormStatistics, Conv, ConvShape, Linear, each_sample, from_map, to_map,
};
use crate::preprocess::GrayImage;
use crate::tensors::{TensorRecorder, TensorSpec, constant};

/// Side of the picture that the network sees, in pixels.
pub const SIDE: usize = 64;
/// The name of the tensor with the smallest share of [`ImageKind::Frontal`] that passes.
pub const THRESHOLD: &str = "threshold";

/// Channels of the convolutions, each of which halves the sides.
const WIDTHS: [usize; 4] = [8, 16, 32, 32];
/// Pixels of a row or column that are looked at for one of the picture: so a large image costs no more than one of 512 pixels.
const SAMPLES: usize = 8;
/// Grey levels below which a difference is none: a flat image stays flat.
const SMALLEST_DEVIATION: f64 = 2.0;
const WEIGHTS: &[u8] = include_bytes!("input_gate/weights.safetensors");

static SHIPPED: LazyLock<Result<InputGate, String>> =
    LazyLock::new(|| InputGate::from_bytes(WEIGHTS).map_err(|error| error.to_string()));

/// The network that tells frontal chest X-rays from everything else.
#[derive(Clone, Debug)]
pub struct InputGate {
    convolutions: Vec<Conv>,
    classifier: Linear,
    threshold: f32,
}

impl InputGate {
    /// The gate that is a part of this program.
    ///
    /// # Errors
    /// Weights of another geometry than the code's.
    pub fn shipped() -> Result<&'static Self, ModelError> {
        SHIPPED
            .as_ref()
            .map_err(|error| ModelError::Geometry(format!("the input gate's weights: {error}")))
    }

    /// The hash of the weights that are a part of this program.
    pub fn shipped_hash() -> ContentHash {
        ContentHash::of(WEIGHTS)
    }

    /// Reads weights from the content of a safetensors file.
    ///
    /// # Errors
    /// Another format, weights of another geometry, or values that are no numbers, by which every image would be warned of.
    pub fn from_bytes(content: &[u8]) -> Result<Self, ModelError> {
        let tensors = load_buffer(content, &Device::Cpu)?;
        for (name, tensor) in tensors.iter().collect::<BTreeMap<_, _>>() {
            let values = tensor.to_dtype(DType::F32)?.flatten_all()?;
            if values
                .to_vec1::<f32>()?
                .iter()
                .any(|value| !value.is_finite())
            {
                let tensor = name.clone();
                return Err(ModelError::WeightNotANumber { tensor });
            }
        }
        Self::new(VarBuilder::from_tensors(tensors, DType::F32, &Device::Cpu))
    }

    /// Loads the network: `conv1` and `bn1` to `conv4` and `bn4`, `classifier`, and `threshold`.
    ///
    /// # Errors
    /// A tensor that is missing, or has another shape.
    pub fn new(vb: VarBuilder<'_>) -> Result<Self, ModelError> {
        let norm = BatchNormShape {
            eps: 1e-5,
            scale: 1.0,
            statistics: BatchNormStatistics::Running,
        };
        let (mut input, mut convolutions) = (1, Vec::new());
        for (index, output) in (1..).zip(WIDTHS) {
            let shape = ConvShape {
                input,
                output,
                kernel: 3,
                stride: 2,
            };
            let (conv, batch_norm) = (vb.pp(format!("conv{index}")), vb.pp(format!("bn{index}")));
            convolutions.push(Conv::with_norm(shape, &conv, &batch_norm, norm)?.relu());
            input = output;
        }
        let side = SIDE >> WIDTHS.len();
        let threshold = vb.get_with_hints(1, THRESHOLD, constant(0.5))?;
        Ok(Self {
            convolutions,
            classifier: Linear::new(
                input * side * side,
                ImageKind::ALL.len(),
                vb.pp("classifier"),
            )?,
            threshold: threshold.to_vec1::<f32>()?[0],
        })
    }

    /// The tensors of the network.
    ///
    /// # Errors
    /// None but the tensor library's.
    pub fn tensors() -> Result<Vec<TensorSpec>, ModelError> {
        let recorder = TensorRecorder::new(Dtype::F32);
        Self::new(recorder.var_builder())?;
        Ok(recorder.into_specs())
    }

    /// Pictures `[B, 1, 64, 64]` to a logit for each of [`ImageKind::ALL`], `[B, 5]`.
    ///
    /// # Errors
    /// Pictures of another shape.
    pub fn logits(&self, pictures: &Tensor) -> Result<Tensor, ModelError> {
        each_sample(pictures, |pictures| {
            let map = self
                .convolutions
                .iter()
                .try_fold(to_map(pictures)?, |map, conv| conv.forward(&map))?;
            self.classifier
                .forward(&from_map(&map)?.flatten_from(1)?.contiguous()?)
        })
    }

    /// The share of each of [`ImageKind::ALL`], of each picture.
    ///
    /// # Errors
    /// Pictures of another shape.
    pub fn shares(&self, pictures: &Tensor) -> Result<Vec<Vec<f32>>, ModelError> {
        Ok(softmax_last_dim(&self.logits(pictures)?.contiguous()?)?.to_vec2()?)
    }

    /// What shares of [`ImageKind::ALL`] say.
    pub fn verdict(&self, shares: &[f32]) -> GateVerdict {
        let frontal = shares[ImageKind::Frontal as usize];
        let passed = frontal >= self.threshold;
        let kinds = ImageKind::ALL.into_iter().zip(shares);
        let looks_like = kinds
            .filter(|(kind, _)| passed || *kind != ImageKind::Frontal)
            .max_by(|(_, one), (_, other)| one.total_cmp(other))
            .map_or(ImageKind::Other, |(kind, _)| kind);
        GateVerdict {
            passed,
            looks_like: if passed {
                ImageKind::Frontal
            } else {
                looks_like
            },
            frontal,
        }
    }

    /// Says of an image what it looks like.
    ///
    /// # Errors
    /// None but the tensor library's.
    pub fn judge(&self, image: &GrayImage) -> Result<GateVerdict, ModelError> {
        let picture = standardised(sampled(image, SIDE));
        let picture = Tensor::from_vec(picture, (1, 1, SIDE, SIDE), &Device::Cpu)?;
        Ok(self.verdict(&self.shares(&picture)?[0]))
    }
}

/// The whole image as `side` x `side` grey levels, row-major: each is the mean over its part of the image, of which at most 8 x 8 pixels
/// are looked at. The sides are stretched alike.
pub fn sampled(image: &GrayImage, side: usize) -> Vec<f32> {
    let taps = |length: usize| -> Vec<Vec<usize>> {
        let tap = |place: usize| {
            let (first, end) = (place * length / side, ((place + 1) * length).div_ceil(side));
            let count = (end - first).min(SAMPLES);
            (0..count)
                .map(|tap| first + (2 * tap + 1) * (end - first) / (2 * count))
                .collect()
        };
        (0..side).map(tap).collect()
    };
    let (rows, columns) = (taps(image.height()), taps(image.width()));
    let mut levels = Vec::with_capacity(side * side);
    for rows in &rows {
        for columns in &columns {
            let mut sum = 0_u32;
            for row in rows {
                let pixels = &image.pixels()[row * image.width()..];
                sum += columns
                    .iter()
                    .map(|column| u32::from(pixels[*column]))
                    .sum::<u32>();
            }
            levels.push(sum as f32 / (rows.len() * columns.len()) as f32);
        }
    }
    levels
}

/// Grey levels with mean 0 and deviation 1, whatever the image's brightness and contrast; those of a flat image are near 0.
pub fn standardised(mut levels: Vec<f32>) -> Vec<f32> {
    let count = levels.len().max(1) as f64;
    let mean = levels.iter().copied().map(f64::from).sum::<f64>() / count;
    let squares = levels
        .iter()
        .map(|level| (f64::from(*level) - mean).powi(2));
    let deviation = (squares.sum::<f64>() / count)
        .sqrt()
        .max(SMALLEST_DEVIATION);
    for level in &mut levels {
        *level = ((f64::from(*level) - mean) / deviation) as f32;
    }
    levels
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(width: usize, height: usize, level: impl Fn(usize, usize) -> u8) -> GrayImage {
        let pixels = (0..width * height).map(|index| level(index % width, index / width));
        GrayImage::new(width, height, pixels.collect())
    }

    #[test]
    fn an_image_of_any_size_is_sampled_whole_and_of_the_same_size_pixel_by_pixel() {
        let halves = |width: usize, height: usize| {
            sampled(
                &image(width, height, |x, _| if x < width / 2 { 10 } else { 200 }),
                4,
            )
        };
        let expected = [10.0, 10.0, 200.0, 200.0].repeat(4);
        for (width, height) in [(4, 4), (8, 3), (640, 1000), (2, 2)] {
            assert_eq!(halves(width, height), expected, "{width} x {height}");
        }
        let pixels: Vec<f32> = (0..16).map(|index| index as f32).collect();
        assert_eq!(sampled(&image(4, 4, |x, y| (4 * y + x) as u8), 4), pixels);
        // The mean of a part: 0, 1, 4 and 5.
        assert_eq!(sampled(&image(4, 4, |x, y| (4 * y + x) as u8), 2)[0], 2.5);
    }

    #[test]
    fn brightness_and_contrast_do_not_count_and_a_flat_image_stays_flat() {
        let levels: Vec<f32> = (0..16).map(|index| 10.0 * index as f32).collect();
        let brighter = levels.iter().map(|level| 0.5 * level + 90.0).collect();
        let (these, those) = (standardised(levels), standardised(brighter));
        assert!(these.iter().zip(&those).all(|(a, b)| (a - b).abs() < 1e-5));
        let mean = these.iter().sum::<f32>() / 16.0;
        let square = these.iter().map(|level| level * level).sum::<f32>() / 16.0;
        assert!(mean.abs() < 1e-5 && (square - 1.0).abs() < 1e-5);
        assert_eq!(standardised(vec![76.0; 9]), [0.0; 9]);
    }

    #[test]
    fn weights_that_are_no_numbers_are_refused() {
        let mut content = WEIGHTS.to_vec();
        let last = content.len() - size_of::<f32>();
        content[last..].copy_from_slice(&f32::NAN.to_le_bytes());
        let error = InputGate::from_bytes(&content).unwrap_err();
        assert!(
            matches!(error, ModelError::WeightNotANumber { .. }),
            "{error}"
        );
    }

    #[test]
    fn the_shipped_gate_loads_is_small_and_lets_no_flat_image_pass() {
        assert!(WEIGHTS.len() < 200_000, "{}", WEIGHTS.len());
        let gate = InputGate::shipped().unwrap();
        let verdict = gate.judge(&image(300, 200, |_, _| 76)).unwrap();
        assert!(!verdict.passed, "{verdict:?}");
        assert_eq!(verdict.looks_like, ImageKind::Other);
    }

    #[test]
    fn an_image_passes_at_the_threshold_and_else_looks_like_the_likeliest_other_kind() {
        let gate = InputGate {
            threshold: 0.3,
            ..InputGate::shipped().unwrap().clone()
        };
        let verdict = gate.verdict(&[0.3, 0.5, 0.1, 0.1, 0.0]);
        assert!(verdict.passed && verdict.looks_like == ImageKind::Frontal);
        let verdict = gate.verdict(&[0.29, 0.2, 0.26, 0.25, 0.0]);
        assert!(!verdict.passed && verdict.looks_like == ImageKind::Turned);
    }

    #[test]
    fn a_batch_has_the_same_bytes_as_its_pictures_alone() {
        let gate = InputGate::shipped().unwrap();
        let pictures = [3usize, 7].map(|step| {
            standardised(sampled(
                &image(90, 70, |x, y| (step * x * y % 251) as u8),
                SIDE,
            ))
        });
        let tensor = |pictures: &[Vec<f32>]| {
            let shape = (pictures.len(), 1, SIDE, SIDE);
            Tensor::from_vec(pictures.concat(), shape, &Device::Cpu).unwrap()
        };
        let together = gate.shares(&tensor(&pictures)).unwrap();
        for (picture, shares) in pictures.iter().zip(together) {
            let alone = gate.shares(&tensor(std::slice::from_ref(picture)));
            assert_eq!(alone.unwrap(), [shares]);
        }
    }
}
