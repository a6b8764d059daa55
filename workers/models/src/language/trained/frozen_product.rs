//! Products with weights that stay as they are: their gradient is not computed, and weights in half precision are widened
//! one matrix at a time and not kept, so that a large base needs its memory once.

use candle_core::{CpuStorage, CustomOp1, DType, Device, Layout, Result, Shape, Tensor};

use crate::layers::storage::floats;

/// `x · weightᵀ` with the gradient of `x [rows, in]` alone.
pub(in crate::language) fn frozen_product(x: &Tensor, weight: &Tensor) -> Result<Tensor> {
    x.contiguous()?.apply_op1(FrozenProduct {
        weight: weight.clone(),
    })
}

struct FrozenProduct {
    weight: Tensor,
}

impl CustomOp1 for FrozenProduct {
    fn name(&self) -> &'static str {
        "frozen-product"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let x = Tensor::from_slice(floats(x, layout)?, layout.shape(), &Device::Cpu)?;
        let out = x.matmul(&self.weight.to_dtype(DType::F32)?.t()?)?;
        let shape = out.shape().clone();
        Ok((CpuStorage::F32(out.flatten_all()?.to_vec1()?), shape))
    }

    fn bwd(&self, _: &Tensor, _: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        grad.matmul(&self.weight.to_dtype(grad.dtype())?).map(Some)
    }
}
