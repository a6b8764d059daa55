//! Products of numbers that are rounded to bf16, with sums in f32: tiles of 32 rows and 32 columns.
//!
//! A panel of weights is a series of squares, 32 rows by 32 columns, in two halves of 16 columns each; in a half, two
//! rows lie side by side, column by column, as the instructions for bf16 take them.

use std::ops::Range;

use half::bf16;

use super::tile::COLUMNS;
use super::{Activation, Dense, Finish, Left, PackedMatrix, Piece, line_panels, share};
use crate::kernels::buffer::Buffer;
use crate::kernels::cpu::Features;

mod widened;
#[cfg(target_arch = "x86_64")]
mod x86;

/// Rows of a tile.
pub(crate) const ROWS: usize = 32;
/// The depth is filled up with zeros to a multiple of this.
pub(crate) const SQUARE: usize = 32;
/// bf16 in the place of an f32.
const PAIR: usize = 2;
/// Bytes of weights that are multiplied with all rows before the next ones; see `super::GROUP_BYTES`.
const GROUP_BYTES: usize = 512 << 10;
/// Bytes that caches move at a time.
const CACHE_LINE: usize = 64;

/// The left matrix of a product, whose rows are made when they are needed.
///
/// # Safety
/// What [`Source::direct`] says lies in memory, for all of [`Source::rows`] and as long as the source is borrowed, and is not
/// written meanwhile; what lies behind the last row can be read as if there were rows to the end of a tile.
#[expect(unsafe_code, reason = "kernels read rows by pointers")]
pub(crate) unsafe trait Source: Sync {
    /// The number of rows.
    fn rows(&self) -> usize;

    /// Rows from `first` on as they lie in memory; none where they must be packed.
    fn direct(&self, _first: usize) -> Option<Left<u16>> {
        None
    }

    /// Rows are evenly apart within so many.
    fn even(&self) -> usize {
        usize::MAX
    }

    /// Writes consecutive rows from `first` on, each `stride` behind the one before and filled up with zeros to a multiple of
    /// [`SQUARE`].
    fn pack(&self, features: Features, first: usize, rows: usize, panel: &mut [u16], stride: usize);
}

#[expect(unsafe_code, reason = "as the trait says")]
// SAFETY: all rows are packed.
unsafe impl Source for Dense<'_> {
    fn rows(&self) -> usize {
        self.rows()
    }

    fn pack(
        &self,
        features: Features,
        first: usize,
        rows: usize,
        panel: &mut [u16],
        stride: usize,
    ) {
        let padded = self.depth.next_multiple_of(SQUARE);
        let values = self.values[first * self.depth..].chunks_exact(self.depth);
        for (row, target) in values.zip(panel.chunks_mut(stride)).take(rows) {
            round(features, row, &mut target[..padded]);
        }
    }
}

/// Weights `[depth, width]` as a buffer of bf16: `[panel, depth, COLUMNS]`.
pub(super) fn pack(depth: usize, width: usize, entry: impl Fn(usize, usize) -> f32) -> Buffer {
    let (panel_count, padded) = (width.div_ceil(COLUMNS), depth.next_multiple_of(SQUARE));
    let mut values = Buffer::zeroed(padded * panel_count * COLUMNS / PAIR);
    let panels = halves_mut(&mut values).chunks_exact_mut((padded * COLUMNS).max(1));
    for (panel, block) in panels.enumerate() {
        for row in 0..depth {
            for column in panel * COLUMNS..((panel + 1) * COLUMNS).min(width) {
                block[place(row, column % COLUMNS)] = bf16::from_f32(entry(row, column)).to_bits();
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

/// Computes `rows` rows of `source` times `weights` into `result [rows, width]`; see `super::multiply`.
pub(crate) fn multiply(
    features: Features,
    source: &impl Source,
    weights: &PackedMatrix,
    finish: Finish<'_>,
    result: &mut [f32],
) {
    let shape = (source.rows(), source.even());
    share(features, weights, finish, shape, result, |piece| {
        compute(piece, source);
    });
}

fn compute(piece: &Piece<'_>, source: &impl Source) {
    let (features, weights) = (piece.features, piece.weights);
    let width = weights.width();
    let padded = weights.depth().next_multiple_of(SQUARE);
    let block = padded * COLUMNS;
    let row_panels = line_panels(piece.rows.clone(), source.even(), ROWS);
    // Not a power of two, which would put all rows into the same places of the cache.
    let stride = padded + SQUARE;
    let mut packed = Buffer::take(row_panels.len() * ROWS * stride / PAIR);
    let mut sums = Buffer::take(ROWS * COLUMNS);
    let mut tiles = Bf16Tiles::new(features);
    let all = halves(weights.values());
    let group = (GROUP_BYTES / (block * size_of::<u16>()).max(1)).max(1);
    for first_panel in piece.panels.clone().step_by(group) {
        let columns = first_panel..(first_panel + group).min(piece.panels.end);
        let next = if columns.end < piece.panels.end {
            columns.end..(columns.end + group).min(piece.panels.end)
        } else {
            piece.next.clone()
        };
        let next = &all[next.start * block..next.end * block];
        let parts = row_panels.len() * columns.len();
        for (index, &(first, rows)) in row_panels.iter().enumerate() {
            let left = source.direct(first).unwrap_or_else(|| {
                let panel = &mut halves_mut(&mut packed)[index * ROWS * stride..][..ROWS * stride];
                if first_panel == piece.panels.start {
                    source.pack(features, first, rows, panel, stride);
                }
                Left {
                    values: panel.as_ptr(),
                    stride,
                    lines: 1,
                    pitch: 0,
                }
            });
            for (part, panel) in columns.clone().enumerate() {
                let place = Place {
                    rows: first..first + rows,
                    columns: panel * COLUMNS..((panel + 1) * COLUMNS).min(width),
                };
                bring(next, index * columns.len() + part, parts);
                if let Some(&(first, rows)) = row_panels.get(index + 1) {
                    piece.bring(first..first + rows, panel * COLUMNS);
                }
                #[expect(unsafe_code, reason = "rows are given by pointers")]
                // SAFETY: what the source says of its rows; the block has the depth of a row, and the sums are a tile's.
                unsafe {
                    tiles.compute(rows, left, &all[panel * block..][..block], &mut sums);
                }
                finish(piece, &sums, &place);
            }
        }
    }
    piece.activate();
}

impl Piece<'_> {
    /// Asks for what a tile adds and writes, before it does.
    fn bring(&self, rows: Range<usize>, column: usize) {
        let width = self.weights.width();
        let residual = self.finish.residual.map(<[f32]>::as_ptr);
        for operand in [Some(self.target.get().cast_const()), residual]
            .into_iter()
            .flatten()
        {
            for row in rows.clone() {
                let place = operand.wrapping_add(row * width + column);
                ask(place);
                ask(place.wrapping_add(COLUMNS / 2));
            }
        }
    }
}

/// Asks for a part of some numbers, which are read later.
fn bring(numbers: &[u16], part: usize, parts: usize) {
    let size = numbers.len().div_ceil(parts);
    let start = (part * size).min(numbers.len());
    let end = (start + size).min(numbers.len());
    for line in numbers[start..end].chunks(CACHE_LINE / size_of::<u16>()) {
        ask(line.as_ptr());
    }
}

/// Brings a line of memory into the second-level cache.
#[inline(always)]
fn ask<T>(place: *const T) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{_MM_HINT_T1, _mm_prefetch};
        #[expect(unsafe_code, reason = "an instruction that has no effect but this")]
        // SAFETY: any address can be asked for.
        unsafe {
            _mm_prefetch::<_MM_HINT_T1>(place.cast());
        }
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = place;
}

/// A tile's place in the result.
struct Place {
    rows: Range<usize>,
    columns: Range<usize>,
}

/// Stores a tile's sums, with what is done to them.
fn finish(piece: &Piece<'_>, sums: &[f32], place: &Place) {
    #[cfg(target_arch = "x86_64")]
    if piece.features.avx512 {
        #[expect(unsafe_code, reason = "instructions that were found at run time")]
        // SAFETY: the processor has them.
        unsafe {
            x86::finish(piece, sums, place);
        }
        return;
    }
    finish_rows(piece, sums, place);
}

/// See [`finish`].
#[inline(always)]
fn finish_rows(piece: &Piece<'_>, sums: &[f32], place: &Place) {
    let (width, relu) = (
        piece.weights.width(),
        piece.finish.activation == Activation::Relu,
    );
    for (row, sums) in place.rows.clone().zip(sums.chunks_exact(COLUMNS)) {
        let start = row * width + place.columns.start;
        #[expect(unsafe_code, reason = "a part of a shared result")]
        // SAFETY: rows and columns are those of the piece, which no other piece has.
        let target = unsafe {
            std::slice::from_raw_parts_mut(
                piece.target.get().wrapping_add(start),
                place.columns.len(),
            )
        };
        let mut values = [0f32; COLUMNS];
        values.copy_from_slice(sums);
        if let Some(bias) = piece.finish.bias {
            let bias = &bias[place.columns.clone()];
            values
                .iter_mut()
                .zip(bias)
                .for_each(|(value, bias)| *value += bias);
        }
        if let Some(residual) = piece.finish.residual {
            let residual = &residual[start..][..target.len()];
            values
                .iter_mut()
                .zip(residual)
                .for_each(|(value, residual)| *value += residual);
        }
        if relu {
            values
                .iter_mut()
                .for_each(|value| *value = if *value < 0.0 { 0.0 } else { *value });
        }
        match <&mut [f32; COLUMNS]>::try_from(&mut *target) {
            Ok(target) => *target = values,
            Err(_) => target.copy_from_slice(&values[..place.columns.len()]),
        }
    }
}

/// Rounds numbers; what they lack to the target's length is zero.
pub(crate) fn round(features: Features, values: &[f32], target: &mut [u16]) {
    let (rounded, rest) = target.split_at_mut(values.len());
    rest.fill(0);
    #[cfg(target_arch = "x86_64")]
    if features.avx512_bf16 {
        #[expect(unsafe_code, reason = "instructions that were found at run time")]
        // SAFETY: the processor has them.
        unsafe {
            x86::round(values, rounded);
        }
        return;
    }
    for (target, value) in rounded.iter_mut().zip(values) {
        *target = bf16::from_f32(*value).to_bits();
    }
}

/// The kernels that a processor has for bf16.
enum Bf16Tiles {
    #[cfg(target_arch = "x86_64")]
    Amx(x86::Configured),
    #[cfg(target_arch = "x86_64")]
    DotProducts,
    Widened(widened::Widened),
}

impl Bf16Tiles {
    fn new(features: Features) -> Self {
        #[cfg(target_arch = "x86_64")]
        if features.amx_bf16 {
            #[expect(unsafe_code, reason = "instructions that were found at run time")]
            // SAFETY: the processor has them.
            return Self::Amx(unsafe { x86::Configured::new() });
        }
        #[cfg(target_arch = "x86_64")]
        if features.avx512_bf16 {
            return Self::DotProducts;
        }
        Self::Widened(widened::Widened::new(features))
    }

    /// Computes up to [`ROWS`] rows times a panel of weights into `sums [ROWS, COLUMNS]`.
    ///
    /// # Safety
    /// All rows of a tile can be read, each as long as the panel is deep.
    #[expect(unsafe_code, reason = "rows are given by pointers")]
    unsafe fn compute(&mut self, rows: usize, left: Left<u16>, right: &[u16], sums: &mut [f32]) {
        assert!(sums.len() >= ROWS * COLUMNS && right.len().is_multiple_of(SQUARE * COLUMNS));
        // SAFETY: the caller's, and lengths were checked; instructions were found at run time.
        unsafe {
            match self {
                #[cfg(target_arch = "x86_64")]
                Self::Amx(amx) => amx.compute(rows, left, right, sums),
                #[cfg(target_arch = "x86_64")]
                Self::DotProducts => x86::dot_products(rows, left, right, sums),
                Self::Widened(widened) => widened.compute(rows, left, right, sums),
            }
        }
    }
}

/// A buffer as what it has of bf16.
pub(crate) fn halves(values: &[f32]) -> &[u16] {
    #[expect(unsafe_code, reason = "two bf16 in the place of an f32")]
    // SAFETY: bf16 has half the size and alignment of f32, and every bit pattern is one.
    unsafe {
        std::slice::from_raw_parts(values.as_ptr().cast(), values.len() * PAIR)
    }
}

pub(crate) fn halves_mut(values: &mut [f32]) -> &mut [u16] {
    #[expect(unsafe_code, reason = "two bf16 in the place of an f32")]
    // SAFETY: as above.
    unsafe {
        std::slice::from_raw_parts_mut(values.as_mut_ptr().cast(), values.len() * PAIR)
    }
}
