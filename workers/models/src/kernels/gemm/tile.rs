//! The innermost part of a product: a few rows times a panel of columns, in registers.

use crate::kernels::cpu::Features;

#[cfg(target_arch = "x86_64")]
mod avx512;
mod portable;

/// The most rows of a tile: with two vectors of 16 columns they fill the registers of AVX-512.
pub(crate) const ROWS: usize = 14;
/// Columns of a tile.
pub(crate) const COLUMNS: usize = 32;
/// Entries of a row that are multiplied before the next panel: a panel of weights then stays in the first-level cache.
pub(crate) const DEPTH: usize = 256;
/// Numbers between the rows of a panel: not a power of two, which would put all rows into the same places of the cache.
pub(crate) const STRIDE: usize = DEPTH + 16;

/// A tile's operands, and what is done to its result.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Tile {
    pub(crate) depth: usize,
    /// Rows `STRIDE` apart.
    pub(crate) left: *const f32,
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
}

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
