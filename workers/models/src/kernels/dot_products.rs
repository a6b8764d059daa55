//! Dot products of many rows with many columns, each summed in [`LANES`] strided parts, in 512-bit vectors: two rows side by side in
//! a vector, so that the parts are those of 256-bit vectors and a sum has the same bits on any processor.
#![expect(
    unsafe_code,
    reason = "vector instructions that were found at run time, on places whose sizes are checked here"
)]

use std::arch::x86_64::{
    _mm256_castps_pd, _mm256_loadu_ps, _mm512_broadcast_f64x4, _mm512_castpd_ps, _mm512_fmadd_ps,
    _mm512_loadu_ps, _mm512_setzero_ps, _mm512_storeu_ps,
};

use rayon::prelude::*;

use super::buffer::Buffer;
use super::cpu::Features;

/// The parts of a sum.
pub(crate) const LANES: usize = 8;
/// Rows and columns of a tile: with two rows to a vector, 24 sums, which hide the latency of two units of fused multiply-adds.
const TILE: (usize, usize) = (8, 6);
/// Pairs of rows in a tile.
const PAIRS: usize = TILE.0 / 2;
/// Vectors of a tile's sums.
const SUMS: usize = PAIRS * TILE.1;
/// Fewer rows are faster one pair at a time.
const MANY: usize = 12;
/// Numbers in a vector.
const VECTOR: usize = 16;
/// Numbers of a lane that are worked on together: those of a tile's rows and columns stay in the nearest cache.
const BLOCK: usize = 64;

/// Rows, two side by side: by block, then tile of rows, then number of a lane, then pair of rows.
pub(crate) struct PairedRows {
    values: Buffer,
    count: usize,
    /// Numbers of a lane.
    steps: usize,
}

impl PairedRows {
    /// Whether a processor has the vectors, and so many rows pay for laying them out.
    pub(crate) fn pay(features: Features, count: usize) -> bool {
        features.avx512 && count >= MANY
    }

    /// Lays out rows of `inner` numbers. What is behind their last whole [`LANES`] is left out.
    pub(crate) fn new(x: &[f32], inner: usize) -> Self {
        let (count, steps) = (x.len() / inner, inner / LANES);
        let tiles = count.div_ceil(TILE.0);
        let mut values = Buffer::take(tiles * TILE.0 * LANES * steps);
        let blocks = values.par_chunks_mut(tiles * TILE.0 * LANES * BLOCK);
        blocks.enumerate().for_each(|(block, values)| {
            let steps = BLOCK.min(steps - block * BLOCK);
            let tiles = values.chunks_exact_mut(TILE.0 * LANES * steps);
            for (tile, values) in tiles.enumerate() {
                for (step, values) in values.chunks_exact_mut(TILE.0 * LANES).enumerate() {
                    let place = (block * BLOCK + step) * LANES;
                    for (row, values) in values.as_chunks_mut::<LANES>().0.iter_mut().enumerate() {
                        let row = tile * TILE.0 + row;
                        *values = match row < count {
                            true => x[row * inner + place..].as_chunks().0[0],
                            false => [0.0; LANES],
                        };
                    }
                }
            }
        });
        Self {
            values,
            count,
            steps,
        }
    }

    /// The sums of all rows with `columns` columns. `widen` writes so many numbers of a column from a place on; `finish` takes a row,
    /// a column and the parts of their sum.
    pub(crate) fn sums(
        &self,
        columns: usize,
        widen: impl Fn(usize, usize, &mut [f32]),
        mut finish: impl FnMut(usize, usize, &[f32; LANES]),
    ) {
        let (tiles, groups) = (self.count.div_ceil(TILE.0), columns.div_ceil(TILE.1));
        let mut sums = Buffer::take(groups * tiles * SUMS * VECTOR);
        sums.fill(0.0);
        let mut wide = Buffer::take(groups * TILE.1 * BLOCK * LANES);
        // Columns that are not there.
        wide.fill(0.0);
        for start in (0..self.steps).step_by(BLOCK) {
            let steps = BLOCK.min(self.steps - start);
            for column in 0..columns {
                let wide = &mut wide[column * BLOCK * LANES..][..steps * LANES];
                widen(column, start * LANES, wide);
            }
            let rows = &self.values[start * tiles * TILE.0 * LANES..];
            for (tile, rows) in rows
                .chunks_exact(TILE.0 * LANES * steps)
                .take(tiles)
                .enumerate()
            {
                for group in 0..groups {
                    let columns = &wide[group * TILE.1 * BLOCK * LANES..][..TILE.1 * BLOCK * LANES];
                    let sums = &mut sums[(group * tiles + tile) * SUMS * VECTOR..][..SUMS * VECTOR];
                    assert!(rows.len() == TILE.0 * LANES * steps && steps <= BLOCK);
                    // SAFETY: whoever lays out rows has the vectors; the lengths are those of the tile.
                    unsafe { add(steps, rows.as_ptr(), columns.as_ptr(), sums.as_mut_ptr()) };
                }
            }
        }
        for (index, sums) in sums.as_chunks::<LANES>().0.iter().enumerate() {
            let (part, half) = (index / 2 % SUMS, index % 2);
            let (group, tile) = (index / (2 * SUMS) / tiles, index / (2 * SUMS) % tiles);
            let row = tile * TILE.0 + part % PAIRS * 2 + half;
            let column = group * TILE.1 + part / PAIRS;
            if row < self.count && column < columns {
                finish(row, column, sums);
            }
        }
    }
}

/// Adds the products of a tile's rows and columns to its sums `[TILE.1, PAIRS, 2, LANES]`.
///
/// # Safety
/// A processor with AVX-512; rows `[steps, TILE.0, LANES]`, and columns `[TILE.1, BLOCK, LANES]` of which so many steps are read.
#[target_feature(enable = "avx512f")]
unsafe fn add(steps: usize, rows: *const f32, columns: *const f32, sums: *mut f32) {
    // SAFETY: the caller's.
    unsafe {
        let mut totals = [[_mm512_setzero_ps(); PAIRS]; TILE.1];
        for (part, total) in totals.as_flattened_mut().iter_mut().enumerate() {
            *total = _mm512_loadu_ps(sums.add(part * VECTOR));
        }
        for step in 0..steps {
            let rows = rows.add(step * TILE.0 * LANES);
            let mut entries = [_mm512_setzero_ps(); PAIRS];
            for (pair, entries) in entries.iter_mut().enumerate() {
                *entries = _mm512_loadu_ps(rows.add(pair * VECTOR));
            }
            for (column, totals) in totals.iter_mut().enumerate() {
                let weights = _mm256_loadu_ps(columns.add((column * BLOCK + step) * LANES));
                let weights = _mm512_castpd_ps(_mm512_broadcast_f64x4(_mm256_castps_pd(weights)));
                for (total, entries) in totals.iter_mut().zip(entries) {
                    *total = _mm512_fmadd_ps(entries, weights, *total);
                }
            }
        }
        for (part, total) in totals.as_flattened().iter().enumerate() {
            _mm512_storeu_ps(sums.add(part * VECTOR), *total);
        }
    }
}
