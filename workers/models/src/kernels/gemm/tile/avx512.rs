//! Tiles in 512-bit vectors: 14 rows of two vectors are 28 sums, which is what hides the latency of two units of fused
//! multiply-adds, and one row's entry is read for each two of them.
#![expect(unsafe_code, reason = "vector instructions")]

use std::arch::x86_64::{
    __m512, _mm512_add_ps, _mm512_fmadd_ps, _mm512_loadu_ps, _mm512_mask_storeu_ps,
    _mm512_maskz_loadu_ps, _mm512_max_ps, _mm512_set1_ps, _mm512_setzero_ps,
};

use super::{STRIDE, Tile, Tiles};

pub(super) const TILES: Tiles = Tiles::new([
    tile::<1>, tile::<2>, tile::<3>, tile::<4>, tile::<5>, tile::<6>, tile::<7>, tile::<8>,
    tile::<9>, tile::<10>, tile::<11>, tile::<12>, tile::<13>, tile::<14>,
]);

/// # Safety
/// As [`Tiles::compute`], on a processor with AVX-512.
#[target_feature(enable = "avx512f")]
unsafe fn tile<const ROWS: usize>(tile: &Tile) {
    let low = u16::MAX >> (16 - tile.columns.min(16));
    let high = u16::MAX
        .checked_shr(32 - tile.columns.max(16) as u32)
        .unwrap_or(0);
    // SAFETY: the caller's; masks leave out columns that are not there.
    unsafe {
        let mut sums = [[_mm512_setzero_ps(); 2]; ROWS];
        if tile.adds {
            for (row, sums) in sums.iter_mut().enumerate() {
                let target = tile.target.add(row * tile.stride);
                *sums = [
                    _mm512_maskz_loadu_ps(low, target),
                    _mm512_maskz_loadu_ps(high, target.wrapping_add(16)),
                ];
            }
        }
        let (mut left, mut right) = (tile.left, tile.right);
        for _ in 0..tile.depth {
            let columns = [_mm512_loadu_ps(right), _mm512_loadu_ps(right.add(16))];
            for (row, sums) in sums.iter_mut().enumerate() {
                let entry = _mm512_set1_ps(*left.add(row * STRIDE));
                sums[0] = _mm512_fmadd_ps(entry, columns[0], sums[0]);
                sums[1] = _mm512_fmadd_ps(entry, columns[1], sums[1]);
            }
            left = left.add(1);
            right = right.add(32);
        }
        if let Some(bias) = tile.bias {
            let bias = [
                _mm512_maskz_loadu_ps(low, bias),
                _mm512_maskz_loadu_ps(high, bias.wrapping_add(16)),
            ];
            for sums in &mut sums {
                *sums = [
                    _mm512_add_ps(sums[0], bias[0]),
                    _mm512_add_ps(sums[1], bias[1]),
                ];
            }
        }
        if let Some(residual) = tile.residual {
            for (row, sums) in sums.iter_mut().enumerate() {
                let residual = residual.add(row * tile.stride);
                let residual = [
                    _mm512_maskz_loadu_ps(low, residual),
                    _mm512_maskz_loadu_ps(high, residual.wrapping_add(16)),
                ];
                *sums = [
                    _mm512_add_ps(sums[0], residual[0]),
                    _mm512_add_ps(sums[1], residual[1]),
                ];
            }
        }
        for (row, sums) in sums.iter().enumerate() {
            let target = tile.target.add(row * tile.stride);
            let sums = if tile.relu {
                sums.map(|sum| relu(sum))
            } else {
                *sums
            };
            _mm512_mask_storeu_ps(target, low, sums[0]);
            _mm512_mask_storeu_ps(target.wrapping_add(16), high, sums[1]);
        }
    }
}

/// The larger of zero and a value; the instruction gives its second operand where one is not a number.
#[inline]
#[target_feature(enable = "avx512f")]
fn relu(values: __m512) -> __m512 {
    _mm512_max_ps(_mm512_setzero_ps(), values)
}
