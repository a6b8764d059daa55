//! The same products with matrix tiles (AMX), for several rows at a time. Tiles give the whole numbers of a part; what
//! follows from them is computed as everywhere.

#![expect(
    unsafe_code,
    reason = "tiles are set up, loaded and stored by instructions that the standard library does not offer yet, at pointers \
              that the callers have checked"
)]

use std::arch::asm;
use std::arch::x86_64::{
    __m512i, _mm512_and_si512, _mm512_andnot_si512, _mm512_mullo_epi16, _mm512_or_si512,
    _mm512_set1_epi16, _mm512_slli_epi16, _mm512_slli_epi32, _mm512_srli_epi16, _mm512_srli_epi32,
};

use super::activations::{Activations, LINE, TILE};
use super::formats::{Block, Header, ROWS, SUPER, SuperBlock, UNIT};
use super::products::{add_block, expect, expect_unit, finish_block, pairs};
use crate::kernels::amx;
use crate::kernels::lanes::{Avx512, Lanes};

type L = Avx512;

/// Registers of whole numbers in a unit.
const QUADS: usize = UNIT / 4;
/// Units that are unpacked before the rows pass by.
const UNITS: usize = SUPER / UNIT;

/// A line of a cache.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Line<T>(T);

/// The numbers of a block in lines; of those with parts the low bytes of their products with the scales, and the high ones.
type Numbers = [[[Line<[u8; LINE]>; QUADS]; UNITS]; 2];
/// The scales of as many blocks of 32.
type Scales = [Line<[f32; ROWS]>; UNITS];

/// Working memory of one thread. All of it is there twice, and used in turn: what tiles read has to be in the cache, and what
/// they write, too, before anything else reads it.
#[repr(C, align(64))]
pub(super) struct Scratch {
    numbers: [Numbers; 2],
    scales: [Scales; 2],
    leasts: [Scales; 2],
    whole: [[[Line<[i32; ROWS]>; TILE]; UNITS]; 2],
    totals: Vec<Line<[f32; ROWS]>>,
}

/// What tiles have been set to work on: a block, or the first of some, a tile of rows, and where its sums are.
#[derive(Clone, Copy)]
struct Step {
    block: usize,
    tile: usize,
    at: usize,
}

impl Scratch {
    pub(super) fn new(rows: usize) -> Box<Self> {
        let floats = Line([0f32; ROWS]);
        Box::new(Self {
            numbers: [[[[Line([0; LINE]); QUADS]; UNITS]; 2]; 2],
            scales: [[floats; UNITS]; 2],
            leasts: [[floats; UNITS]; 2],
            whole: [[[Line([0; ROWS]); TILE]; UNITS]; 2],
            totals: vec![floats; rows.next_multiple_of(TILE)],
        })
    }

    /// The products of a row.
    pub(super) fn row(&self, row: usize) -> &[f32; ROWS] {
        &self.totals[row].0
    }
}

/// Sets up this thread's tiles for so many rows of `width` bytes: 0 and 1 for sums of sixteen rows and 2 for their values, 5
/// to 7 the same for the rows that are left, 3 and 4 for the matrix.
///
/// # Safety
/// The processor has tiles and the system lets this process use them, this thread has none set up, and `width` is at most 64.
pub(super) unsafe fn set_up(width: usize, rows: usize) -> amx::Configured {
    let rest = match rows % TILE {
        0 => TILE,
        rest => rest,
    };
    let tiles = [
        (TILE, LINE),
        (TILE, LINE),
        (TILE, width),
        (width / 4, LINE),
        (width / 4, LINE),
        (rest, LINE),
        (rest, LINE),
        (rest, width),
    ];
    unsafe { amx::Configured::new(tiles.map(|(rows, bytes)| (rows as u8, bytes as u16))) }
}

/// The whole numbers of a block of 256 values of sixteen rows: those with the low bytes, and those with the high ones. A
/// quarter of the values, of the low bytes and of the high ones lies 1024 bytes behind the one before it.
macro_rules! multiply_block {
    ($low:literal, $high:literal, $values:literal, $x:expr, $numbers:expr, $to:expr) => {
        multiply_block!($low, $high, $values, $x, $numbers, $to;
            "0" "4096", "1024" "5120", "2048" "6144", "3072" "7168")
    };
    ($low:literal, $high:literal, $values:literal, $x:expr, $numbers:expr, $to:expr;
        $($place:literal $high_place:literal),*) => {
        asm!(
            concat!(
                "tilezero ", $low, "\n",
                "tilezero ", $high, "\n",
                $(
                    "tileloadd ", $values, ", [{x} + {line}*1 + ", $place, "]\n",
                    "tileloadd tmm3, [{numbers} + {line}*1 + ", $place, "]\n",
                    "tdpbsud ", $low, ", ", $values, ", tmm3\n",
                    "tileloadd tmm4, [{numbers} + {line}*1 + ", $high_place, "]\n",
                    "tdpbssd ", $high, ", ", $values, ", tmm4\n",
                )*
                "tilestored [{to} + {line}*1], ", $low, "\n",
                "tilestored [{to} + {line}*1 + 1024], ", $high,
            ),
            x = in(reg) $x, numbers = in(reg) $numbers, to = in(reg) $to,
            line = in(reg) LINE, options(nostack)
        )
    };
}

/// Products of a panel with all rows; row `r`'s sixteen go to `totals`.
///
/// # Safety
/// The tiles are set up for the rows of `x`, which has its values laid out for them; `panel` has the pieces of its width, and
/// `scratch` was made for as many rows.
#[inline(always)]
pub(super) unsafe fn super_panel<F: SuperBlock>(
    panel: *const u8,
    x: &Activations,
    scratch: &mut Scratch,
) {
    unsafe {
        scratch.totals.fill(Line([0.0; ROWS]));
        let (blocks, tiles) = (x.inner / SUPER, x.rows.div_ceil(TILE));
        let mut headers = [unpack::<F>(panel, &mut scratch.numbers[0]); 2];
        let mut before: Option<Step> = None;
        for block in 0..blocks {
            let numbers = scratch.numbers[block % 2].as_ptr();
            for tile in 0..tiles {
                let at = (block * tiles + tile) % 2;
                let values = x.tile(tile).add(block * SUPER * TILE);
                let to = scratch.whole[at].as_mut_ptr();
                match x.rows - tile * TILE >= TILE {
                    true => multiply_block!("tmm0", "tmm1", "tmm2", values, numbers, to),
                    false => multiply_block!("tmm5", "tmm6", "tmm7", values, numbers, to),
                }
                if let Some(before) = before {
                    finish::<F>(&headers[before.block % 2], x, before, scratch);
                }
                before = Some(Step { block, tile, at });
                if tile == 0 && block + 1 < blocks {
                    let next = (block + 1) % 2;
                    let piece = panel.add((block + 1) * F::BYTES);
                    headers[next] = unpack::<F>(piece, &mut scratch.numbers[next]);
                }
            }
        }
        if let Some(before) = before {
            finish::<F>(&headers[before.block % 2], x, before, scratch);
        }
    }
}

/// Unpacks a piece, with its parts' scales in its numbers.
///
/// # Safety
/// `piece` is good for `F::BYTES` bytes, and the processor has AVX-512.
#[inline(always)]
unsafe fn unpack<F: SuperBlock>(piece: *const u8, to: &mut Numbers) -> Header<L> {
    unsafe {
        let header = F::header::<L>(piece);
        let [lows, highs] = to;
        for (unit, (lows, highs)) in lows.iter_mut().zip(highs).enumerate() {
            expect_unit::<L, F>(piece, unit);
            let numbers = F::numbers::<L>(piece, unit);
            for (quad, numbers) in numbers.into_iter().enumerate() {
                let scale = F::scale(&header, (unit * UNIT + 4 * quad) / F::PART);
                let [low, high] = scaled::<F>(numbers, scale);
                L::store(lows[quad].0.as_mut_ptr(), low);
                L::store(highs[quad].0.as_mut_ptr(), high);
            }
        }
        header
    }
}

/// Numbers times their part's scale: the low bytes, and the high ones.
///
/// # Safety
/// The processor has AVX-512.
#[inline(always)]
unsafe fn scaled<F: SuperBlock>(numbers: __m512i, scale: __m512i) -> [__m512i; 2] {
    unsafe {
        // The scale as a 16-bit number for each pair of bytes.
        let twice = |scale| {
            let low = _mm512_and_si512(scale, L::splat(0xffff));
            _mm512_or_si512(low, _mm512_slli_epi32::<16>(low))
        };
        if F::SHIFT == 4 {
            // Neither product of a byte reaches the next one.
            let low = twice(_mm512_and_si512(scale, L::splat(15)));
            let high = twice(_mm512_srli_epi32::<4>(scale));
            return [
                _mm512_mullo_epi16(numbers, low),
                _mm512_mullo_epi16(numbers, high),
            ];
        }
        let (scale, byte) = (twice(scale), _mm512_set1_epi16(0xff));
        let even = _mm512_mullo_epi16(_mm512_and_si512(numbers, byte), scale);
        let odd = _mm512_mullo_epi16(_mm512_srli_epi16::<8>(numbers), scale);
        [
            _mm512_or_si512(_mm512_and_si512(even, byte), _mm512_slli_epi16::<8>(odd)),
            _mm512_or_si512(_mm512_srli_epi16::<8>(even), _mm512_andnot_si512(byte, odd)),
        ]
    }
}

/// Adds a block's products of a tile's rows to what they have.
///
/// # Safety
/// `x` has the block and the tile, `scratch` was made for its rows, and the processor has AVX-512.
#[inline(always)]
unsafe fn finish<F: SuperBlock>(
    header: &Header<L>,
    x: &Activations,
    Step { block, tile, at }: Step,
    scratch: &mut Scratch,
) {
    unsafe {
        let (first, pairs) = (tile * TILE, pairs::<L>(&header.others));
        let [low, high] = [0, 1].map(|half| scratch.whole[at][half].as_ptr());
        for r in 0..TILE.min(x.rows - first) {
            let row = x.row(first + r);
            let low = L::load(low.add(r).cast());
            let high = L::load(high.add(r).cast());
            let high = match F::SHIFT {
                4 => L::shift_left::<4>(high),
                _ => L::shift_left::<8>(high),
            };
            let sums = row.sums.add(block * (SUPER / F::PART));
            let scales = (header.scale, header.least);
            let sum = finish_block::<L, F>(L::add(low, high), &pairs, scales, sums);
            let scale = L::splat_float(*row.scales.add(block));
            let total = scratch.totals.as_mut_ptr().add(first + r).cast::<f32>();
            L::store_float(total, L::mul_add(sum, scale, L::load_float(total)));
        }
    }
}

/// The whole numbers of a block of 32 values of sixteen rows.
macro_rules! multiply_unit {
    ($sum:literal, $values:literal, $x:expr, $numbers:expr, $to:expr) => {
        asm!(
            concat!("tilezero ", $sum),
            concat!("tileloadd ", $values, ", [{x} + {width}*1]"),
            "tileloadd tmm3, [{numbers} + {line}*1]",
            concat!("tdpbsud ", $sum, ", ", $values, ", tmm3"),
            concat!("tilestored [{to} + {line}*1], ", $sum),
            x = in(reg) $x, numbers = in(reg) $numbers, to = in(reg) $to,
            line = in(reg) LINE, width = in(reg) UNIT, options(nostack)
        )
    };
}

/// Products of a panel with all rows; row `r`'s sixteen go to `totals`.
///
/// # Safety
/// The tiles are set up for the rows of `x`, which has its values laid out for them; `panel` has the pieces of its width, and
/// `scratch` was made for as many rows.
#[inline(always)]
pub(super) unsafe fn block_panel<F: Block>(
    panel: *const u8,
    x: &Activations,
    scratch: &mut Scratch,
) {
    unsafe {
        scratch.totals.fill(Line([0.0; ROWS]));
        let (blocks, tiles) = (x.inner / UNIT, x.rows.div_ceil(TILE));
        unpack_units::<F>(panel, 0..UNITS.min(blocks), scratch, 0);
        let mut before: Option<Step> = None;
        for (group, block) in (0..blocks).step_by(UNITS).enumerate() {
            let count = UNITS.min(blocks - block);
            for tile in 0..tiles {
                let at = (group * tiles + tile) % 2;
                let values = x.tile(tile).add(block * UNIT * TILE);
                for unit in 0..count {
                    let values = values.add(unit * UNIT * TILE);
                    let numbers = scratch.numbers[group % 2][0][unit].as_ptr();
                    let to = scratch.whole[at][unit].as_mut_ptr();
                    match (x.rows - tile * TILE >= TILE, unit % 2) {
                        (true, 0) => multiply_unit!("tmm0", "tmm2", values, numbers, to),
                        (true, _) => multiply_unit!("tmm1", "tmm2", values, numbers, to),
                        (false, 0) => multiply_unit!("tmm5", "tmm7", values, numbers, to),
                        (false, _) => multiply_unit!("tmm6", "tmm7", values, numbers, to),
                    }
                }
                if let Some(before) = before {
                    finish_units::<F>(x, before, scratch);
                }
                before = Some(Step { block, tile, at });
                if tile == 0 && block + UNITS < blocks {
                    let next = block + UNITS..blocks.min(block + 2 * UNITS);
                    unpack_units::<F>(panel, next, scratch, (group + 1) % 2);
                }
            }
        }
        if let Some(before) = before {
            finish_units::<F>(x, before, scratch);
        }
    }
}

/// Unpacks some pieces.
///
/// # Safety
/// `panel` has these pieces, at most eight, and the processor has AVX-512.
#[inline(always)]
unsafe fn unpack_units<F: Block>(
    panel: *const u8,
    blocks: std::ops::Range<usize>,
    scratch: &mut Scratch,
    at: usize,
) {
    unsafe {
        for (unit, block) in blocks.enumerate() {
            let piece = panel.add(block * F::BYTES);
            expect::<L>(piece, F::BYTES);
            for (to, value) in [
                (&mut scratch.scales, F::scale::<L>(piece)),
                (&mut scratch.leasts, F::least::<L>(piece)),
            ] {
                L::store_float(to[at][unit].0.as_mut_ptr(), value);
            }
            for (quad, numbers) in F::numbers::<L>(piece).into_iter().enumerate() {
                L::store(scratch.numbers[at][0][unit][quad].0.as_mut_ptr(), numbers);
            }
        }
    }
}

/// Adds the products of some blocks of a tile's rows to what they have.
///
/// # Safety
/// `x` has the blocks and the tile, `scratch` was made for its rows, and the processor has AVX-512.
#[inline(always)]
unsafe fn finish_units<F: Block>(
    x: &Activations,
    Step { block, tile, at }: Step,
    scratch: &mut Scratch,
) {
    unsafe {
        let count = UNITS.min(x.inner / UNIT - block);
        let (scales, leasts) = (
            &scratch.scales[block / UNITS % 2],
            &scratch.leasts[block / UNITS % 2],
        );
        let less = F::LESS.unwrap_or(L::LEFT);
        let first = tile * TILE;
        for r in 0..TILE.min(x.rows - first) {
            let row = x.row(first + r);
            let total = scratch.totals.as_mut_ptr().add(first + r).cast::<f32>();
            let mut sum = L::load_float(total);
            for unit in 0..count {
                let whole = L::load(scratch.whole[at][unit][r].0.as_ptr().cast());
                let x = (*row.scales.add(block + unit), *row.sums.add(block + unit));
                let scale = L::load_float(scales[unit].0.as_ptr());
                let least = L::load_float(leasts[unit].0.as_ptr());
                sum = add_block::<L, F>(sum, whole, scale, least, less, x);
            }
            L::store_float(total, sum);
        }
    }
}
