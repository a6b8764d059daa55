//! Layers that several networks share. Layers whose weights are variables are being trained: they compute the same with
//! operations that the tensor library can differentiate, and on whole batches.

use candle_core::{D, DType, Result as CandleResult, Tensor};
use candle_nn::{Module, VarBuilder};

use crate::error::ModelError;
use crate::kernels::convolution::{Convolution, Map};
use crate::kernels::gemm::Precision;
use crate::tensors;

mod conv_tensors;
pub(crate) mod cpu;
#[cfg(test)]
mod differences;
mod dropout;
pub(crate) mod matrix;
mod norm;
mod own_statistics;
pub(crate) mod parallel;
mod projection;
mod rows;
pub(crate) mod storage;
mod trained;

pub use conv_tensors::BatchNormStatistics;
pub(crate) use conv_tensors::{BatchNormShape, ConvShape};
pub use dropout::Dropout;
pub(crate) use norm::{LayerNorm, layer_norm};
use own_statistics::OwnStatistics;
pub(crate) use projection::Projection;
pub(crate) use trained::{AttentionShape, attend as attend_in_training};

/// A 2-D convolution with a square kernel and a bias. A batch norm behind it that reads its running statistics is folded
/// into both.
///
/// Inputs and outputs are *maps*: see [`to_map`].
#[derive(Clone, Debug)]
pub(crate) struct Conv {
    shape: ConvShape,
    weights: ConvWeights,
    relu: bool,
    /// A batch norm behind it that measures what it normalises.
    norm: Option<OwnStatistics>,
}

#[derive(Clone, Debug)]
enum ConvWeights {
    Cpu(Convolution),
    /// `[out, in, kernel, kernel]` and `[1, out, 1, 1]`.
    Device(Tensor, Tensor),
    /// Variables, and a batch norm that follows each batch.
    Trained(trained::TrainedConv),
}

impl Conv {
    /// A convolution without bias.
    pub(crate) fn without_bias(shape: ConvShape, vb: &VarBuilder<'_>) -> Result<Self, ModelError> {
        let (vb, precision) = &with_precision(vb);
        let bias = Tensor::zeros(shape.output, vb.dtype(), vb.device())?;
        let weight = shape.weight(vb)?;
        if weight.track_op() {
            return Ok(Self::trained(
                shape,
                trained::TrainedConv::without_bias(weight),
            ));
        }
        Self::new(shape, weight, bias, *precision)
    }

    /// A convolution with bias.
    pub(crate) fn with_bias(shape: ConvShape, vb: &VarBuilder<'_>) -> Result<Self, ModelError> {
        let (vb, precision) = &with_precision(vb);
        let (weight, bias) = (shape.weight(vb)?, tensors::bias(shape.output, vb)?);
        if weight.track_op() {
            return Ok(Self::trained(
                shape,
                trained::TrainedConv::with_bias(weight, bias),
            ));
        }
        Self::new(shape, weight, bias, *precision)
    }

    /// A convolution without bias, `conv`, and the batch norm behind it, `norm`.
    pub(crate) fn with_norm(
        shape: ConvShape,
        conv: &VarBuilder<'_>,
        norm: &VarBuilder<'_>,
        batch_norm: BatchNormShape,
    ) -> Result<Self, ModelError> {
        let ((conv, precision), (norm, _)) = (&with_precision(conv), &with_precision(norm));
        let weight = shape.weight(conv)?;
        let parameters = batch_norm.load(shape.output, norm)?;
        if weight.track_op() {
            return Ok(Self::trained(
                shape,
                trained::TrainedConv::with_norm(weight, parameters, batch_norm.eps)?,
            ));
        }
        if let Some(norm) = OwnStatistics::new(&parameters, batch_norm)? {
            let bias = Tensor::zeros(shape.output, weight.dtype(), weight.device())?;
            return Ok(Self {
                norm: Some(norm),
                ..Self::new(shape, weight, bias, *precision)?
            });
        }
        let variance = (parameters.running_var + batch_norm.eps)?;
        let scale = (parameters.weight / variance.sqrt()?)?;
        let bias = (parameters.bias - (parameters.running_mean * &scale)?)?;
        let weight = weight.broadcast_mul(&scale.reshape((shape.output, 1, 1, 1))?)?;
        Self::new(shape, weight, bias, *precision)
    }

    fn new(
        shape: ConvShape,
        weight: Tensor,
        bias: Tensor,
        precision: Precision,
    ) -> Result<Self, ModelError> {
        let weights = if weight.device().is_cpu() {
            ConvWeights::Cpu(cpu::pack(shape, &weight, &bias, precision)?)
        } else {
            ConvWeights::Device(weight, bias.reshape((1, shape.output, 1, 1))?)
        };
        Ok(Self {
            shape,
            weights,
            relu: false,
            norm: None,
        })
    }

    fn trained(shape: ConvShape, weights: trained::TrainedConv) -> Self {
        Self {
            shape,
            weights: ConvWeights::Trained(weights),
            relu: false,
            norm: None,
        }
    }

    /// The same with a ReLU behind it.
    pub(crate) fn relu(self) -> Self {
        Self { relu: true, ..self }
    }

    /// A map of `in` channels to one of `out` channels, its sides divided by the stride and rounded up.
    pub(crate) fn forward(&self, map: &Tensor) -> Result<Tensor, ModelError> {
        self.forward_with(map, None)
    }

    /// Like [`Conv::forward_with`], of maps in memory that is kept for the next layer. None where the convolution is no kernel
    /// of ours.
    pub(crate) fn forward_map(&self, map: &Map, residual: Option<&Map>) -> Option<Map> {
        match (&self.weights, &self.norm) {
            (ConvWeights::Cpu(weights), None) => Some(weights.forward(map, residual, self.relu)),
            _ => None,
        }
    }

    /// Whether [`Conv::forward_map`] computes it.
    pub(crate) fn takes_maps(&self) -> bool {
        matches!((&self.weights, &self.norm), (ConvWeights::Cpu(_), None))
    }

    /// Like [`Conv::forward`], with `residual` (of the output's shape) added before the ReLU.
    pub(crate) fn forward_with(
        &self,
        map: &Tensor,
        residual: Option<&Tensor>,
    ) -> Result<Tensor, ModelError> {
        match &self.norm {
            None => self.convolve(map, residual, self.relu),
            Some(norm) => {
                let map = self.convolve(map, None, false)?;
                Ok(norm.forward(&map, residual, self.relu)?)
            }
        }
    }

    fn convolve(
        &self,
        map: &Tensor,
        residual: Option<&Tensor>,
        relu: bool,
    ) -> Result<Tensor, ModelError> {
        let (weight, bias) = match &self.weights {
            ConvWeights::Trained(weights) => {
                return weights.forward(map, self.shape, residual, relu);
            }
            ConvWeights::Cpu(weights) => {
                let convolution = cpu::ConvolutionOp {
                    convolution: weights,
                    relu,
                };
                return Ok(match residual {
                    None => map.apply_op1_no_bwd(&convolution)?,
                    Some(residual) => map.apply_op2_no_bwd(residual, &convolution)?,
                });
            }
            ConvWeights::Device(weight, bias) => (weight, bias),
        };
        let padding = self.shape.kernel / 2;
        let mut output = map
            .conv2d(weight, padding, self.shape.stride, 1, 1)?
            .broadcast_add(bias)?;
        if let Some(residual) = residual {
            output = (output + residual)?;
        }
        Ok(if relu { output.relu()? } else { output })
    }
}

/// A linear layer with bias. On a CPU its weights are packed once, which spares the matrix product a slow rearrangement of
/// them at every call: with the few rows of one sample, that costs more than the product itself.
#[derive(Clone, Debug)]
pub(crate) enum Linear {
    Cpu(Projection),
    Device(candle_nn::Linear),
    /// Variables on a CPU: `[output, input]` and `[output]`.
    Trained(Tensor, Tensor),
}

impl Linear {
    /// The layer's `weight [output, input]` and `bias [output]`.
    pub(crate) fn new(input: usize, output: usize, vb: VarBuilder<'_>) -> Result<Self, ModelError> {
        let (vb, precision) = with_precision(&vb);
        let weight = tensors::matrix(input, output, "weight", &vb)?;
        let bias = tensors::bias(output, &vb)?;
        if !vb.device().is_cpu() {
            return Ok(Linear::Device(candle_nn::Linear::new(weight, Some(bias))));
        }
        if weight.track_op() {
            return Ok(Linear::Trained(weight, bias));
        }
        Ok(Linear::Cpu(Projection::new(&weight, &bias, precision)?))
    }

    /// The layer over rows in memory, where it has one.
    pub(crate) fn projection(&self) -> Option<&Projection> {
        match self {
            Linear::Cpu(projection) => Some(projection),
            Linear::Device(_) | Linear::Trained(..) => None,
        }
    }

    /// `[.., input]` to `[.., output]`.
    pub(crate) fn forward(&self, input: &Tensor) -> Result<Tensor, ModelError> {
        match self {
            Linear::Device(linear) => Ok(linear.forward(input)?),
            Linear::Trained(weight, bias) => Ok(linear(input, weight, bias)?),
            Linear::Cpu(projection) => Ok(input.contiguous()?.apply_op1_no_bwd(projection)?),
        }
    }
}

/// [`Linear`] with weights that are elsewhere, too: `weight [output, input]` and `bias [output]`.
pub(crate) fn linear(input: &Tensor, weight: &Tensor, bias: &Tensor) -> CandleResult<Tensor> {
    if input.device().is_cpu() && (input.track_op() || weight.track_op()) {
        return trained::linear(input, weight, bias);
    }
    let width = input.dim(D::Minus1)?;
    let rows = input.reshape(((), width))?;
    let mut dims = input.dims().to_vec();
    if let Some(last) = dims.last_mut() {
        *last = bias.elem_count();
    }
    rows.matmul(&weight.t()?)?
        .broadcast_add(bias)?
        .reshape(dims)
}

/// 3 x 3 maximum of a map with stride 2 and padding 1. The map is behind a ReLU, so zeros pad as well as minus infinity.
pub(crate) fn max_pool(map: &Tensor) -> Result<Tensor, ModelError> {
    if map.track_op() {
        return trained::max_pool(map);
    }
    if map.device().is_cpu() {
        return Ok(map.apply_op1_no_bwd(&cpu::MaxPool)?);
    }
    let padded = map.pad_with_zeros(2, 1, 1)?.pad_with_zeros(3, 1, 1)?;
    Ok(padded.max_pool2d_with_stride(3, 2)?)
}

/// The exact GELU.
pub(crate) fn gelu(input: &Tensor) -> CandleResult<Tensor> {
    if input.track_op() && input.device().is_cpu() {
        input.contiguous()?.apply_op1(rows::Gelu)
    } else {
        input.gelu_erf()
    }
}

/// Softmax over the last dimension. The tensor library's fast kernel knows no gradient.
pub(crate) fn softmax(scores: &Tensor) -> CandleResult<Tensor> {
    if scores.track_op() && scores.device().is_cpu() {
        scores.contiguous()?.apply_op1(rows::Softmax)
    } else if scores.track_op() {
        candle_nn::ops::softmax(scores, D::Minus1)
    } else {
        candle_nn::ops::softmax_last_dim(scores)
    }
}

/// `[B, C, h, w]` as a map: on a CPU `[B, h, w, C]`, where a convolution reads and writes whole pixels; elsewhere
/// unchanged.
pub(crate) fn to_map(features: &Tensor) -> Result<Tensor, ModelError> {
    if !features.device().is_cpu() {
        return Ok(features.clone());
    }
    if features.track_op() {
        return Ok(features.permute((0, 2, 3, 1))?.contiguous()?);
    }
    let (batch, channels, rows, columns) = features.dims4()?;
    let turned = cpu::transposed(features, channels, rows * columns)?;
    Ok(turned.reshape((batch, rows, columns, channels))?)
}

/// A map as `[B, C, h, w]`.
pub(crate) fn from_map(map: &Tensor) -> Result<Tensor, ModelError> {
    if !map.device().is_cpu() {
        return Ok(map.clone());
    }
    if map.track_op() {
        return Ok(map.permute((0, 3, 1, 2))?.contiguous()?);
    }
    let (batch, rows, columns, channels) = map.dims4()?;
    let turned = cpu::transposed(map, rows * columns, channels)?;
    Ok(turned.reshape((batch, channels, rows, columns))?)
}

/// Runs a network of our own kernels on the threads that its layers are shared out to: called from elsewhere, each layer
/// would wake them anew.
pub(crate) fn in_pool<T: Send>(network: impl FnOnce() -> T + Send) -> T {
    rayon::scope(|_| network())
}

/// On a CPU the tensors of a network that is asked for in bf16 are read in f32: only what is multiplied is rounded, when
/// weights are packed.
pub(crate) fn with_precision<'a>(vb: &VarBuilder<'a>) -> (VarBuilder<'a>, Precision) {
    if vb.device().is_cpu() && vb.dtype() == DType::BF16 {
        (vb.clone().set_dtype(DType::F32), Precision::Bf16)
    } else {
        (vb.clone(), Precision::F32)
    }
}

/// Runs `network` on a batch, outermost dimension first. On a CPU it sees one sample at a time, so that a sample's result
/// has the same bytes whatever it is batched with (matrix kernels are chosen by shape, and round differently). What is
/// differentiated runs as one batch.
pub(crate) fn each_sample(
    batch: &Tensor,
    network: impl Fn(&Tensor) -> Result<Tensor, ModelError>,
) -> Result<Tensor, ModelError> {
    let count = batch.dim(0)?;
    if count <= 1 || !batch.device().is_cpu() || batch.track_op() {
        return network(batch);
    }
    let outputs = (0..count)
        .map(|index| network(&batch.narrow(0, index, 1)?))
        .collect::<Result<Vec<_>, _>>()?;
    Ok(Tensor::cat(&outputs, 0)?)
}
