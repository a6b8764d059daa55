//! bf16 on x86: tiles where there are some (AMX), dot products of pairs elsewhere.
#![expect(
    unsafe_code,
    reason = "vector instructions, and tiles that have none of their own in Rust yet"
)]

use std::arch::asm;
use std::arch::x86_64::{
    __m256bh, __m256i, __m512bh, __m512i, _mm256_storeu_si256, _mm512_cvtneps_pbh,
    _mm512_dpbf16_ps, _mm512_loadu_ps, _mm512_loadu_si512, _mm512_set1_epi32, _mm512_setzero_ps,
    _mm512_storeu_ps,
};
use std::mem::transmute;

use half::bf16;

use super::{COLUMNS, Left, Piece, Place, ROWS, SQUARE};
use crate::kernels::amx;

/// Bytes of a square of weights.
const SQUARE_BYTES: usize = SQUARE * COLUMNS * 2;

/// This thread's tiles, in the shape that the products want: 16 rows of 64 bytes.
pub(super) struct Configured {
    _tiles: amx::Configured,
}

impl Configured {
    /// # Safety
    /// The processor's features say `amx_bf16`, and this thread has no tiles set up.
    pub(super) unsafe fn new() -> Self {
        Self {
            // SAFETY: the caller's.
            _tiles: unsafe { amx::Configured::new([(16, 64); amx::TILES]) },
        }
    }

    /// See `Bf16Tiles::compute`, which checks the lengths.
    ///
    /// # Safety
    /// As there.
    pub(super) unsafe fn compute(
        &self,
        rows: usize,
        left: Left<u16>,
        right: &[u16],
        sums: &mut [f32],
    ) {
        let squares = right.len() / (SQUARE * COLUMNS) / left.lines;
        if squares == 0 {
            return;
        }
        let bytes = size_of::<u16>();
        // From the end of a line to the start of the next.
        let jump = (left.pitch * bytes).wrapping_sub(squares * SQUARE * bytes);
        // SAFETY: the caller's; a row has `lines` lines of `squares` squares, and the sums are 32 rows of 32.
        unsafe {
            if rows > 16 {
                asm!(
                    "tilezero tmm0",
                    "tilezero tmm1",
                    "tilezero tmm2",
                    "tilezero tmm3",
                    "2:",
                    "mov {count}, {squares}",
                    "3:",
                    "tileloadd tmm4, [{left} + {left_stride}]",
                    "tileloadd tmm6, [{right} + {right_stride}]",
                    "tileloadd tmm7, [{right} + {right_stride} + 1024]",
                    "tileloadd tmm5, [{lower} + {left_stride}]",
                    "tdpbf16ps tmm0, tmm4, tmm6",
                    "tdpbf16ps tmm1, tmm4, tmm7",
                    "tdpbf16ps tmm2, tmm5, tmm6",
                    "tdpbf16ps tmm3, tmm5, tmm7",
                    "add {left}, 64",
                    "add {lower}, 64",
                    "add {right}, {square_bytes}",
                    "dec {count}",
                    "jnz 3b",
                    "add {left}, {jump}",
                    "add {lower}, {jump}",
                    "dec {lines}",
                    "jnz 2b",
                    "tilestored [{sums} + {sum_stride}], tmm0",
                    "tilestored [{sums} + {sum_stride} + 64], tmm1",
                    "tilestored [{sums} + {sum_stride} + 2048], tmm2",
                    "tilestored [{sums} + {sum_stride} + 2112], tmm3",
                    sums = in(reg) sums.as_mut_ptr(),
                    sum_stride = in(reg) COLUMNS * 4,
                    left = inout(reg) left.values => _,
                    lower = inout(reg) left.values.wrapping_add(16 * left.stride) => _,
                    left_stride = in(reg) left.stride * bytes,
                    right = inout(reg) right.as_ptr() => _,
                    right_stride = in(reg) 64usize,
                    square_bytes = const SQUARE_BYTES,
                    squares = in(reg) squares,
                    count = out(reg) _,
                    lines = inout(reg) left.lines => _,
                    jump = in(reg) jump,
                    options(nostack),
                );
            } else {
                asm!(
                    "tilezero tmm0",
                    "tilezero tmm1",
                    "2:",
                    "mov {count}, {squares}",
                    "3:",
                    "tileloadd tmm4, [{left} + {left_stride}]",
                    "tileloadd tmm6, [{right} + {right_stride}]",
                    "tileloadd tmm7, [{right} + {right_stride} + 1024]",
                    "tdpbf16ps tmm0, tmm4, tmm6",
                    "tdpbf16ps tmm1, tmm4, tmm7",
                    "add {left}, 64",
                    "add {right}, {square_bytes}",
                    "dec {count}",
                    "jnz 3b",
                    "add {left}, {jump}",
                    "dec {lines}",
                    "jnz 2b",
                    "tilestored [{sums} + {sum_stride}], tmm0",
                    "tilestored [{sums} + {sum_stride} + 64], tmm1",
                    sums = in(reg) sums.as_mut_ptr(),
                    sum_stride = in(reg) COLUMNS * 4,
                    left = inout(reg) left.values => _,
                    left_stride = in(reg) left.stride * bytes,
                    right = inout(reg) right.as_ptr() => _,
                    right_stride = in(reg) 64usize,
                    square_bytes = const SQUARE_BYTES,
                    squares = in(reg) squares,
                    count = out(reg) _,
                    lines = inout(reg) left.lines => _,
                    jump = in(reg) jump,
                    options(nostack),
                );
            }
        }
    }
}

/// See `Bf16Tiles::compute`, which checks the lengths.
///
/// # Safety
/// As there, on a processor with dot products of bf16.
#[target_feature(enable = "avx512f,avx512bf16")]
pub(super) unsafe fn dot_products(rows: usize, left: Left<u16>, right: &[u16], sums: &mut [f32]) {
    let mut row = 0;
    // SAFETY: the caller's.
    unsafe {
        while row + 8 <= rows {
            dot_product_rows::<8>(row, left, right, sums);
            row += 8;
        }
        while row < rows {
            dot_product_rows::<1>(row, left, right, sums);
            row += 1;
        }
    }
}

/// # Safety
/// As [`dot_products`].
#[target_feature(enable = "avx512f,avx512bf16")]
unsafe fn dot_product_rows<const COUNT: usize>(
    first: usize,
    left: Left<u16>,
    right: &[u16],
    sums: &mut [f32],
) {
    let squares = right.len() / (SQUARE * COLUMNS) / left.lines;
    // SAFETY: the caller's; the sums are 32 rows of 32.
    unsafe {
        let mut totals = [[_mm512_setzero_ps(); 2]; COUNT];
        let rows = left.values.add(first * left.stride);
        for (index, square) in right.chunks_exact(SQUARE * COLUMNS).enumerate() {
            let start = index / squares * left.pitch + index % squares * SQUARE;
            for pair in 0..SQUARE / 2 {
                let place = square.as_ptr().add(pair * 32);
                let left_half = _mm512_loadu_si512(place.cast());
                let right_half = _mm512_loadu_si512(place.add(SQUARE * 16).cast());
                let left_half = transmute::<__m512i, __m512bh>(left_half);
                let right_half = transmute::<__m512i, __m512bh>(right_half);
                for (row, totals) in totals.iter_mut().enumerate() {
                    let place = rows.add(row * left.stride + start + 2 * pair);
                    let entries = _mm512_set1_epi32(place.cast::<i32>().read_unaligned());
                    let entries = transmute::<__m512i, __m512bh>(entries);
                    totals[0] = _mm512_dpbf16_ps(totals[0], entries, left_half);
                    totals[1] = _mm512_dpbf16_ps(totals[1], entries, right_half);
                }
            }
        }
        let target = sums.as_mut_ptr().add(first * COLUMNS);
        for (row, totals) in totals.iter().enumerate() {
            let target = target.add(row * COLUMNS);
            _mm512_storeu_ps(target, totals[0]);
            _mm512_storeu_ps(target.add(16), totals[1]);
        }
    }
    debug_assert!(first + COUNT <= ROWS);
}

/// Rounds to the nearest bf16.
///
/// # Safety
/// A processor with dot products of bf16; slices of one length.
#[target_feature(enable = "avx512f,avx512bf16")]
pub(super) unsafe fn round(values: &[f32], rounded: &mut [u16]) {
    let (values, rest) = values.as_chunks::<16>();
    let (rounded, rounded_rest) = rounded.as_chunks_mut::<16>();
    for (values, rounded) in values.iter().zip(rounded) {
        // SAFETY: 16 numbers each.
        unsafe {
            let bits = _mm512_cvtneps_pbh(_mm512_loadu_ps(values.as_ptr()));
            _mm256_storeu_si256(
                rounded.as_mut_ptr().cast(),
                transmute::<__m256bh, __m256i>(bits),
            );
        }
    }
    for (value, rounded) in rest.iter().zip(rounded_rest) {
        *rounded = bf16::from_f32(*value).to_bits();
    }
}

/// See `super::finish`.
///
/// # Safety
/// A processor with AVX-512.
#[target_feature(enable = "avx512f")]
pub(super) unsafe fn finish(piece: &Piece<'_>, sums: &[f32], place: &Place) {
    super::finish_rows(piece, sums, place);
}
