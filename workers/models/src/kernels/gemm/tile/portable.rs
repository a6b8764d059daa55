//! Tiles for any processor, in a form that the compiler makes vector instructions of: six rows of sixteen columns fill the
//! registers of AVX2.
#![expect(unsafe_code, reason = "a tile is given by pointers")]

use super::{COLUMNS, Left, Tile, Tiles};
use crate::kernels::elementary::fused;

/// Columns of a part of a tile.
const PART: usize = 16;

pub(super) const TILES: Tiles = Tiles::new([
    tile::<1>, tile::<2>, tile::<3>, tile::<4>, tile::<5>, tile::<6>, tile::<7>, tile::<8>,
    tile::<9>, tile::<10>, tile::<11>, tile::<12>, tile::<13>, tile::<14>,
]);

/// # Safety
/// As [`Tiles::compute`].
unsafe fn tile<const ROWS: usize>(tile: &Tile) {
    // SAFETY: the caller's.
    unsafe {
        let mut row = 0;
        while row + 6 <= ROWS {
            rows::<6>(tile, row);
            row += 6;
        }
        while row + 2 <= ROWS {
            rows::<2>(tile, row);
            row += 2;
        }
        if row < ROWS {
            rows::<1>(tile, row);
        }
    }
}

/// Some rows of a tile, from `first` on.
unsafe fn rows<const ROWS: usize>(tile: &Tile, first: usize) {
    for part in (0..tile.columns).step_by(PART) {
        // SAFETY: the caller's.
        unsafe { part_of::<ROWS>(tile, first, part) }
    }
}

unsafe fn part_of<const ROWS: usize>(tile: &Tile, first: usize, part: usize) {
    let columns = PART.min(tile.columns - part);
    // SAFETY: the caller's; rows and columns are those of the tile.
    unsafe {
        let mut sums = [[0f32; PART]; ROWS];
        let place = |row: usize| (first + row) * tile.stride + part;
        if tile.adds {
            for (row, sums) in sums.iter_mut().enumerate() {
                for (column, sum) in sums[..columns].iter_mut().enumerate() {
                    *sum = *tile.target.add(place(row) + column);
                }
            }
        }
        let Left {
            values,
            stride,
            lines,
            pitch,
        } = tile.left;
        let left = values.add(first * stride);
        let entries = tile.depth / lines;
        for line in 0..lines {
            let left = left.add(line * pitch);
            let right = tile.right.add(line * entries * COLUMNS + part);
            for place in 0..entries {
                let right = &*right.add(place * COLUMNS).cast::<[f32; PART]>();
                for (row, sums) in sums.iter_mut().enumerate() {
                    let entry = *left.add(row * stride + place);
                    for (sum, weight) in sums.iter_mut().zip(right) {
                        *sum = fused(entry, *weight, *sum);
                    }
                }
            }
        }
        for (row, sums) in sums.iter().enumerate() {
            for (column, sum) in sums[..columns].iter().enumerate() {
                let mut value = *sum;
                if let Some(bias) = tile.bias {
                    value += *bias.add(part + column);
                }
                if let Some(residual) = tile.residual {
                    value += *residual.add(place(row) + column);
                }
                if tile.relu && value < 0.0 {
                    value = 0.0;
                }
                *tile.target.add(place(row) + column) = value;
            }
        }
    }
}
