//! Causal attention of one sequence over its cache.

use candle_core::{CpuStorage, D, DType, Layout, Result, Storage, Tensor, bail};
use rayon::prelude::*;

use super::linear::rows_by_columns;

/// Products below which waking other threads costs more than it saves.
const PARALLEL: usize = 1 << 17;

/// Attention of queries `[heads, new, head_dim]` at the end of keys and values `[kv_heads, all, head_dim]`; each group of
/// query heads shares one key head. Returns `[new, heads · head_dim]`.
///
/// On a CPU a position's output is the same to the last bit whether it comes alone or with the positions before it.
pub(super) fn attention(queries: &Tensor, keys: &Tensor, values: &Tensor) -> Result<Tensor> {
    // The kernel has no gradient.
    let trained = queries.track_op() || keys.track_op() || values.track_op();
    let mixed = if queries.device().is_cpu() && !trained {
        on_cpu(&queries.contiguous()?, keys, values)?
    } else {
        with_masks(queries, keys, values)?
    };
    mixed.transpose(0, 1)?.flatten_from(D::Minus2)
}

fn on_cpu(queries: &Tensor, keys: &Tensor, values: &Tensor) -> Result<Tensor> {
    let ((heads, new, width), (kv_heads, all, _)) = (queries.dims3()?, keys.dims3()?);
    let (q_storage, q_layout) = queries.storage_and_layout();
    let (k_storage, k_layout) = keys.storage_and_layout();
    let (v_storage, v_layout) = values.storage_and_layout();
    let queries_of = heads_of(
        &q_storage,
        q_layout,
        heads / kv_heads * new * width,
        heads / kv_heads,
    )?;
    let keys_of = heads_of(&k_storage, k_layout, all * width, 1)?;
    let values_of = heads_of(&v_storage, v_layout, all * width, 1)?;

    let group = heads / kv_heads * new;
    let attend = |(head, out): (usize, &mut [f32])| {
        // Column-major: the scores of all rows with the first key, then with the second.
        let mut scores = vec![0.0; all * group];
        rows_by_columns(queries_of(head), keys_of(head), width, &mut scores);
        for (row, out) in out.chunks_mut(width).enumerate() {
            let visible = all - new + row % new + 1;
            let mut weights: Vec<f32> = (0..visible).map(|key| scores[key * group + row]).collect();
            softmax(&mut weights, (width as f32).sqrt());
            for (weight, value) in weights.iter().zip(values_of(head).chunks(width)) {
                for (sum, value) in out.iter_mut().zip(value) {
                    *sum = weight.mul_add(*value, *sum);
                }
            }
        }
    };
    let mut out = vec![0.0; heads * new * width];
    if heads * new * all * width < PARALLEL {
        out.chunks_mut(group * width).enumerate().for_each(attend);
    } else {
        out.par_chunks_mut(group * width)
            .enumerate()
            .for_each(attend);
    }
    Tensor::from_vec(out, (heads, new, width), queries.device())
}

/// The values of one head, `len` of them, of a tensor `[heads, ..]` whose heads lie `heads_each` strides apart.
fn heads_of<'a>(
    storage: &'a Storage,
    layout: &Layout,
    len: usize,
    heads_each: usize,
) -> Result<impl Fn(usize) -> &'a [f32]> {
    let Storage::Cpu(CpuStorage::F32(values)) = storage else {
        bail!("attention takes f32 on a CPU")
    };
    let (start, stride) = (layout.start_offset(), layout.stride()[0] * heads_each);
    Ok(move |head| &values[start + head * stride..][..len])
}

/// Softmax of `scores / divisor`.
fn softmax(scores: &mut [f32], divisor: f32) {
    let max = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let mut sum = 0.0;
    for score in scores.iter_mut() {
        *score = ((*score - max) / divisor).exp();
        sum += *score;
    }
    scores.iter_mut().for_each(|score| *score /= sum);
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

    fn wave(heads: usize, positions: usize, phase: f32) -> Tensor {
        let values: Vec<f32> = (0..heads * positions * 16)
            .map(|i| (i as f32 * 0.7 + phase).sin())
            .collect();
        Tensor::from_vec(values, (heads, positions, 16), &Device::Cpu).unwrap()
    }

    #[test]
    fn grouped_heads_equal_the_textbook_form_at_the_start_and_in_the_middle_of_a_sequence() {
        for (new, all) in [(5, 5), (3, 9), (1, 7)] {
            let (queries, keys, values) = (wave(4, new, 0.0), wave(2, all, 1.0), wave(2, all, 2.0));
            let ours = on_cpu(&queries, &keys, &values).unwrap();
            let theirs = with_masks(&queries, &keys, &values).unwrap();
            let worst = (ours - theirs)
                .unwrap()
                .abs()
                .unwrap()
                .max_all()
                .unwrap()
                .to_scalar::<f32>()
                .unwrap();
            assert!(worst < 1e-6, "{new} of {all}: {worst}");
        }
    }

    #[test]
    fn a_position_has_the_same_bytes_alone_and_with_those_before_it() {
        let (queries, keys, values) = (wave(4, 6, 0.0), wave(2, 6, 1.0), wave(2, 6, 2.0));
        let together = attention(&queries, &keys, &values).unwrap();
        let alone = attention(&queries.narrow(1, 5, 1).unwrap(), &keys, &values).unwrap();
        let bits = |tensor: &Tensor| {
            tensor
                .flatten_all()
                .unwrap()
                .to_vec1::<f32>()
                .unwrap()
                .iter()
                .map(|x| x.to_bits())
                .collect::<Vec<_>>()
        };
        assert_eq!(bits(&together.narrow(0, 5, 1).unwrap()), bits(&alone));
    }
}
