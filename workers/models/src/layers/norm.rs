//! Layer norm with a gradient where one is needed: the tensor library's fast kernel has none.

use std::sync::Arc;

use candle_core::{DType, Result, Tensor};
use candle_nn::VarBuilder;
use candle_nn::ops;

use super::rows;
use crate::kernels::normalise::{Norm, normalise};
use crate::tensors::constant;

/// A layer norm over the last dimension, with scale and shift.
#[derive(Clone, Debug)]
pub(crate) struct LayerNorm {
    weight: Tensor,
    bias: Tensor,
    eps: f64,
    /// Scale and shift once more, as our own kernel reads them: on a CPU, where they are not trained.
    values: Option<[Arc<[f32]>; 2]>,
}

/// The norm's `weight` and `bias`, `[width]` each.
pub(crate) fn layer_norm(width: usize, eps: f64, vb: VarBuilder<'_>) -> Result<LayerNorm> {
    let (vb, _) = super::with_precision(&vb);
    let weight = vb.get_with_hints(width, "weight", constant(1.0))?;
    let bias = vb.get_with_hints(width, "bias", constant(0.0))?;
    let values = if vb.device().is_cpu() && !weight.track_op() && vb.dtype() == DType::F32 {
        Some([weight.to_vec1()?.into(), bias.to_vec1()?.into()])
    } else {
        None
    };
    Ok(LayerNorm {
        weight,
        bias,
        eps,
        values,
    })
}

impl LayerNorm {
    /// Whether [`LayerNorm::rows`] computes it.
    pub(crate) fn takes_rows(&self) -> bool {
        self.values.is_some()
    }

    /// Normalises rows in place. Those of a norm that is no kernel of ours stay as they are.
    pub(crate) fn rows(&self, rows: &mut [f32]) {
        if let Some([weight, bias]) = &self.values {
            let eps = self.eps as f32;
            normalise(Norm { weight, bias, eps }, rows);
        }
    }

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
