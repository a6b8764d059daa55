//! How 16 rows of a quantised matrix lie together: lane by lane, so that one instruction works on all of them. A piece
//! takes exactly the bytes that its 16 blocks take in a file.

#![expect(
    unsafe_code,
    reason = "pieces are read where their callers' pointers say, within the bytes that `BYTES` gives"
)]

use crate::kernels::lanes::Lanes;

/// Rows of a matrix that lie together.
pub(super) const ROWS: usize = 16;
/// Values of a row that are unpacked together.
pub(super) const UNIT: usize = 32;
/// Values of a row in a block of the kinds with scales of scales.
pub(super) const SUPER: usize = 256;
/// Bytes of one vector register's worth.
const VECTOR: usize = 64;
/// Bytes of a number in half precision for each row.
const HALVES: usize = 2 * ROWS;

/// Blocks of 32 values with one scale: the value `q` of a block stands for `scale · (q - LESS) + least`.
///
/// # Safety
/// Of every function: `piece` is good for `BYTES` bytes, and the processor has the instructions of `L`.
pub(super) trait Block {
    /// Bytes of a piece: 16 blocks.
    const BYTES: usize;
    /// What is taken from the unsigned numbers; `None` where any byte occurs, so that it is 128.
    const LESS: Option<i32>;
    /// Whether blocks have a least value.
    const LEAST: bool;

    /// The scales, which a piece begins with.
    #[inline(always)]
    unsafe fn scale<L: Lanes>(piece: *const u8) -> L::Float {
        unsafe { L::load_halves(piece) }
    }
    /// The least values, which stand behind the scales; zeros where there are none.
    #[inline(always)]
    unsafe fn least<L: Lanes>(piece: *const u8) -> L::Float {
        match Self::LEAST {
            true => unsafe { L::load_halves(piece.add(HALVES)) },
            false => unsafe { L::splat_float(0.0) },
        }
    }
    /// The numbers, four of each row in a register.
    unsafe fn numbers<L: Lanes>(piece: *const u8) -> [L::Whole; 8];
}

/// Blocks of 256 values in parts, each with a small whole number as its scale: the value `q` stands for
/// `scale · part · q - least · other part`.
///
/// # Safety
/// Of every function: `piece` is good for `BYTES` bytes, `unit` is below 8 and `part` below `256 / PART`, and the processor
/// has the instructions of `L`.
pub(super) trait SuperBlock {
    /// Bytes of a piece: 16 blocks.
    const BYTES: usize;
    /// Values of a part: 32, or 16 of which 32 is taken off.
    const PART: usize;
    /// A number times its part's scale is one byte, and another one shifted by so many bits.
    const SHIFT: u32;

    unsafe fn header<L: Lanes>(piece: *const u8) -> Header<L>;
    /// The numbers of a unit, four of each row in a register.
    unsafe fn numbers<L: Lanes>(piece: *const u8, unit: usize) -> [L::Whole; 8];
    /// The scale of a part as a whole number.
    unsafe fn scale<L: Lanes>(header: &Header<L>, part: usize) -> L::Whole;
}

/// The scales of a piece.
#[derive(Clone, Copy)]
pub(super) struct Header<L: Lanes> {
    pub(super) scale: L::Float,
    pub(super) least: L::Float,
    /// Scales of the parts, four of each row in a register.
    scales: [L::Whole; 4],
    /// Those of what is taken off.
    pub(super) others: [L::Whole; 4],
}

/// Four registers that lie one behind the other. Not by a closure: those of the standard library's functions of arrays may stay calls,
/// without the instructions of `L` and with registers in memory.
#[inline(always)]
unsafe fn four<L: Lanes>(from: *const u8) -> [L::Whole; 4] {
    unsafe {
        [
            L::load(from),
            L::load(from.add(VECTOR)),
            L::load(from.add(2 * VECTOR)),
            L::load(from.add(3 * VECTOR)),
        ]
    }
}

#[inline(always)]
unsafe fn low_nibbles<L: Lanes>(bytes: L::Whole) -> L::Whole {
    unsafe { L::and(bytes, L::splat(0x0f0f_0f0f)) }
}

#[inline(always)]
unsafe fn high_nibbles<L: Lanes>(bytes: L::Whole) -> L::Whole {
    unsafe { low_nibbles::<L>(L::shift_right::<4>(bytes)) }
}

/// Registers 0 to 3 from the low halves of the bytes, 4 to 7 from the high ones.
#[inline(always)]
unsafe fn nibbles<L: Lanes>(from: *const u8) -> [L::Whole; 8] {
    unsafe {
        let [a, b, c, d] = four::<L>(from);
        [
            low_nibbles::<L>(a),
            low_nibbles::<L>(b),
            low_nibbles::<L>(c),
            low_nibbles::<L>(d),
            high_nibbles::<L>(a),
            high_nibbles::<L>(b),
            high_nibbles::<L>(c),
            high_nibbles::<L>(d),
        ]
    }
}

/// The scale of a part in the highest byte of its row's lane.
#[inline(always)]
unsafe fn byte_on_top<L: Lanes>(scales: &[L::Whole; 4], part: usize) -> L::Whole {
    unsafe {
        let four = scales[part / 4];
        match part % 4 {
            0 => L::shift_left::<24>(four),
            1 => L::shift_left::<16>(four),
            2 => L::shift_left::<8>(four),
            _ => four,
        }
    }
}

/// Four bits and a scale.
pub(super) struct Q4_0;
/// Four bits, a scale and a least value.
pub(super) struct Q4_1;
/// Eight bits and a scale.
pub(super) struct Q8_0;
/// Four bits; eight parts with scale and least value in six bits each.
pub(super) struct Q4K;
/// Six bits; sixteen parts with a scale in eight bits each.
pub(super) struct Q6K;

impl Block for Q4_0 {
    const BYTES: usize = ROWS * 18;
    const LESS: Option<i32> = Some(8);
    const LEAST: bool = false;

    #[inline(always)]
    unsafe fn numbers<L: Lanes>(piece: *const u8) -> [L::Whole; 8] {
        unsafe { nibbles::<L>(piece.add(HALVES)) }
    }
}

impl Block for Q4_1 {
    const BYTES: usize = ROWS * 20;
    const LESS: Option<i32> = Some(0);
    const LEAST: bool = true;

    #[inline(always)]
    unsafe fn numbers<L: Lanes>(piece: *const u8) -> [L::Whole; 8] {
        unsafe { nibbles::<L>(piece.add(2 * HALVES)) }
    }
}

impl Block for Q8_0 {
    const BYTES: usize = ROWS * 34;
    const LESS: Option<i32> = None;
    const LEAST: bool = false;

    #[inline(always)]
    unsafe fn numbers<L: Lanes>(piece: *const u8) -> [L::Whole; 8] {
        unsafe {
            let [a, b, c, d] = four::<L>(piece.add(HALVES));
            let [e, f, g, h] = four::<L>(piece.add(HALVES + 4 * VECTOR));
            [a, b, c, d, e, f, g, h]
        }
    }
}

impl SuperBlock for Q4K {
    const BYTES: usize = ROWS * 144;
    const PART: usize = 32;
    // 63 has four low bits and two high ones, and 15 times either is a byte.
    const SHIFT: u32 = 4;

    #[inline(always)]
    unsafe fn header<L: Lanes>(piece: *const u8) -> Header<L> {
        unsafe {
            let packed = piece.add(2 * HALVES);
            let (a, b, c) = (
                L::load(packed),
                L::load(packed.add(VECTOR)),
                L::load(packed.add(2 * VECTOR)),
            );
            let six = L::splat(0x3f3f_3f3f);
            let rest = L::or(
                L::and(L::shift_right::<6>(a), L::splat(0x0303_0303)),
                L::or(
                    L::and(L::shift_right::<4>(b), L::splat(0x0c0c_0c0c)),
                    L::and(L::shift_right::<2>(c), L::splat(0x3030_3030)),
                ),
            );
            let (first, second, third) = (L::and(a, six), L::and(b, six), L::and(c, six));
            Header {
                scale: L::load_halves(piece),
                least: L::load_halves(piece.add(HALVES)),
                scales: [first, second, first, second],
                others: [third, rest, third, rest],
            }
        }
    }
    #[inline(always)]
    unsafe fn numbers<L: Lanes>(piece: *const u8, unit: usize) -> [L::Whole; 8] {
        unsafe { nibbles::<L>(piece.add(2 * HALVES + 3 * VECTOR + 4 * VECTOR * unit)) }
    }
    #[inline(always)]
    unsafe fn scale<L: Lanes>(header: &Header<L>, part: usize) -> L::Whole {
        unsafe { L::shift_right::<24>(byte_on_top::<L>(&header.scales, part)) }
    }
}

impl SuperBlock for Q6K {
    const BYTES: usize = ROWS * 210;
    const PART: usize = 16;
    const SHIFT: u32 = 8;

    #[inline(always)]
    unsafe fn header<L: Lanes>(piece: *const u8) -> Header<L> {
        unsafe {
            let scale = L::load_halves(piece);
            let scales = four::<L>(piece.add(HALVES));
            Header {
                scale,
                least: L::splat_float(0.0),
                scales,
                others: scales,
            }
        }
    }
    #[inline(always)]
    unsafe fn numbers<L: Lanes>(piece: *const u8, unit: usize) -> [L::Whole; 8] {
        unsafe {
            let low = nibbles::<L>(piece.add(HALVES + 4 * VECTOR + 4 * VECTOR * unit));
            let high = piece.add(HALVES + 36 * VECTOR + 2 * VECTOR * unit);
            let (first, second) = (L::load(high), L::load(high.add(VECTOR)));
            let two = L::splat(0x3030_3030);
            let with = |at: usize, bits| L::or(low[at], L::and(bits, two));
            [
                with(0, L::shift_left::<4>(first)),
                with(1, L::shift_left::<2>(first)),
                with(2, first),
                with(3, L::shift_right::<2>(first)),
                with(4, L::shift_left::<4>(second)),
                with(5, L::shift_left::<2>(second)),
                with(6, second),
                with(7, L::shift_right::<2>(second)),
            ]
        }
    }
    #[inline(always)]
    unsafe fn scale<L: Lanes>(header: &Header<L>, part: usize) -> L::Whole {
        unsafe { L::shift_right_signed::<24>(byte_on_top::<L>(&header.scales, part)) }
    }
}
