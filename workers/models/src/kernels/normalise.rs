//! Layer norm of rows in place.

use rayon::prelude::*;

use super::cpu::Features;

const LANES: usize = 16;
/// Numbers that a thread takes at a time: enough to repay waking it.
const PART: usize = 1 << 15;

/// Scale, shift and epsilon of a layer norm.
#[derive(Clone, Copy)]
pub(crate) struct Norm<'a> {
    pub(crate) weight: &'a [f32],
    pub(crate) bias: &'a [f32],
    pub(crate) eps: f32,
}

/// Normalises rows of the norm's width.
pub(crate) fn normalise(norm: Norm<'_>, rows: &mut [f32]) {
    normalise_with(Features::detected(), norm, rows);
}

fn normalise_with(features: Features, norm: Norm<'_>, rows: &mut [f32]) {
    let width = norm.weight.len().max(1);
    assert!(norm.bias.len() == norm.weight.len() && rows.len().is_multiple_of(width));
    rows.par_chunks_mut((PART / width).max(1) * width)
        .for_each(|part| {
            for row in part.chunks_exact_mut(width) {
                normalise_row(features, norm, row);
            }
        });
}

fn normalise_row(features: Features, norm: Norm<'_>, row: &mut [f32]) {
    #[cfg(target_arch = "x86_64")]
    if features.avx512 {
        #[expect(unsafe_code, reason = "instructions that were found at run time")]
        // SAFETY: the processor has them.
        unsafe {
            row_avx512(norm, row);
        }
        return;
    }
    let _ = features;
    row_of(norm, row);
}

/// # Safety
/// A processor with AVX-512.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
#[expect(unsafe_code, reason = "instructions that were found at run time")]
unsafe fn row_avx512(norm: Norm<'_>, row: &mut [f32]) {
    row_of(norm, row);
}

#[inline(always)]
fn row_of(norm: Norm<'_>, row: &mut [f32]) {
    let share = 1.0 / row.len() as f32;
    let mean = sum(row, |value| value) * share;
    let variance = sum(row, |value| (value - mean) * (value - mean)) * share;
    let scale = 1.0 / (variance + norm.eps).sqrt();
    for ((value, weight), bias) in row.iter_mut().zip(norm.weight).zip(norm.bias) {
        *value = (*value - mean) * scale * weight + bias;
    }
}

/// The sum of a term of each value, in an order that follows from their number.
#[inline(always)]
pub(crate) fn sum(values: &[f32], term: impl Fn(f32) -> f32) -> f32 {
    let (chunks, rest) = values.as_chunks::<LANES>();
    let mut lanes = [0f32; LANES];
    for chunk in chunks {
        for (lane, value) in lanes.iter_mut().zip(chunk) {
            *lane += term(*value);
        }
    }
    lanes.iter().sum::<f32>() + rest.iter().map(|value| term(*value)).sum::<f32>()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_get_mean_and_deviation_of_the_norm() {
        for width in [1, 7, 33, 768] {
            let values: Vec<f32> = (0..5 * width)
                .map(|index| (index as f32 * 0.7).sin() * 3.0 + 1.0)
                .collect();
            let weight: Vec<f32> = (0..width).map(|index| 1.0 + index as f32 * 0.01).collect();
            let bias: Vec<f32> = (0..width).map(|index| index as f32 * -0.02).collect();
            let norm = Norm {
                weight: &weight,
                bias: &bias,
                eps: 1e-5,
            };
            for features in Features::each() {
                let mut found = values.clone();
                normalise_with(features, norm, &mut found);
                for (row, found) in values.chunks(width).zip(found.chunks(width)) {
                    let mean =
                        row.iter().map(|value| f64::from(*value)).sum::<f64>() / width as f64;
                    let square = |value: &f32| (f64::from(*value) - mean).powi(2);
                    let deviation =
                        (row.iter().map(square).sum::<f64>() / width as f64 + 1e-5).sqrt();
                    for (column, found) in found.iter().enumerate() {
                        let expected = (f64::from(row[column]) - mean) / deviation
                            * f64::from(weight[column])
                            + f64::from(bias[column]);
                        assert!(
                            (f64::from(*found) - expected).abs() < 2e-5 * (1.0 + expected.abs()),
                            "{width}"
                        );
                    }
                }
            }
        }
    }
}
