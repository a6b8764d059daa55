//! Products over the rows of two matrices: what a layer's weights get of a gradient and the layer's input. The rows may be
//! patches of a map, which are made a block at a time and never lie in memory as a whole.
//!
//! How sums are cut into parts follows from the shapes alone, so that the number of threads changes no bit.

use std::ops::Range;

use rayon::prelude::*;

use super::super::buffer::Buffer;
use super::super::cpu::Features;
use super::{Ahead, COLUMNS, Left, ROWS, Shared, Source, Tile, even_panels, f32_tiles, panels};

/// Rows that are multiplied before the next ones: a panel of them stays in the second-level cache.
const DEPTH: usize = 512;
/// Panels of columns that are packed together, at most: they fill a part of the second-level cache.
const GROUP: usize = 12;
/// Pieces of work that a product is cut into, about: groups of columns, and where these are few, parts of the rows.
const PIECES: usize = 16;
/// The least rows of a part.
const LEAST_ROWS: usize = 8 * DEPTH;
/// Numbers between rows of a packed left panel.
const STRIDE: usize = 16;

/// Computes `left^T right` for `left [count, outputs]` and `count` rows of `right`, into `result [outputs, width]`.
///
/// # Panics
/// Where slices have other lengths.
pub(crate) fn outer(
    features: Features,
    (left, outputs): (&[f32], usize),
    (right, width): (&impl Source, usize),
    result: &mut [f32],
) {
    let count = left.len() / outputs.max(1);
    assert!(
        left.len() == count * outputs && result.len() == outputs * width,
        "a product over {count} rows into {outputs} x {width} does not fit"
    );
    if result.is_empty() {
        return;
    }
    if count == 0 {
        result.fill(0.0);
        return;
    }
    let all = width.div_ceil(COLUMNS);
    let group = all.div_ceil(PIECES / 4).clamp(1, GROUP);
    let groups = all.div_ceil(group);
    let parts = PIECES
        .div_ceil(groups)
        .min(count.div_ceil(LEAST_ROWS))
        .max(1);
    let part_rows = count.div_ceil(parts);
    let parts = count.div_ceil(part_rows);
    let mut sums = Buffer::take(if parts > 1 { parts * result.len() } else { 0 });
    let size = result.len();
    let target = Shared(if parts > 1 {
        sums.as_mut_ptr()
    } else {
        result.as_mut_ptr()
    });
    (0..parts * groups)
        .into_par_iter()
        .with_max_len(1)
        .for_each(|index| {
            let (part, index) = (index / groups, index % groups);
            Piece {
                features,
                left,
                outputs,
                width,
                rows: part * part_rows..((part + 1) * part_rows).min(count),
                panels: index * group..((index + 1) * group).min(all),
                target: Shared(target.get().wrapping_add(part * size)),
            }
            .compute(right);
        });
    if parts > 1 {
        const PART: usize = 1 << 14;
        result
            .par_chunks_mut(PART)
            .enumerate()
            .for_each(|(index, result)| {
                let of_part = |part: usize| &sums[part * size + index * PART..][..result.len()];
                let mut total = [0f32; PART];
                let total = &mut total[..result.len()];
                for part in 0..parts {
                    for (total, sum) in total.iter_mut().zip(of_part(part)) {
                        *total += sum;
                    }
                }
                result.copy_from_slice(total);
            });
    }
}

/// Some rows and some panels of columns of a product.
struct Piece<'a> {
    features: Features,
    left: &'a [f32],
    outputs: usize,
    width: usize,
    rows: Range<usize>,
    panels: Range<usize>,
    target: Shared,
}

impl Piece<'_> {
    fn compute(&self, right: &impl Source) {
        let tiles = f32_tiles(self.features);
        let mut packed = Buffer::take(self.panels.len() * DEPTH * COLUMNS);
        let mut left = Buffer::take(DEPTH * STRIDE);
        let rows_of_tile = even_panels(self.outputs, ROWS);
        for start in self.rows.clone().step_by(DEPTH) {
            let rows = start..(start + DEPTH).min(self.rows.end);
            let blocks = packed.chunks_exact_mut(DEPTH * COLUMNS);
            for (panel, block) in self.panels.clone().zip(blocks) {
                let columns = panel * COLUMNS..((panel + 1) * COLUMNS).min(self.width);
                let block = &mut block[..rows.len() * COLUMNS];
                if columns.len() < COLUMNS {
                    block.fill(0.0);
                }
                right.pack(start, rows.len(), columns, block, COLUMNS);
            }
            for (first, outputs) in panels(0..self.outputs, rows_of_tile) {
                self.pack_left(rows.clone(), first..first + outputs, &mut left);
                for (panel, block) in self
                    .panels
                    .clone()
                    .zip(packed.chunks_exact(DEPTH * COLUMNS))
                {
                    let column = panel * COLUMNS;
                    let tile = Tile {
                        depth: rows.len(),
                        // The left matrix is read across its rows: each is a piece of its own.
                        left: Left {
                            values: left.as_ptr(),
                            stride: 1,
                            lines: rows.len(),
                            pitch: STRIDE,
                        },
                        right: block.as_ptr(),
                        target: self.target.get().wrapping_add(first * self.width + column),
                        stride: self.width,
                        columns: COLUMNS.min(self.width - column),
                        adds: start > self.rows.start,
                        bias: None,
                        residual: None,
                        relu: false,
                        ahead: [Ahead::nothing(block); 2],
                    };
                    #[expect(unsafe_code, reason = "a tile is given by pointers")]
                    // SAFETY: both packed panels have as many rows as the tile is deep; rows and columns lie within the
                    // part's sums, whose length was checked, and no other piece writes there.
                    unsafe {
                        tiles.compute(outputs, &tile);
                    }
                }
            }
        }
    }

    /// Some columns of the left matrix, so that they do not all lie in the same few places of the cache.
    fn pack_left(&self, rows: Range<usize>, columns: Range<usize>, target: &mut [f32]) {
        for (row, target) in rows.zip(target.chunks_exact_mut(STRIDE)) {
            let start = row * self.outputs + columns.start;
            // A fixed number is copied faster; what is too much is not read.
            match self.left.get(start..start + STRIDE) {
                Some(values) => target.copy_from_slice(values),
                None => target[..columns.len()]
                    .copy_from_slice(&self.left[start..start + columns.len()]),
            }
        }
    }
}
