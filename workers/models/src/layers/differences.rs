//! How far results of layers are from what tests expect.

use candle_core::Tensor;

/// The largest distance between values of two tensors of one shape.
pub(in crate::layers) fn worst(a: &Tensor, b: &Tensor) -> f32 {
    let difference = (a - b).unwrap().abs().unwrap();
    difference.max_all().unwrap().to_scalar().unwrap()
}
