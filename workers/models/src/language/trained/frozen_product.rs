//! Products with weights that stay as they are: their gradient is not computed, and weights in half precision are widened
//! while they are packed, one matrix at a time, and not kept, so that a large base needs its memory once.

use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Storage, Tensor, bail};

use crate::kernels::gemm::{Finish, PackedMatrix, multiply_rows};
use crate::layers::storage::{floats, with_floats};

/// `x · weightᵀ` with the gradient of `x [rows, in]` alone.
pub(in crate::language) fn frozen_product(x: &Tensor, weight: &Tensor) -> Result<Tensor> {
    x.contiguous()?.apply_op1(FrozenProduct {
        weight: weight.contiguous()?,
    })
}

/// `weight [out, in]`
struct FrozenProduct {
    weight: Tensor,
}

impl FrozenProduct {
    /// The weights for a product; `turned` for one with their transpose.
    fn packed(&self, turned: bool) -> Result<PackedMatrix> {
        fn pack<T: Copy + Into<f32> + Sync>(
            weight: &[T],
            inner: usize,
            turned: bool,
        ) -> PackedMatrix {
            match turned {
                false => PackedMatrix::of_rows(weight, inner),
                true => PackedMatrix::of_columns(weight, inner),
            }
        }
        let (_, inner) = self.weight.dims2()?;
        let (storage, layout) = self.weight.storage_and_layout();
        let range = layout.start_offset()..layout.start_offset() + self.weight.elem_count();
        Ok(match &*storage {
            Storage::Cpu(CpuStorage::F32(weight)) => pack(&weight[range], inner, turned),
            Storage::Cpu(CpuStorage::F16(weight)) => pack(&weight[range], inner, turned),
            Storage::Cpu(CpuStorage::BF16(weight)) => pack(&weight[range], inner, turned),
            _ => bail!("frozen weights are f32, f16 or bf16 on a CPU"),
        })
    }
}

impl CustomOp1 for FrozenProduct {
    fn name(&self) -> &'static str {
        "frozen-product"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let ((rows, width), (output, inner)) = (layout.shape().dims2()?, self.weight.dims2()?);
        if width != inner {
            bail!("rows of {width} for frozen weights over {inner}");
        }
        let mut result = vec![0f32; rows * output];
        let weights = self.packed(true)?;
        multiply_rows(floats(x, layout)?, &weights, Finish::default(), &mut result);
        Ok((CpuStorage::F32(result), Shape::from((rows, output))))
    }

    fn bwd(&self, x: &Tensor, _: &Tensor, gradient: &Tensor) -> Result<Option<Tensor>> {
        let weights = self.packed(false)?;
        let mut result = vec![0f32; x.elem_count()];
        with_floats([gradient], |[gradient]| {
            multiply_rows(gradient, &weights, Finish::default(), &mut result);
        })?;
        Tensor::from_vec(result, x.shape(), x.device()).map(Some)
    }
}
