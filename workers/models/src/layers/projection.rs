//! Linear layers on a CPU, over rows in memory that is kept for the next layer.

use std::sync::Arc;

use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor, bail};

use super::storage::floats;
use crate::kernels::buffer::Buffer;
use crate::kernels::gemm::{Activation, Finish, PackedMatrix, Precision, multiply_rows};

/// Weights of a linear layer, packed once. Clones share them.
#[derive(Clone, Debug)]
pub(crate) struct Projection {
    weights: PackedMatrix,
    bias: Arc<[f32]>,
}

impl Projection {
    /// A layer with `weight [output, input]` and `bias [output]`.
    pub(super) fn new(weight: &Tensor, bias: &Tensor, precision: Precision) -> Result<Self> {
        let (_, input) = weight.dims2()?;
        let weight: Vec<f32> = weight.flatten_all()?.to_vec1()?;
        Ok(Self {
            weights: PackedMatrix::transposed(&weight, input, precision),
            bias: bias.to_vec1::<f32>()?.into(),
        })
    }

    /// Numbers of a row of the result.
    pub(crate) fn width(&self) -> usize {
        self.weights.width()
    }

    /// Rows of the input's width to rows of the output's; `residual` is added before the activation.
    pub(crate) fn rows(
        &self,
        rows: &[f32],
        residual: Option<&[f32]>,
        activation: Activation,
    ) -> Buffer {
        let depth = self.weights.depth();
        let mut result = Buffer::take(rows.len() / depth.max(1) * self.width());
        let finish = Finish {
            bias: Some(&self.bias),
            residual,
            activation,
        };
        multiply_rows(rows, &self.weights, finish, &mut result);
        result
    }
}

impl CustomOp1 for Projection {
    fn name(&self) -> &'static str {
        "linear layer"
    }

    fn cpu_fwd(&self, input: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (values, depth) = (floats(input, layout)?, self.weights.depth());
        let mut dims = layout.dims().to_vec();
        match dims.last_mut() {
            Some(last) if *last == depth => *last = self.width(),
            _ => bail!("rows {:?} for a linear layer over {depth}", layout.dims()),
        }
        let shape = Shape::from(dims);
        let mut result = vec![0f32; shape.elem_count()];
        let finish = Finish {
            bias: Some(&self.bias),
            ..Finish::default()
        };
        multiply_rows(values, &self.weights, finish, &mut result);
        Ok((CpuStorage::F32(result), shape))
    }
}
