//! Exponential and error function for whole slices, in a form that compilers make vector instructions of. What is not a
//! number stays.

use super::cpu::Features;

/// e to the power of `x`, within 2 units of the last place; 0 from -87 downwards.
#[inline(always)]
pub(crate) fn exp(x: f32) -> f32 {
    const LOG2_E: f32 = std::f32::consts::LOG2_E;
    // ln 2 in two parts, the first of which has few bits, so that its multiples are exact.
    const LN_2_HIGH: f32 = 0.693_359_4;
    const LN_2_LOW: f32 = -2.121_944_4e-4;
    // Adding it rounds to a whole number, which is left in the lowest bits.
    const ROUND: f32 = 12_582_912.0;
    const SMALLEST: f32 = -87.0;
    let x = x.clamp(SMALLEST, 88.376_26);
    let shifted = fused(x, LOG2_E, ROUND);
    let whole = shifted - ROUND;
    let rest = fused(whole, -LN_2_LOW, fused(whole, -LN_2_HIGH, x));
    // The series of Cephes' expf (Moshier).
    let mut series = 1.987_569_2e-4;
    for coefficient in [
        1.398_2e-3,
        8.333_452e-3,
        4.166_579_6e-2,
        1.666_666_5e-1,
        0.5,
    ] {
        series = fused(series, rest, coefficient);
    }
    let series = fused(series, rest * rest, rest) + 1.0;
    let exponent = (shifted.to_bits() << 23).wrapping_add(1.0f32.to_bits());
    // The shifted number's upper bits are pushed out: what is left is the exponent alone.
    let result = series * f32::from_bits(exponent);
    // What is multiplied with a number as small as the smallest would be smaller still, and slow.
    if x > SMALLEST || x.is_nan() {
        result
    } else {
        0.0
    }
}

/// The error function, within 4e-7: a quotient of polynomials in x squared, up to |x| = 4, where it is 1 in f32.
#[inline(always)]
pub(crate) fn erf(x: f32) -> f32 {
    let x = x.clamp(-4.0, 4.0);
    let square = x * x;
    let mut above = -2.726_142_3e-10;
    for coefficient in [
        2.770_681_4e-8,
        -2.101_024e-6,
        -5.692_506_4e-5,
        -7.349_906_3e-4,
        -2.954_6e-3,
        -1.609_603_3e-2,
    ] {
        above = fused(above, square, coefficient);
    }
    let mut below = -1.456_607_2e-5;
    for coefficient in [-2.133_740_6e-4, -1.682_827e-3, -7.373_329e-3, -1.426_474e-2] {
        below = fused(below, square, coefficient);
    }
    x * above / below
}

/// The exact GELU (Hendrycks and Gimpel, 2016) of each value.
#[inline(always)]
pub(crate) fn gelu(x: f32) -> f32 {
    0.5 * x * (1.0 + erf(x * std::f32::consts::FRAC_1_SQRT_2))
}

/// [`gelu`] of each value in place.
pub(crate) fn gelu_row(features: Features, values: &mut [f32]) {
    #[cfg(target_arch = "x86_64")]
    if features.avx512 {
        #[expect(unsafe_code, reason = "instructions that were found at run time")]
        // SAFETY: the processor has them.
        unsafe {
            gelu_row_avx512(values);
        }
        return;
    }
    let _ = features;
    values.iter_mut().for_each(|value| *value = gelu(*value));
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
fn gelu_row_avx512(values: &mut [f32]) {
    values.iter_mut().for_each(|value| *value = gelu(*value));
}

/// The slope of [`gelu`]: the share of a normal distribution below `x`, and `x` times its density there.
#[inline(always)]
fn gelu_slope(x: f32) -> f32 {
    const INVERSE_ROOT_OF_TWO_PI: f32 = 0.398_942_3;
    let share = 0.5 * (1.0 + erf(x * std::f32::consts::FRAC_1_SQRT_2));
    share + x * exp(-0.5 * x * x) * INVERSE_ROOT_OF_TWO_PI
}

/// [`gelu_slope`] of each value in place.
pub(crate) fn gelu_slope_row(features: Features, values: &mut [f32]) {
    #[cfg(target_arch = "x86_64")]
    if features.avx512 {
        #[expect(unsafe_code, reason = "instructions that were found at run time")]
        // SAFETY: the processor has them.
        unsafe {
            gelu_slope_row_avx512(values);
        }
        return;
    }
    let _ = features;
    values
        .iter_mut()
        .for_each(|value| *value = gelu_slope(*value));
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
fn gelu_slope_row_avx512(values: &mut [f32]) {
    values
        .iter_mut()
        .for_each(|value| *value = gelu_slope(*value));
}

/// `a * b + c`, rounded once where the processor can do so in one instruction; elsewhere that would be a slow call.
#[inline(always)]
pub(crate) fn fused(a: f32, b: f32, c: f32) -> f32 {
    if cfg!(any(target_feature = "fma", target_arch = "aarch64")) {
        a.mul_add(b, c)
    } else {
        a * b + c
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_exponential_is_within_two_units_of_the_last_place() {
        for step in -8699..8800 {
            let x = step as f32 * 0.01 + 0.003;
            let exact = f64::from(x).exp();
            let error = (f64::from(exp(x)) - exact).abs() / exact;
            assert!(error < 2.4e-7, "{x}: {} for {exact}", exp(x));
        }
        assert_eq!(exp(0.0), 1.0);
        assert_eq!(exp(f32::NEG_INFINITY), 0.0);
        assert!(exp(f32::NAN).is_nan());
    }

    #[test]
    fn the_error_function_is_that_of_the_tensor_library() {
        for step in -6000..6000 {
            let x = step as f32 * 0.001 + 0.0003;
            let error = f64::from(erf(x)) - candle_core::cpu::erf::erf_f64(f64::from(x));
            assert!(error.abs() < 4e-7, "{x}: {error}");
        }
        assert!(gelu(f32::NAN).is_nan());
    }
}
