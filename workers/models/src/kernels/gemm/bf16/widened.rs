//! Products of bf16 for processors that know none: numbers are widened, a part of the depth at a time, for the kernels of f32. A
//! product of two bf16 is exact in f32, so that a sum is rounded as by one that multiplies bf16 and adds in this order.
#![expect(unsafe_code, reason = "rows are given by pointers")]

use half::bf16;

use super::super::tile::{Ahead, Tile, Tiles, f32_tiles};
use super::{COLUMNS, Left, ROWS, SQUARE};
use crate::kernels::buffer::Buffer;
use crate::kernels::cpu::Features;

/// Entries of the depth that are widened before they are multiplied: with [`ROWS`] rows and [`COLUMNS`] columns they stay in the
/// second-level cache.
const DEPTH: usize = 256;
/// Rows of a tile: a multiple of those that fill the registers of the portable kernels.
const TILE_ROWS: usize = 12;
/// Columns of a half of a square.
const HALF: usize = COLUMNS / 2;

/// The kernels of f32, and what is widened for them.
pub(super) struct Widened {
    tiles: Tiles,
    /// `[ROWS, DEPTH]`.
    left: Buffer,
    /// `[DEPTH, COLUMNS]`.
    right: Buffer,
}

impl Widened {
    pub(super) fn new(features: Features) -> Self {
        Self {
            tiles: f32_tiles(features),
            left: Buffer::take(ROWS * DEPTH),
            right: Buffer::take(DEPTH * COLUMNS),
        }
    }

    /// See `Bf16Tiles::compute`, which checks the lengths.
    ///
    /// # Safety
    /// As there.
    pub(super) unsafe fn compute(
        &mut self,
        rows: usize,
        left: Left<u16>,
        right: &[u16],
        sums: &mut [f32],
    ) {
        // Squares of a line of the left rows.
        let line = right.len() / (SQUARE * COLUMNS) / left.lines;
        for (part, right) in right.chunks(DEPTH * COLUMNS).enumerate() {
            for (index, square) in right.chunks_exact(SQUARE * COLUMNS).enumerate() {
                let target = &mut self.right[index * SQUARE * COLUMNS..][..SQUARE * COLUMNS];
                widen_square(square, target);
                let square = part * (DEPTH / SQUARE) + index;
                let start = square / line * left.pitch + square % line * SQUARE;
                for row in 0..rows {
                    // SAFETY: the caller's: the row has this square of entries.
                    let entries = unsafe {
                        let place = left.values.add(row * left.stride + start);
                        std::slice::from_raw_parts(place, SQUARE)
                    };
                    let target = &mut self.left[row * DEPTH + index * SQUARE..][..SQUARE];
                    for (target, entry) in target.iter_mut().zip(entries) {
                        *target = bf16::from_bits(*entry).to_f32();
                    }
                }
            }
            for first in (0..rows).step_by(TILE_ROWS) {
                let tile = Tile {
                    depth: right.len() / COLUMNS,
                    left: Left::whole(&self.left[first * DEPTH..], DEPTH),
                    right: self.right.as_ptr(),
                    target: sums[first * COLUMNS..].as_mut_ptr(),
                    stride: COLUMNS,
                    columns: COLUMNS,
                    adds: part > 0,
                    bias: None,
                    residual: None,
                    relu: false,
                    ahead: [Ahead::nothing(&self.right); 2],
                };
                // SAFETY: what was widened has so many rows and entries, and the sums are a whole tile's.
                unsafe {
                    self.tiles.compute(TILE_ROWS.min(rows - first), &tile);
                }
            }
        }
    }
}

/// A square of weights, as `super::pack` writes it, to `[SQUARE, COLUMNS]`.
fn widen_square(square: &[u16], target: &mut [f32]) {
    for (half, square) in square.chunks_exact(SQUARE * HALF).enumerate() {
        let pairs = square.chunks_exact(2 * HALF);
        for (pair, rows) in pairs.zip(target.chunks_exact_mut(2 * COLUMNS)) {
            let (even, odd) = rows.split_at_mut(COLUMNS);
            let columns = half * HALF..(half + 1) * HALF;
            let targets = even[columns.clone()].iter_mut().zip(&mut odd[columns]);
            for ((even, odd), pair) in targets.zip(pair.as_chunks::<2>().0) {
                *even = bf16::from_bits(pair[0]).to_f32();
                *odd = bf16::from_bits(pair[1]).to_f32();
            }
        }
    }
}
