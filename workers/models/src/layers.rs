//! Layers that several networks share.

use candle_core::Tensor;
use candle_nn::VarBuilder;

use crate::error::ModelError;

/// A 2-D convolution with a square kernel and a bias; a batch norm behind it (evaluation mode) is folded into both.
#[derive(Clone, Debug)]
pub(crate) struct Conv {
    /// `[out, in, kernel, kernel]`
    weight: Tensor,
    /// `[1, out, 1, 1]`
    bias: Tensor,
    stride: usize,
    relu: bool,
}

/// The shape of a [`Conv`]; padding is `kernel / 2`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ConvShape {
    pub(crate) input: usize,
    pub(crate) output: usize,
    pub(crate) kernel: usize,
    pub(crate) stride: usize,
}

impl ConvShape {
    /// A 1 x 1 convolution of stride 1.
    pub(crate) fn pointwise(input: usize, output: usize) -> Self {
        Self { input, output, kernel: 1, stride: 1 }
    }

    /// The convolution's `weight` in the checkpoint, `[out, in, kernel, kernel]`.
    pub(crate) fn weight(self, vb: &VarBuilder<'_>) -> Result<Tensor, ModelError> {
        Ok(vb.get((self.output, self.input, self.kernel, self.kernel), "weight")?)
    }
}

impl Conv {
    /// A convolution without bias.
    pub(crate) fn without_bias(shape: ConvShape, vb: &VarBuilder<'_>) -> Result<Self, ModelError> {
        let weight = shape.weight(vb)?;
        let bias = Tensor::zeros((1, shape.output, 1, 1), weight.dtype(), weight.device())?;
        Ok(Self { weight, bias, stride: shape.stride, relu: false })
    }

    /// A convolution with bias.
    pub(crate) fn with_bias(shape: ConvShape, vb: &VarBuilder<'_>) -> Result<Self, ModelError> {
        let bias = vb.get(shape.output, "bias")?.reshape((1, shape.output, 1, 1))?;
        Ok(Self { weight: shape.weight(vb)?, bias, stride: shape.stride, relu: false })
    }

    /// A convolution without bias, `conv`, and the batch norm behind it, `norm`.
    pub(crate) fn with_norm(
        shape: ConvShape,
        conv: &VarBuilder<'_>,
        norm: &VarBuilder<'_>,
        eps: f64,
    ) -> Result<Self, ModelError> {
        let vector = |name: &str| norm.get(shape.output, name);
        let scale = (vector("weight")? / (vector("running_var")? + eps)?.sqrt()?)?;
        let bias = (vector("bias")? - (vector("running_mean")? * &scale)?)?;
        let weight = shape.weight(conv)?.broadcast_mul(&scale.reshape((shape.output, 1, 1, 1))?)?;
        Ok(Self { weight, bias: bias.reshape((1, shape.output, 1, 1))?, stride: shape.stride, relu: false })
    }

    /// The same with a ReLU behind it.
    pub(crate) fn relu(self) -> Self {
        Self { relu: true, ..self }
    }

    /// `[B, in, h, w]` to `[B, out, h / stride, w / stride]`, rounded up.
    pub(crate) fn forward(&self, input: &Tensor) -> Result<Tensor, ModelError> {
        self.forward_with(input, None)
    }

    /// Like [`Conv::forward`], with `residual` (of the output's shape) added before the ReLU.
    pub(crate) fn forward_with(&self, input: &Tensor, residual: Option<&Tensor>) -> Result<Tensor, ModelError> {
        let padding = self.weight.dim(2)? / 2;
        let mut output = input.conv2d(&self.weight, padding, self.stride, 1, 1)?.broadcast_add(&self.bias)?;
        if let Some(residual) = residual {
            output = (output + residual)?;
        }
        Ok(if self.relu { output.relu()? } else { output })
    }
}

/// Runs `network` on a batch, outermost dimension first. On a CPU it sees one sample at a time, so that a sample's result
/// has the same bytes whatever it is batched with (matrix kernels are chosen by shape, and round differently).
pub(crate) fn each_sample(
    batch: &Tensor,
    network: impl Fn(&Tensor) -> Result<Tensor, ModelError>,
) -> Result<Tensor, ModelError> {
    let count = batch.dim(0)?;
    if count <= 1 || !batch.device().is_cpu() {
        return network(batch);
    }
    let outputs = (0..count).map(|index| network(&batch.narrow(0, index, 1)?)).collect::<Result<Vec<_>, _>>()?;
    Ok(Tensor::cat(&outputs, 0)?)
}
