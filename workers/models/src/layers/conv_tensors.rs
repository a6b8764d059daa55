//! What a convolution and the batch norm behind it read from a checkpoint, whether they are trained or not.

use candle_core::Tensor;
use candle_nn::VarBuilder;
use serde::{Deserialize, Serialize};

use crate::error::ModelError;
use crate::tensors::{constant, uniform, unread_integers};

/// The shape of a convolution; padding is `kernel / 2`.
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
        Self {
            input,
            output,
            kernel: 1,
            stride: 1,
        }
    }

    /// The convolution's `weight` in the checkpoint, `[out, in, kernel, kernel]`.
    pub(super) fn weight(self, vb: &VarBuilder<'_>) -> Result<Tensor, ModelError> {
        let shape = (self.output, self.input, self.kernel, self.kernel);
        // Random outputs go through a ReLU, which halves their power.
        let spread = (6.0 / (self.input * self.kernel * self.kernel) as f32).sqrt();
        Ok(vb.get_with_hints(shape, "weight", uniform(spread))?)
    }
}

/// What a batch norm takes mean and variance from at inference.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BatchNormStatistics {
    /// The running statistics that are stored with the weights.
    #[default]
    Running,
    /// Each image by itself, over its grid.
    Image,
    /// All images that are computed together, over batch and grid: a result depends on the other images of its batch.
    Batch,
}

/// A batch norm (Ioffe and Szegedy, 2015) behind a convolution.
#[derive(Clone, Copy, Debug)]
pub(crate) struct BatchNormShape {
    /// Added to the variance.
    pub(crate) eps: f64,
    /// The value of the norm's `weight` where weights are random.
    pub(crate) scale: f32,
    /// Where mean and variance come from. Weights that are being trained follow their batch whatever stands here.
    pub(crate) statistics: BatchNormStatistics,
}

/// The tensors of a batch norm, `[width]` each.
pub(super) struct BatchNormTensors {
    pub(super) weight: Tensor,
    pub(super) bias: Tensor,
    pub(super) running_mean: Tensor,
    pub(super) running_var: Tensor,
}

impl BatchNormShape {
    pub(super) fn load(
        self,
        width: usize,
        vb: &VarBuilder<'_>,
    ) -> Result<BatchNormTensors, ModelError> {
        let vector = |name: &str, value| vb.get_with_hints(width, name, constant(value));
        let tensors = BatchNormTensors {
            weight: vector("weight", self.scale)?,
            bias: vector("bias", 0.0)?,
            running_mean: vector("running_mean", 0.0)?,
            running_var: vector("running_var", 1.0)?,
        };
        unread_integers((), "num_batches_tracked", vb)?;
        Ok(tensors)
    }
}
