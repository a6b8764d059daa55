//! Products of activations with weights that were packed when they were loaded, with bias, residual and activation applied
//! while a tile of the result is in registers or cache.
//!
//! Each number of the result is one chain of fused multiply-adds along the depth, from the first weight to the last. So
//! neither the number of rows nor how they are shared out to threads changes it, and all f32 kernels agree in every bit.

use std::ops::Range;

use rayon::prelude::*;

use super::buffer::Buffer;
use super::cpu::Features;
use super::elementary::gelu_row;

pub(crate) mod bf16;
mod outer;
mod packed;
mod source;
mod tile;

pub(crate) use outer::outer;
pub(crate) use packed::{PackedMatrix, Precision};
pub(crate) use source::{Dense, Source};
pub(crate) use tile::{Ahead, COLUMNS, Left, ROWS, Tile, Tiles, f32_tiles};

/// Rows that one thread takes at a time, at most: their panels fill a part of the second-level cache.
const BLOCK_ROWS: usize = 32 * ROWS;
/// The least rows for which a thread reads weights.
const LEAST_ROWS: usize = 14 * ROWS;
/// Bytes of weights that are multiplied with all rows before the next ones: they stay in the second-level cache.
const GROUP_BYTES: usize = 768 << 10;
/// Numbers by which the rows of a panel are longer than a block, so that they do not all lie in the same few places of the cache.
const GAP: usize = 16;
/// Pieces of work for each thread: enough that a thread which the system interrupts does not hold up the others for long.
const PIECES: usize = 4;

/// What is done to a product before it is stored.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Finish<'a> {
    /// Added to each row.
    pub(crate) bias: Option<&'a [f32]>,
    /// Added to the product, of its shape.
    pub(crate) residual: Option<&'a [f32]>,
    pub(crate) activation: Activation,
}

/// A function of each value, after the sums.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Activation {
    #[default]
    None,
    /// What is not a number stays, so that broken weights show.
    Relu,
    Gelu,
}

/// The address of a result that pieces of work write disjoint parts of.
#[derive(Clone, Copy)]
pub(crate) struct Shared(pub(crate) *mut f32);

#[expect(
    unsafe_code,
    reason = "threads write parts of one matrix that do not overlap"
)]
// SAFETY: whoever makes one says why the parts are disjoint.
unsafe impl Send for Shared {}
#[expect(unsafe_code, reason = "as above")]
// SAFETY: as above.
unsafe impl Sync for Shared {}

impl Shared {
    pub(crate) fn get(self) -> *mut f32 {
        self.0
    }
}

/// Computes rows `values` times `weights` into `result [rows, width]`, in the precision of the weights.
///
/// # Panics
/// Where slices have other lengths.
pub(crate) fn multiply_rows(
    values: &[f32],
    weights: &PackedMatrix,
    finish: Finish<'_>,
    result: &mut [f32],
) {
    multiply_rows_with(Features::detected(), values, weights, finish, result);
}

/// The same with these instructions.
pub(crate) fn multiply_rows_with(
    features: Features,
    values: &[f32],
    weights: &PackedMatrix,
    finish: Finish<'_>,
    result: &mut [f32],
) {
    let depth = weights.depth();
    let source = Dense { values, depth };
    assert_eq!(values.len(), source.rows() * depth, "rows of another width");
    match weights.precision() {
        Precision::F32 => multiply(features, &source, weights, finish, result),
        Precision::Bf16 => bf16::multiply(features, &source, weights, finish, result),
    }
}

/// Computes `rows` rows of `source` times f32 `weights` into `result [rows, width]`.
///
/// # Panics
/// Where slices have other lengths.
pub(crate) fn multiply(
    features: Features,
    source: &impl Source,
    weights: &PackedMatrix,
    finish: Finish<'_>,
    result: &mut [f32],
) {
    let shape = (source.rows(), source.even());
    share(features, weights, finish, shape, result, |piece| {
        piece.compute(source);
    });
}

/// Shares out a product of so many rows to threads, whole lines of `line` rows where there are some.
fn share(
    features: Features,
    weights: &PackedMatrix,
    finish: Finish<'_>,
    (rows, line): (usize, usize),
    result: &mut [f32],
    compute: impl Fn(&Piece<'_>) + Sync,
) {
    let width = weights.width();
    assert!(weights.depth() > 0, "a product of rows of nothing");
    assert!(
        result.len() == rows * width
            && finish.bias.is_none_or(|bias| bias.len() == width)
            && finish
                .residual
                .is_none_or(|residual| residual.len() == result.len()),
        "a product of {rows} rows of {width} does not fit"
    );
    if result.is_empty() {
        return;
    }
    let threads = rayon::current_num_threads();
    let least = rows
        .div_ceil(PIECES * threads)
        .clamp(LEAST_ROWS, BLOCK_ROWS);
    let block_rows = match rows.div_ceil(least) {
        1 => rows,
        blocks if line > rows => rows.div_ceil(blocks).next_multiple_of(ROWS),
        blocks => rows.div_ceil(blocks).next_multiple_of(line),
    };
    let blocks = rows.div_ceil(block_rows);
    let panels = width.div_ceil(COLUMNS);
    // With few rows, threads share out columns.
    let splits = if threads == 1 {
        1
    } else {
        (PIECES * threads).div_ceil(blocks).min(panels)
    };
    let split = panels.div_ceil(splits);
    let splits = panels.div_ceil(split);
    let target = Shared(result.as_mut_ptr());
    let part = |index: usize| index * split..((index + 1) * split).min(panels);
    let piece = |piece: usize| {
        // Neighbours share rows, so that a thread finds them in its cache.
        let (block, index) = (piece / splits, piece % splits);
        let first = block * block_rows;
        compute(&Piece {
            features,
            weights,
            finish,
            rows: first..(first + block_rows).min(rows),
            panels: part(index),
            next: part((index + 1) % splits),
            target,
        });
    };
    if threads == 1 || blocks * splits == 1 {
        (0..blocks * splits).for_each(piece);
    } else {
        (0..blocks * splits)
            .into_par_iter()
            .with_max_len(1)
            .for_each(piece);
    }
}

/// A part of the result: some rows, some panels of columns. Parts do not overlap.
struct Piece<'a> {
    features: Features,
    weights: &'a PackedMatrix,
    finish: Finish<'a>,
    rows: Range<usize>,
    panels: Range<usize>,
    /// Panels that are probably multiplied after these.
    next: Range<usize>,
    target: Shared,
}

/// Panels of rows that could not be read where they lay.
struct Packed {
    values: Buffer,
    /// Numbers of a panel.
    panel: usize,
    /// Numbers between its rows.
    stride: usize,
}

impl Piece<'_> {
    fn compute(&self, source: &impl Source) {
        let (depth, block) = (self.weights.depth(), self.weights.block_depth());
        let panels = line_panels(self.rows.clone(), source.even(), ROWS);
        let stride = block + GAP;
        let mut packed = Packed {
            values: Buffer::take(panels.len() * ROWS * stride),
            panel: ROWS * stride,
            stride,
        };
        for start in (0..depth).step_by(block.max(1)) {
            let entries = start..(start + block).min(depth);
            let group = (GROUP_BYTES / (entries.len() * COLUMNS * size_of::<f32>())).max(1);
            for first in self.panels.clone().step_by(group) {
                let columns = first..(first + group).min(self.panels.end);
                let next = if columns.end < self.panels.end {
                    let columns = columns.end..(columns.end + group).min(self.panels.end);
                    self.weights.blocks(start, entries.len(), columns)
                } else if entries.end < depth {
                    let count = block.min(depth - entries.end);
                    let columns = self.panels.start..(self.panels.start + group);
                    let columns = columns.start..columns.end.min(self.panels.end);
                    self.weights.blocks(entries.end, count, columns)
                } else {
                    let count = block.min(depth);
                    self.weights.blocks(0, count, self.next.clone())
                };
                self.compute_group(source, &panels, &mut packed, entries.clone(), columns, next);
            }
        }
        self.activate();
    }

    /// All rows times a block of some panels of columns; meanwhile `next`, what is read after them, comes into the cache.
    fn compute_group(
        &self,
        source: &impl Source,
        panels: &[(usize, usize)],
        packed: &mut Packed,
        entries: Range<usize>,
        columns: Range<usize>,
        next: &[f32],
    ) {
        let (depth, width) = (self.weights.depth(), self.weights.width());
        let tiles = f32_tiles(self.features);
        let (begins, last) = (entries.start == 0, entries.end == depth);
        let is_first_group = columns.start == self.panels.start;
        let parts = panels.len() * columns.len();
        for (index, &(first, rows)) in panels.iter().enumerate() {
            let left = match source.direct(first, entries.clone()) {
                Some(direct) => direct,
                None => {
                    let panel = &mut packed.values[index * packed.panel..][..packed.panel];
                    if is_first_group {
                        source.pack(first, rows, entries.clone(), panel, packed.stride);
                    }
                    Left::whole(panel, packed.stride)
                }
            };
            let rows_ahead = panels
                .get(index + 1)
                .filter(|_| begins && is_first_group)
                .and_then(|&(first, rows)| source.region(first, rows));
            for (part, panel) in columns.clone().enumerate() {
                let right = self.weights.block(entries.start, entries.len(), panel);
                let column = panel * COLUMNS;
                let place = first * width + column;
                let at = |values: &[f32], place: usize| values[place..].as_ptr();
                let tile = Tile {
                    depth: entries.len(),
                    left,
                    right: right.as_ptr(),
                    target: self.target.get().wrapping_add(place),
                    stride: width,
                    columns: COLUMNS.min(width - column),
                    adds: !begins,
                    bias: self
                        .finish
                        .bias
                        .filter(|_| last)
                        .map(|bias| at(bias, column)),
                    residual: self
                        .finish
                        .residual
                        .filter(|_| last)
                        .map(|values| at(values, place)),
                    relu: last && self.finish.activation == Activation::Relu,
                    ahead: [
                        rows_ahead.map_or(Ahead::nothing(right), |rows| {
                            Ahead::part(rows, part, columns.len(), entries.len())
                        }),
                        Ahead::part(next, index * columns.len() + part, parts, entries.len()),
                    ],
                };
                #[expect(unsafe_code, reason = "a tile is given by pointers")]
                // SAFETY: the left rows have so many entries, `left_stride` apart; the weights' block has as many rows of
                // `COLUMNS`; rows and columns lie within the result, whose length was checked, and no other piece writes
                // there.
                unsafe {
                    tiles.compute(rows, &tile);
                }
            }
        }
    }

    /// Applies what is no part of a tile.
    fn activate(&self) {
        if self.finish.activation != Activation::Gelu {
            return;
        }
        let width = self.weights.width();
        let columns = self.panels.start * COLUMNS..(self.panels.end * COLUMNS).min(width);
        for row in self.rows.clone() {
            let start = self.target.get().wrapping_add(row * width + columns.start);
            #[expect(unsafe_code, reason = "a part of a shared result")]
            // SAFETY: within the result, and no other piece has it.
            let values = unsafe { std::slice::from_raw_parts_mut(start, columns.len()) };
            gelu_row(self.features, values);
        }
    }
}

/// Rows of a panel, such that all panels are about as large and none has more than `most`.
pub(crate) fn even_panels(rows: usize, most: usize) -> usize {
    rows.div_ceil(rows.div_ceil(most).max(1)).max(1)
}

/// First row and number of rows of panels of at most `most`, that do not reach from one line of `line` rows into the next.
fn line_panels(rows: Range<usize>, line: usize, most: usize) -> Vec<(usize, usize)> {
    let mut all = Vec::new();
    let mut start = rows.start;
    while start < rows.end {
        let end = (start / line * line).saturating_add(line).min(rows.end);
        all.extend(panels(start..end, even_panels(end - start, most)));
        start = end;
    }
    all
}

/// First row and number of rows of each panel.
fn panels(rows: Range<usize>, panel: usize) -> impl Iterator<Item = (usize, usize)> {
    let end = rows.end;
    rows.step_by(panel)
        .map(move |first| (first, panel.min(end - first)))
}

#[cfg(test)]
pub(super) mod tests;
