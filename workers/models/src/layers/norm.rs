//! Layer norm with a gradient where one is needed: the tensor library's fast kernel has none.

use candle_core::{Result, Tensor};
use candle_nn::VarBuilder;
use candle_nn::ops;

use super::rows;
use crate::tensors::constant;

/// A layer norm over the last dimension, with scale and shift.
#[derive(Clone, Debug)]
pub(crate) struct LayerNorm {
    weight: Tensor,
    bias: Tensor,
    eps: f64,
}

/// The norm's `weight` and `bias`, `[width]` each.
pub(crate) fn layer_norm(width: usize, eps: f64, vb: VarBuilder<'_>) -> Result<LayerNorm> {
    let (vb, _) = super::with_precision(&vb);
    Ok(LayerNorm {
        weight: vb.get_with_hints(width, "weight", constant(1.0))?,
        bias: vb.get_with_hints(width, "bias", constant(0.0))?,
        eps,
    })
}

impl LayerNorm {
    /// `[.., width]` to the same.
    pub(crate) fn forward(&self, input: &Tensor) -> Result<Tensor> {
        let eps = self.eps as f32;
        let is_tracked = input.track_op() || self.weight.track_op();
        if is_tracked && input.device().is_cpu() {
            return input.contiguous()?.apply_op3(
                &self.weight,
                &self.bias,
                rows::LayerNormOp { eps },
            );
        }
        if is_tracked {
            return ops::layer_norm_slow(input, &self.weight, &self.bias, eps);
        }
        ops::layer_norm(&input.contiguous()?, &self.weight, &self.bias, eps)
    }
}
