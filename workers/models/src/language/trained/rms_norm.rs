//! RMSNorm (Zhang and Sennrich, 2019) with its gradient.

use candle_core::{CpuStorage, CustomOp2, Layout, Result, Shape, Tensor};
use rayon::prelude::*;

use super::ROWS;
use crate::layers::parallel::each_row;
use crate::layers::storage::{floats, with_floats};

/// The RMS norm over the last dimension of `x [rows, width]`, with `weight [width]`.
pub(in crate::language) fn rms_norm(x: &Tensor, weight: &Tensor, eps: f32) -> Result<Tensor> {
    x.contiguous()?
        .apply_op2(&weight.contiguous()?, RmsNormOp { eps })
}

struct RmsNormOp {
    eps: f32,
}

impl RmsNormOp {
    /// The factor that a row is multiplied with.
    fn factor(&self, row: &[f32]) -> f32 {
        let sum: f32 = row.iter().map(|value| value * value).sum();
        1.0 / (sum / row.len() as f32 + self.eps).sqrt()
    }
}

impl CustomOp2 for RmsNormOp {
    fn name(&self) -> &'static str {
        "rms-norm"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        l1: &Layout,
        weight: &CpuStorage,
        l2: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (x, weight) = (floats(x, l1)?, floats(weight, l2)?);
        let out = each_row(x, weight.len(), |x, out| {
            let factor = self.factor(x);
            for ((out, x), weight) in out.iter_mut().zip(x).zip(weight) {
                *out = x * factor * weight;
            }
        });
        Ok((CpuStorage::F32(out), l1.shape().clone()))
    }

    fn bwd(
        &self,
        x: &Tensor,
        weight: &Tensor,
        _: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let width = weight.elem_count();
        let (of_x, parts) = with_floats([x, weight, grad], |[x, weight, grad]| {
            let mut of_x = vec![0.0; x.len()];
            let part = |((of_x, x), grad): ((&mut [f32], &[f32]), &[f32])| {
                let mut of_weight = vec![0.0; width];
                let rows = of_x
                    .chunks_exact_mut(width)
                    .zip(x.chunks_exact(width))
                    .zip(grad.chunks_exact(width));
                for ((of_x, x), grad) in rows {
                    self.row_back(x, weight, grad, of_x, &mut of_weight);
                }
                of_weight
            };
            let size = ROWS * width;
            let parts: Vec<Vec<f32>> = of_x
                .par_chunks_mut(size)
                .zip(x.par_chunks(size))
                .zip(grad.par_chunks(size))
                .map(part)
                .collect();
            (of_x, parts)
        })?;
        let of_x = x
            .track_op()
            .then(|| Tensor::from_vec(of_x, x.shape(), x.device()))
            .transpose()?;
        let of_weight = weight.track_op().then(|| {
            let mut sum = vec![0.0; width];
            for part in &parts {
                sum.iter_mut()
                    .zip(part)
                    .for_each(|(sum, part)| *sum += part);
            }
            Tensor::from_vec(sum, weight.shape(), weight.device())
        });
        Ok((of_x, of_weight.transpose()?))
    }
}

impl RmsNormOp {
    fn row_back(
        &self,
        x: &[f32],
        weight: &[f32],
        grad: &[f32],
        of_x: &mut [f32],
        of_weight: &mut [f32],
    ) {
        let factor = self.factor(x);
        let mut along = 0.0;
        for (((grad, weight), x), of_weight) in grad.iter().zip(weight).zip(x).zip(of_weight) {
            let normed = x * factor;
            along += grad * weight * normed;
            *of_weight += grad * normed;
        }
        along /= x.len() as f32;
        for (((of_x, grad), weight), x) in of_x.iter_mut().zip(grad).zip(weight).zip(x) {
            *of_x = factor * (grad * weight - x * factor * along);
        }
    }
}
