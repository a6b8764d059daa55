//! Batch norm in training. On a CPU its two passes and their gradient are fused: written with the tensor library's
//! operations they read and write each map a dozen times, which costs more than the convolution before it.

use candle_core::{CpuStorage, CustomOp2, CustomOp3, Layout, Result, Shape, Tensor, Var};
use rayon::prelude::*;

use super::super::parallel::{each_part, each_row, part_length};
use super::super::storage::{floats, with_floats};
use crate::layers::conv_tensors::BatchNormTensors;

/// How much of a running statistic each batch replaces.
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

    /// Pixels `[n, width]`, normalised by their own statistics, which also move the running ones; with `relu`, what is
    /// positive of them.
    pub(super) fn forward(&self, pixels: &Tensor, relu: bool) -> Result<Tensor> {
        if pixels.device().is_cpu() {
            return self.forward_fused(&pixels.contiguous()?, relu);
        }
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

    fn forward_fused(&self, pixels: &Tensor, relu: bool) -> Result<Tensor> {
        let (rows, width) = pixels.dims2()?;
        let (mean, variance) = with_floats([pixels], |[values]| statistics(values, width))?;
        let row = |values: &[f32]| Tensor::new(values, pixels.device());
        self.follow(&row(&mean)?, &row(&variance)?, rows)?;
        let inverse = variance
            .iter()
            .map(|variance| (1.0 / (f64::from(*variance) + self.eps).sqrt()) as f32)
            .collect();
        pixels.apply_op3(
            &self.weight,
            &self.bias,
            BatchNormOp {
                mean,
                inverse,
                relu,
            },
        )
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

/// `weight (x - mean) / deviation + bias`, where mean and deviation are those of `x [n, width]`.
struct BatchNormOp {
    mean: Vec<f32>,
    inverse: Vec<f32>,
    relu: bool,
}

impl CustomOp3 for BatchNormOp {
    fn name(&self) -> &'static str {
        "batch norm"
    }

    fn cpu_fwd(
        &self,
        pixels: &CpuStorage,
        layout: &Layout,
        weight: &CpuStorage,
        weight_layout: &Layout,
        bias: &CpuStorage,
        bias_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (pixels, weight, bias) = (
            floats(pixels, layout)?,
            floats(weight, weight_layout)?,
            floats(bias, bias_layout)?,
        );
        let width = weight.len();
        let scale: Vec<f32> = weight
            .iter()
            .zip(&self.inverse)
            .map(|(weight, inverse)| weight * inverse)
            .collect();
        let shift: Vec<f32> = bias
            .iter()
            .zip(&self.mean)
            .zip(&scale)
            .map(|((bias, mean), scale)| bias - mean * scale)
            .collect();
        let floor = if self.relu { 0.0 } else { f32::NEG_INFINITY };
        let result = each_row(pixels, width, |pixel, result| {
            for channel in 0..width {
                let value = pixel[channel] * scale[channel] + shift[channel];
                // A value that is not a number stays, so that broken weights show.
                result[channel] = if value < floor { floor } else { value };
            }
        });
        Ok((CpuStorage::F32(result), layout.shape().clone()))
    }

    fn bwd(
        &self,
        pixels: &Tensor,
        weight: &Tensor,
        _: &Tensor,
        result: &Tensor,
        gradient: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let (rows, width) = pixels.dims2()?;
        let tensors = [pixels, weight, result, gradient];
        let (of_pixels, of_weight, of_bias) =
            with_floats(tensors, |[pixels, weight, result, gradient]| {
                self.gradients(pixels, weight, result, gradient)
            })?;
        let device = pixels.device();
        Ok((
            Some(Tensor::from_vec(of_pixels, (rows, width), device)?),
            Some(Tensor::from_vec(of_weight, width, device)?),
            Some(Tensor::from_vec(of_bias, width, device)?),
        ))
    }
}

impl BatchNormOp {
    /// Gradients of pixels, weight and bias.
    fn gradients(
        &self,
        pixels: &[f32],
        weight: &[f32],
        result: &[f32],
        gradient: &[f32],
    ) -> (Vec<f32>, Vec<f32>, Vec<f32>) {
        let width = weight.len();
        let chunk = part_length(width);
        // What the ReLU cut off has no gradient.
        let passed = |gradient: f32, result: f32| {
            if self.relu && result <= 0.0 {
                0.0
            } else {
                gradient
            }
        };
        let sums = pixels
            .par_chunks(chunk)
            .zip(result.par_chunks(chunk))
            .zip(gradient.par_chunks(chunk));
        let sums: Vec<[Vec<f32>; 2]> = sums
            .map(|((pixels, result), gradient)| {
                let mut sums = [vec![0f32; width], vec![0f32; width]];
                let [of_bias, of_weight] = &mut sums;
                let rows = pixels
                    .chunks_exact(width)
                    .zip(result.chunks_exact(width))
                    .zip(gradient.chunks_exact(width));
                for ((pixel, result), gradient) in rows {
                    for channel in 0..width {
                        let gradient = passed(gradient[channel], result[channel]);
                        of_bias[channel] += gradient;
                        of_weight[channel] += gradient
                            * (pixel[channel] - self.mean[channel])
                            * self.inverse[channel];
                    }
                }
                sums
            })
            .collect();
        let [of_bias, of_weight] =
            [0, 1].map(|part| added(sums.iter().map(|sums| &sums[part]), width));
        let count = (pixels.len() / width.max(1)) as f32;
        let scale: Vec<f32> = weight
            .iter()
            .zip(&self.inverse)
            .map(|(weight, inverse)| weight * inverse)
            .collect();
        let mut of_pixels = vec![0f32; pixels.len()];
        let rows = of_pixels
            .par_chunks_mut(chunk)
            .zip(pixels.par_chunks(chunk));
        let rows = rows
            .zip(result.par_chunks(chunk))
            .zip(gradient.par_chunks(chunk));
        rows.for_each(|(((of_pixels, pixels), result), gradient)| {
            let rows = of_pixels
                .chunks_exact_mut(width)
                .zip(pixels.chunks_exact(width));
            let rows = rows
                .zip(result.chunks_exact(width))
                .zip(gradient.chunks_exact(width));
            for (((of_pixel, pixel), result), gradient) in rows {
                for channel in 0..width {
                    let normal = (pixel[channel] - self.mean[channel]) * self.inverse[channel];
                    let gradient = passed(gradient[channel], result[channel]);
                    let mean = (of_bias[channel] + normal * of_weight[channel]) / count;
                    of_pixel[channel] = scale[channel] * (gradient - mean);
                }
            }
        });
        (of_pixels, of_weight, of_bias)
    }
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

/// Mean and variance (biased) of each column.
fn statistics(values: &[f32], width: usize) -> (Vec<f32>, Vec<f32>) {
    let count = (values.len() / width.max(1)) as f32;
    let over_rows = |add: &(dyn Fn(&mut [f32], &[f32]) + Sync)| {
        let sums: Vec<Vec<f32>> = values
            .par_chunks(part_length(width))
            .map(|rows| {
                let mut sums = vec![0f32; width];
                rows.chunks_exact(width).for_each(|row| add(&mut sums, row));
                sums
            })
            .collect();
        added(sums.iter(), width)
            .into_iter()
            .map(|sum| sum / count)
            .collect::<Vec<f32>>()
    };
    let mean = over_rows(&|sums, row| {
        sums.iter_mut()
            .zip(row)
            .for_each(|(sum, value)| *sum += value)
    });
    let variance = over_rows(&|sums, row| {
        for ((sum, value), mean) in sums.iter_mut().zip(row).zip(&mean) {
            *sum += (value - mean) * (value - mean);
        }
    });
    (mean, variance)
}

/// Sums over chunks, always in their order.
fn added<'a>(sums: impl Iterator<Item = &'a Vec<f32>>, width: usize) -> Vec<f32> {
    let mut total = vec![0f64; width];
    sums.for_each(|sums| {
        total
            .iter_mut()
            .zip(sums)
            .for_each(|(total, sum)| *total += f64::from(*sum))
    });
    total.into_iter().map(|total| total as f32).collect()
}

#[cfg(test)]
mod tests {
    use candle_core::{DType, Device};

    use super::*;

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

    fn worst(a: &Tensor, b: &Tensor) -> f32 {
        (a - b)
            .unwrap()
            .abs()
            .unwrap()
            .max_all()
            .unwrap()
            .to_scalar()
            .unwrap()
    }

    #[test]
    fn the_fused_norm_and_its_gradients_agree_with_the_tensor_library() {
        let (rows, width) = (8_000, 5);
        let pixels = Var::from_tensor(&noise(rows, width, 1)).unwrap();
        let weight = Var::from_tensor(&noise(1, width, 2).flatten_all().unwrap()).unwrap();
        let bias = Var::from_tensor(&noise(1, width, 3).flatten_all().unwrap()).unwrap();
        let zeros = Tensor::zeros(width, DType::F32, &Device::Cpu).unwrap();
        let norm = BatchNorm {
            weight: weight.as_tensor().clone(),
            bias: bias.as_tensor().clone(),
            running_mean: Var::from_tensor(&zeros).unwrap(),
            running_var: Var::from_tensor(&zeros).unwrap(),
            eps: 1e-5,
        };
        let cotangent = noise(rows, width, 4);
        for relu in [false, true] {
            let fused = norm.forward(&pixels, relu).unwrap();
            let mean = pixels.mean_keepdim(0).unwrap();
            let centred = pixels.broadcast_sub(&mean).unwrap();
            let variance = centred.sqr().unwrap().mean_keepdim(0).unwrap();
            let deviation = (variance + 1e-5).unwrap().sqrt().unwrap();
            let plain = centred
                .broadcast_div(&deviation)
                .unwrap()
                .broadcast_mul(&weight)
                .unwrap();
            let plain = plain.broadcast_add(&bias).unwrap();
            let plain = if relu { plain.relu().unwrap() } else { plain };
            assert!(worst(&fused, &plain) < 1e-5, "relu {relu}");
            let slope = |output: &Tensor| {
                (output * &cotangent)
                    .unwrap()
                    .sum_all()
                    .unwrap()
                    .backward()
                    .unwrap()
            };
            let (ours, theirs) = (slope(&fused), slope(&plain));
            for (variable, bound) in [(&pixels, 1e-5), (&weight, 2e-2), (&bias, 2e-2)] {
                let difference = worst(ours.get(variable).unwrap(), theirs.get(variable).unwrap());
                assert!(difference < bound, "relu {relu}: {difference}");
            }
        }
        let followed = norm.running_mean.as_detached_tensor();
        let expected = (pixels.mean(0).unwrap() * (1.0 - 0.81)).unwrap();
        assert!(
            worst(&followed, &expected) < 1e-5,
            "two batches have moved the running mean"
        );
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
