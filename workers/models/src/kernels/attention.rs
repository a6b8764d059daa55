//! Attention of sequences to themselves or to others, head by head. The scores of a few rows lie in cache, as the panel that
//! the product with the values reads; they are never stored as a whole. Each sequence has its own length, so nothing is
//! computed for padding, and a sequence has the same bytes whatever is computed with it.

use std::ops::Range;

use rayon::prelude::*;

use super::buffer::Buffer;
use super::cpu::Features;
use super::elementary::exp;
use super::gemm::{Ahead, COLUMNS, Left, ROWS, Shared, Tile, Tiles, f32_tiles};

/// Keys whose values are summed before the next ones: their weights stay in the first-level cache.
const DEPTH: usize = 256;
/// Numbers between rows of weights: not a power of two, which would put all rows into the same places of the cache.
const STRIDE: usize = DEPTH + 16;

/// Rows of a sequence's tokens, and of what they attend to.
#[derive(Clone, Debug)]
pub(crate) struct Span {
    pub(crate) queries: Range<usize>,
    pub(crate) keys: Range<usize>,
}

/// Rows `[.., heads * width]` of queries, keys and values.
#[derive(Clone, Copy)]
pub(crate) struct Heads<'a> {
    pub(crate) query: &'a [f32],
    pub(crate) key: &'a [f32],
    pub(crate) value: &'a [f32],
    pub(crate) count: usize,
    /// Numbers of a row that a head has.
    pub(crate) width: usize,
}

/// Writes `softmax(query key^T / sqrt(width)) value` of each head and sequence, `[.., heads * width]`.
///
/// # Panics
/// Where spans lie beyond the rows, queries of spans overlap, or queries have no keys.
pub(crate) fn attend(heads: Heads<'_>, spans: &[Span], result: &mut [f32]) {
    attend_with(Features::detected(), heads, spans, result);
}

fn attend_with(features: Features, heads: Heads<'_>, spans: &[Span], result: &mut [f32]) {
    let row = heads.count * heads.width;
    let mut end = 0;
    for span in spans {
        assert!(span.queries.start >= end, "sequences overlap");
        end = span.queries.end;
        assert!(
            end * row <= result.len().min(heads.query.len())
                && span.keys.end * row <= heads.key.len().min(heads.value.len()),
            "a sequence lies beyond the rows"
        );
        assert!(
            !span.keys.is_empty() || span.queries.is_empty(),
            "a sequence attends to nothing"
        );
    }
    let target = Shared(result.as_mut_ptr());
    (0..spans.len() * heads.count)
        .into_par_iter()
        .with_max_len(1)
        .for_each(|index| {
            let (span, head) = (&spans[index / heads.count], index % heads.count);
            Head {
                features,
                tiles: f32_tiles(features),
                heads,
                head,
                span,
                target,
            }
            .compute();
        });
}

/// One head of one sequence.
struct Head<'a> {
    features: Features,
    tiles: Tiles,
    heads: Heads<'a>,
    head: usize,
    span: &'a Span,
    target: Shared,
}

impl Head<'_> {
    fn part<'a>(&self, rows: &'a [f32], row: usize) -> &'a [f32] {
        let Heads { count, width, .. } = self.heads;
        &rows[(row * count + self.head) * width..][..width]
    }

    fn compute(&self) {
        let (width, keys) = (self.heads.width, self.span.keys.len());
        let queries = self.span.queries.len();
        if queries == 0 {
            return;
        }
        let (key_panels, width_panels) = (keys.div_ceil(COLUMNS), width.div_ceil(COLUMNS));
        let mut turned = Buffer::take(key_panels * width * COLUMNS);
        self.turn_keys(&mut turned);
        let mut values = Buffer::take(keys * width_panels * COLUMNS);
        self.pack_values(&mut values);
        let blocks = keys.div_ceil(DEPTH);
        let mut scores = Buffer::take(blocks * ROWS * STRIDE);
        let query_blocks = width.div_ceil(DEPTH);
        let mut packed = Buffer::take(query_blocks * ROWS * STRIDE);
        let panel = queries.div_ceil(queries.div_ceil(ROWS));
        for first in self.span.queries.clone().step_by(panel) {
            let rows = panel.min(self.span.queries.end - first);
            for row in 0..rows {
                let query = self.part(self.heads.query, first + row);
                for (block, query) in query.chunks(DEPTH).enumerate() {
                    packed[(block * ROWS + row) * STRIDE..][..query.len()].copy_from_slice(query);
                }
            }
            for panel in 0..key_panels {
                let key = panel * COLUMNS;
                for block in 0..query_blocks {
                    let depth = DEPTH.min(width - block * DEPTH);
                    let right = &turned[(panel * width + block * DEPTH) * COLUMNS..];
                    let target = &mut scores[key / DEPTH * ROWS * STRIDE + key % DEPTH..];
                    let tile = Tile {
                        depth,
                        left: Left::whole(&packed[block * ROWS * STRIDE..], STRIDE),
                        right: right.as_ptr(),
                        target: target.as_mut_ptr(),
                        stride: STRIDE,
                        columns: COLUMNS.min(keys - key),
                        adds: block > 0,
                        bias: None,
                        residual: None,
                        relu: false,
                        ahead: [Ahead::nothing(right); 2],
                    };
                    #[expect(unsafe_code, reason = "a tile is given by pointers")]
                    // SAFETY: panels and buffers are as large as the tile says.
                    unsafe {
                        self.tiles.compute(rows, &tile);
                    }
                }
            }
            let scale = 1.0 / (width as f32).sqrt();
            let mut shares = [0f32; ROWS];
            for (row, share) in shares[..rows].iter_mut().enumerate() {
                *share = self.exponentials(&mut scores, row, keys, scale);
            }
            self.sum_values(&scores, &values, first, &shares[..rows]);
        }
    }

    /// Panels of keys, of which each row has one entry of [`COLUMNS`] keys.
    fn turn_keys(&self, turned: &mut [f32]) {
        let width = self.heads.width;
        for (index, row) in self.span.keys.clone().enumerate() {
            let start = index / COLUMNS * width * COLUMNS + index % COLUMNS;
            let target = turned[start..].iter_mut().step_by(COLUMNS);
            for (target, value) in target.zip(self.part(self.heads.key, row)) {
                *target = *value;
            }
        }
    }

    /// Panels of [`COLUMNS`] columns of the values.
    fn pack_values(&self, values: &mut [f32]) {
        let keys = self.span.keys.len();
        for (index, row) in self.span.keys.clone().enumerate() {
            for (panel, value) in self.part(self.heads.value, row).chunks(COLUMNS).enumerate() {
                values[(panel * keys + index) * COLUMNS..][..value.len()].copy_from_slice(value);
            }
        }
    }

    /// Makes exponentials of a row's scores; returns one over their sum.
    fn exponentials(&self, scores: &mut [f32], row: usize, keys: usize, scale: f32) -> f32 {
        let parts = || {
            (0..keys)
                .step_by(DEPTH)
                .map(|start| (start / DEPTH, DEPTH.min(keys - start)))
        };
        let mut largest = f32::NEG_INFINITY;
        for (block, count) in parts() {
            largest = largest.max(maximum(&scores[(block * ROWS + row) * STRIDE..][..count]));
        }
        let mut sum = 0.0;
        for (block, count) in parts() {
            let part = &mut scores[(block * ROWS + row) * STRIDE..][..count];
            sum += self.exponential(part, largest, scale);
        }
        1.0 / sum
    }

    fn exponential(&self, scores: &mut [f32], largest: f32, scale: f32) -> f32 {
        #[cfg(target_arch = "x86_64")]
        if self.features.avx512 {
            #[expect(unsafe_code, reason = "instructions that were found at run time")]
            // SAFETY: the processor has them.
            return unsafe { exponential_avx512(scores, largest, scale) };
        }
        exponential(scores, largest, scale)
    }

    /// Sums of the values of a few rows, from `first` on, times one over the sum of their weights.
    fn sum_values(&self, weights: &[f32], values: &[f32], first: usize, shares: &[f32]) {
        let Heads { count, width, .. } = self.heads;
        let (keys, stride) = (self.span.keys.len(), count * width);
        let place = first * stride + self.head * width;
        for column in (0..width).step_by(COLUMNS) {
            let columns = COLUMNS.min(width - column);
            for start in (0..keys).step_by(DEPTH) {
                let right = &values[(column / COLUMNS * keys + start) * COLUMNS..];
                let tile = Tile {
                    depth: DEPTH.min(keys - start),
                    left: Left::whole(&weights[start / DEPTH * ROWS * STRIDE..], STRIDE),
                    right: right.as_ptr(),
                    target: self.target.get().wrapping_add(place + column),
                    stride,
                    columns,
                    adds: start > 0,
                    bias: None,
                    residual: None,
                    relu: false,
                    ahead: [Ahead::nothing(right); 2],
                };
                #[expect(unsafe_code, reason = "a tile is given by pointers")]
                // SAFETY: panels are as large as the tile says; the rows lie in the result, and no other head or sequence
                // writes these columns of them.
                unsafe {
                    self.tiles.compute(shares.len(), &tile);
                }
            }
        }
        for (row, share) in shares.iter().enumerate() {
            #[expect(unsafe_code, reason = "a part of a shared result")]
            // SAFETY: as above.
            let values = unsafe {
                std::slice::from_raw_parts_mut(self.target.get().add(place + row * stride), width)
            };
            values.iter_mut().for_each(|value| *value *= share);
        }
    }
}

/// The largest of some values; what is not a number is left to the exponentials.
fn maximum(values: &[f32]) -> f32 {
    const LANES: usize = 16;
    let (chunks, rest) = values.as_chunks::<LANES>();
    let mut lanes = [f32::NEG_INFINITY; LANES];
    for chunk in chunks {
        for (lane, value) in lanes.iter_mut().zip(chunk) {
            *lane = if *value > *lane { *value } else { *lane };
        }
    }
    lanes
        .iter()
        .chain(rest)
        .copied()
        .fold(f32::NEG_INFINITY, f32::max)
}

/// Makes `exp((score - largest) * scale)` of each score; returns their sum, in an order that follows from their number.
#[inline(always)]
fn exponential(scores: &mut [f32], largest: f32, scale: f32) -> f32 {
    const LANES: usize = 16;
    let (chunks, rest) = scores.as_chunks_mut::<LANES>();
    let mut lanes = [0f32; LANES];
    for chunk in chunks {
        for (lane, score) in lanes.iter_mut().zip(chunk) {
            *score = exp((*score - largest) * scale);
            *lane += *score;
        }
    }
    let mut sum: f32 = lanes.iter().sum();
    for score in rest {
        *score = exp((*score - largest) * scale);
        sum += *score;
    }
    sum
}

/// # Safety
/// A processor with AVX-512.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
#[expect(unsafe_code, reason = "instructions that were found at run time")]
unsafe fn exponential_avx512(scores: &mut [f32], largest: f32, scale: f32) -> f32 {
    exponential(scores, largest, scale)
}

#[cfg(test)]
mod tests;
