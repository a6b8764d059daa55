//! Rotary position embedding (Su et al., 2021).

use candle_core::{DType, Device, Result as CandleResult, Tensor};
use candle_nn::rotary_emb::rope_thd;

use crate::language::config::LlamaConfig;

/// Rotates heads `[1, positions, heads, head_dim]` by their positions' angles, each half with the other.
pub(super) fn rotate(x: &Tensor, (cos, sin): &(Tensor, Tensor)) -> CandleResult<Tensor> {
    if !x.track_op() {
        return rope_thd(x, cos, sin);
    }
    let half = x.dim(3)? / 2;
    let (first, second) = (x.narrow(3, 0, half)?, x.narrow(3, half, half)?);
    let (cos, sin) = (
        cos.unsqueeze(0)?.unsqueeze(2)?,
        sin.unsqueeze(0)?.unsqueeze(2)?,
    );
    let turned = [
        (first.broadcast_mul(&cos)? - second.broadcast_mul(&sin)?)?,
        (second.broadcast_mul(&cos)? + first.broadcast_mul(&sin)?)?,
    ];
    Tensor::cat(&turned, 3)
}

/// Cosines and sines of the rotary angles, `[context, head_dim / 2]`.
pub(super) fn rotary_tables(
    config: &LlamaConfig,
    dtype: DType,
    device: &Device,
) -> CandleResult<(Tensor, Tensor)> {
    let width = config.head_dim();
    let frequencies: Vec<f32> = (0..width)
        .step_by(2)
        .map(|i| 1.0 / config.rope_theta.powf(i as f32 / width as f32))
        .collect();
    let angles: Vec<f32> = (0..config.max_position_embeddings)
        .flat_map(|position| {
            frequencies
                .iter()
                .map(move |frequency| position as f32 * frequency)
        })
        .collect();
    let angles = Tensor::from_vec(angles, (config.max_position_embeddings, width / 2), device)?;
    Ok((
        angles.cos()?.to_dtype(dtype)?,
        angles.sin()?.to_dtype(dtype)?,
    ))
}
