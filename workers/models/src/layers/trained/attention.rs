//! Attention of BERT's blocks in training as one operation with a gradient: heads are read where they lie, and neither scores
//! nor their dropout are kept; going back computes them again.

use candle_core::{CpuStorage, CustomOp3, Layout, Result, Shape, Tensor, bail};
use rayon::prelude::*;

use super::super::dropout::DropoutMask;
use super::super::matrix::{Matrix, multiply};
use super::super::storage::{floats, with_floats};
use crate::kernels::elementary::exp;
use crate::kernels::normalise::sum;

/// What there is to attend.
#[derive(Clone, Copy, Debug)]
pub(crate) struct AttentionShape {
    pub(crate) heads: usize,
    /// Numbers of a head.
    pub(crate) width: usize,
}

/// `softmax(query key^T / sqrt(width) + mask) value` of each head, with dropout of its weights: queries `[B, n, heads * width]`,
/// keys and values `[B, m, heads * width]`, and a mask `[B, 1, 1 or n, m]`.
pub(crate) fn attend(
    [query, key, value]: [&Tensor; 3],
    shape: AttentionShape,
    mask: Option<&Tensor>,
    dropout: Option<DropoutMask>,
) -> Result<Tensor> {
    let (batch, queries, row) = query.dims3()?;
    let (_, keys, _) = key.dims3()?;
    if row != shape.heads * shape.width
        || [key, value]
            .iter()
            .any(|rows| rows.dims() != [batch, keys, row])
    {
        bail!(
            "{:?}, {:?} and {:?} for attention of {} heads",
            query.dims(),
            key.dims(),
            value.dims(),
            shape.heads
        );
    }
    let mask = match mask {
        None => None,
        Some(mask) => {
            let rows = mask.dim(2)?;
            let values = mask.broadcast_as((batch, 1, rows, keys))?.flatten_all()?;
            if rows != 1 && rows != queries {
                bail!("a mask of shape {:?} for {queries} queries", mask.dims());
            }
            Some(Mask {
                rows,
                values: values.to_vec1()?,
            })
        }
    };
    let op = Attention {
        shape,
        batch,
        queries,
        keys,
        mask,
        dropout,
    };
    query
        .contiguous()?
        .apply_op3(&key.contiguous()?, &value.contiguous()?, op)
}

struct Attention {
    shape: AttentionShape,
    batch: usize,
    queries: usize,
    keys: usize,
    mask: Option<Mask>,
    dropout: Option<DropoutMask>,
}

/// What is added to scores, `[B, rows, keys]`.
struct Mask {
    rows: usize,
    values: Vec<f32>,
}

/// Queries, keys and values of all heads.
#[derive(Clone, Copy)]
struct Operands<'a> {
    query: &'a [f32],
    key: &'a [f32],
    value: &'a [f32],
}

impl Attention {
    fn row(&self) -> usize {
        self.shape.heads * self.shape.width
    }

    /// One head of some rows a sample, as a matrix.
    fn head<'a>(&self, values: &'a [f32], rows: usize, index: usize) -> Matrix<'a> {
        let (sample, head) = (index / self.shape.heads, index % self.shape.heads);
        let start = sample * rows * self.row() + head * self.shape.width;
        Matrix::new(&values[start..], rows, self.shape.width, self.row())
    }

    /// A head's values of all pairs of a query and a key.
    fn pairs<'a>(&self, values: &'a [f32]) -> Matrix<'a> {
        Matrix::new(values, self.queries, self.keys, self.keys)
    }

    /// The softmax of a head's scores, `[queries, keys]`.
    fn weights(&self, operands: Operands<'_>, index: usize) -> Vec<f32> {
        let (queries, keys) = (self.queries, self.keys);
        let mut weights = vec![0f32; queries * keys];
        let (query, key) = (
            self.head(operands.query, queries, index),
            self.head(operands.key, keys, index),
        );
        multiply(&mut weights, keys, false, query, key.transposed());
        let scale = 1.0 / (self.shape.width as f32).sqrt();
        for (row, weights) in weights.chunks_exact_mut(keys.max(1)).enumerate() {
            match self.mask_row(index / self.shape.heads, row) {
                None => weights.iter_mut().for_each(|score| *score *= scale),
                Some(mask) => {
                    for (score, mask) in weights.iter_mut().zip(mask) {
                        *score = *score * scale + mask;
                    }
                }
            }
            let largest = weights.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            weights
                .iter_mut()
                .for_each(|score| *score = exp(*score - largest));
            let share = 1.0 / sum(weights, |weight| weight);
            weights.iter_mut().for_each(|weight| *weight *= share);
        }
        weights
    }

    fn mask_row(&self, sample: usize, row: usize) -> Option<&[f32]> {
        let mask = self.mask.as_ref()?;
        let row = if mask.rows == 1 { 0 } else { row };
        Some(&mask.values[(sample * mask.rows + row) * self.keys..][..self.keys])
    }

    /// Multiplies a head's values `[queries, keys]` with the factors of the dropout.
    fn drop_out(&self, values: &mut [f32], index: usize) {
        let Some(dropout) = &self.dropout else {
            return;
        };
        let first = (index * self.queries * self.keys) as u64;
        for (place, value) in (first..).zip(values) {
            *value *= dropout.value(place);
        }
    }

    fn forward(&self, operands: Operands<'_>, index: usize, out: &mut [f32]) {
        let mut weights = self.weights(operands, index);
        self.drop_out(&mut weights, index);
        let weights = self.pairs(&weights);
        let value = self.head(operands.value, self.keys, index);
        multiply(out, self.shape.width, false, weights, value);
    }

    /// Writes the gradients of a head's queries, keys and values, one behind the other.
    fn backward(&self, operands: Operands<'_>, gradient: &[f32], index: usize, of: &mut [f32]) {
        let (queries, keys, width) = (self.queries, self.keys, self.shape.width);
        let (of_query, rest) = of.split_at_mut(queries * width);
        let (of_key, of_value) = rest.split_at_mut(keys * width);
        let gradient = self.head(gradient, queries, index);
        let weights = self.weights(operands, index);
        let mut dropped = weights.clone();
        self.drop_out(&mut dropped, index);
        multiply(
            of_value,
            width,
            false,
            self.pairs(&dropped).transposed(),
            gradient,
        );
        let mut of_scores = dropped;
        let value = self.head(operands.value, keys, index);
        multiply(&mut of_scores, keys, false, gradient, value.transposed());
        self.drop_out(&mut of_scores, index);
        let scale = 1.0 / (width as f32).sqrt();
        let rows = of_scores
            .chunks_exact_mut(keys.max(1))
            .zip(weights.chunks_exact(keys.max(1)));
        for (of_scores, weights) in rows {
            for (of, weight) in of_scores.iter_mut().zip(weights) {
                *of *= weight;
            }
            let along = sum(of_scores, |value| value);
            for (of, weight) in of_scores.iter_mut().zip(weights) {
                *of = (*of - weight * along) * scale;
            }
        }
        let (query, key) = (
            self.head(operands.query, queries, index),
            self.head(operands.key, keys, index),
        );
        multiply(of_query, width, false, self.pairs(&of_scores), key);
        multiply(
            of_key,
            width,
            false,
            self.pairs(&of_scores).transposed(),
            query,
        );
    }

    /// Rows of samples, from parts of each head that lie `skipped` behind the beginning of their `size` numbers.
    fn joined(&self, heads: &[f32], size: usize, skipped: usize, rows: usize) -> Vec<f32> {
        let (count, width) = (self.shape.heads, self.shape.width);
        let mut result = vec![0f32; self.batch * rows * self.row()];
        result
            .par_chunks_exact_mut(self.row())
            .enumerate()
            .for_each(|(index, row)| {
                let (sample, index) = (index / rows, index % rows);
                for (head, target) in row.chunks_exact_mut(width).enumerate() {
                    let start = (sample * count + head) * size + skipped + index * width;
                    target.copy_from_slice(&heads[start..start + width]);
                }
            });
        result
    }
}

impl CustomOp3 for Attention {
    fn name(&self) -> &'static str {
        "attention in training"
    }

    fn cpu_fwd(
        &self,
        query: &CpuStorage,
        layout: &Layout,
        key: &CpuStorage,
        key_layout: &Layout,
        value: &CpuStorage,
        value_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let operands = Operands {
            query: floats(query, layout)?,
            key: floats(key, key_layout)?,
            value: floats(value, value_layout)?,
        };
        let size = self.queries * self.shape.width;
        let mut heads = vec![0f32; operands.query.len()];
        heads
            .par_chunks_exact_mut(size.max(1))
            .enumerate()
            .for_each(|(index, out)| self.forward(operands, index, out));
        let result = self.joined(&heads, size, 0, self.queries);
        Ok((CpuStorage::F32(result), layout.shape().clone()))
    }

    fn bwd(
        &self,
        query: &Tensor,
        key: &Tensor,
        value: &Tensor,
        _: &Tensor,
        gradient: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let (of_queries, of_keys) = (
            self.queries * self.shape.width,
            self.keys * self.shape.width,
        );
        let size = of_queries + 2 * of_keys;
        let all = [query, key, value, gradient];
        let heads = with_floats(all, |[query, key, value, gradient]| {
            let operands = Operands { query, key, value };
            let mut heads = vec![0f32; self.batch * self.shape.heads * size];
            heads
                .par_chunks_exact_mut(size.max(1))
                .enumerate()
                .for_each(|(index, of)| self.backward(operands, gradient, index, of));
            heads
        })?;
        let part = |skipped: usize, rows: usize, like: &Tensor| {
            let values = self.joined(&heads, size, skipped, rows);
            Tensor::from_vec(values, like.shape(), like.device()).map(Some)
        };
        Ok((
            part(0, self.queries, query)?,
            part(of_queries, self.keys, key)?,
            part(of_queries + of_keys, self.keys, value)?,
        ))
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{D, Device, Var};

    use super::super::super::Dropout;
    use super::*;
    use crate::layers::differences::worst;

    const SHAPE: AttentionShape = AttentionShape { heads: 3, width: 8 };

    fn wave(shape: &[usize], phase: f32) -> Var {
        let count = shape.iter().product();
        let values: Vec<f32> = (0..count)
            .map(|i: usize| 2.0 * (i as f32 * 0.73 + phase).sin())
            .collect();
        Var::from_tensor(&Tensor::from_vec(values, shape, &Device::Cpu).unwrap()).unwrap()
    }

    /// The same of the tensor library's operations.
    fn composed(operands: [&Tensor; 3], mask: Option<&Tensor>, dropout: &Dropout) -> Tensor {
        let [query, key, value] = operands.map(|rows| {
            let (batch, count, _) = rows.dims3().unwrap();
            let heads = rows.reshape((batch, count, SHAPE.heads, SHAPE.width));
            heads
                .unwrap()
                .transpose(1, 2)
                .unwrap()
                .contiguous()
                .unwrap()
        });
        let scale = 1.0 / (SHAPE.width as f64).sqrt();
        let scores = query.matmul(&key.t().unwrap().contiguous().unwrap());
        let mut scores = (scores.unwrap() * scale).unwrap();
        if let Some(mask) = mask {
            scores = scores.broadcast_add(mask).unwrap();
        }
        let weights = candle_nn::ops::softmax(&scores, D::Minus1).unwrap();
        let out = dropout.forward(&weights).unwrap().matmul(&value).unwrap();
        let out = out.transpose(1, 2).unwrap().contiguous().unwrap();
        out.reshape(operands[0].shape()).unwrap()
    }

    #[test]
    fn attention_and_its_gradients_agree_with_the_tensor_library() {
        let row = SHAPE.heads * SHAPE.width;
        let masks = [
            None,
            Some((wave(&[2, 1, 1, 21], 4.0).as_tensor() * -3.0).unwrap()),
            Some((wave(&[2, 1, 17, 21], 5.0).as_tensor() * -3.0).unwrap()),
        ];
        for (mask, rate) in masks.iter().zip([0.0, 0.0, 0.3]) {
            let variables = [
                wave(&[2, 17, row], 0.0),
                wave(&[2, 21, row], 1.0),
                wave(&[2, 21, row], 2.0),
            ];
            let operands = [&variables[0], &variables[1], &variables[2]].map(Var::as_tensor);
            let (ours, theirs) = (Dropout::new(rate, 3), Dropout::new(rate, 3));
            let found = attend(operands, SHAPE, mask.as_ref(), ours.draw()).unwrap();
            let expected = composed(operands, mask.as_ref(), &theirs);
            assert!(worst(&found, &expected) < 1e-5);
            let cotangent = wave(found.dims(), 3.0).as_detached_tensor();
            let [found, expected] =
                [found, expected].map(|result| (result * &cotangent).unwrap().backward().unwrap());
            for variable in &variables {
                let (found, expected) = (
                    found.get(variable).unwrap(),
                    expected.get(variable).unwrap(),
                );
                assert!(worst(found, expected) < 1e-4, "{:?}", variable.dims());
            }
        }
    }
}
