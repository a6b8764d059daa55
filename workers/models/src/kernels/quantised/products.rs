//! The products of quantised rows with rows in eight bits. Each output is one sum in one order, whatever the number of
//! rows and whichever the instructions: whole numbers within a part, f32 from part to part.

#![expect(
    unsafe_code,
    reason = "the kernels read matrices and rows through pointers that their callers have checked"
)]

use super::activations::{LINE, Row};
use super::formats::{Block, SUPER, SuperBlock, UNIT};
use crate::kernels::lanes::Lanes;

/// Bytes that are asked for before they are needed. A processor's own foresight ends with a page.
const AHEAD: usize = 4096;
/// Parts of 16 in a unit have two sums.
const HALF: usize = 16;

/// Asks for so many bytes of what comes some pieces later.
#[inline(always)]
pub(super) fn expect<L: Lanes>(place: *const u8, bytes: usize) {
    for line in 0..bytes.div_ceil(LINE) {
        L::expect(place.wrapping_add(AHEAD + line * LINE));
    }
}

/// The same of a unit's share of a piece.
#[inline(always)]
pub(super) fn expect_unit<L: Lanes, F: SuperBlock>(piece: *const u8, unit: usize) {
    let units = SUPER / UNIT;
    expect::<L>(
        piece.wrapping_add(unit * F::BYTES / units),
        F::BYTES.div_ceil(units),
    );
}

/// Writes the sums of each row.
///
/// # Safety
/// Each of `to` takes sixteen numbers, and the processor has the instructions of `L`.
#[inline(always)]
unsafe fn store<L: Lanes, const R: usize>(to: [*mut f32; R], sums: [L::Float; R]) {
    for (to, sums) in to.into_iter().zip(sums) {
        unsafe { L::store_float(to, sums) }
    }
}

/// The pairs of numbers by which the sums of a block's parts are multiplied: four parts in two registers.
///
/// # Safety
/// The processor has the instructions of `L`.
#[inline(always)]
pub(super) unsafe fn pairs<L: Lanes>(others: &[L::Whole; 4]) -> [L::Whole; 8] {
    unsafe {
        let [a, b, c, d] = *others;
        [
            L::even_bytes(a),
            L::odd_bytes(a),
            L::even_bytes(b),
            L::odd_bytes(b),
            L::even_bytes(c),
            L::odd_bytes(c),
            L::even_bytes(d),
            L::odd_bytes(d),
        ]
    }
}

/// A block's products from the whole numbers of its parts.
///
/// # Safety
/// `sums` has those of a block's parts, and the processor has the instructions of `L`.
#[inline(always)]
pub(super) unsafe fn finish_block<L: Lanes, F: SuperBlock>(
    whole: L::Whole,
    pairs: &[L::Whole; 8],
    (scale, least): (L::Float, L::Float),
    sums: *const i16,
) -> L::Float {
    unsafe {
        let mut off = L::splat(0);
        for (at, pair) in pairs.iter().enumerate().take(SUPER / F::PART / 2) {
            off = L::dot_pairs(off, *pair, sums.add(2 * at));
        }
        match F::PART {
            // What is taken off is 32 of each number.
            HALF => {
                let whole = L::sub(whole, L::shift_left::<5>(off));
                L::mul(L::to_float(whole), scale)
            }
            _ => {
                let product = L::mul(L::to_float(whole), scale);
                L::mul_sub_from(L::to_float(off), least, product)
            }
        }
    }
}

/// Products of a panel of `blocks` super blocks with `R` rows, sixteen to each of `out`.
///
/// # Safety
/// `panel` has so many pieces, each row as many blocks of values with their scales and sums, each of `out` takes sixteen
/// numbers, and the processor has the instructions of `L`.
#[inline(always)]
pub(super) unsafe fn super_panel<L: Lanes, F: SuperBlock, const R: usize>(
    panel: *const u8,
    blocks: usize,
    rows: [Row; R],
    out: [*mut f32; R],
) {
    unsafe {
        let mut total = [L::splat_float(0.0); R];
        for block in 0..blocks {
            let piece = panel.add(block * F::BYTES);
            let header = F::header::<L>(piece);
            let mut whole = [L::splat(0); R];
            for unit in 0..SUPER / UNIT {
                let numbers = F::numbers::<L>(piece, unit);
                expect_unit::<L, F>(piece, unit);
                let at = block * SUPER + unit * UNIT;
                if F::PART == UNIT {
                    let scale = F::scale(&header, unit);
                    for r in 0..R {
                        let x = rows[r].values.add(at);
                        let mut part = L::splat(0);
                        for (quad, numbers) in numbers.iter().enumerate() {
                            part = L::dot_bytes(part, *numbers, x.add(4 * quad));
                        }
                        whole[r] = L::add(whole[r], L::mul_whole(part, scale));
                    }
                } else {
                    let first = F::scale(&header, 2 * unit);
                    let second = F::scale(&header, 2 * unit + 1);
                    for r in 0..R {
                        let x = rows[r].values.add(at);
                        let mut part = [L::splat(0); 2];
                        for quad in 0..4 {
                            part[0] = L::dot_bytes(part[0], numbers[quad], x.add(4 * quad));
                            part[1] =
                                L::dot_bytes(part[1], numbers[4 + quad], x.add(HALF + 4 * quad));
                        }
                        let part =
                            L::add(L::mul_whole(part[0], first), L::mul_whole(part[1], second));
                        whole[r] = L::add(whole[r], part);
                    }
                }
            }
            let pairs = pairs::<L>(&header.others);
            for r in 0..R {
                let sums = rows[r].sums.add(block * (SUPER / F::PART));
                let scales = (header.scale, header.least);
                let sum = finish_block::<L, F>(whole[r], &pairs, scales, sums);
                let scale = L::splat_float(*rows[r].scales.add(block));
                total[r] = L::mul_add(sum, scale, total[r]);
            }
        }
        store::<L, R>(out, total);
    }
}

/// What is added to the sum of a row and a block for its products.
///
/// # Safety
/// The processor has the instructions of `L`.
#[inline(always)]
pub(super) unsafe fn add_block<L: Lanes, F: Block>(
    total: L::Float,
    whole: L::Whole,
    scale: L::Float,
    least: L::Float,
    less: i32,
    (x_scale, x_sum): (f32, i16),
) -> L::Float {
    unsafe {
        let whole = match less {
            0 => whole,
            _ => L::sub(whole, L::splat(less * i32::from(x_sum))),
        };
        let part = L::mul(L::to_float(whole), L::splat_float(x_scale));
        let total = L::mul_add(part, scale, total);
        match F::LEAST {
            true => L::mul_add(L::splat_float(x_scale * f32::from(x_sum)), least, total),
            false => total,
        }
    }
}

/// Products of a panel of `blocks` blocks with `R` rows, sixteen to each of `out`.
///
/// # Safety
/// `panel` has so many pieces, each row as many blocks of values with their scales and sums, each of `out` takes sixteen
/// numbers, and the processor has the instructions of `L`.
#[inline(always)]
pub(super) unsafe fn block_panel<L: Lanes, F: Block, const R: usize>(
    panel: *const u8,
    blocks: usize,
    rows: [Row; R],
    out: [*mut f32; R],
) {
    unsafe {
        let mut total = [L::splat_float(0.0); R];
        for block in 0..blocks {
            let piece = panel.add(block * F::BYTES);
            let (scale, least) = (F::scale::<L>(piece), F::least::<L>(piece));
            let numbers = F::numbers::<L>(piece);
            expect::<L>(piece, F::BYTES);
            for r in 0..R {
                let x = rows[r].values.add(block * UNIT);
                let mut whole = L::splat(0);
                for (quad, numbers) in numbers.iter().enumerate() {
                    let x = x.add(4 * quad);
                    whole = match F::LESS {
                        Some(_) => L::dot_bytes(whole, *numbers, x),
                        None => L::dot_any_bytes(whole, *numbers, x),
                    };
                }
                let x = (*rows[r].scales.add(block), *rows[r].sums.add(block));
                let less = F::LESS.unwrap_or(L::LEFT);
                total[r] = add_block::<L, F>(total[r], whole, scale, least, less, x);
            }
        }
        store::<L, R>(out, total);
    }
}
