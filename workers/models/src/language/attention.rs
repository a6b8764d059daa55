//! Causal attention of one sequence over keys and values that are whole tensors, as the tensor library computes it: trainings on a
//! GPU. Elsewhere a model attends over pages, and a CPU trains with kernels of its own.

use candle_core::{D, DType, Result, Tensor};

/// Attention of queries `[heads, new, head_dim]` at the end of keys and values `[kv_heads, all, head_dim]`; each group of
/// query heads shares one key head. Returns `[new, heads · head_dim]`.
pub(super) fn attention(queries: &Tensor, keys: &Tensor, values: &Tensor) -> Result<Tensor> {
    with_masks(queries, keys, values)?
        .transpose(0, 1)?
        .flatten_from(D::Minus2)
}

fn with_masks(queries: &Tensor, keys: &Tensor, values: &Tensor) -> Result<Tensor> {
    let ((heads, new, width), (kv_heads, all, _)) = (queries.dims3()?, keys.dims3()?);
    let group = heads / kv_heads * new;
    let scores = queries
        .reshape((kv_heads, group, width))?
        .matmul(&keys.t()?)?;
    let mut scores =
        (scores.to_dtype(DType::F32)? / (width as f64).sqrt())?.reshape((heads, new, all))?;
    if new > 1 {
        let hidden = |row: usize, key: usize| {
            if key > all - new + row {
                f32::NEG_INFINITY
            } else {
                0.0
            }
        };
        let mask: Vec<f32> = (0..new * all)
            .map(|index| hidden(index / all, index % all))
            .collect();
        scores = scores.broadcast_add(&Tensor::from_vec(mask, (new, all), queries.device())?)?;
    }
    let weights = crate::layers::softmax(&scores)?.to_dtype(queries.dtype())?;
    weights
        .reshape((kv_heads, group, all))?
        .matmul(values)?
        .reshape((heads, new, width))
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;
    use crate::kernels::paged_cache::{Attended, CacheShape, Numbers, PagedCache, attend};

    /// `[positions, heads, 16]`.
    fn wave(positions: usize, heads: usize, phase: f32) -> Vec<f32> {
        (0..positions * heads * 16)
            .map(|i| (i as f32 * 0.7 + phase).sin())
            .collect()
    }

    /// `[heads, positions, 16]`.
    fn by_head(values: &[f32], heads: usize) -> Tensor {
        let shape = (values.len() / heads / 16, heads, 16);
        let tensor = Tensor::from_slice(values, shape, &Device::Cpu).unwrap();
        tensor.transpose(0, 1).unwrap().contiguous().unwrap()
    }

    #[test]
    fn masks_and_pages_give_the_same_at_the_start_and_in_the_middle_of_a_sequence() {
        let shape = CacheShape {
            layers: 1,
            heads: 2,
            width: 16,
        };
        for (new, all) in [(5, 5), (3, 9), (1, 7)] {
            let (queries, keys, values) = (wave(new, 4, 0.0), wave(all, 2, 1.0), wave(all, 2, 2.0));
            let mut cache = PagedCache::new(shape, Numbers::Floats);
            cache.write(0, 0, &keys, &values);
            let sequence = Attended {
                cache: &cache,
                all,
                queries: &queries,
            };
            let expected = attend(0, &[sequence], 4);
            let masked = attention(
                &by_head(&queries, 4),
                &by_head(&keys, 2),
                &by_head(&values, 2),
            );
            let masked = masked.unwrap();
            assert_eq!(masked.dims(), [new, 64]);
            let masked = masked.flatten_all().unwrap().to_vec1::<f32>().unwrap();
            for (masked, expected) in masked.iter().zip(&expected) {
                assert!(
                    (masked - expected).abs() < 1e-6,
                    "{new} of {all}: {masked} {expected}"
                );
            }
        }
    }
}
