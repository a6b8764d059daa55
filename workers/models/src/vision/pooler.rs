//! The temporal pooler: three transformer blocks over the patches of a current and a previous image, of which the current
//! half is kept.

use std::f64::consts::TAU;

use candle_core::{Device, Tensor};
use candle_nn::ops::softmax_last_dim;
use candle_nn::{LayerNorm, Linear, Module, VarBuilder, layer_norm};

use super::{PARAMETER_SPREAD, VisionConfig};
use crate::error::ModelError;
use crate::tensors::{bias, matrix, uniform};

#[derive(Clone, Debug)]
pub(super) struct TemporalPooler {
    /// Position and image (current, previous) of every token: `[1, 2hw, V]`.
    added: Tensor,
    blocks: Vec<PoolerBlock>,
    norm_post: LayerNorm,
    grid: (usize, usize),
}

#[derive(Clone, Debug)]
struct PoolerBlock {
    norm1: LayerNorm,
    attn: PoolerAttention,
    norm2: LayerNorm,
    fc1: Linear,
    fc2: Linear,
}

#[derive(Clone, Debug)]
struct PoolerAttention {
    proj_q: Linear,
    proj_k: Linear,
    proj_v: Linear,
    proj: Linear,
    heads: usize,
}

impl TemporalPooler {
    pub(super) fn new(config: &VisionConfig, vb: &VarBuilder<'_>) -> Result<Self, ModelError> {
        Self::check(config)?;
        let (width, grid) = (config.vit_dim, config.grid);
        let types = vb.get_with_hints((2, 1, width), "type_embed", uniform(PARAMETER_SPREAD))?;
        let positions = sine_positions(grid, width, vb.device())?.to_dtype(vb.dtype())?;
        let added = positions.unsqueeze(0)?.broadcast_add(&types)?.reshape((
            1,
            2 * grid.0 * grid.1,
            width,
        ))?;
        let block = |index| PoolerBlock::new(config, &vb.pp("blocks").pp(index));
        Ok(Self {
            added,
            blocks: (0..config.vit_blocks)
                .map(block)
                .collect::<Result<_, _>>()?,
            norm_post: layer_norm(width, config.ln_eps, vb.pp("norm_post"))?,
            grid,
        })
    }

    /// Refuses a width that cannot be cut into heads, or into rows and columns.
    pub(super) fn check(config: &VisionConfig) -> Result<(), ModelError> {
        let width = config.vit_dim;
        if !width.is_multiple_of(config.vit_heads) || width % 2 == 1 {
            return Err(ModelError::Geometry(format!(
                "vit_dim {width} with {} heads",
                config.vit_heads
            )));
        }
        Ok(())
    }

    /// Two maps `[B, V, h, w]` to one `[B, V, h, w]`, where `h` and `w` are the pooler's grid.
    pub(super) fn forward(
        &self,
        current: &Tensor,
        previous: &Tensor,
    ) -> Result<Tensor, ModelError> {
        let (batch, width, rows, columns) = current.dims4()?;
        if (rows, columns) != self.grid {
            let message = format!(
                "a grid of {rows} x {columns}, but the temporal pooler is made for {:?}",
                self.grid
            );
            return Err(ModelError::Input(message));
        }
        let tokens = |map: &Tensor| map.flatten_from(2)?.transpose(1, 2);
        let mut hidden = Tensor::cat(&[tokens(current)?, tokens(previous)?], 1)?;
        for block in &self.blocks {
            hidden = block.forward(&hidden, &self.added)?;
        }
        let kept = self
            .norm_post
            .forward(&hidden)?
            .narrow(1, 0, rows * columns)?;
        Ok(kept
            .transpose(1, 2)?
            .reshape((batch, width, rows, columns))?)
    }
}

impl PoolerBlock {
    fn new(config: &VisionConfig, vb: &VarBuilder<'_>) -> Result<Self, ModelError> {
        let (width, eps) = (config.vit_dim, config.ln_eps);
        let attn = vb.pp("attn");
        Ok(Self {
            norm1: layer_norm(width, eps, vb.pp("norm1"))?,
            attn: PoolerAttention {
                proj_q: projection(width, &attn.pp("proj_q"))?,
                proj_k: projection(width, &attn.pp("proj_k"))?,
                proj_v: projection(width, &attn.pp("proj_v"))?,
                proj: linear(width, &attn.pp("proj"))?,
                heads: config.vit_heads,
            },
            norm2: layer_norm(width, eps, vb.pp("norm2"))?,
            fc1: linear(width, &vb.pp("mlp.fc1"))?,
            fc2: linear(width, &vb.pp("mlp.fc2"))?,
        })
    }

    /// The positions go into queries, keys and values alike.
    fn forward(&self, input: &Tensor, added: &Tensor) -> Result<Tensor, ModelError> {
        let hidden = self.norm1.forward(input)?.broadcast_add(added)?;
        let input = (input + self.attn.forward(&hidden)?)?;
        let hidden = self.fc1.forward(&self.norm2.forward(&input)?)?.gelu_erf()?;
        Ok((input + self.fc2.forward(&hidden)?)?)
    }
}

impl PoolerAttention {
    fn forward(&self, hidden: &Tensor) -> Result<Tensor, ModelError> {
        let (batch, length, width) = hidden.dims3()?;
        let head_width = width / self.heads;
        let split = |projection: &Linear| {
            let projected = projection.forward(hidden)?;
            projected
                .reshape((batch, length, self.heads, head_width))?
                .transpose(1, 2)?
                .contiguous()
        };
        let (query, key, value) = (
            split(&self.proj_q)?,
            split(&self.proj_k)?,
            split(&self.proj_v)?,
        );
        let scores = (query.matmul(&key.t()?)? * (head_width as f64).powf(-0.5))?;
        let context = softmax_last_dim(&scores)?.matmul(&value)?;
        Ok(self
            .proj
            .forward(&context.transpose(1, 2)?.reshape((batch, length, width))?)?)
    }
}

/// A linear layer `[width, width]` with bias.
fn linear(width: usize, vb: &VarBuilder<'_>) -> Result<Linear, ModelError> {
    let weight = matrix(width, width, "weight", vb)?;
    Ok(Linear::new(weight, Some(bias(width, vb)?)))
}

/// A linear layer `[width, width]` without bias.
fn projection(width: usize, vb: &VarBuilder<'_>) -> Result<Linear, ModelError> {
    Ok(Linear::new(matrix(width, width, "weight", vb)?, None))
}

/// The sine position embedding `[hw, V]`: V/2 entries for the row, then V/2 for the column.
fn sine_positions(
    (rows, columns): (usize, usize),
    width: usize,
    device: &Device,
) -> Result<Tensor, ModelError> {
    let entries = width / 2;
    let axis = |index: usize, size: usize| {
        let angle = (index + 1) as f64 / (size as f64 + 1e-6) * TAU;
        (0..entries).map(move |entry| {
            let value = angle / 10000f64.powf((entry / 2 * 2) as f64 / entries as f64);
            (if entry % 2 == 0 {
                value.sin()
            } else {
                value.cos()
            }) as f32
        })
    };
    let values: Vec<f32> = (0..rows * columns)
        .flat_map(|token| axis(token / columns, rows).chain(axis(token % columns, columns)))
        .collect();
    Ok(Tensor::from_vec(values, (rows * columns, width), device)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_have_the_published_values() {
        let positions = sine_positions((14, 14), 256, &Device::Cpu)
            .unwrap()
            .to_vec2::<f32>()
            .unwrap();
        for (token, expected) in [
            (0, [0.4338837, 0.9009689, 0.3789338, 0.9254238]),
            (17, [0.7818314, 0.6234899, 0.7013487, 0.7128184]),
        ] {
            for (value, expected) in positions[token].iter().zip(expected) {
                assert!(
                    (value - expected).abs() < 1e-6,
                    "token {token}: {value}, published {expected}"
                );
            }
        }
        assert_eq!(positions[0][..128], positions[0][128..]);
    }
}
