//! Tiles in 512-bit vectors: 14 rows of two vectors are 28 sums, which is what hides the latency of two units of fused
//! multiply-adds, and one row's entry is read for each two of them.
#![expect(unsafe_code, reason = "vector instructions")]

use std::arch::x86_64::{
    __m512, _MM_HINT_T0, _MM_HINT_T1, _mm_prefetch, _mm512_add_ps, _mm512_fmadd_ps,
    _mm512_loadu_ps, _mm512_mask_storeu_ps, _mm512_maskz_loadu_ps, _mm512_max_ps, _mm512_set1_ps,
    _mm512_setzero_ps,
};

use super::{Left, Tile, Tiles};

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
        let Left {
            values,
            stride,
            lines,
            pitch,
        } = tile.left;
        let rows: [*const f32; ROWS] = std::array::from_fn(|row| values.wrapping_add(row * stride));
        let (line, mut place) = (tile.depth / lines, 0usize);
        let mut right = tile.right;
        let [mut first, mut second] = tile.ahead.map(|ahead| ahead.from.cast::<i8>());
        let [first_step, second_step] = tile.ahead.map(|ahead| ahead.step);
        // Written out: the sums stay in registers whatever the compiler makes of a loop over rows.
        macro_rules! row {
            ($columns:ident, $place:ident, $row:literal) => {
                if $row < ROWS {
                    let entry = _mm512_set1_ps(*rows[$row].add($place));
                    sums[$row][0] = _mm512_fmadd_ps(entry, $columns[0], sums[$row][0]);
                    sums[$row][1] = _mm512_fmadd_ps(entry, $columns[1], sums[$row][1]);
                }
            };
        }
        macro_rules! step {
            () => {
                let columns = [_mm512_loadu_ps(right), _mm512_loadu_ps(right.add(16))];
                _mm_prefetch::<_MM_HINT_T1>(first);
                _mm_prefetch::<_MM_HINT_T1>(second);
                first = first.wrapping_add(first_step);
                second = second.wrapping_add(second_step);
                row!(columns, place, 0);
                row!(columns, place, 1);
                row!(columns, place, 2);
                row!(columns, place, 3);
                row!(columns, place, 4);
                row!(columns, place, 5);
                row!(columns, place, 6);
                row!(columns, place, 7);
                row!(columns, place, 8);
                row!(columns, place, 9);
                row!(columns, place, 10);
                row!(columns, place, 11);
                row!(columns, place, 12);
                row!(columns, place, 13);
                right = right.add(32);
                place += 1;
            };
        }
        // What is added at the end, and what is written, comes in meanwhile.
        let begin = line.min(ROWS);
        for entry in 0..begin {
            for operand in [Some(tile.target.cast_const()), tile.residual]
                .into_iter()
                .flatten()
            {
                let operand = operand.wrapping_add(entry * tile.stride);
                _mm_prefetch::<_MM_HINT_T0>(operand.cast());
                _mm_prefetch::<_MM_HINT_T0>(operand.wrapping_add(16).cast());
            }
            step!();
        }
        for _ in begin..line {
            step!();
        }
        for index in 1..lines {
            place = index * pitch;
            for _ in 0..line {
                step!();
            }
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
                [relu(sums[0]), relu(sums[1])]
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
