//! Operations on the rows of a tensor with their gradients: layer norm, softmax and GELU in one pass each, on all cores. The
//! tensor library composes them of up to ten passes on one.

use candle_core::{CpuStorage, CustomOp1, CustomOp2, CustomOp3, Layout, Result, Shape, Tensor};
use rayon::prelude::*;

use super::parallel::{each_pair, each_part, each_row, part_length};
use super::storage::floats;
use crate::kernels::cpu::Features;
use crate::kernels::elementary::{gelu_row, gelu_slope_row};
use crate::kernels::normalise::sum;

/// Layer norm of `[.., width]`, `weight [width]` and `bias [width]` (Ba et al., 2016).
pub(super) struct LayerNormOp {
    pub(super) eps: f32,
}

/// The gradients of a layer norm, from its input and its result's gradient: that of the input, and in two more rows those
/// of weight and bias.
struct LayerNormGradient {
    eps: f32,
}

/// Softmax over the last dimension.
pub(super) struct Softmax;

/// The gradient of a softmax, from its result and that one's gradient.
struct SoftmaxGradient;

/// The exact GELU (Hendrycks and Gimpel, 2016).
pub(super) struct Gelu;

/// The gradient of a GELU, from its input and its result's gradient.
struct GeluGradient;

impl CustomOp3 for LayerNormOp {
    fn name(&self) -> &'static str {
        "layer norm"
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
        let (weight, bias) = (floats(weight, weight_layout)?, floats(bias, bias_layout)?);
        let result = each_row(floats(input, layout)?, weight.len(), |row, result| {
            let (mean, inverse) = moments(row, self.eps);
            for (((result, value), weight), bias) in
                result.iter_mut().zip(row).zip(weight).zip(bias)
            {
                *result = (value - mean) * inverse * weight + bias;
            }
        });
        Ok((CpuStorage::F32(result), layout.shape().clone()))
    }

    fn bwd(
        &self,
        input: &Tensor,
        weight: &Tensor,
        _: &Tensor,
        _: &Tensor,
        gradient: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let all = input.apply_op3_no_bwd(
            weight,
            &gradient.contiguous()?,
            &LayerNormGradient { eps: self.eps },
        )?;
        let rows = all.dim(0)? - 2;
        let of_input = all.narrow(0, 0, rows)?.reshape(input.shape())?;
        Ok((
            Some(of_input),
            Some(all.get(rows)?),
            Some(all.get(rows + 1)?),
        ))
    }
}

impl CustomOp3 for LayerNormGradient {
    fn name(&self) -> &'static str {
        "gradient of a layer norm"
    }

    fn cpu_fwd(
        &self,
        input: &CpuStorage,
        layout: &Layout,
        weight: &CpuStorage,
        weight_layout: &Layout,
        gradient: &CpuStorage,
        gradient_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (values, weight) = (floats(input, layout)?, floats(weight, weight_layout)?);
        let (gradient, width) = (floats(gradient, gradient_layout)?, weight.len());
        let count = values.len() / width;
        let mut result = vec![0f32; (count + 2) * width];
        let (map, rest) = result.split_at_mut(count * width);
        let length = part_length(width);
        let parts = map
            .par_chunks_mut(length)
            .zip(values.par_chunks(length))
            .zip(gradient.par_chunks(length));
        let sums: Vec<[Vec<f32>; 2]> = parts
            .map(|((map, values), gradient)| {
                let mut sums = [vec![0f32; width], vec![0f32; width]];
                let rows = map
                    .chunks_exact_mut(width)
                    .zip(values.chunks_exact(width))
                    .zip(gradient.chunks_exact(width));
                for ((map, row), gradient) in rows {
                    self.row(map, row, gradient, weight, &mut sums);
                }
                sums
            })
            .collect();
        for part in sums {
            rest.iter_mut()
                .zip(part.iter().flatten())
                .for_each(|(sum, value)| *sum += value);
        }
        Ok((CpuStorage::F32(result), Shape::from((count + 2, width))))
    }
}

impl LayerNormGradient {
    fn row(
        &self,
        map: &mut [f32],
        row: &[f32],
        gradient: &[f32],
        weight: &[f32],
        [weights, biases]: &mut [Vec<f32>; 2],
    ) {
        let (mean, inverse) = moments(row, self.eps);
        // The normalised row lies in the result until it is needed no more.
        for (normal, value) in map.iter_mut().zip(row) {
            *normal = (value - mean) * inverse;
        }
        let columns = weights.iter_mut().zip(biases).zip(map.iter()).zip(gradient);
        for (((of_weight, of_bias), normal), gradient) in columns {
            *of_weight += gradient * normal;
            *of_bias += gradient;
        }
        let share = 1.0 / row.len() as f32;
        let total = share * products(gradient, weight, |_, product| product, map);
        let along = share * products(gradient, weight, |normal, product| normal * product, map);
        for ((normal, gradient), weight) in map.iter_mut().zip(gradient).zip(weight) {
            *normal = inverse * (gradient * weight - total - *normal * along);
        }
    }
}

/// The sum of a term of each normalised value and the product of two others, in an order that follows from their number.
fn products(left: &[f32], right: &[f32], term: impl Fn(f32, f32) -> f32, normals: &[f32]) -> f32 {
    const LANES: usize = 16;
    let ((left, left_rest), (right, right_rest)) =
        (left.as_chunks::<LANES>(), right.as_chunks::<LANES>());
    let (normals, normals_rest) = normals.as_chunks::<LANES>();
    let mut lanes = [0f32; LANES];
    for ((left, right), normals) in left.iter().zip(right).zip(normals) {
        for (lane, place) in lanes.iter_mut().zip(0..LANES) {
            *lane += term(normals[place], left[place] * right[place]);
        }
    }
    let rest = left_rest.iter().zip(right_rest).zip(normals_rest);
    let rest = rest.map(|((left, right), normal)| term(*normal, left * right));
    lanes.iter().sum::<f32>() + rest.sum::<f32>()
}

impl CustomOp1 for Softmax {
    fn name(&self) -> &'static str {
        "softmax"
    }

    fn cpu_fwd(&self, scores: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let width = *layout.dims().last().unwrap_or(&1);
        let result = each_row(floats(scores, layout)?, width, |row, result| {
            let largest = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            let mut sum = 0f32;
            for (result, score) in result.iter_mut().zip(row) {
                *result = (score - largest).exp();
                sum += *result;
            }
            let scale = 1.0 / sum;
            result.iter_mut().for_each(|value| *value *= scale);
        });
        Ok((CpuStorage::F32(result), layout.shape().clone()))
    }

    fn bwd(&self, _: &Tensor, result: &Tensor, gradient: &Tensor) -> Result<Option<Tensor>> {
        result
            .apply_op2_no_bwd(&gradient.contiguous()?, &SoftmaxGradient)
            .map(Some)
    }
}

impl CustomOp2 for SoftmaxGradient {
    fn name(&self) -> &'static str {
        "gradient of a softmax"
    }

    fn cpu_fwd(
        &self,
        shares: &CpuStorage,
        layout: &Layout,
        gradient: &CpuStorage,
        gradient_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let width = *layout.dims().last().unwrap_or(&1);
        let pair = (floats(shares, layout)?, floats(gradient, gradient_layout)?);
        let result = each_pair(pair, width, |shares, gradient, result| {
            let along: f32 = shares
                .iter()
                .zip(gradient)
                .map(|(share, gradient)| share * gradient)
                .sum();
            for ((result, share), gradient) in result.iter_mut().zip(shares).zip(gradient) {
                *result = share * (gradient - along);
            }
        });
        Ok((CpuStorage::F32(result), layout.shape().clone()))
    }
}

impl CustomOp1 for Gelu {
    fn name(&self) -> &'static str {
        "GELU"
    }

    fn cpu_fwd(&self, input: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let features = Features::detected();
        let values = floats(input, layout)?;
        let result = each_part((values, values), 1, |values, _, result| {
            result.copy_from_slice(values);
            gelu_row(features, result);
        });
        Ok((CpuStorage::F32(result), layout.shape().clone()))
    }

    fn bwd(&self, input: &Tensor, _: &Tensor, gradient: &Tensor) -> Result<Option<Tensor>> {
        input
            .apply_op2_no_bwd(&gradient.contiguous()?, &GeluGradient)
            .map(Some)
    }
}

impl CustomOp2 for GeluGradient {
    fn name(&self) -> &'static str {
        "gradient of a GELU"
    }

    fn cpu_fwd(
        &self,
        input: &CpuStorage,
        layout: &Layout,
        gradient: &CpuStorage,
        gradient_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let pair = (floats(input, layout)?, floats(gradient, gradient_layout)?);
        let features = Features::detected();
        let result = each_part(pair, 1, |values, gradient, result| {
            result.copy_from_slice(values);
            gelu_slope_row(features, result);
            for (result, gradient) in result.iter_mut().zip(gradient) {
                *result *= gradient;
            }
        });
        Ok((CpuStorage::F32(result), layout.shape().clone()))
    }
}

/// Mean and one over the standard deviation.
fn moments(row: &[f32], eps: f32) -> (f32, f32) {
    let share = 1.0 / row.len() as f32;
    let mean = sum(row, |value| value) * share;
    let variance = sum(row, |value| (value - mean) * (value - mean)) * share;
    (mean, 1.0 / (variance + eps).sqrt())
}

#[cfg(test)]
mod tests {
    use candle_core::{D, Device, Var};

    use super::*;
    use crate::layers::differences::worst;

    fn wave(shape: &[usize], phase: f32) -> Tensor {
        let values: Vec<f32> = (0..shape.iter().product())
            .map(|i| 2.0 * (i as f32 * 0.73 + phase).sin())
            .collect();
        Tensor::from_vec(values, shape, &Device::Cpu).unwrap()
    }

    /// Holds values and gradients of an operation to those of its composed form.
    fn hold(variables: &[&Var], expected: Tensor, found: Tensor) {
        assert!(worst(&expected, &found) < 1e-5);
        let gradient = wave(found.dims(), 4.0);
        let [expected, found] = [expected, found].map(|out| {
            (out * &gradient)
                .unwrap()
                .sum_all()
                .unwrap()
                .backward()
                .unwrap()
        });
        for variable in variables {
            let (expected, found) = (
                expected.get(variable).unwrap(),
                found.get(variable).unwrap(),
            );
            let largest: f32 = expected
                .abs()
                .unwrap()
                .flatten_all()
                .unwrap()
                .max(0)
                .unwrap()
                .to_scalar()
                .unwrap();
            assert!(
                worst(expected, found) < 1e-4 * largest.max(0.1),
                "{:?}",
                variable.dims()
            );
        }
    }

    #[test]
    fn a_layer_norm_and_its_gradients_are_those_of_the_composed_one() {
        for shape in [[2, 3, 8], [50, 40, 24]] {
            let input = Var::from_tensor(&(wave(&shape, 0.0) + 1.0).unwrap()).unwrap();
            let weight = Var::from_tensor(&(wave(&shape[2..], 1.0) + 1.5).unwrap()).unwrap();
            let bias = Var::from_tensor(&wave(&shape[2..], 2.0)).unwrap();
            let expected = candle_nn::ops::layer_norm_slow(&input, &weight, &bias, 1e-5).unwrap();
            let found = input
                .apply_op3(&weight, &bias, LayerNormOp { eps: 1e-5 })
                .unwrap();
            hold(&[&input, &weight, &bias], expected, found);
        }
    }

    #[test]
    fn a_softmax_and_its_gradient_are_those_of_the_composed_one() {
        let scores = Var::from_tensor(&wave(&[3, 5, 7], 0.0)).unwrap();
        let expected = candle_nn::ops::softmax(&scores, D::Minus1).unwrap();
        hold(&[&scores], expected, scores.apply_op1(Softmax).unwrap());
    }

    #[test]
    fn a_gelu_and_its_gradient_are_those_of_the_tensor_library() {
        let input = Var::from_tensor(&wave(&[4, 33], 0.0)).unwrap();
        let expected = input.gelu_erf().unwrap();
        hold(&[&input], expected, input.apply_op1(Gelu).unwrap());
    }
}
