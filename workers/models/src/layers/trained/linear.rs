//! A linear layer as one operation with a gradient.

use candle_core::{CpuStorage, CustomOp3, Layout, Result, Shape, Tensor, bail};

use super::super::parallel::column_sums;
use super::super::storage::{floats, with_floats};
use crate::kernels::buffer::zeros;
use crate::kernels::cpu::Features;
use crate::kernels::gemm::{Dense, Finish, PackedMatrix, multiply_rows, outer};

/// `[.., input]` to `[.., output]`, by `weight [output, input]` and `bias [output]`.
pub(in crate::layers) fn linear(input: &Tensor, weight: &Tensor, bias: &Tensor) -> Result<Tensor> {
    input
        .contiguous()?
        .apply_op3(&weight.contiguous()?, bias, LinearOp)
}

struct LinearOp;

impl CustomOp3 for LinearOp {
    fn name(&self) -> &'static str {
        "linear layer in training"
    }

    fn cpu_fwd(
        &self,
        input: &CpuStorage,
        layout: &Layout,
        weight: &CpuStorage,
        weight_layout: &Layout,
        bias: &CpuStorage,
        bias_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (output, depth) = weight_layout.shape().dims2()?;
        let mut dims = layout.dims().to_vec();
        match dims.last_mut() {
            Some(last) if *last == depth => *last = output,
            _ => bail!("rows {:?} for a linear layer over {depth}", layout.dims()),
        }
        let shape = Shape::from(dims);
        let mut result = zeros(shape.elem_count());
        let weights = PackedMatrix::of_columns(floats(weight, weight_layout)?, depth);
        let finish = Finish {
            bias: Some(floats(bias, bias_layout)?),
            ..Finish::default()
        };
        multiply_rows(floats(input, layout)?, &weights, finish, &mut result);
        Ok((CpuStorage::F32(result), shape))
    }

    fn bwd(
        &self,
        input: &Tensor,
        weight: &Tensor,
        bias: &Tensor,
        _: &Tensor,
        gradient: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let (output, depth) = weight.dims2()?;
        let all = [input, weight, gradient];
        let (of_input, of_weight, of_bias) = with_floats(all, |[values, weights, gradient]| {
            let of_input = input.track_op().then(|| {
                let mut of_input = zeros(values.len());
                let weights = PackedMatrix::of_rows(weights, depth);
                multiply_rows(gradient, &weights, Finish::default(), &mut of_input);
                of_input
            });
            let mut of_weight = zeros(weights.len());
            let right = Dense { values, depth };
            let features = Features::detected();
            outer(
                features,
                (gradient, output),
                (&right, depth),
                &mut of_weight,
            );
            (of_input, of_weight, column_sums(gradient, output))
        })?;
        let tensor = |values: Vec<f32>, like: &Tensor| {
            Tensor::from_vec(values, like.shape(), like.device()).map(Some)
        };
        Ok((
            match of_input {
                Some(of_input) => tensor(of_input, input)?,
                None => None,
            },
            tensor(of_weight, weight)?,
            tensor(of_bias, bias)?,
        ))
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{Device, Var};

    use super::*;
    use crate::layers::differences::worst;

    fn wave(shape: &[usize], phase: f32) -> Var {
        let count = shape.iter().product();
        let values: Vec<f32> = (0..count)
            .map(|i: usize| (i as f32 * 0.73 + phase).sin())
            .collect();
        Var::from_tensor(&Tensor::from_vec(values, shape, &Device::Cpu).unwrap()).unwrap()
    }

    #[test]
    fn a_linear_layer_and_its_gradients_agree_with_the_tensor_library() {
        for (rows, depth, width) in [([1, 1], 5, 3), ([3, 50], 40, 70), ([2, 300], 33, 16)] {
            let (input, weight, bias) = (
                wave(&[rows[0], rows[1], depth], 0.0),
                wave(&[width, depth], 1.0),
                wave(&[width], 2.0),
            );
            let found = linear(&input, &weight, &bias).unwrap();
            let flat = input.reshape(((), depth)).unwrap();
            let expected = flat
                .matmul(&weight.t().unwrap())
                .unwrap()
                .broadcast_add(&bias)
                .unwrap();
            let expected = expected.reshape(found.shape()).unwrap();
            assert!(worst(&found, &expected) < 1e-4);
            let cotangent = wave(found.dims(), 3.0).as_detached_tensor();
            let [found, expected] =
                [found, expected].map(|result| (result * &cotangent).unwrap().backward().unwrap());
            for variable in [&input, &weight, &bias] {
                let (found, expected) = (
                    found.get(variable).unwrap(),
                    expected.get(variable).unwrap(),
                );
                assert!(worst(found, expected) < 1e-3, "{:?}", variable.dims());
            }
        }
    }
}
