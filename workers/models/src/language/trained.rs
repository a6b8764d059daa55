//! The decoder's operations in training, on a CPU: each is one step forward and one back, on all threads. Made of the tensor
//! library's own operations, a step would spend most of its time on copies that one thread makes.

use candle_core::Tensor;

mod attention;
mod frozen_product;
mod rms_norm;
mod swiglu;

pub(super) use attention::attend;
pub(super) use frozen_product::frozen_product;
pub(super) use rms_norm::rms_norm;
pub(super) use swiglu::swiglu;

/// Rows that one thread takes at a time. It does not depend on the number of threads, nor do sums over such parts.
const ROWS: usize = 64;

/// Whether these operations apply: a gradient is wanted, and the values are on a CPU.
pub(super) fn applies(tensors: &[&Tensor]) -> bool {
    tensors.iter().any(|tensor| tensor.track_op())
        && tensors.iter().all(|tensor| tensor.device().is_cpu())
}

/// e^x, accurate to two units in the last place, in a form that the compiler turns into vector instructions: 2^n times a
/// polynomial of the rest. Values below -87 give 0.
#[inline(always)]
fn exp(x: f32) -> f32 {
    let x = x.clamp(-87.3, 88.3);
    let n = (x * std::f32::consts::LOG2_E).round_ties_even();
    // ln 2 in two parts, the first with few digits, so that the rest is exact.
    let rest = n.mul_add(2.121_944_4e-4, n.mul_add(-355.0 / 512.0, x));
    let mut sum = 1.987_569_2e-4;
    for factor in [
        1.398_199_9e-3,
        8.333_452e-3,
        4.166_579_6e-2,
        1.666_666_5e-1,
        0.5,
    ] {
        sum = f32::mul_add(sum, rest, factor);
    }
    let sum = sum.mul_add(rest * rest, rest) + 1.0;
    sum * f32::from_bits(((n as i32 + 127) as u32) << 23)
}

#[cfg(test)]
mod tests {
    use candle_core::{Device, Var};
    use candle_nn::ops;

    use super::*;

    fn wave(shape: (usize, usize), phase: f32) -> Var {
        let values: Vec<f32> = (0..shape.0 * shape.1)
            .map(|i| 1.5 * (i as f32 * 0.7 + phase).sin())
            .collect();
        Var::from_tensor(&Tensor::from_vec(values, shape, &Device::Cpu).unwrap()).unwrap()
    }

    /// Holds outputs and gradients of two ways to compute the same to each other.
    fn same(inputs: &[&Var], ours: &Tensor, theirs: &Tensor) {
        let close = |ours: &Tensor, theirs: &Tensor| {
            let largest = |x: Tensor| {
                x.abs()
                    .unwrap()
                    .flatten_all()
                    .unwrap()
                    .max(0)
                    .unwrap()
                    .to_scalar::<f32>()
                    .unwrap()
            };
            let (worst, size) = (largest((ours - theirs).unwrap()), largest(theirs.clone()));
            assert!(worst < 2e-6 * size.max(1.0), "{worst} of {size}");
        };
        close(ours, theirs);
        let weights =
            wave((ours.dims()[0], ours.elem_count() / ours.dims()[0]), 0.3).as_detached_tensor();
        let gradients = |out: &Tensor| {
            (out.reshape(weights.shape()).unwrap() * &weights)
                .unwrap()
                .backward()
                .unwrap()
        };
        let (ours, theirs) = (gradients(ours), gradients(theirs));
        for input in inputs {
            close(ours.get(input).unwrap(), theirs.get(input).unwrap());
        }
    }

    #[test]
    fn the_norm_equals_the_textbook_form() {
        let (x, weight) = (
            wave((150, 24), 0.0),
            Var::from_tensor(&wave((1, 24), 1.0).squeeze(0).unwrap()).unwrap(),
        );
        same(
            &[&x, &weight],
            &rms_norm(&x, &weight, 1e-5).unwrap(),
            &ops::rms_norm_slow(&x, &weight, 1e-5).unwrap(),
        );
    }

    #[test]
    fn the_gate_equals_the_textbook_form() {
        let (gate, up) = (wave((30, 24), 0.0), wave((30, 24), 1.0));
        let theirs = (ops::silu(&gate).unwrap() * up.as_tensor()).unwrap();
        same(&[&gate, &up], &swiglu(&gate, &up).unwrap(), &theirs);
    }

    #[test]
    fn a_product_with_frozen_weights_has_the_gradient_of_its_input() {
        let (x, weight) = (
            wave((30, 24), 0.0),
            wave((10, 24), 1.0).as_detached_tensor(),
        );
        same(
            &[&x],
            &frozen_product(&x, &weight).unwrap(),
            &x.matmul(&weight.t().unwrap()).unwrap(),
        );
    }

    #[test]
    fn attention_of_packed_sequences_equals_that_of_each_alone() {
        let (shape, lengths) = ((4, 2, 6), [7, 150, 1, 64]);
        let all = lengths.iter().sum();
        let (queries, keys, values) = (
            wave((all, 24), 0.0),
            wave((all, 12), 1.0),
            wave((all, 12), 2.0),
        );
        let angles = wave((150, 3), 0.5).as_detached_tensor();
        let rotary = (angles.cos().unwrap(), angles.sin().unwrap());
        let ours = attend([&queries, &keys, &values], &rotary, &lengths, shape).unwrap();
        let mut start = 0;
        let mut parts = Vec::new();
        for length in lengths {
            let heads = |x: &Tensor, count: usize| {
                x.narrow(0, start, length)
                    .unwrap()
                    .reshape((length, count, 6))
                    .unwrap()
                    .transpose(0, 1)
                    .unwrap()
            };
            let rotate = |x: &Tensor| {
                let (first, second) = (x.narrow(2, 0, 3).unwrap(), x.narrow(2, 3, 3).unwrap());
                let table = |table: &Tensor| table.narrow(0, 0, length).unwrap();
                let (cos, sin) = (table(&rotary.0), table(&rotary.1));
                let times = |x: &Tensor, y: &Tensor| x.broadcast_mul(y).unwrap();
                let parts = [
                    times(&first, &cos) - times(&second, &sin),
                    times(&second, &cos) + times(&first, &sin),
                ];
                Tensor::cat(&parts.map(Result::unwrap), 2)
                    .unwrap()
                    .contiguous()
                    .unwrap()
            };
            let (queries, keys) = (rotate(&heads(&queries, 4)), rotate(&heads(&keys, 2)));
            let values = heads(&values, 2).contiguous().unwrap();
            parts.push(super::super::attention::attention(&queries, &keys, &values).unwrap());
            start += length;
        }
        same(
            &[&queries, &keys, &values],
            &ours,
            &Tensor::cat(&parts, 0).unwrap(),
        );
    }

    #[test]
    fn the_exponential_is_accurate_over_its_range() {
        for index in -8700..8800 {
            let x = index as f32 / 100.0;
            let error = (f64::from(exp(x)) / f64::from(x).exp() - 1.0).abs();
            assert!(error < 2.5e-7, "{x}: {error}");
        }
        assert!(exp(f32::NAN).is_nan() && exp(f32::NEG_INFINITY) < 2e-38);
    }
}
