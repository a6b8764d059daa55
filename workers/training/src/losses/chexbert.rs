//! The labeler's loss: the cross entropies of its heads, added up.

use candle_core::{Result, Tensor};

use super::cross_entropy_of_some;

/// The loss of each head's `logits [B, classes]` for its classes; a report without a class for a head does not count
/// there, nor does a head without any.
///
/// # Errors
/// Shapes that do not fit, or no class at all.
pub fn heads(logits: &[Tensor], classes: &[Vec<Option<u32>>]) -> Result<Tensor> {
    let known = logits
        .iter()
        .zip(classes)
        .filter(|(_, classes)| classes.iter().any(Option::is_some));
    let losses = known.map(|(logits, classes)| cross_entropy_of_some(logits, classes, 0.0));
    losses
        .reduce(|sum, loss| sum? + loss?)
        .unwrap_or_else(|| candle_core::bail!("a batch without any label"))
}
