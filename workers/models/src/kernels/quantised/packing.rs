//! From GGML's blocks, row by row, to pieces of 16 rows, and back to numbers.

#![expect(
    unsafe_code,
    reason = "pieces are unpacked by the kernels' own code, within the bytes of a whole piece"
)]

use candle_core::quantized::GgmlDType;

use super::formats::{Block, Header, Q4_0, Q4_1, Q4K, Q6K, Q8_0, ROWS, SUPER, SuperBlock, UNIT};
use crate::kernels::lanes::{Lanes, Portable};

/// A block of one row: its parts' scales and its numbers as they are unpacked.
struct Unpacked {
    scale: [u8; 2],
    least: [u8; 2],
    scales: [u8; 16],
    others: [u8; 16],
    numbers: [u8; SUPER],
}

/// Values of a block.
pub(super) fn block_values(dtype: GgmlDType) -> usize {
    match dtype {
        GgmlDType::Q4K | GgmlDType::Q6K => SUPER,
        _ => UNIT,
    }
}

/// Bytes of a piece; nothing where there is no kernel.
pub(super) fn piece_bytes(dtype: GgmlDType) -> Option<usize> {
    match dtype {
        GgmlDType::Q4_0 => Some(Q4_0::BYTES),
        GgmlDType::Q4_1 => Some(Q4_1::BYTES),
        GgmlDType::Q8_0 => Some(Q8_0::BYTES),
        GgmlDType::Q4K => Some(Q4K::BYTES),
        GgmlDType::Q6K => Some(Q6K::BYTES),
        _ => None,
    }
}

/// Writes up to sixteen blocks of as many rows as one piece; those that are missing are zeros. Their bytes begin a row
/// apart.
pub(super) fn pack<'a>(dtype: GgmlDType, blocks: impl Iterator<Item = &'a [u8]>, piece: &mut [u8]) {
    piece.fill(0);
    for (row, bytes) in blocks.enumerate() {
        let unpacked = unpack(dtype, bytes);
        put(dtype, row, &unpacked, piece);
    }
}

fn unpack(dtype: GgmlDType, bytes: &[u8]) -> Unpacked {
    let mut unpacked = Unpacked {
        scale: [bytes[0], bytes[1]],
        least: [0; 2],
        scales: [0; 16],
        others: [0; 16],
        numbers: [0; SUPER],
    };
    let numbers = &mut unpacked.numbers;
    match dtype {
        GgmlDType::Q4_0 | GgmlDType::Q4_1 => {
            let header = if dtype == GgmlDType::Q4_0 { 2 } else { 4 };
            if dtype == GgmlDType::Q4_1 {
                unpacked.least = [bytes[2], bytes[3]];
            }
            for (at, byte) in bytes[header..].iter().enumerate() {
                (numbers[at], numbers[at + 16]) = (byte & 15, byte >> 4);
            }
        }
        GgmlDType::Q8_0 => {
            for (number, byte) in numbers.iter_mut().zip(&bytes[2..]) {
                *number = byte ^ 0x80;
            }
        }
        GgmlDType::Q4K => {
            unpacked.least = [bytes[2], bytes[3]];
            let six = &bytes[4..16];
            for part in 0..8 {
                (unpacked.scales[part], unpacked.others[part]) = match part {
                    0..4 => (six[part] & 63, six[part + 4] & 63),
                    _ => (
                        six[part + 4] & 15 | six[part - 4] >> 6 << 4,
                        six[part + 4] >> 4 | six[part] >> 6 << 4,
                    ),
                };
            }
            for (chunk, bytes) in bytes[16..].chunks_exact(32).enumerate() {
                for (at, byte) in bytes.iter().enumerate() {
                    numbers[64 * chunk + at] = byte & 15;
                    numbers[64 * chunk + 32 + at] = byte >> 4;
                }
            }
        }
        _ => {
            unpacked.scale = [bytes[208], bytes[209]];
            unpacked.scales.copy_from_slice(&bytes[192..208]);
            for half in 0..2 {
                let (low, high) = (&bytes[64 * half..][..64], &bytes[128 + 32 * half..][..32]);
                let numbers = &mut numbers[128 * half..];
                for at in 0..32 {
                    numbers[at] = low[at] & 15 | (high[at] & 3) << 4;
                    numbers[at + 32] = low[at + 32] & 15 | (high[at] >> 2 & 3) << 4;
                    numbers[at + 64] = low[at] >> 4 | (high[at] >> 4 & 3) << 4;
                    numbers[at + 96] = low[at + 32] >> 4 | (high[at] >> 6) << 4;
                }
            }
        }
    }
    unpacked
}

/// Puts a row's block into its lanes of a piece.
fn put(dtype: GgmlDType, row: usize, block: &Unpacked, piece: &mut [u8]) {
    piece[2 * row..][..2].copy_from_slice(&block.scale);
    let numbers = &block.numbers;
    // Byte `at` of the row's lane in register `register` of the registers behind `start`.
    let place = |start: usize, register: usize, at: usize| start + 64 * register + 4 * row + at;
    let nibbles = |piece: &mut [u8], start: usize, numbers: &[u8]| {
        for register in 0..4 {
            for at in 0..4 {
                let (low, high) = (numbers[4 * register + at], numbers[16 + 4 * register + at]);
                piece[place(start, register, at)] = low & 15 | (high & 15) << 4;
            }
        }
    };
    match dtype {
        GgmlDType::Q4_0 => nibbles(piece, 2 * ROWS, numbers),
        GgmlDType::Q4_1 => {
            nibbles(piece, 4 * ROWS, numbers);
            piece[2 * ROWS + 2 * row..][..2].copy_from_slice(&block.least);
        }
        GgmlDType::Q8_0 => {
            for (at, number) in numbers[..UNIT].iter().enumerate() {
                piece[place(2 * ROWS, at / 4, at % 4)] = *number;
            }
        }
        GgmlDType::Q4K => {
            for (unit, numbers) in numbers.chunks_exact(UNIT).enumerate() {
                nibbles(piece, 4 * ROWS + 3 * 64 + 4 * 64 * unit, numbers);
            }
            piece[2 * ROWS + 2 * row..][..2].copy_from_slice(&block.least);
            for at in 0..4 {
                let rest = block.others[4 + at];
                let six = [block.scales[at], block.scales[4 + at], block.others[at]];
                for (register, six) in six.into_iter().enumerate() {
                    let two = rest >> (2 * register) & 3;
                    piece[place(4 * ROWS, register, at)] = six | two << 6;
                }
            }
        }
        _ => {
            for (at, scale) in block.scales.iter().enumerate() {
                piece[place(2 * ROWS, at / 4, at % 4)] = *scale;
            }
            for (unit, numbers) in numbers.chunks_exact(UNIT).enumerate() {
                nibbles(piece, 2 * ROWS + 4 * 64 + 4 * 64 * unit, numbers);
            }
            for (unit, numbers) in numbers.chunks_exact(16).enumerate() {
                for at in 0..4 {
                    let high = |quad: usize| numbers[4 * quad + at] >> 4;
                    piece[place(2 * ROWS + 36 * 64, unit, at)] =
                        high(0) | high(1) << 2 | high(2) << 4 | high(3) << 6;
                }
            }
        }
    }
}

/// The numbers of a row's block in a piece, as f32.
pub(super) fn values(dtype: GgmlDType, piece: &[u8], row: usize, values: &mut [f32]) {
    match dtype {
        GgmlDType::Q4_0 => block_values_of::<Q4_0>(piece, row, values),
        GgmlDType::Q4_1 => block_values_of::<Q4_1>(piece, row, values),
        GgmlDType::Q8_0 => block_values_of::<Q8_0>(piece, row, values),
        GgmlDType::Q4K => super_values_of::<Q4K>(piece, row, values),
        _ => super_values_of::<Q6K>(piece, row, values),
    }
}

fn block_values_of<F: Block>(piece: &[u8], row: usize, values: &mut [f32]) {
    assert!(piece.len() >= F::BYTES && row < ROWS);
    let piece = piece.as_ptr();
    // SAFETY: the piece is whole, and any processor will do.
    let (scale, least, numbers) = unsafe {
        (
            F::scale::<Portable>(piece)[row],
            F::least::<Portable>(piece)[row],
            F::numbers::<Portable>(piece),
        )
    };
    for (at, value) in values.iter_mut().enumerate() {
        let number = i32::from(numbers[at / 4][row].to_le_bytes()[at % 4]);
        let number = (number - F::LESS.unwrap_or(Portable::LEFT)) as f32;
        *value = match F::LEAST {
            true => number * scale + least,
            false => number * scale,
        };
    }
}

fn super_values_of<F: SuperBlock>(piece: &[u8], row: usize, values: &mut [f32]) {
    assert!(piece.len() >= F::BYTES && row < ROWS && values.len() <= SUPER);
    let piece = piece.as_ptr();
    // SAFETY: the piece is whole, and any processor will do.
    let header: Header<Portable> = unsafe { F::header::<Portable>(piece) };
    for (unit, values) in values.chunks_exact_mut(UNIT).enumerate() {
        // SAFETY: as above; a block has eight units.
        let numbers = unsafe { F::numbers::<Portable>(piece, unit) };
        for (at, value) in values.iter_mut().enumerate() {
            let part = (unit * UNIT + at) / F::PART;
            // SAFETY: the part is that of a value of a block.
            let scale = unsafe { F::scale::<Portable>(&header, part) }[row] as f32;
            let number = i32::from(numbers[at / 4][row].to_le_bytes()[at % 4]);
            let scale = header.scale[row] * scale;
            *value = match F::PART {
                // What is taken off is 32 of each number.
                16 => scale * (number - 32) as f32,
                _ => {
                    let other = header.others[part / 4][row].to_le_bytes()[part % 4];
                    scale * number as f32 - header.least[row] * f32::from(other)
                }
            };
        }
    }
}
