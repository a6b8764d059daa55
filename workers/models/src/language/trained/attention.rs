//! Rotary, causal attention of many whole sequences in one operation, with its gradient. A block of queries at a time sees
//! the keys up to its end, so that no table of all pairs is ever kept; going back computes the weights again.

use candle_core::{CpuStorage, CustomOp3, Layout, Result, Shape, Tensor};
use rayon::prelude::*;

use super::exp;
use crate::layers::matrix::{Matrix, multiply};
use crate::layers::storage::{floats, with_floats};

/// Queries of a block: large enough for fast products, small enough to waste little on what is masked.
const BLOCK: usize = 64;

/// Attention of sequences of these lengths, one after the other: queries `[positions, heads · width]`, keys and values
/// `[positions, kv_heads · width]`, not yet rotated. `rotary` has the cosines and sines of every position,
/// `[context, width / 2]`.
pub(in crate::language) fn attend(
    [queries, keys, values]: [&Tensor; 3],
    rotary: &(Tensor, Tensor),
    lengths: &[usize],
    (heads, kv_heads, width): (usize, usize, usize),
) -> Result<Tensor> {
    let longest = lengths.iter().copied().max().unwrap_or_default();
    let table = |table: &Tensor| table.narrow(0, 0, longest)?.flatten_all()?.to_vec1::<f32>();
    let op = PackedAttention {
        lengths: lengths.to_vec(),
        heads,
        kv_heads,
        width,
        cos: table(&rotary.0)?,
        sin: table(&rotary.1)?,
    };
    queries
        .contiguous()?
        .apply_op3(&keys.contiguous()?, &values.contiguous()?, op)
}

struct PackedAttention {
    lengths: Vec<usize>,
    heads: usize,
    kv_heads: usize,
    width: usize,
    cos: Vec<f32>,
    sin: Vec<f32>,
}

/// Queries, keys and values of one sequence, or their gradients.
struct SequenceTensors<T> {
    queries: T,
    keys: T,
    values: T,
}

impl PackedAttention {
    /// Values of a sequence after the other, of a tensor with so many a position.
    fn split<'a>(&self, mut all: &'a [f32], each: usize) -> Vec<&'a [f32]> {
        let take = |&length: &usize| {
            let (sequence, rest) = all.split_at(length * each);
            all = rest;
            sequence
        };
        self.lengths.iter().map(take).collect()
    }

    fn split_mut<'a>(&self, mut all: &'a mut [f32], each: usize) -> Vec<&'a mut [f32]> {
        let take = |&length: &usize| {
            let (sequence, rest) = std::mem::take(&mut all).split_at_mut(length * each);
            all = rest;
            sequence
        };
        self.lengths.iter().map(take).collect()
    }

    fn row(&self) -> usize {
        self.heads * self.width
    }

    fn kv_row(&self) -> usize {
        self.kv_heads * self.width
    }

    /// One head of `from` (rows `stride` apart), rotated by its positions' angles and scaled, as `[positions, width]`.
    fn rotated(&self, from: &[f32], stride: usize, scale: f32) -> Vec<f32> {
        let half = self.width / 2;
        let mut to = vec![0.0; from.len().div_ceil(stride) * self.width];
        for (position, (to, from)) in to
            .chunks_exact_mut(self.width)
            .zip(from.chunks(stride))
            .enumerate()
        {
            let (cos, sin) = (
                &self.cos[position * half..][..half],
                &self.sin[position * half..][..half],
            );
            for index in 0..half {
                let (first, second) = (from[index] * scale, from[half + index] * scale);
                to[index] = first * cos[index] - second * sin[index];
                to[half + index] = second * cos[index] + first * sin[index];
            }
        }
        to
    }

    /// Writes the gradient before the rotation as that of one head, whose rows are `stride` apart.
    fn rotate_back(&self, of_rotated: &[f32], to: &mut [f32], stride: usize, scale: f32) {
        let half = self.width / 2;
        for (position, (to, of)) in to
            .chunks_mut(stride)
            .zip(of_rotated.chunks_exact(self.width))
            .enumerate()
        {
            let (cos, sin) = (
                &self.cos[position * half..][..half],
                &self.sin[position * half..][..half],
            );
            for index in 0..half {
                let (first, second) = (of[index] * scale, of[half + index] * scale);
                to[index] = first * cos[index] + second * sin[index];
                to[half + index] = second * cos[index] - first * sin[index];
            }
        }
    }

    /// The weights of queries `start..end`, `[end - start, end]`.
    fn weights(
        &self,
        queries: &[f32],
        keys: &[f32],
        start: usize,
        end: usize,
        weights: &mut [f32],
    ) {
        let width = self.width;
        let queries = Matrix::new(&queries[start * width..], end - start, width, width);
        multiply(
            weights,
            end,
            false,
            queries,
            Matrix::new(keys, end, width, width).transposed(),
        );
        for (row, weights) in weights.chunks_exact_mut(end).take(end - start).enumerate() {
            let (visible, hidden) = weights.split_at_mut(start + row + 1);
            let largest = visible.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            visible
                .iter_mut()
                .for_each(|score| *score = exp(*score - largest));
            let sum: f32 = visible.iter().sum();
            visible.iter_mut().for_each(|weight| *weight /= sum);
            hidden.fill(0.0);
        }
    }

    fn scale(&self) -> f32 {
        1.0 / (self.width as f32).sqrt()
    }

    fn forward(&self, sequence: &SequenceTensors<&[f32]>, out: &mut [f32]) {
        let (width, row, kv_row) = (self.width, self.row(), self.kv_row());
        let positions = out.len() / row;
        let mut weights = vec![0.0; BLOCK.min(positions) * positions];
        for kv_head in 0..self.kv_heads {
            let keys = self.rotated(&sequence.keys[kv_head * width..], kv_row, 1.0);
            let values = &sequence.values[kv_head * width..];
            let group = self.heads / self.kv_heads;
            for head in kv_head * group..(kv_head + 1) * group {
                let queries = self.rotated(&sequence.queries[head * width..], row, self.scale());
                for start in (0..positions).step_by(BLOCK) {
                    let end = (start + BLOCK).min(positions);
                    self.weights(&queries, &keys, start, end, &mut weights);
                    let out = &mut out[start * row + head * width..];
                    let weights = Matrix::new(&weights, end - start, end, end);
                    multiply(
                        out,
                        row,
                        false,
                        weights,
                        Matrix::new(values, end, width, kv_row),
                    );
                }
            }
        }
    }

    /// Writes the gradients of a sequence, given that of its output.
    fn backward(
        &self,
        sequence: &SequenceTensors<&[f32]>,
        out: &[f32],
        grad: &[f32],
        of: &mut SequenceTensors<&mut [f32]>,
    ) {
        let (width, row, kv_row) = (self.width, self.row(), self.kv_row());
        let positions = grad.len() / row;
        let mut weights = vec![0.0; BLOCK.min(positions) * positions];
        let mut of_weights = weights.clone();
        for kv_head in 0..self.kv_heads {
            let keys = self.rotated(&sequence.keys[kv_head * width..], kv_row, 1.0);
            let values = &sequence.values[kv_head * width..];
            let mut of_keys = vec![0.0; keys.len()];
            let group = self.heads / self.kv_heads;
            for head in kv_head * group..(kv_head + 1) * group {
                let queries = self.rotated(&sequence.queries[head * width..], row, self.scale());
                let mut of_queries = vec![0.0; queries.len()];
                for start in (0..positions).step_by(BLOCK) {
                    let end = (start + BLOCK).min(positions);
                    let rows = end - start;
                    self.weights(&queries, &keys, start, end, &mut weights);
                    let here = start * row + head * width;
                    let of_out = Matrix::new(&grad[here..], rows, width, row);
                    let block = Matrix::new(&weights, rows, end, end);
                    let of_values = &mut of.values[kv_head * width..];
                    multiply(of_values, kv_row, true, block.transposed(), of_out);
                    multiply(
                        &mut of_weights,
                        end,
                        false,
                        of_out,
                        Matrix::new(values, end, width, kv_row).transposed(),
                    );
                    // A row's weights times their gradients sum to its output times its gradient.
                    for index in 0..rows {
                        let at = here + index * row;
                        let along: f32 = out[at..][..width]
                            .iter()
                            .zip(&grad[at..][..width])
                            .map(|(a, b)| a * b)
                            .sum();
                        let weights = &weights[index * end..][..end];
                        for (of, weight) in of_weights[index * end..][..end].iter_mut().zip(weights)
                        {
                            *of = weight * (*of - along);
                        }
                    }
                    let of_scores = Matrix::new(&of_weights, rows, end, end);
                    let of_block = &mut of_queries[start * width..];
                    multiply(
                        of_block,
                        width,
                        false,
                        of_scores,
                        Matrix::new(&keys, end, width, width),
                    );
                    let queries = Matrix::new(&queries[start * width..], rows, width, width);
                    multiply(&mut of_keys, width, true, of_scores.transposed(), queries);
                }
                self.rotate_back(
                    &of_queries,
                    &mut of.queries[head * width..],
                    row,
                    self.scale(),
                );
            }
            self.rotate_back(&of_keys, &mut of.keys[kv_head * width..], kv_row, 1.0);
        }
    }
}

impl CustomOp3 for PackedAttention {
    fn name(&self) -> &'static str {
        "attention"
    }

    fn cpu_fwd(
        &self,
        queries: &CpuStorage,
        l1: &Layout,
        keys: &CpuStorage,
        l2: &Layout,
        values: &CpuStorage,
        l3: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (queries, keys, values) =
            (floats(queries, l1)?, floats(keys, l2)?, floats(values, l3)?);
        let mut out = vec![0.0; queries.len()];
        let inputs = self
            .split(queries, self.row())
            .into_iter()
            .zip(self.split(keys, self.kv_row()));
        let inputs = inputs.zip(self.split(values, self.kv_row()));
        let all: Vec<_> = inputs.zip(self.split_mut(&mut out, self.row())).collect();
        all.into_par_iter()
            .for_each(|(((queries, keys), values), out)| {
                self.forward(
                    &SequenceTensors {
                        queries,
                        keys,
                        values,
                    },
                    out,
                );
            });
        Ok((CpuStorage::F32(out), l1.shape().clone()))
    }

    fn bwd(
        &self,
        queries: &Tensor,
        keys: &Tensor,
        values: &Tensor,
        out: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let (row, kv_row) = (self.row(), self.kv_row());
        let of = with_floats(
            [queries, keys, values, out, grad],
            |[queries, keys, values, out, grad]| {
                let mut of = [
                    vec![0.0; queries.len()],
                    vec![0.0; keys.len()],
                    vec![0.0; values.len()],
                ];
                let [of_queries, of_keys, of_values] = &mut of;
                let inputs = self
                    .split(queries, row)
                    .into_iter()
                    .zip(self.split(keys, kv_row));
                let inputs = inputs.zip(self.split(values, kv_row));
                let results = self
                    .split_mut(of_queries, row)
                    .into_iter()
                    .zip(self.split_mut(of_keys, kv_row));
                let results = results.zip(self.split_mut(of_values, kv_row));
                let outputs = self.split(out, row).into_iter().zip(self.split(grad, row));
                let all: Vec<_> = inputs.zip(outputs).zip(results).collect();
                all.into_par_iter().for_each(
                    |((((queries, keys), values), (out, grad)), ((of_q, of_k), of_v))| {
                        let mut of = SequenceTensors {
                            queries: of_q,
                            keys: of_k,
                            values: of_v,
                        };
                        self.backward(
                            &SequenceTensors {
                                queries,
                                keys,
                                values,
                            },
                            out,
                            grad,
                            &mut of,
                        );
                    },
                );
                of
            },
        )?;
        let [of_queries, of_keys, of_values] = of;
        let tensor = |values: Vec<f32>, like: &Tensor| {
            Tensor::from_vec(values, like.shape(), like.device()).map(Some)
        };
        Ok((
            tensor(of_queries, queries)?,
            tensor(of_keys, keys)?,
            tensor(of_values, values)?,
        ))
    }
}
