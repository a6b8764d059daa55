//! Products of numbers that are rounded to bf16, with sums in f32: tiles of 32 rows and 32 columns.
//!
//! A panel of weights is a series of squares, 32 rows by 32 columns, in two halves of 16 columns each; in a half, two
//! rows lie side by side, column by column, as the instructions for bf16 take them.

use half::bf16;

use super::tile::COLUMNS;
use super::{Activation, Finish, Piece, Source, even_panels, panels};
use crate::kernels::buffer::Buffer;
use crate::kernels::cpu::Features;

#[cfg(target_arch = "x86_64")]
mod x86;

/// Rows of a tile.
pub(super) const ROWS: usize = 32;
/// Entries of a row that are multiplied before the next panel; a multiple of [`SQUARE`].
const DEPTH: usize = 512;
/// The depth is filled up with zeros to a multiple of this.
pub(super) const SQUARE: usize = 32;
/// Numbers between the rows of a panel: not a power of two, which would put all rows into the same places of the cache.
pub(super) const STRIDE: usize = DEPTH + 32;
/// bf16 in the place of an f32.
const PAIR: usize = 2;

/// Weights `[depth, width]` as a buffer of bf16.
pub(super) fn pack(depth: usize, width: usize, entry: impl Fn(usize, usize) -> f32) -> Buffer {
    let (panel_count, padded) = (width.div_ceil(COLUMNS), depth.next_multiple_of(SQUARE));
    let mut values = Buffer::zeroed(padded * panel_count * COLUMNS / PAIR);
    let target = halves_mut(&mut values);
    for start in (0..padded).step_by(DEPTH) {
        let count = DEPTH.min(padded - start);
        for panel in 0..panel_count {
            let block =
                &mut target[(start * panel_count + panel * count) * COLUMNS..][..count * COLUMNS];
            for row in start..(start + count).min(depth) {
                for column in panel * COLUMNS..((panel + 1) * COLUMNS).min(width) {
                    block[place(row - start, column % COLUMNS)] =
                        bf16::from_f32(entry(row, column)).to_bits();
                }
            }
        }
    }
    values
}

/// Where the entry of a row and a column lies in a panel's block.
fn place(row: usize, column: usize) -> usize {
    let (square, row) = (row / SQUARE, row % SQUARE);
    square * SQUARE * COLUMNS + column / 16 * SQUARE * 16 + row / 2 * 32 + column % 16 * 2 + row % 2
}

/// See `Piece::compute`.
pub(super) fn compute(piece: &Piece<'_>, source: &impl Source) {
    let (depth, width) = (piece.weights.depth(), piece.weights.width());
    let (padded, panel_count) = (depth.next_multiple_of(SQUARE), width.div_ceil(COLUMNS));
    let weights = halves(piece.weights.values());
    let panel_rows = even_panels(piece.rows.len(), ROWS);
    let row_panels: Vec<(usize, usize)> = panels(piece.rows.clone(), panel_rows).collect();
    let mut packed = Buffer::take(row_panels.len() * ROWS * STRIDE / PAIR);
    let mut rows_of_f32 = Buffer::take(ROWS * STRIDE);
    let mut sums = Buffer::take(ROWS * COLUMNS);
    let tiles = Bf16Tiles::new(piece.features);
    for start in (0..padded).step_by(DEPTH) {
        let count = DEPTH.min(padded - start);
        let real = start..(start + count).min(depth);
        for (&(first, rows), panel) in row_panels
            .iter()
            .zip(halves_mut(&mut packed).chunks_exact_mut(ROWS * STRIDE))
        {
            source.pack(first, rows, real.clone(), &mut rows_of_f32, STRIDE);
            for (row, panel) in rows_of_f32
                .chunks(STRIDE)
                .zip(panel.chunks_exact_mut(STRIDE))
                .take(rows)
            {
                tiles.round(&row[..real.len()], &mut panel[..count]);
            }
        }
        let last = start + count == padded;
        for panel in piece.panels.clone() {
            let right =
                &weights[(start * panel_count + panel * count) * COLUMNS..][..count * COLUMNS];
            let columns = panel * COLUMNS..((panel + 1) * COLUMNS).min(width);
            for (&(first, rows), left) in row_panels
                .iter()
                .zip(halves(&packed).chunks_exact(ROWS * STRIDE))
            {
                let adds = start > 0;
                if adds {
                    for (row, sums) in sums.chunks_exact_mut(COLUMNS).take(rows).enumerate() {
                        sums[..columns.len()].copy_from_slice(target(
                            piece,
                            first + row,
                            columns.clone(),
                        ));
                    }
                }
                tiles.compute(rows, left, right, adds, &mut sums);
                for (row, sums) in sums.chunks_exact(COLUMNS).take(rows).enumerate() {
                    let row = first + row;
                    let target = target(piece, row, columns.clone());
                    let start = row * width + columns.start;
                    let finish = Finish {
                        bias: piece
                            .finish
                            .bias
                            .filter(|_| last)
                            .map(|bias| &bias[columns.clone()]),
                        residual: piece
                            .finish
                            .residual
                            .filter(|_| last)
                            .map(|all| &all[start..][..target.len()]),
                        activation: if last {
                            piece.finish.activation
                        } else {
                            Activation::None
                        },
                    };
                    tiles.store(sums, finish, target);
                }
            }
        }
    }
    piece.activate();
}

/// A part of a row of the result.
#[expect(clippy::mut_from_ref, reason = "a part of a shared result")]
fn target<'a>(piece: &'a Piece<'_>, row: usize, columns: std::ops::Range<usize>) -> &'a mut [f32] {
    let start = piece
        .target
        .get()
        .wrapping_add(row * piece.weights.width() + columns.start);
    #[expect(unsafe_code, reason = "a part of a shared result")]
    // SAFETY: rows and columns are those of the piece, which no other piece has, and one such part is used at a time.
    unsafe {
        std::slice::from_raw_parts_mut(start, columns.len())
    }
}

/// The kernels that a processor has for bf16.
struct Bf16Tiles {
    #[cfg(target_arch = "x86_64")]
    amx: Option<x86::Configured>,
    #[cfg_attr(not(target_arch = "x86_64"), expect(dead_code, reason = "x86 only"))]
    features: Features,
}

impl Bf16Tiles {
    fn new(features: Features) -> Self {
        Self {
            #[cfg(target_arch = "x86_64")]
            amx: features.amx_bf16.then(x86::Configured::new),
            features,
        }
    }

    /// Rounds a row; what it lacks to the target's length is zero.
    fn round(&self, row: &[f32], target: &mut [u16]) {
        let (rounded, rest) = target.split_at_mut(row.len());
        rest.fill(0);
        #[cfg(target_arch = "x86_64")]
        if self.features.avx512_bf16 {
            #[expect(unsafe_code, reason = "instructions that were found at run time")]
            // SAFETY: the processor has them.
            unsafe {
                x86::round(row, rounded);
            }
            return;
        }
        for (target, value) in rounded.iter_mut().zip(row) {
            *target = bf16::from_f32(*value).to_bits();
        }
    }

    /// Computes rows of `left`, `STRIDE` apart, times a panel's block, into `sums [ROWS, COLUMNS]`.
    fn compute(&self, rows: usize, left: &[u16], right: &[u16], adds: bool, sums: &mut [f32]) {
        assert!(left.len() >= ROWS * STRIDE && sums.len() >= ROWS * COLUMNS);
        assert!(right.len() <= DEPTH * COLUMNS);
        #[cfg(target_arch = "x86_64")]
        if let Some(amx) = &self.amx {
            amx.compute(rows, left, right, adds, sums);
            return;
        }
        #[cfg(target_arch = "x86_64")]
        if self.features.avx512_bf16 {
            #[expect(unsafe_code, reason = "instructions that were found at run time")]
            // SAFETY: the processor has them, and lengths were checked.
            unsafe {
                x86::dot_products(rows, left, right, adds, sums);
            }
            return;
        }
        widened(rows, left, right, adds, sums);
    }

    /// Stores a row of sums with what is done to it.
    fn store(&self, sums: &[f32], finish: Finish<'_>, target: &mut [f32]) {
        #[cfg(target_arch = "x86_64")]
        if self.features.avx512 {
            #[expect(unsafe_code, reason = "instructions that were found at run time")]
            // SAFETY: the processor has them.
            unsafe {
                x86::store(sums, finish, target);
            }
            return;
        }
        store(sums, finish, target);
    }
}

/// See [`Bf16Tiles::store`].
#[inline(always)]
pub(super) fn store(sums: &[f32], finish: Finish<'_>, target: &mut [f32]) {
    target.copy_from_slice(&sums[..target.len()]);
    if let Some(bias) = finish.bias {
        target
            .iter_mut()
            .zip(bias)
            .for_each(|(value, bias)| *value += bias);
    }
    if let Some(residual) = finish.residual {
        target
            .iter_mut()
            .zip(residual)
            .for_each(|(value, residual)| *value += residual);
    }
    if finish.activation == Activation::Relu {
        target
            .iter_mut()
            .for_each(|value| *value = if *value < 0.0 { 0.0 } else { *value });
    }
}

/// The same in f32, for processors that know no bf16.
fn widened(rows: usize, left: &[u16], right: &[u16], adds: bool, sums: &mut [f32]) {
    let depth = right.len() / COLUMNS;
    for (left, sums) in left
        .chunks_exact(STRIDE)
        .zip(sums.chunks_exact_mut(COLUMNS))
        .take(rows)
    {
        if !adds {
            sums.fill(0.0);
        }
        for (row, entry) in left[..depth].iter().enumerate() {
            let entry = bf16::from_bits(*entry).to_f32();
            for (column, sum) in sums.iter_mut().enumerate() {
                *sum += entry * bf16::from_bits(right[place(row, column)]).to_f32();
            }
        }
    }
}

/// A buffer as what it has of bf16.
fn halves(values: &[f32]) -> &[u16] {
    #[expect(unsafe_code, reason = "two bf16 in the place of an f32")]
    // SAFETY: bf16 has half the size and alignment of f32, and every bit pattern is one.
    unsafe {
        std::slice::from_raw_parts(values.as_ptr().cast(), values.len() * PAIR)
    }
}

fn halves_mut(values: &mut [f32]) -> &mut [u16] {
    #[expect(unsafe_code, reason = "two bf16 in the place of an f32")]
    // SAFETY: as above.
    unsafe {
        std::slice::from_raw_parts_mut(values.as_mut_ptr().cast(), values.len() * PAIR)
    }
}
