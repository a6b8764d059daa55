//! The gate of the MLP, `silu(gate) · up` (Shazeer, 2020), with its gradient.

use candle_core::{CpuStorage, CustomOp2, Layout, Result, Shape, Tensor};
use rayon::prelude::*;

use super::exp;
use crate::layers::parallel::{PART, each_part};
use crate::layers::storage::{floats, with_floats};

/// `silu(gate) · up` of tensors of one shape.
pub(in crate::language) fn swiglu(gate: &Tensor, up: &Tensor) -> Result<Tensor> {
    gate.contiguous()?.apply_op2(&up.contiguous()?, SwiGlu)
}

struct SwiGlu;

#[inline(always)]
fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + exp(-x))
}

impl CustomOp2 for SwiGlu {
    fn name(&self) -> &'static str {
        "swiglu"
    }

    fn cpu_fwd(
        &self,
        gate: &CpuStorage,
        l1: &Layout,
        up: &CpuStorage,
        l2: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (gate, up) = (floats(gate, l1)?, floats(up, l2)?);
        let out = each_part((gate, up), 1, |gate, up, out| {
            for ((out, gate), up) in out.iter_mut().zip(gate).zip(up) {
                *out = gate * sigmoid(*gate) * up;
            }
        });
        Ok((CpuStorage::F32(out), l1.shape().clone()))
    }

    fn bwd(
        &self,
        gate: &Tensor,
        up: &Tensor,
        _: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let (of_gate, of_up) = with_floats([gate, up, grad], |[gate, up, grad]| {
            let (mut of_gate, mut of_up) = (vec![0.0; gate.len()], vec![0.0; gate.len()]);
            let results = of_gate.par_chunks_mut(PART).zip(of_up.par_chunks_mut(PART));
            let inputs = gate
                .par_chunks(PART)
                .zip(up.par_chunks(PART))
                .zip(grad.par_chunks(PART));
            results
                .zip(inputs)
                .for_each(|((of_gate, of_up), ((gate, up), grad))| {
                    let results = of_gate.iter_mut().zip(of_up);
                    for ((of_gate, of_up), ((gate, up), grad)) in
                        results.zip(gate.iter().zip(up).zip(grad))
                    {
                        let share = sigmoid(*gate);
                        *of_gate = grad * up * share * (1.0 + gate * (1.0 - share));
                        *of_up = grad * gate * share;
                    }
                });
            (of_gate, of_up)
        })?;
        let tensor =
            |values: Vec<f32>| Tensor::from_vec(values, gate.shape(), gate.device()).map(Some);
        Ok((tensor(of_gate)?, tensor(of_up)?))
    }
}
