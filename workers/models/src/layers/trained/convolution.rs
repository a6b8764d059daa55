//! A convolution and what is behind it as one operation with a gradient: neither patches nor what lies between are kept by
//! the tensor library, only the pixels that a norm needs again.

use std::sync::{Arc, OnceLock};

use candle_core::{CpuStorage, CustomOp3, Error, Layout, Result, Shape, Tensor, bail};
use rayon::prelude::*;

use super::super::conv_tensors::ConvShape;
use super::super::parallel::{column_sums, part_length};
use super::super::storage::{floats, with_floats};
use super::batch_norm::{BatchNorm, NormGradients, Statistics};
use crate::kernels::buffer::{Buffer, zeros};
use crate::kernels::convolution::{Convolution, Extent, Window, gradients};

/// What a convolution has behind it.
pub(super) enum Behind<'a> {
    Nothing,
    /// `[out]`
    Bias(&'a Tensor),
    Norm(&'a BatchNorm),
}

/// A map `[B, h, w, in]` to `[B, h', w', out]`, by `weight [out, in, kernel, kernel]`.
pub(super) fn convolve(
    map: &Tensor,
    weight: &Tensor,
    shape: ConvShape,
    behind: Behind<'_>,
    relu: bool,
) -> Result<Tensor> {
    let kept = Arc::new(OnceLock::new());
    let op = |eps| ConvolutionOp {
        window: Window {
            input: shape.input,
            output: shape.output,
            kernel: shape.kernel,
            stride: shape.stride,
        },
        eps,
        relu,
        kept: kept.clone(),
    };
    let (map, weight) = (map.contiguous()?, weight.contiguous()?);
    match behind {
        Behind::Nothing => {
            let none = Tensor::zeros(shape.output, map.dtype(), map.device())?;
            map.apply_op3(&weight, &none, op(None))
        }
        Behind::Bias(bias) => map.apply_op3(&weight, bias, op(None)),
        Behind::Norm(norm) => {
            let result = map.apply_op3(&weight, &norm.scale_and_shift()?, op(Some(norm.eps())))?;
            let kept = kept
                .get()
                .ok_or_else(|| Error::msg("a norm without pixels"))?;
            norm.follow_pixels(&kept.statistics)?;
            Ok(result)
        }
    }
}

/// The third operand is the bias, or with `eps` scale and shift of a norm, `[2, out]`.
struct ConvolutionOp {
    window: Window,
    eps: Option<f64>,
    relu: bool,
    kept: Arc<OnceLock<Kept>>,
}

/// What a norm keeps for its gradient.
struct Kept {
    pixels: Buffer,
    statistics: Statistics,
}

impl ConvolutionOp {
    fn extent(&self, map: &Shape) -> Result<Extent> {
        let (batch, rows, columns, channels) = map.dims4()?;
        if channels != self.window.input {
            bail!("a map of shape {map:?} for a convolution {:?}", self.window);
        }
        Ok(Extent {
            batch,
            rows,
            columns,
        })
    }
}

impl CustomOp3 for ConvolutionOp {
    fn name(&self) -> &'static str {
        "convolution in training"
    }

    fn cpu_fwd(
        &self,
        map: &CpuStorage,
        layout: &Layout,
        weight: &CpuStorage,
        weight_layout: &Layout,
        behind: &CpuStorage,
        behind_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (map, weight) = (floats(map, layout)?, floats(weight, weight_layout)?);
        let (behind, output) = (floats(behind, behind_layout)?, self.window.output);
        let extent = self.extent(layout.shape())?;
        let none = vec![0.0; output];
        let bias = if self.eps.is_some() {
            &none[..]
        } else {
            behind
        };
        let convolution = Convolution::once(self.window, weight, bias);
        let target = convolution.extent(extent);
        let shape = Shape::from((target.batch, target.rows, target.columns, output));
        let Some(eps) = self.eps else {
            let mut result = zeros(shape.elem_count());
            convolution.compute(map, extent, None, self.relu, &mut result);
            return Ok((CpuStorage::F32(result), shape));
        };
        let mut pixels = Buffer::take(shape.elem_count());
        convolution.compute(map, extent, None, false, &mut pixels);
        let statistics = Statistics::of(&pixels, output, eps);
        let (scale, shift) = behind.split_at(output);
        let result = statistics.normalised(&pixels, scale, shift, self.relu);
        let kept = Kept { pixels, statistics };
        if self.kept.set(kept).is_err() {
            bail!("an operation that is computed once");
        }
        Ok((CpuStorage::F32(result), shape))
    }

    fn bwd(
        &self,
        map: &Tensor,
        weight: &Tensor,
        behind: &Tensor,
        result: &Tensor,
        gradient: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let (extent, output) = (self.extent(map.shape())?, self.window.output);
        let all = [map, weight, behind, result, gradient];
        let (of_map, of_weight, of_behind) =
            with_floats(all, |[values, weights, scale, result, gradient]| {
                let (of_pixels, of_behind) = match self.kept.get() {
                    Some(Kept { pixels, statistics }) => {
                        let NormGradients {
                            of_pixels,
                            of_weight,
                            of_bias,
                        } = statistics.gradients(
                            pixels,
                            &scale[..output],
                            (result, gradient),
                            self.relu,
                        );
                        (Some(of_pixels), [of_weight, of_bias].concat())
                    }
                    None => {
                        let passed = self.relu.then(|| positive(result, gradient));
                        let of_bias = column_sums(passed.as_deref().unwrap_or(gradient), output);
                        (passed, of_bias)
                    }
                };
                let gradient = of_pixels.as_deref().unwrap_or(gradient);
                // Images are no variables.
                let of_map = map.track_op().then(|| {
                    let mut of_map = zeros(values.len());
                    gradients::of_map(self.window, weights, gradient, extent, &mut of_map);
                    of_map
                });
                let mut of_weight = vec![0f32; weights.len()];
                gradients::of_weights(self.window, values, gradient, extent, &mut of_weight);
                (of_map, of_weight, of_behind)
            })?;
        let tensor = |values: Vec<f32>, like: &Tensor| {
            Tensor::from_vec(values, like.shape(), like.device()).map(Some)
        };
        Ok((
            match of_map {
                Some(of_map) => tensor(of_map, map)?,
                None => None,
            },
            tensor(of_weight, weight)?,
            tensor(of_behind, behind)?,
        ))
    }
}

/// The gradient where the result of a ReLU is positive.
fn positive(result: &[f32], gradient: &[f32]) -> Buffer {
    let mut passed = Buffer::take(gradient.len());
    let length = part_length(1);
    let parts = passed
        .par_chunks_mut(length)
        .zip(result.par_chunks(length))
        .zip(gradient.par_chunks(length));
    parts.for_each(|((passed, result), gradient)| {
        for ((passed, result), gradient) in passed.iter_mut().zip(result).zip(gradient) {
            *passed = if *result <= 0.0 { 0.0 } else { *gradient };
        }
    });
    passed
}
