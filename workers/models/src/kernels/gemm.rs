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

mod bf16;
mod packed;
mod tile;

pub(crate) use packed::{PackedMatrix, Precision};
pub(crate) use tile::{COLUMNS, DEPTH, ROWS, STRIDE, Tile, Tiles, f32_tiles};

/// Rows that one thread takes at a time: their panels fill a part of the second-level cache.
const BLOCK_ROWS: usize = 32 * ROWS;
/// Pieces of work for each thread: enough that a thread which the system interrupts does not hold up the others for long.
const PIECES: usize = 4;

/// The left matrix of a product, whose rows are made when they are needed.
pub(crate) trait Source: Sync {
    /// Writes entries `depth` of consecutive rows from `first` on, each row `stride` behind the one before.
    fn pack(
        &self,
        first: usize,
        rows: usize,
        depth: Range<usize>,
        panel: &mut [f32],
        stride: usize,
    );
}

/// A matrix that lies in memory row by row.
pub(crate) struct Dense<'a> {
    pub(crate) values: &'a [f32],
    /// Numbers of a row.
    pub(crate) depth: usize,
}

impl Source for Dense<'_> {
    fn pack(
        &self,
        first: usize,
        rows: usize,
        depth: Range<usize>,
        panel: &mut [f32],
        stride: usize,
    ) {
        for (row, target) in (first..first + rows).zip(panel.chunks_mut(stride)) {
            let start = row * self.depth;
            target[..depth.len()]
                .copy_from_slice(&self.values[start + depth.start..start + depth.end]);
        }
    }
}

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

/// Computes `rows` rows of `source` times `weights` into `result [rows, width]`.
///
/// # Panics
/// Where slices have other lengths.
pub(crate) fn multiply(
    source: &impl Source,
    weights: &PackedMatrix,
    finish: Finish<'_>,
    result: &mut [f32],
) {
    multiply_with(Features::detected(), source, weights, finish, result);
}

pub(crate) fn multiply_with(
    features: Features,
    source: &impl Source,
    weights: &PackedMatrix,
    finish: Finish<'_>,
    result: &mut [f32],
) {
    let width = weights.width();
    let rows = result.len() / width;
    assert!(
        result.len() == rows * width
            && finish.bias.is_none_or(|bias| bias.len() == width)
            && finish
                .residual
                .is_none_or(|residual| residual.len() == result.len()),
        "a product of {rows} rows of {width} does not fit"
    );
    if rows == 0 {
        return;
    }
    let threads = rayon::current_num_threads();
    let blocks = rows.div_ceil(BLOCK_ROWS);
    let block_rows = rows.div_ceil(blocks).next_multiple_of(2);
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
    let piece = |piece: usize| {
        // Neighbours share rows, so that a thread finds them in its cache.
        let (block, part) = (piece / splits, piece % splits);
        let first = block * block_rows;
        let work = Piece {
            features,
            weights,
            finish,
            rows: first..(first + block_rows).min(rows),
            panels: part * split..((part + 1) * split).min(panels),
            target,
        };
        work.compute(source);
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
    target: Shared,
}

impl Piece<'_> {
    fn compute(&self, source: &impl Source) {
        match self.weights.precision() {
            Precision::F32 => self.compute_f32(source),
            Precision::Bf16 => bf16::compute(self, source),
        }
    }

    fn compute_f32(&self, source: &impl Source) {
        let (depth, width) = (self.weights.depth(), self.weights.width());
        let tiles = f32_tiles(self.features);
        let panel_rows = even_panels(self.rows.len(), ROWS);
        let panels: Vec<(usize, usize)> = panels(self.rows.clone(), panel_rows).collect();
        let mut packed = Buffer::take(panels.len() * panel_rows * STRIDE);
        for (index, start) in (0..depth).step_by(DEPTH).enumerate() {
            let count = DEPTH.min(depth - start);
            for (&(first, rows), panel) in panels
                .iter()
                .zip(packed.chunks_exact_mut(panel_rows * STRIDE))
            {
                source.pack(first, rows, start..start + count, panel, STRIDE);
            }
            let last = start + count == depth;
            for panel in self.panels.clone() {
                let right = self.weights.block(start, count, panel);
                let column = panel * COLUMNS;
                for (&(first, rows), left) in
                    panels.iter().zip(packed.chunks_exact(panel_rows * STRIDE))
                {
                    let place = first * width + column;
                    let at = |values: &[f32], place: usize| values[place..].as_ptr();
                    let tile = Tile {
                        depth: count,
                        left: left.as_ptr(),
                        right: right.as_ptr(),
                        target: self.target.get().wrapping_add(place),
                        stride: width,
                        columns: COLUMNS.min(width - column),
                        adds: index > 0,
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
                    };
                    #[expect(unsafe_code, reason = "a tile is given by pointers")]
                    // SAFETY: the panel has `rows` rows of `count` entries, `STRIDE` apart; the weights' block has `count`
                    // rows of `COLUMNS`; rows and columns lie within the result, whose length was checked, and no other
                    // piece writes there.
                    unsafe {
                        tiles.compute(rows, &tile);
                    }
                }
            }
        }
        self.activate();
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
fn even_panels(rows: usize, most: usize) -> usize {
    rows.div_ceil(rows.div_ceil(most).max(1)).max(1)
}

/// First row and number of rows of each panel.
fn panels(rows: Range<usize>, panel: usize) -> impl Iterator<Item = (usize, usize)> {
    let end = rows.end;
    rows.step_by(panel)
        .map(move |first| (first, panel.min(end - first)))
}

#[cfg(test)]
mod tests;
