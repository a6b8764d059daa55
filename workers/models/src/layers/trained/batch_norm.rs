//! Batch norm in training. On a CPU its passes and their gradient are kernels that a convolution has behind it: written with
//! the tensor library's operations they read and write each map a dozen times, which costs more than the convolution.

use candle_core::{CpuStorage, CustomOp2, Layout, Result, Shape, Tensor, Var};
use rayon::prelude::*;

use super::super::parallel::{added, each_part, part_length};
use super::super::storage::{floats, with_floats};
use crate::kernels::buffer::Buffer;
use crate::layers::conv_tensors::BatchNormTensors;

/// The share of a running statistic that each batch replaces.
const MOMENTUM: f64 = 0.1;

/// Ioffe and Szegedy, 2015.
#[derive(Clone, Debug)]
pub(super) struct BatchNorm {
    weight: Tensor,
    bias: Tensor,
    running_mean: Var,
    running_var: Var,
    eps: f64,
}

impl BatchNorm {
    pub(super) fn new(tensors: BatchNormTensors, eps: f64) -> Result<Self> {
        Ok(Self {
            weight: tensors.weight,
            bias: tensors.bias,
            running_mean: Var::from_tensor(&tensors.running_mean)?,
            running_var: Var::from_tensor(&tensors.running_var)?,
            eps,
        })
    }

    #[cfg(test)]
    pub(super) fn running_mean(&self) -> Tensor {
        self.running_mean.as_detached_tensor()
    }

    /// Added to the variance.
    pub(super) fn eps(&self) -> f64 {
        self.eps
    }

    /// Scale and shift, `[2, width]`.
    pub(super) fn scale_and_shift(&self) -> Result<Tensor> {
        Tensor::stack(&[&self.weight, &self.bias], 0)
    }

    /// Pixels `[n, width]` elsewhere than on a CPU, normalised by their own statistics, which also move the running ones; with
    /// `relu`, what is positive of them.
    pub(super) fn forward(&self, pixels: &Tensor, relu: bool) -> Result<Tensor> {
        let mean = pixels.mean_keepdim(0)?;
        let centred = pixels.broadcast_sub(&mean)?;
        let variance = centred.sqr()?.mean_keepdim(0)?;
        self.follow(&mean, &variance, pixels.dim(0)?)?;
        let scaled = centred
            .broadcast_div(&(variance + self.eps)?.sqrt()?)?
            .broadcast_mul(&self.weight)?;
        let output = scaled.broadcast_add(&self.bias)?;
        if relu { output.relu() } else { Ok(output) }
    }

    /// Moves the running statistics towards those of pixels that a convolution normalised.
    pub(super) fn follow_pixels(&self, statistics: &Statistics) -> Result<()> {
        let row = |values: &[f32]| Tensor::new(values, self.weight.device());
        let (mean, variance) = (row(&statistics.mean)?, row(&statistics.variance)?);
        self.follow(&mean, &variance, statistics.rows)
    }

    /// Moves the running statistics towards those of a batch.
    fn follow(&self, mean: &Tensor, variance: &Tensor, rows: usize) -> Result<()> {
        // The running variance is the unbiased one, as torch keeps it.
        let unbiased = rows as f64 / (rows as f64 - 1.0).max(1.0);
        move_towards(&self.running_mean, mean, 1.0)?;
        move_towards(&self.running_var, variance, unbiased)
    }
}

fn move_towards(running: &Var, batch: &Tensor, scale: f64) -> Result<()> {
    let batch = (batch.detach().flatten_all()? * (MOMENTUM * scale))?;
    running.set(&((running.as_detached_tensor() * (1.0 - MOMENTUM))? + batch)?)
}

/// Mean and biased variance of each column of pixels `[rows, width]`.
pub(super) struct Statistics {
    rows: usize,
    mean: Vec<f32>,
    variance: Vec<f32>,
    /// One over the deviation.
    inverse: Vec<f32>,
}

/// The gradients of a norm.
pub(super) struct NormGradients {
    pub(super) of_pixels: Buffer,
    pub(super) of_weight: Vec<f32>,
    pub(super) of_bias: Vec<f32>,
}

impl Statistics {
    /// Each part of the pixels has its own sums, which are put together in their order (Chan et al., 1983): main memory is
    /// read once.
    pub(super) fn of(pixels: &[f32], width: usize, eps: f64) -> Self {
        let parts: Vec<[Vec<f32>; 2]> = pixels
            .par_chunks(part_length(width))
            .map(|part| {
                let mut sums = vec![0f32; width];
                for row in part.chunks_exact(width) {
                    for (sum, value) in sums.iter_mut().zip(row) {
                        *sum += value;
                    }
                }
                let share = width as f32 / part.len() as f32;
                let mut squares = vec![0f32; width];
                for row in part.chunks_exact(width) {
                    for ((square, value), sum) in squares.iter_mut().zip(row).zip(&sums) {
                        let distance = value - sum * share;
                        *square += distance * distance;
                    }
                }
                [sums, squares]
            })
            .collect();
        let rows = pixels.len() / width.max(1);
        let count = rows as f64;
        let total = added(parts.iter().map(|[sums, _]| sums), width);
        let mean: Vec<f64> = total.iter().map(|sum| sum / count).collect();
        let mut variance = added(parts.iter().map(|[_, squares]| squares), width);
        let lengths = pixels.chunks(part_length(width)).map(<[f32]>::len);
        for ([sums, _], length) in parts.iter().zip(lengths) {
            let own = (length / width.max(1)) as f64;
            for ((variance, sum), mean) in variance.iter_mut().zip(sums).zip(&mean) {
                *variance += own * (f64::from(*sum) / own - mean).powi(2);
            }
        }
        variance.iter_mut().for_each(|variance| *variance /= count);
        let inverse = variance
            .iter()
            .map(|variance| 1.0 / (variance + eps).sqrt());
        Self {
            rows,
            inverse: rounded(inverse),
            mean: rounded(mean),
            variance: rounded(variance),
        }
    }

    /// `weight (pixels - mean) / deviation + bias`; with `relu`, what is positive of it.
    pub(super) fn normalised(
        &self,
        pixels: &[f32],
        weight: &[f32],
        bias: &[f32],
        relu: bool,
    ) -> Vec<f32> {
        let width = weight.len();
        let (scale, shift) = (self.scale(weight), self.shift(weight, bias));
        let floor = if relu { 0.0 } else { f32::NEG_INFINITY };
        each_part((pixels, pixels), width, |pixels, _, result| {
            let rows = pixels
                .chunks_exact(width)
                .zip(result.chunks_exact_mut(width));
            for (pixel, result) in rows {
                let values = result.iter_mut().zip(pixel).zip(&scale).zip(&shift);
                for (((result, value), scale), shift) in values {
                    let value = value * scale + shift;
                    // A value that is not a number stays, so that broken weights show.
                    *result = if value < floor { floor } else { value };
                }
            }
        })
    }

    fn scale(&self, weight: &[f32]) -> Vec<f32> {
        let pairs = weight.iter().zip(&self.inverse);
        pairs.map(|(weight, inverse)| weight * inverse).collect()
    }

    fn shift(&self, weight: &[f32], bias: &[f32]) -> Vec<f32> {
        let scale = self.scale(weight);
        let values = bias.iter().zip(&self.mean).zip(&scale);
        values
            .map(|((bias, mean), scale)| bias - mean * scale)
            .collect()
    }

    /// The gradients, from the pixels before the norm, and its result with the gradient of that.
    pub(super) fn gradients(
        &self,
        pixels: &[f32],
        weight: &[f32],
        (result, gradient): (&[f32], &[f32]),
        relu: bool,
    ) -> NormGradients {
        let width = weight.len();
        let chunk = part_length(width);
        // What the ReLU cut off has no gradient.
        let cut = if relu { 0.0 } else { f32::NEG_INFINITY };
        let passed = |gradient: f32, result: f32| if result <= cut { 0.0 } else { gradient };
        let sums = pixels
            .par_chunks(chunk)
            .zip(result.par_chunks(chunk))
            .zip(gradient.par_chunks(chunk));
        let sums: Vec<[Vec<f32>; 2]> = sums
            .map(|((pixels, result), gradient)| {
                let (mut of_bias, mut of_weight) = (vec![0f32; width], vec![0f32; width]);
                let rows = pixels
                    .chunks_exact(width)
                    .zip(result.chunks_exact(width))
                    .zip(gradient.chunks_exact(width));
                for ((pixel, result), gradient) in rows {
                    let sums = of_bias.iter_mut().zip(&mut of_weight);
                    let sums = sums.zip(self.mean.iter().zip(&self.inverse));
                    let values = pixel.iter().zip(result).zip(gradient);
                    for (((of_bias, of_weight), (mean, inverse)), ((value, result), gradient)) in
                        sums.zip(values)
                    {
                        let gradient = passed(*gradient, *result);
                        *of_bias += gradient;
                        *of_weight += gradient * (value - mean) * inverse;
                    }
                }
                [of_bias, of_weight]
            })
            .collect();
        let [of_bias, of_weight] =
            [0, 1].map(|part| rounded(added(sums.iter().map(|sums| &sums[part]), width)));
        let share = 1.0 / self.rows as f32;
        let scale = self.scale(weight);
        // scale (gradient - (of_bias + normal of_weight) / rows), with all that is the same for a column put together.
        let along: Vec<f32> = self
            .inverse
            .iter()
            .zip(&of_weight)
            .map(|(inverse, of_weight)| inverse * of_weight * share)
            .collect();
        let mut of_pixels = Buffer::take(pixels.len());
        let parts = of_pixels
            .par_chunks_mut(chunk)
            .zip(pixels.par_chunks(chunk))
            .zip(result.par_chunks(chunk))
            .zip(gradient.par_chunks(chunk));
        parts.for_each(|(((of_pixels, pixels), result), gradient)| {
            let rows = of_pixels
                .chunks_exact_mut(width)
                .zip(pixels.chunks_exact(width))
                .zip(result.chunks_exact(width))
                .zip(gradient.chunks_exact(width));
            for (((of_pixel, pixel), result), gradient) in rows {
                let columns = self.mean.iter().zip(&along).zip(&of_bias).zip(&scale);
                let values = of_pixel.iter_mut().zip(pixel).zip(result).zip(gradient);
                for ((((of_pixel, value), result), gradient), (((mean, along), of_bias), scale)) in
                    values.zip(columns)
                {
                    let common = of_bias * share + (value - mean) * along;
                    *of_pixel = scale * (passed(*gradient, *result) - common);
                }
            }
        });
        NormGradients {
            of_pixels,
            of_weight,
            of_bias,
        }
    }
}

fn rounded(values: impl IntoIterator<Item = f64>) -> Vec<f32> {
    values.into_iter().map(|value| value as f32).collect()
}

/// The sum of two maps, and what is positive of it.
pub(super) struct AddRelu;

impl CustomOp2 for AddRelu {
    fn name(&self) -> &'static str {
        "residual and relu"
    }

    fn cpu_fwd(
        &self,
        left: &CpuStorage,
        left_layout: &Layout,
        right: &CpuStorage,
        right_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (left, right) = (floats(left, left_layout)?, floats(right, right_layout)?);
        let result = each_part((left, right), 1, |left, right, result| {
            for ((result, left), right) in result.iter_mut().zip(left).zip(right) {
                let sum = left + right;
                *result = if sum < 0.0 { 0.0 } else { sum };
            }
        });
        Ok((CpuStorage::F32(result), left_layout.shape().clone()))
    }

    fn bwd(
        &self,
        _: &Tensor,
        _: &Tensor,
        result: &Tensor,
        gradient: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let passed = with_floats([result, gradient], |[result, gradient]| {
            each_part((result, gradient), 1, |result, gradient, passed| {
                for ((passed, result), gradient) in passed.iter_mut().zip(result).zip(gradient) {
                    *passed = if *result <= 0.0 { 0.0 } else { *gradient };
                }
            })
        })?;
        let passed = Tensor::from_vec(passed, result.shape(), result.device())?;
        Ok((Some(passed.clone()), Some(passed)))
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{Device, Var};

    use super::*;
    use crate::layers::differences::worst;

    fn noise(rows: usize, width: usize, seed: u32) -> Tensor {
        let value = |index: usize| {
            let mixed = (index as u32 + seed).wrapping_mul(0x9E37_79B9);
            ((mixed ^ (mixed >> 15)).wrapping_mul(0x85EB_CA6B) >> 8) as f32 / 8_388_608.0 - 0.7
        };
        Tensor::from_vec(
            (0..rows * width).map(value).collect(),
            (rows, width),
            &Device::Cpu,
        )
        .unwrap()
    }

    #[test]
    fn a_fused_residual_is_the_sum_and_what_is_positive_passes_its_gradient() {
        let [left, right] = [1, 2].map(|seed| Var::from_tensor(&noise(300, 7, seed)).unwrap());
        let fused = left.apply_op2(&right, AddRelu).unwrap();
        let plain = (left.as_tensor() + right.as_tensor())
            .unwrap()
            .relu()
            .unwrap();
        assert_eq!(worst(&fused, &plain), 0.0);
        let cotangent = noise(300, 7, 3);
        let slope = |output: &Tensor| {
            (output * &cotangent)
                .unwrap()
                .sum_all()
                .unwrap()
                .backward()
                .unwrap()
        };
        let (ours, theirs) = (slope(&fused), slope(&plain));
        for variable in [&left, &right] {
            assert_eq!(
                worst(ours.get(variable).unwrap(), theirs.get(variable).unwrap()),
                0.0
            );
        }
    }
}
