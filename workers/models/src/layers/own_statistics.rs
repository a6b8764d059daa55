//! Batch norm that measures what it normalises, at inference: as networks compute that were left in training mode. On a CPU
//! sums are kept in f64 and added up in parts of a fixed size, so that a result does not depend on the number of threads.

use candle_core::{CpuStorage, CustomOp1, CustomOp2, Layout, Result, Shape, Tensor, bail};
use rayon::prelude::*;

use super::conv_tensors::{BatchNormShape, BatchNormStatistics, BatchNormTensors};
use super::parallel::part_length;
use super::storage::floats;

/// A batch norm with mean and biased variance of its input.
#[derive(Clone, Debug)]
pub(super) struct OwnStatistics {
    /// Scale and shift, `[C]` each.
    weight: Tensor,
    bias: Tensor,
    eps: f64,
    /// Whether each image has its own statistics; all images of a batch share them otherwise.
    each_image: bool,
}

/// The norm at work on maps `[B, h, w, C]`; a second operand of the same shape is added before the ReLU.
struct Normalised<'a> {
    weight: &'a [f32],
    bias: &'a [f32],
    eps: f64,
    each_image: bool,
    relu: bool,
}

impl OwnStatistics {
    /// None where the norm reads its running statistics.
    pub(super) fn new(tensors: &BatchNormTensors, shape: BatchNormShape) -> Result<Option<Self>> {
        let each_image = match shape.statistics {
            BatchNormStatistics::Running => return Ok(None),
            BatchNormStatistics::Image => true,
            BatchNormStatistics::Batch => false,
        };
        Ok(Some(Self {
            weight: tensors.weight.clone(),
            bias: tensors.bias.clone(),
            eps: shape.eps,
            each_image,
        }))
    }

    /// A map to a map of the same shape, see [`super::to_map`].
    pub(super) fn forward(
        &self,
        map: &Tensor,
        residual: Option<&Tensor>,
        relu: bool,
    ) -> Result<Tensor> {
        if !map.device().is_cpu() {
            return self.forward_on_device(map, residual, relu);
        }
        let (weight, bias) = (self.weight.to_vec1()?, self.bias.to_vec1()?);
        let op = Normalised {
            weight: &weight,
            bias: &bias,
            eps: self.eps,
            each_image: self.each_image,
            relu,
        };
        match residual {
            None => map.apply_op1_no_bwd(&op),
            Some(residual) => map.apply_op2_no_bwd(residual, &op),
        }
    }

    /// The same of maps `[B, C, h, w]`, as they are elsewhere than on a CPU.
    fn forward_on_device(
        &self,
        map: &Tensor,
        residual: Option<&Tensor>,
        relu: bool,
    ) -> Result<Tensor> {
        let mean = |values: &Tensor| {
            let mean = values.mean_keepdim((2, 3))?;
            if self.each_image {
                Ok(mean)
            } else {
                mean.mean_keepdim(0)
            }
        };
        let channels = (1, (), 1, 1);
        let centred = map.broadcast_sub(&mean(map)?)?;
        let deviation = (mean(&centred.sqr()?)? + self.eps)?.sqrt()?;
        let mut output = centred
            .broadcast_div(&deviation)?
            .broadcast_mul(&self.weight.reshape(channels)?)?
            .broadcast_add(&self.bias.reshape(channels)?)?;
        if let Some(residual) = residual {
            output = (output + residual)?;
        }
        if relu { output.relu() } else { Ok(output) }
    }
}

impl CustomOp1 for Normalised<'_> {
    fn name(&self) -> &'static str {
        "batch norm by its own statistics"
    }

    fn cpu_fwd(&self, map: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        self.run(floats(map, layout)?, layout.shape(), None)
    }
}

impl CustomOp2 for Normalised<'_> {
    fn name(&self) -> &'static str {
        "batch norm by its own statistics, with residual"
    }

    fn cpu_fwd(
        &self,
        map: &CpuStorage,
        layout: &Layout,
        residual: &CpuStorage,
        residual_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        if residual_layout.shape() != layout.shape() {
            bail!(
                "a residual of shape {:?} for a map of shape {:?}",
                residual_layout.shape(),
                layout.shape()
            );
        }
        let residual = floats(residual, residual_layout)?;
        self.run(floats(map, layout)?, layout.shape(), Some(residual))
    }
}

impl Normalised<'_> {
    fn run(
        &self,
        map: &[f32],
        shape: &Shape,
        residual: Option<&[f32]>,
    ) -> Result<(CpuStorage, Shape)> {
        let (_, rows, columns, width) = shape.dims4()?;
        if self.weight.len() != width || self.bias.len() != width {
            bail!(
                "a map of {width} channels for a batch norm of {}",
                self.weight.len()
            );
        }
        let group = if self.each_image {
            rows * columns * width
        } else {
            map.len()
        };
        let mut result = vec![0f32; map.len()];
        if group > 0 {
            let groups = result.chunks_exact_mut(group).zip(map.chunks_exact(group));
            for (index, (result, map)) in groups.enumerate() {
                let residual = residual.map(|residual| &residual[index * group..][..group]);
                self.normalise(map, residual, result);
            }
        }
        Ok((CpuStorage::F32(result), shape.clone()))
    }

    /// Pixels `[n, C]` that share their statistics.
    fn normalise(&self, map: &[f32], residual: Option<&[f32]>, result: &mut [f32]) {
        let width = self.weight.len();
        let (mean, variance) = moments(map, width);
        let scale: Vec<f32> = variance
            .iter()
            .zip(self.weight)
            .map(|(variance, weight)| (f64::from(*weight) / (variance + self.eps).sqrt()) as f32)
            .collect();
        let mean: Vec<f32> = mean.into_iter().map(|mean| mean as f32).collect();
        let floor = if self.relu { 0.0 } else { f32::NEG_INFINITY };
        let part = part_length(width);
        result
            .par_chunks_mut(part)
            .enumerate()
            .for_each(|(index, result)| {
                let map = &map[index * part..][..result.len()];
                let residual = residual.map(|residual| &residual[index * part..][..result.len()]);
                for (place, value) in result.iter_mut().enumerate() {
                    let channel = place % width;
                    let added = residual.map_or(0.0, |residual| residual[place]);
                    let sum =
                        (map[place] - mean[channel]) * scale[channel] + self.bias[channel] + added;
                    // A value that is not a number stays, so that broken weights show.
                    *value = if sum < floor { floor } else { sum };
                }
            });
    }
}

/// Mean and biased variance of each of `width` columns.
fn moments(values: &[f32], width: usize) -> (Vec<f64>, Vec<f64>) {
    let count = (values.len() / width) as f64;
    let mean_of = |term: &(dyn Fn(usize, f64) -> f64 + Sync)| {
        let parts: Vec<Vec<f64>> = values
            .par_chunks(part_length(width))
            .map(|part| {
                let mut sums = vec![0f64; width];
                for pixel in part.chunks_exact(width) {
                    for (channel, (sum, value)) in sums.iter_mut().zip(pixel).enumerate() {
                        *sum += term(channel, f64::from(*value));
                    }
                }
                sums
            })
            .collect();
        let mut total = vec![0f64; width];
        for part in &parts {
            for (total, sum) in total.iter_mut().zip(part) {
                *total += sum;
            }
        }
        total.iter().map(|sum| sum / count).collect::<Vec<f64>>()
    };
    let mean = mean_of(&|_, value| value);
    let variance = mean_of(&|channel, value| (value - mean[channel]).powi(2));
    (mean, variance)
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::super::{from_map, to_map};
    use super::*;
    use crate::layers::differences::worst;

    fn wave(shape: &[usize], step: f32) -> Tensor {
        let count: usize = shape.iter().product();
        let value = |i: usize| (i as f32 * step).sin() + i as f32 * 1e-4;
        let values: Vec<f32> = (0..count).map(value).collect();
        Tensor::from_vec(values, shape, &Device::Cpu).unwrap()
    }

    fn norm(each_image: bool) -> OwnStatistics {
        OwnStatistics {
            weight: Tensor::new(&[1f32, -2.0, 0.5], &Device::Cpu).unwrap(),
            bias: Tensor::new(&[0f32, 0.25, -1.0], &Device::Cpu).unwrap(),
            eps: 1e-5,
            each_image,
        }
    }

    #[test]
    fn the_fused_norm_agrees_with_the_tensor_librarys_operations() {
        let (features, residual) = (wave(&[2, 3, 9, 7], 0.73), wave(&[2, 3, 9, 7], 0.11));
        let (map, map_residual) = (to_map(&features).unwrap(), to_map(&residual).unwrap());
        for each_image in [true, false] {
            let norm = norm(each_image);
            for relu in [true, false] {
                let fused = norm.forward(&map, Some(&map_residual), relu).unwrap();
                let plain = norm.forward_on_device(&features, Some(&residual), relu);
                assert!(worst(&from_map(&fused).unwrap(), &plain.unwrap()) < 1e-5);
            }
        }
    }

    #[test]
    fn an_image_has_the_same_bytes_in_any_batch_unless_the_batch_is_what_is_measured() {
        let map = wave(&[3, 40, 30, 3], 0.37);
        let first = map.narrow(0, 0, 1).unwrap();
        let alone = norm(true).forward(&first, None, false).unwrap();
        let of_batch = |each_image| {
            let output = norm(each_image).forward(&map, None, false).unwrap();
            output.narrow(0, 0, 1).unwrap()
        };
        assert_eq!(worst(&alone, &of_batch(true)), 0.0);
        assert!(worst(&alone, &of_batch(false)) > 1e-3);
    }
}
