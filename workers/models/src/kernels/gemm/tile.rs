//! The innermost part of a product: a few rows times a panel of columns, in registers.

use crate::kernels::cpu::Features;

#[cfg(target_arch = "x86_64")]
mod avx512;
mod portable;

/// The most rows of a tile: with two vectors of 16 columns they fill the registers of AVX-512.
pub(crate) const ROWS: usize = 14;
/// Columns of a tile.
pub(crate) const COLUMNS: usize = 32;

/// A tile's operands, and what is done to its result.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Tile {
    /// Entries of a row that are multiplied, in all its lines together.
    pub(crate) depth: usize,
    pub(crate) left: Left,
    /// `[depth, COLUMNS]`.
    pub(crate) right: *const f32,
    /// Rows `stride` apart.
    pub(crate) target: *mut f32,
    pub(crate) stride: usize,
    /// Columns that are stored.
    pub(crate) columns: usize,
    /// Whether the product is added to what the target has.
    pub(crate) adds: bool,
    /// Added to each row.
    pub(crate) bias: Option<*const f32>,
    /// Added to the product; rows `stride` apart.
    pub(crate) residual: Option<*const f32>,
    pub(crate) relu: bool,
    /// What tiles after this one read.
    pub(crate) ahead: [Ahead; 2],
}

/// Rows of the left matrix.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Left<T = f32> {
    pub(crate) values: *const T,
    /// Numbers from one row to the next.
    pub(crate) stride: usize,
    /// Pieces of a row, all of one length.
    pub(crate) lines: usize,
    /// Numbers from one piece to the next.
    pub(crate) pitch: usize,
}

impl Left {
    /// Rows of one piece.
    pub(crate) fn whole(values: &[f32], stride: usize) -> Self {
        Self {
            values: values.as_ptr(),
            stride,
            lines: 1,
            pitch: 0,
        }
    }
}

/// Memory that is brought into the cache while a tile is computed: waiting for it would take longer than the products.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ahead {
    pub(crate) from: *const f32,
    /// Bytes for each entry of the tile's depth; may be 0.
    pub(crate) step: usize,
}

impl Ahead {
    /// Nothing new: what the tile reads itself.
    pub(crate) fn nothing(right: &[f32]) -> Self {
        Self {
            from: right.as_ptr(),
            step: 0,
        }
    }

    /// The `part`th of `parts` parts of some numbers, each brought in along a tile of this depth.
    pub(crate) fn part(numbers: &[f32], part: usize, parts: usize, depth: usize) -> Self {
        let bytes = size_of_val(numbers).div_ceil(parts.max(1));
        Self {
            from: numbers.as_ptr().wrapping_byte_add(part * bytes),
            step: bytes.div_ceil(depth.max(1)).min(CACHE_LINE),
        }
    }
}

/// Bytes that caches move at a time.
const CACHE_LINE: usize = 64;

/// Kernels for tiles of 1 to [`ROWS`] rows.
#[derive(Clone, Copy)]
pub(crate) struct Tiles([unsafe fn(&Tile); ROWS]);

impl Tiles {
    const fn new(kernels: [unsafe fn(&Tile); ROWS]) -> Self {
        Self(kernels)
    }

    /// Computes a tile of 1 to [`ROWS`] rows.
    ///
    /// # Safety
    /// Left panel, weights, target, bias and residual have as many rows and columns as the tile says, and nobody else
    /// writes to the target.
    #[expect(unsafe_code, reason = "a tile is given by pointers")]
    pub(crate) unsafe fn compute(self, rows: usize, tile: &Tile) {
        // SAFETY: the caller's; a kernel that needs instructions is only there where the processor has them.
        unsafe { self.0[rows - 1](tile) }
    }
}

/// The fastest kernels for f32 that a processor has; all give the same bytes.
pub(crate) fn f32_tiles(features: Features) -> Tiles {
    #[cfg(target_arch = "x86_64")]
    if features.avx512 {
        return avx512::TILES;
    }
    let _ = features;
    portable::TILES
}
