//! The language model's loss: the next token, where it is learned.

use candle_core::{Result, Tensor};

use super::cross_entropy_of_some;

/// The loss of `logits [positions, vocab]` of whole sequences, one after the other, whose tokens are `targets`: each
/// position predicts the one behind it. Tokens that are `None` are not learned. Mean over all that are.
///
/// # Errors
/// Shapes that do not fit, or nothing to learn.
pub fn next_token(logits: &Tensor, targets: &[Vec<Option<u32>>]) -> Result<Tensor> {
    let next = |row: &Vec<Option<u32>>| row.iter().skip(1).copied().chain([None]).collect::<Vec<_>>();
    let next: Vec<Option<u32>> = targets.iter().flat_map(next).collect();
    cross_entropy_of_some(logits, &next, 0.0)
}
