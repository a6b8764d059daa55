//! Products with matrices that stay quantised: 4, 6 or 8 bits a weight and scales for 16 to 256 of them, as GGML writes
//! them. The input is quantised to eight bits; sums within a part are whole numbers, and so exact.
//!
//! A matrix is kept in one copy, laid out anew so that 16 rows are worked on together; it takes the bytes that it takes in
//! a file. An output has the same bits whatever the other rows of the input are, on any number of threads and with any
//! instructions: AMX, AVX-512 with VNNI, AVX2, or none in particular.

#![expect(
    unsafe_code,
    reason = "kernels work on pointers into a matrix and rows whose sizes are checked here, and on instructions that were \
              found first; threads write to places of one output that do not overlap"
)]

use std::sync::Arc;

use candle_core::quantized::GgmlDType;
use candle_core::{Result, bail};
use memmap2::{Advice, MmapMut};
use rayon::prelude::*;

use super::cpu::Features;
use super::lanes::{self, Lanes};
use activations::{Activations, Row};
use formats::{Block, Q4_0, Q4_1, Q4K, Q6K, Q8_0, ROWS, SUPER, SuperBlock, UNIT};

mod activations;
mod formats;
mod packing;
mod products;
#[cfg(target_arch = "x86_64")]
mod tiles;

/// Panels that a thread takes at a time.
const PANELS: usize = 4;
/// Multiplications below which waking another thread costs more than it saves.
const PARALLEL: usize = 1 << 19;
/// Fewer rows are faster without tiles.
const TILE_ROWS: usize = 5;

/// A matrix `[rows, columns]` of quantised numbers, in panels of 16 rows.
#[derive(Clone)]
pub(crate) struct PackedBlocks {
    bytes: Arc<MmapMut>,
    dtype: GgmlDType,
    rows: usize,
    columns: usize,
}

impl std::fmt::Debug for PackedBlocks {
    fn fmt(&self, to: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(to, "{:?} [{}, {}]", self.dtype, self.rows, self.columns)
    }
}

/// Rows in eight bits, as the matrices of one type take them.
pub(crate) struct QuantisedRows(Activations);

/// An output that threads write to, each at places of its own.
struct Output {
    start: *mut f32,
    width: usize,
}

// SAFETY: each thread writes to the columns of its own panels, and nobody reads before all have ended.
unsafe impl Sync for Output {}

impl Output {
    /// Where a row's output begins for a panel.
    ///
    /// # Safety
    /// The output has this row, and a column of this panel.
    unsafe fn at(&self, row: usize, panel: usize) -> *mut f32 {
        // SAFETY: as the caller says.
        unsafe { self.start.add(row * self.width + panel * ROWS) }
    }
}

/// Calls a function for the kind of a matrix's blocks.
macro_rules! of_type {
    ($dtype:expr, $blocks:ident, $supers:ident $(, lanes $lanes:ident)?; $($argument:expr),*) => {
        match $dtype {
            GgmlDType::Q4_0 => $blocks::<Q4_0 $(, $lanes)?>($($argument),*),
            GgmlDType::Q4_1 => $blocks::<Q4_1 $(, $lanes)?>($($argument),*),
            GgmlDType::Q8_0 => $blocks::<Q8_0 $(, $lanes)?>($($argument),*),
            GgmlDType::Q4K => $supers::<Q4K $(, $lanes)?>($($argument),*),
            _ => $supers::<Q6K $(, $lanes)?>($($argument),*),
        }
    };
}

impl PackedBlocks {
    /// Whether there are kernels for this type.
    pub(crate) fn has_kernel(dtype: GgmlDType) -> bool {
        packing::piece_bytes(dtype).is_some()
    }

    /// Packs a matrix's bytes, row by row as GGML writes them.
    ///
    /// # Errors
    /// A type without a kernel, rows that are no whole number of blocks, another number of bytes, or out of memory.
    pub(crate) fn new(
        bytes: &[u8],
        dtype: GgmlDType,
        (rows, columns): (usize, usize),
    ) -> Result<Self> {
        let (block, size) = (dtype.block_size(), dtype.type_size());
        let Some(piece) = packing::piece_bytes(dtype) else {
            bail!("there is no kernel for weights of type {dtype:?}")
        };
        let blocks = columns / block;
        let fits = columns.is_multiple_of(block)
            && columns > 0
            && rows > 0
            && rows.checked_mul(blocks * size) == Some(bytes.len());
        if !fits {
            bail!(
                "{} bytes are no matrix [{rows}, {columns}] of type {dtype:?}",
                bytes.len()
            )
        }
        let panels = rows.div_ceil(ROWS);
        let mut packed = MmapMut::map_anon(panels * blocks * piece)?;
        #[cfg(target_os = "linux")]
        // Without huge pages it works, too.
        let _ = packed.advise(Advice::HugePage);
        let panels = packed.par_chunks_exact_mut(blocks * piece).enumerate();
        panels.for_each(|(panel, packed)| {
            let count = ROWS.min(rows - panel * ROWS);
            let rows = &bytes[panel * ROWS * blocks * size..][..count * blocks * size];
            for (at, piece) in packed.chunks_exact_mut(piece).enumerate() {
                let blocks = rows.chunks_exact(blocks * size);
                packing::pack(dtype, blocks.map(|row| &row[at * size..][..size]), piece);
            }
        });
        Ok(Self {
            bytes: Arc::new(packed),
            dtype,
            rows,
            columns,
        })
    }

    /// Rows and columns.
    pub(crate) fn shape(&self) -> (usize, usize) {
        (self.rows, self.columns)
    }

    /// The type of the blocks.
    pub(crate) fn dtype(&self) -> GgmlDType {
        self.dtype
    }

    /// Quantises rows of [`PackedBlocks::shape`]'s columns for this matrix and all others of its type and width.
    pub(crate) fn quantise(&self, x: &[f32]) -> QuantisedRows {
        self.quantise_for(x, Features::detected())
    }

    fn quantise_for(&self, x: &[f32], features: Features) -> QuantisedRows {
        let (group, part) = self.groups();
        let rows = Activations::new(x, self.columns, group, part);
        let tiles = features.amx_int8 && rows.rows >= TILE_ROWS;
        QuantisedRows(if tiles { rows.with_tiles() } else { rows })
    }

    /// Values of the input that share a scale, and a sum.
    fn groups(&self) -> (usize, usize) {
        match self.dtype {
            GgmlDType::Q4K => (SUPER, 32),
            GgmlDType::Q6K => (SUPER, 16),
            _ => (UNIT, UNIT),
        }
    }

    /// `x · matrixᵀ`, `[n, rows]` row by row.
    ///
    /// # Panics
    /// Rows that were quantised for a matrix of another type or width.
    pub(crate) fn product(&self, x: &QuantisedRows) -> Vec<f32> {
        self.product_with(x, Features::detected())
    }

    fn product_with(&self, QuantisedRows(x): &QuantisedRows, features: Features) -> Vec<f32> {
        assert_eq!(
            (x.inner, x.groups()),
            (self.columns, self.groups()),
            "rows of another matrix"
        );
        let mut out = vec![0f32; x.rows * self.rows];
        let output = Output {
            start: out.as_mut_ptr(),
            width: self.rows,
        };
        let panels = self.rows.div_ceil(ROWS);
        let some = |first: usize| {
            let panels = first..panels.min(first + PANELS);
            // SAFETY: the processor has what `features` says, x is of this matrix's width and
            // groups and has tiles where they are used, and the panels are the matrix's; no other call has them.
            #[cfg(target_arch = "x86_64")]
            unsafe {
                if features.amx_int8 && x.has_tiles() {
                    return self.panels_by_tiles(x, panels, &output);
                }
                if features.avx512_vnni {
                    return self.panels_avx512(x, panels, &output);
                }
                if features.avx2 {
                    return self.panels_avx2(x, panels, &output);
                }
            }
            // SAFETY: as above, and any processor will do.
            unsafe { self.panels_by::<lanes::Portable>(x, panels, &output) }
        };
        if x.rows * self.rows * self.columns < PARALLEL {
            (0..panels).step_by(PANELS).for_each(some);
        } else {
            let firsts = (0..panels.div_ceil(PANELS)).into_par_iter();
            firsts.for_each(|at| some(at * PANELS));
        }
        out
    }

    /// The numbers of a row.
    ///
    /// # Panics
    /// A row that the matrix does not have.
    pub(crate) fn row(&self, row: usize) -> Vec<f32> {
        assert!(row < self.rows, "row {row} of {}", self.rows);
        let block = packing::block_values(self.dtype);
        let mut values = vec![0f32; self.columns];
        let panel = self.panel_bytes(row / ROWS);
        let piece = panel.len() / (self.columns / block);
        let blocks = values
            .chunks_exact_mut(block)
            .zip(panel.chunks_exact(piece));
        for (values, piece) in blocks {
            packing::values(self.dtype, piece, row % ROWS, values);
        }
        values
    }

    fn panel_bytes(&self, panel: usize) -> &[u8] {
        let size = self.bytes.len() / self.rows.div_ceil(ROWS);
        &self.bytes[panel * size..][..size]
    }

    /// [`PackedBlocks::panels_by`] with AVX-512 and VNNI.
    ///
    /// # Safety
    /// As there.
    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx512f,avx512bw,avx512vnni,avx2,fma,f16c")]
    unsafe fn panels_avx512(
        &self,
        x: &Activations,
        panels: std::ops::Range<usize>,
        output: &Output,
    ) {
        // SAFETY: as the caller says, with the instructions that this function was asked for with.
        unsafe { self.panels_by::<lanes::Avx512>(x, panels, output) }
    }

    /// [`PackedBlocks::panels_by`] with AVX2.
    ///
    /// # Safety
    /// As there.
    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn panels_avx2(&self, x: &Activations, panels: std::ops::Range<usize>, output: &Output) {
        // SAFETY: as the caller says, with the instructions that this function was asked for with.
        unsafe { self.panels_by::<lanes::Avx2>(x, panels, output) }
    }

    /// The products of panels with all rows, sixteen at a time, on this thread's matrix tiles.
    ///
    /// # Safety
    /// As [`PackedBlocks::panels_by`], with AMX for bytes and the tiles of `x`.
    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx512f,avx512bw,avx512vnni,avx2,fma,f16c")]
    unsafe fn panels_by_tiles(
        &self,
        x: &Activations,
        panels: std::ops::Range<usize>,
        output: &Output,
    ) {
        let mut scratch = tiles::Scratch::new(x.rows);
        // SAFETY: the processor has tiles, as the caller says, and nothing else uses them here.
        let _tiles = unsafe { tiles::set_up(x.tile_width(), x.rows) };
        for panel in panels {
            let bytes = self.panel_bytes(panel).as_ptr();
            // SAFETY: the panel has all blocks of the matrix's width, which is that of x and its tiles.
            unsafe {
                of_type!(self.dtype, block_tiles, super_tiles; bytes, x, &mut scratch);
            }
            let width = ROWS.min(self.rows - panel * ROWS);
            for row in 0..x.rows {
                let products = scratch.row(row);
                // SAFETY: the output has the row and so many columns from the panel's first on, and they are this call's.
                unsafe {
                    output
                        .at(row, panel)
                        .copy_from_nonoverlapping(products.as_ptr(), width);
                }
            }
        }
    }

    /// The products of panels with all rows, eight at a time.
    ///
    /// # Safety
    /// The processor has the instructions of `L`. `x` has this matrix's width and groups, the panels are this matrix's, and
    /// nobody else reads or writes their columns of `output`, which has the rows of `x` and the columns of this matrix.
    #[inline(always)]
    unsafe fn panels_by<L: Lanes>(
        &self,
        x: &Activations,
        panels: std::ops::Range<usize>,
        output: &Output,
    ) {
        for panel in panels {
            let bytes = self.panel_bytes(panel).as_ptr();
            let whole = self.rows - panel * ROWS >= ROWS;
            let mut last = [[0f32; ROWS]; 8];
            let mut start = 0;
            while start < x.rows {
                let count = (x.rows - start).min(8);
                let rows: [Row; 8] = std::array::from_fn(|at| x.row(start + at.min(count - 1)));
                let to: [*mut f32; 8] = std::array::from_fn(|at| match whole && at < count {
                    // SAFETY: the output has the row and the sixteen columns of a whole panel.
                    true => unsafe { output.at(start + at, panel) },
                    false => last[at].as_mut_ptr(),
                });
                // SAFETY: the panel has all blocks of the matrix's width, which is that of the rows, and each of `to` is good for
                // sixteen numbers.
                unsafe {
                    of_type!(self.dtype, block_rows, super_rows, lanes L; bytes, x.inner, count, rows, to);
                }
                if !whole {
                    for (at, products) in last.iter().enumerate().take(count) {
                        let width = self.rows - panel * ROWS;
                        // SAFETY: so many columns are left of the row.
                        unsafe {
                            output
                                .at(start + at, panel)
                                .copy_from_nonoverlapping(products.as_ptr(), width);
                        }
                    }
                }
                start += count;
            }
        }
    }
}

/// Calls a function for a number of rows.
macro_rules! of_count {
    ($count:expr, $function:ident, $format:ident, $lanes:ident; $bytes:expr, $blocks:expr, $rows:expr, $to:expr) => {
        match $count {
            1 => $function::<$lanes, $format, 1>($bytes, $blocks, first($rows), first($to)),
            2 => $function::<$lanes, $format, 2>($bytes, $blocks, first($rows), first($to)),
            3 => $function::<$lanes, $format, 3>($bytes, $blocks, first($rows), first($to)),
            4 => $function::<$lanes, $format, 4>($bytes, $blocks, first($rows), first($to)),
            5 | 6 => $function::<$lanes, $format, 6>($bytes, $blocks, first($rows), first($to)),
            _ => $function::<$lanes, $format, 8>($bytes, $blocks, $rows, $to),
        }
    };
}

/// The products of a panel with up to eight rows.
///
/// # Safety
/// `bytes` is a panel of so many columns, the first `count` rows have as many values, and each of `to` takes sixteen numbers.
#[inline(always)]
unsafe fn block_rows<F: Block, L: Lanes>(
    bytes: *const u8,
    inner: usize,
    count: usize,
    rows: [Row; 8],
    to: [*mut f32; 8],
) {
    use products::block_panel;
    // SAFETY: as the caller says.
    unsafe { of_count!(count, block_panel, F, L; bytes, inner / UNIT, rows, to) }
}

/// The products of a panel with up to eight rows.
///
/// # Safety
/// `bytes` is a panel of so many columns, the first `count` rows have as many values, and each of `to` takes sixteen numbers.
#[inline(always)]
unsafe fn super_rows<F: SuperBlock, L: Lanes>(
    bytes: *const u8,
    inner: usize,
    count: usize,
    rows: [Row; 8],
    to: [*mut f32; 8],
) {
    use products::super_panel;
    // SAFETY: as the caller says.
    unsafe { of_count!(count, super_panel, F, L; bytes, inner / SUPER, rows, to) }
}

#[inline(always)]
fn first<T: Copy, const R: usize>(all: [T; 8]) -> [T; R] {
    std::array::from_fn(|at| all[at])
}

/// The products of a panel with all rows of `x`.
///
/// # Safety
/// The processor has tiles, which are set up for `x`; `bytes` is a panel of its width.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512vnni,avx2,fma,f16c")]
unsafe fn block_tiles<F: Block>(bytes: *const u8, x: &Activations, scratch: &mut tiles::Scratch) {
    // SAFETY: as the caller says.
    unsafe { tiles::block_panel::<F>(bytes, x, scratch) }
}

/// The products of a panel with all rows of `x`.
///
/// # Safety
/// The processor has tiles, which are set up for `x`; `bytes` is a panel of its width.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512vnni,avx2,fma,f16c")]
unsafe fn super_tiles<F: SuperBlock>(
    bytes: *const u8,
    x: &Activations,
    scratch: &mut tiles::Scratch,
) {
    // SAFETY: as the caller says.
    unsafe { tiles::super_panel::<F>(bytes, x, scratch) }
}

#[cfg(test)]
pub(crate) mod tests;
