//! Sixteen 32-bit lanes, as the kernels of quantised products and of attention see a processor. Each operation gives the same bits on every
//! one, so that a product does not depend on the machine's instructions.

#![expect(
    unsafe_code,
    reason = "the operations read and write where their callers' pointers say, and use instructions that were asked for"
)]

/// Sixteen lanes.
///
/// # Safety
/// Of every operation: a pointer is good for the 64 bytes that are read or written (32 of half precision, four behind the
/// `x` of a product), and the processor has the instructions of the type. No block below asks for more.
pub(super) trait Lanes: Copy {
    /// Whole numbers, or four bytes or two 16-bit numbers in each lane.
    type Whole: Copy;
    /// Numbers in f32.
    type Float: Copy;
    /// Whether two dozen sums of sixteen numbers stay in registers; else it is eight.
    const MANY: bool = false;

    /// Reads 64 bytes.
    unsafe fn load(from: *const u8) -> Self::Whole;
    /// Asks for the 64 bytes that will be read soon; the place may be beyond what there is.
    fn expect(_: *const u8) {}
    /// Writes 64 bytes.
    unsafe fn store(to: *mut u8, value: Self::Whole);
    /// One number in all lanes.
    unsafe fn splat(value: i32) -> Self::Whole;
    unsafe fn and(a: Self::Whole, b: Self::Whole) -> Self::Whole;
    unsafe fn or(a: Self::Whole, b: Self::Whole) -> Self::Whole;
    unsafe fn add(a: Self::Whole, b: Self::Whole) -> Self::Whole;
    unsafe fn sub(a: Self::Whole, b: Self::Whole) -> Self::Whole;
    /// The low 32 bits of the products.
    unsafe fn mul_whole(a: Self::Whole, b: Self::Whole) -> Self::Whole;
    unsafe fn shift_left<const BITS: u32>(a: Self::Whole) -> Self::Whole;
    unsafe fn shift_right<const BITS: u32>(a: Self::Whole) -> Self::Whole;
    /// The same, with the sign.
    unsafe fn shift_right_signed<const BITS: u32>(a: Self::Whole) -> Self::Whole;
    /// Bytes 0 and 2 of each lane as two signed 16-bit numbers.
    unsafe fn even_bytes(a: Self::Whole) -> Self::Whole;
    /// Bytes 1 and 3 of each lane as two signed 16-bit numbers.
    unsafe fn odd_bytes(a: Self::Whole) -> Self::Whole;
    /// Adds to each lane its four unsigned bytes, each below 64, times the four signed ones at `x`.
    unsafe fn dot_bytes(sum: Self::Whole, bytes: Self::Whole, x: *const i8) -> Self::Whole;
    /// The same for any unsigned bytes, each taken less 128 where `LESS` says so; else the caller takes it off.
    unsafe fn dot_any_bytes(sum: Self::Whole, bytes: Self::Whole, x: *const i8) -> Self::Whole;
    /// What [`Lanes::dot_any_bytes`] leaves to take off.
    const LEFT: i32;
    /// Adds to each lane its two signed 16-bit numbers times the two at `x`.
    unsafe fn dot_pairs(sum: Self::Whole, pairs: Self::Whole, x: *const i16) -> Self::Whole;
    unsafe fn to_float(a: Self::Whole) -> Self::Float;

    /// One number in all lanes.
    unsafe fn splat_float(value: f32) -> Self::Float;
    /// Reads sixteen numbers.
    unsafe fn load_float(from: *const f32) -> Self::Float;
    /// Writes sixteen numbers.
    unsafe fn store_float(to: *mut f32, value: Self::Float);
    /// Reads sixteen numbers in half precision.
    unsafe fn load_halves(from: *const u8) -> Self::Float;
    unsafe fn add_float(a: Self::Float, b: Self::Float) -> Self::Float;
    unsafe fn mul(a: Self::Float, b: Self::Float) -> Self::Float;
    /// `a · b + c`, rounded once.
    unsafe fn mul_add(a: Self::Float, b: Self::Float, c: Self::Float) -> Self::Float;
    /// `c - a · b`, rounded once.
    unsafe fn mul_sub_from(a: Self::Float, b: Self::Float, c: Self::Float) -> Self::Float;
}

/// Without instructions of any one processor.
#[derive(Clone, Copy)]
pub(super) struct Portable;

impl Lanes for Portable {
    type Whole = [i32; 16];
    type Float = [f32; 16];
    const LEFT: i32 = 128;

    #[inline(always)]
    unsafe fn load(from: *const u8) -> [i32; 16] {
        let lanes: [[u8; 4]; 16] = unsafe { from.cast::<[[u8; 4]; 16]>().read_unaligned() };
        lanes.map(i32::from_le_bytes)
    }
    #[inline(always)]
    unsafe fn store(to: *mut u8, value: [i32; 16]) {
        let bytes = value.map(i32::to_le_bytes);
        unsafe { to.cast::<[[u8; 4]; 16]>().write_unaligned(bytes) }
    }
    #[inline(always)]
    unsafe fn splat(value: i32) -> [i32; 16] {
        [value; 16]
    }
    #[inline(always)]
    unsafe fn and(a: [i32; 16], b: [i32; 16]) -> [i32; 16] {
        std::array::from_fn(|lane| a[lane] & b[lane])
    }
    #[inline(always)]
    unsafe fn or(a: [i32; 16], b: [i32; 16]) -> [i32; 16] {
        std::array::from_fn(|lane| a[lane] | b[lane])
    }
    #[inline(always)]
    unsafe fn add(a: [i32; 16], b: [i32; 16]) -> [i32; 16] {
        std::array::from_fn(|lane| a[lane].wrapping_add(b[lane]))
    }
    #[inline(always)]
    unsafe fn mul_whole(a: [i32; 16], b: [i32; 16]) -> [i32; 16] {
        std::array::from_fn(|lane| a[lane].wrapping_mul(b[lane]))
    }
    #[inline(always)]
    unsafe fn sub(a: [i32; 16], b: [i32; 16]) -> [i32; 16] {
        std::array::from_fn(|lane| a[lane].wrapping_sub(b[lane]))
    }
    #[inline(always)]
    unsafe fn shift_left<const BITS: u32>(a: [i32; 16]) -> [i32; 16] {
        a.map(|lane| lane << BITS)
    }
    #[inline(always)]
    unsafe fn shift_right<const BITS: u32>(a: [i32; 16]) -> [i32; 16] {
        a.map(|lane| (lane as u32 >> BITS) as i32)
    }
    #[inline(always)]
    unsafe fn shift_right_signed<const BITS: u32>(a: [i32; 16]) -> [i32; 16] {
        a.map(|lane| lane >> BITS)
    }
    #[inline(always)]
    unsafe fn even_bytes(a: [i32; 16]) -> [i32; 16] {
        a.map(|lane| pair([lane as i8, (lane >> 16) as i8]))
    }
    #[inline(always)]
    unsafe fn odd_bytes(a: [i32; 16]) -> [i32; 16] {
        a.map(|lane| pair([(lane >> 8) as i8, (lane >> 24) as i8]))
    }
    #[inline(always)]
    unsafe fn dot_bytes(sum: [i32; 16], bytes: [i32; 16], x: *const i8) -> [i32; 16] {
        let x = unsafe { x.cast::<[i8; 4]>().read() }.map(i32::from);
        std::array::from_fn(|lane| {
            let bytes = bytes[lane].to_le_bytes().map(i32::from);
            sum[lane] + bytes[0] * x[0] + bytes[1] * x[1] + bytes[2] * x[2] + bytes[3] * x[3]
        })
    }
    #[inline(always)]
    unsafe fn dot_any_bytes(sum: [i32; 16], bytes: [i32; 16], x: *const i8) -> [i32; 16] {
        unsafe { Self::dot_bytes(sum, bytes, x) }
    }
    #[inline(always)]
    unsafe fn dot_pairs(sum: [i32; 16], pairs: [i32; 16], x: *const i16) -> [i32; 16] {
        let x = unsafe { x.cast::<[i16; 2]>().read_unaligned() }.map(i32::from);
        std::array::from_fn(|lane| {
            let (low, high) = (pairs[lane] as i16, (pairs[lane] >> 16) as i16);
            sum[lane] + i32::from(low) * x[0] + i32::from(high) * x[1]
        })
    }
    #[inline(always)]
    unsafe fn to_float(a: [i32; 16]) -> [f32; 16] {
        a.map(|lane| lane as f32)
    }
    #[inline(always)]
    unsafe fn splat_float(value: f32) -> [f32; 16] {
        [value; 16]
    }
    #[inline(always)]
    unsafe fn load_float(from: *const f32) -> [f32; 16] {
        unsafe { from.cast::<[f32; 16]>().read_unaligned() }
    }
    #[inline(always)]
    unsafe fn store_float(to: *mut f32, value: [f32; 16]) {
        unsafe { to.cast::<[f32; 16]>().write_unaligned(value) }
    }
    #[inline(always)]
    unsafe fn load_halves(from: *const u8) -> [f32; 16] {
        let halves = unsafe { from.cast::<[[u8; 2]; 16]>().read_unaligned() };
        halves.map(|half| half::f16::from_le_bytes(half).to_f32())
    }
    #[inline(always)]
    unsafe fn add_float(a: [f32; 16], b: [f32; 16]) -> [f32; 16] {
        std::array::from_fn(|lane| a[lane] + b[lane])
    }
    #[inline(always)]
    unsafe fn mul(a: [f32; 16], b: [f32; 16]) -> [f32; 16] {
        std::array::from_fn(|lane| a[lane] * b[lane])
    }
    #[inline(always)]
    unsafe fn mul_add(a: [f32; 16], b: [f32; 16], c: [f32; 16]) -> [f32; 16] {
        std::array::from_fn(|lane| a[lane].mul_add(b[lane], c[lane]))
    }
    #[inline(always)]
    unsafe fn mul_sub_from(a: [f32; 16], b: [f32; 16], c: [f32; 16]) -> [f32; 16] {
        std::array::from_fn(|lane| (-a[lane]).mul_add(b[lane], c[lane]))
    }
}

fn pair([low, high]: [i8; 2]) -> i32 {
    (i32::from(high) << 16) | (i32::from(low) & 0xffff)
}

#[cfg(target_arch = "x86_64")]
pub(super) use x86::{Avx2, Avx512};

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    use super::Lanes;

    /// With AVX-512 and VNNI.
    #[derive(Clone, Copy)]
    pub(in super::super) struct Avx512;
    /// With AVX2, FMA and F16C.
    #[derive(Clone, Copy)]
    pub(in super::super) struct Avx2;

    impl Lanes for Avx512 {
        type Whole = __m512i;
        type Float = __m512;
        const MANY: bool = true;
        const LEFT: i32 = 128;

        #[inline(always)]
        fn expect(place: *const u8) {
            unsafe { _mm_prefetch::<_MM_HINT_T0>(place.cast()) }
        }
        #[inline(always)]
        unsafe fn load(from: *const u8) -> __m512i {
            unsafe { _mm512_loadu_si512(from.cast()) }
        }
        #[inline(always)]
        unsafe fn store(to: *mut u8, value: __m512i) {
            unsafe { _mm512_storeu_si512(to.cast(), value) }
        }
        #[inline(always)]
        unsafe fn splat(value: i32) -> __m512i {
            unsafe { _mm512_set1_epi32(value) }
        }
        #[inline(always)]
        unsafe fn and(a: __m512i, b: __m512i) -> __m512i {
            unsafe { _mm512_and_si512(a, b) }
        }
        #[inline(always)]
        unsafe fn or(a: __m512i, b: __m512i) -> __m512i {
            unsafe { _mm512_or_si512(a, b) }
        }
        #[inline(always)]
        unsafe fn add(a: __m512i, b: __m512i) -> __m512i {
            unsafe { _mm512_add_epi32(a, b) }
        }
        #[inline(always)]
        unsafe fn mul_whole(a: __m512i, b: __m512i) -> __m512i {
            unsafe { _mm512_mullo_epi32(a, b) }
        }
        #[inline(always)]
        unsafe fn sub(a: __m512i, b: __m512i) -> __m512i {
            unsafe { _mm512_sub_epi32(a, b) }
        }
        #[inline(always)]
        unsafe fn shift_left<const BITS: u32>(a: __m512i) -> __m512i {
            unsafe { _mm512_slli_epi32::<BITS>(a) }
        }
        #[inline(always)]
        unsafe fn shift_right<const BITS: u32>(a: __m512i) -> __m512i {
            unsafe { _mm512_srli_epi32::<BITS>(a) }
        }
        #[inline(always)]
        unsafe fn shift_right_signed<const BITS: u32>(a: __m512i) -> __m512i {
            unsafe { _mm512_srai_epi32::<BITS>(a) }
        }
        #[inline(always)]
        unsafe fn even_bytes(a: __m512i) -> __m512i {
            unsafe { _mm512_srai_epi16::<8>(_mm512_slli_epi16::<8>(a)) }
        }
        #[inline(always)]
        unsafe fn odd_bytes(a: __m512i) -> __m512i {
            unsafe { _mm512_srai_epi16::<8>(a) }
        }
        #[inline(always)]
        unsafe fn dot_bytes(sum: __m512i, bytes: __m512i, x: *const i8) -> __m512i {
            unsafe {
                let x = _mm512_set1_epi32(x.cast::<i32>().read_unaligned());
                _mm512_dpbusd_epi32(sum, bytes, x)
            }
        }
        #[inline(always)]
        unsafe fn dot_any_bytes(sum: __m512i, bytes: __m512i, x: *const i8) -> __m512i {
            unsafe { Self::dot_bytes(sum, bytes, x) }
        }
        #[inline(always)]
        unsafe fn dot_pairs(sum: __m512i, pairs: __m512i, x: *const i16) -> __m512i {
            unsafe {
                let x = _mm512_set1_epi32(x.cast::<i32>().read_unaligned());
                _mm512_dpwssd_epi32(sum, pairs, x)
            }
        }
        #[inline(always)]
        unsafe fn to_float(a: __m512i) -> __m512 {
            unsafe { _mm512_cvtepi32_ps(a) }
        }
        #[inline(always)]
        unsafe fn splat_float(value: f32) -> __m512 {
            unsafe { _mm512_set1_ps(value) }
        }
        #[inline(always)]
        unsafe fn load_float(from: *const f32) -> __m512 {
            unsafe { _mm512_loadu_ps(from) }
        }
        #[inline(always)]
        unsafe fn store_float(to: *mut f32, value: __m512) {
            unsafe { _mm512_storeu_ps(to, value) }
        }
        #[inline(always)]
        unsafe fn load_halves(from: *const u8) -> __m512 {
            unsafe { _mm512_cvtph_ps(_mm256_loadu_si256(from.cast())) }
        }
        #[inline(always)]
        unsafe fn add_float(a: __m512, b: __m512) -> __m512 {
            unsafe { _mm512_add_ps(a, b) }
        }
        #[inline(always)]
        unsafe fn mul(a: __m512, b: __m512) -> __m512 {
            unsafe { _mm512_mul_ps(a, b) }
        }
        #[inline(always)]
        unsafe fn mul_add(a: __m512, b: __m512, c: __m512) -> __m512 {
            unsafe { _mm512_fmadd_ps(a, b, c) }
        }
        #[inline(always)]
        unsafe fn mul_sub_from(a: __m512, b: __m512, c: __m512) -> __m512 {
            unsafe { _mm512_fnmadd_ps(a, b, c) }
        }
    }

    /// The same of both halves.
    macro_rules! halves {
        ($function:expr) => {
            [$function(0usize), $function(1usize)]
        };
    }

    impl Lanes for Avx2 {
        type Whole = [__m256i; 2];
        type Float = [__m256; 2];
        const LEFT: i32 = 0;

        #[inline(always)]
        unsafe fn load(from: *const u8) -> [__m256i; 2] {
            unsafe { halves!(|half: usize| _mm256_loadu_si256(from.add(32 * half).cast())) }
        }
        #[inline(always)]
        unsafe fn store(to: *mut u8, value: [__m256i; 2]) {
            unsafe {
                _mm256_storeu_si256(to.cast(), value[0]);
                _mm256_storeu_si256(to.add(32).cast(), value[1]);
            }
        }
        #[inline(always)]
        unsafe fn splat(value: i32) -> [__m256i; 2] {
            unsafe { [_mm256_set1_epi32(value); 2] }
        }
        #[inline(always)]
        unsafe fn and(a: [__m256i; 2], b: [__m256i; 2]) -> [__m256i; 2] {
            unsafe { halves!(|half: usize| _mm256_and_si256(a[half], b[half])) }
        }
        #[inline(always)]
        unsafe fn or(a: [__m256i; 2], b: [__m256i; 2]) -> [__m256i; 2] {
            unsafe { halves!(|half: usize| _mm256_or_si256(a[half], b[half])) }
        }
        #[inline(always)]
        unsafe fn add(a: [__m256i; 2], b: [__m256i; 2]) -> [__m256i; 2] {
            unsafe { halves!(|half: usize| _mm256_add_epi32(a[half], b[half])) }
        }
        #[inline(always)]
        unsafe fn mul_whole(a: [__m256i; 2], b: [__m256i; 2]) -> [__m256i; 2] {
            unsafe { halves!(|half: usize| _mm256_mullo_epi32(a[half], b[half])) }
        }
        #[inline(always)]
        unsafe fn sub(a: [__m256i; 2], b: [__m256i; 2]) -> [__m256i; 2] {
            unsafe { halves!(|half: usize| _mm256_sub_epi32(a[half], b[half])) }
        }
        #[inline(always)]
        unsafe fn shift_left<const BITS: u32>(a: [__m256i; 2]) -> [__m256i; 2] {
            unsafe {
                halves!(|half: usize| _mm256_sll_epi32(a[half], _mm_cvtsi32_si128(BITS as i32)))
            }
        }
        #[inline(always)]
        unsafe fn shift_right<const BITS: u32>(a: [__m256i; 2]) -> [__m256i; 2] {
            unsafe {
                halves!(|half: usize| _mm256_srl_epi32(a[half], _mm_cvtsi32_si128(BITS as i32)))
            }
        }
        #[inline(always)]
        unsafe fn shift_right_signed<const BITS: u32>(a: [__m256i; 2]) -> [__m256i; 2] {
            unsafe {
                halves!(|half: usize| _mm256_sra_epi32(a[half], _mm_cvtsi32_si128(BITS as i32)))
            }
        }
        #[inline(always)]
        unsafe fn even_bytes(a: [__m256i; 2]) -> [__m256i; 2] {
            unsafe {
                halves!(|half: usize| _mm256_srai_epi16::<8>(_mm256_slli_epi16::<8>(a[half])))
            }
        }
        #[inline(always)]
        unsafe fn odd_bytes(a: [__m256i; 2]) -> [__m256i; 2] {
            unsafe { halves!(|half: usize| _mm256_srai_epi16::<8>(a[half])) }
        }
        #[inline(always)]
        unsafe fn dot_bytes(sum: [__m256i; 2], bytes: [__m256i; 2], x: *const i8) -> [__m256i; 2] {
            unsafe {
                let x = _mm256_set1_epi32(x.cast::<i32>().read_unaligned());
                let ones = _mm256_set1_epi16(1);
                halves!(|half: usize| {
                    let pairs = _mm256_maddubs_epi16(bytes[half], x);
                    _mm256_add_epi32(sum[half], _mm256_madd_epi16(pairs, ones))
                })
            }
        }
        #[inline(always)]
        unsafe fn dot_any_bytes(
            sum: [__m256i; 2],
            bytes: [__m256i; 2],
            x: *const i8,
        ) -> [__m256i; 2] {
            // Pairs of products of unsigned bytes may not fit 16 bits; those of signed ones do.
            unsafe {
                let x = _mm256_set1_epi32(x.cast::<i32>().read_unaligned());
                let (ones, sign) = (_mm256_set1_epi16(1), _mm256_set1_epi8(-128));
                halves!(|half: usize| {
                    let bytes = _mm256_xor_si256(bytes[half], sign);
                    let pairs =
                        _mm256_maddubs_epi16(_mm256_abs_epi8(bytes), _mm256_sign_epi8(x, bytes));
                    _mm256_add_epi32(sum[half], _mm256_madd_epi16(pairs, ones))
                })
            }
        }
        #[inline(always)]
        unsafe fn dot_pairs(sum: [__m256i; 2], pairs: [__m256i; 2], x: *const i16) -> [__m256i; 2] {
            unsafe {
                let x = _mm256_set1_epi32(x.cast::<i32>().read_unaligned());
                halves!(|half: usize| _mm256_add_epi32(
                    sum[half],
                    _mm256_madd_epi16(pairs[half], x)
                ))
            }
        }
        #[inline(always)]
        unsafe fn to_float(a: [__m256i; 2]) -> [__m256; 2] {
            unsafe { halves!(|half: usize| _mm256_cvtepi32_ps(a[half])) }
        }
        #[inline(always)]
        unsafe fn splat_float(value: f32) -> [__m256; 2] {
            unsafe { [_mm256_set1_ps(value); 2] }
        }
        #[inline(always)]
        unsafe fn load_float(from: *const f32) -> [__m256; 2] {
            unsafe { halves!(|half: usize| _mm256_loadu_ps(from.add(8 * half))) }
        }
        #[inline(always)]
        unsafe fn store_float(to: *mut f32, value: [__m256; 2]) {
            unsafe {
                _mm256_storeu_ps(to, value[0]);
                _mm256_storeu_ps(to.add(8), value[1]);
            }
        }
        #[inline(always)]
        unsafe fn load_halves(from: *const u8) -> [__m256; 2] {
            unsafe {
                halves!(|half: usize| _mm256_cvtph_ps(_mm_loadu_si128(from.add(16 * half).cast())))
            }
        }
        #[inline(always)]
        unsafe fn add_float(a: [__m256; 2], b: [__m256; 2]) -> [__m256; 2] {
            unsafe { halves!(|half: usize| _mm256_add_ps(a[half], b[half])) }
        }
        #[inline(always)]
        unsafe fn mul(a: [__m256; 2], b: [__m256; 2]) -> [__m256; 2] {
            unsafe { halves!(|half: usize| _mm256_mul_ps(a[half], b[half])) }
        }
        #[inline(always)]
        unsafe fn mul_add(a: [__m256; 2], b: [__m256; 2], c: [__m256; 2]) -> [__m256; 2] {
            unsafe { halves!(|half: usize| _mm256_fmadd_ps(a[half], b[half], c[half])) }
        }
        #[inline(always)]
        unsafe fn mul_sub_from(a: [__m256; 2], b: [__m256; 2], c: [__m256; 2]) -> [__m256; 2] {
            unsafe { halves!(|half: usize| _mm256_fnmadd_ps(a[half], b[half], c[half])) }
        }
    }
}
