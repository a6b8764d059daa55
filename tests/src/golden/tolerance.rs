//! How far a port may be from the recorded outputs.

use anyhow::{Result, ensure};
use candle_core::{DType, Tensor};
use serde::Deserialize;

/// Bounds as `case.json` states them.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
#[serde(untagged)]
pub enum Tolerance {
    /// Calibrated against an f64 run of the original: on the largest and on the mean absolute error of an output.
    Calibrated {
        /// Bound on the largest absolute error.
        max_abs: f64,
        /// Bound on the mean absolute error.
        mean_abs: f64,
    },
    /// `|a - e| <= atol + rtol * |e|` for every element.
    Elementwise {
        /// Absolute part.
        atol: f64,
        /// Part relative to the expected value.
        #[serde(default)]
        rtol: f64,
    },
}

impl Tolerance {
    /// Holds `actual` to `expected`; returns the error as a share of what is allowed, at most 1.
    pub fn check(self, actual: &Tensor, expected: &Tensor) -> Result<f64> {
        ensure!(
            actual.dims() == expected.dims(),
            "shape {:?}, recorded {:?}",
            actual.dims(),
            expected.dims()
        );
        let flat = |tensor: &Tensor| tensor.to_dtype(DType::F64)?.flatten_all()?.to_vec1::<f64>();
        let (actual, expected) = (flat(actual)?, flat(expected)?);
        let errors = || actual.iter().zip(&expected).map(|(a, e)| (a - e).abs());
        // f64::max would drop them.
        ensure!(
            !errors().any(f64::is_nan),
            "an output or a recorded value is not a number"
        );
        let largest = |values: &mut dyn Iterator<Item = f64>| values.fold(0.0, f64::max);
        let share = match self {
            Tolerance::Calibrated { max_abs, mean_abs } => {
                let mean = errors().sum::<f64>() / actual.len().max(1) as f64;
                largest(&mut [largest(&mut errors()) / max_abs, mean / mean_abs].into_iter())
            }
            Tolerance::Elementwise { atol, rtol } => largest(
                &mut errors()
                    .zip(&expected)
                    .map(|(error, e)| error / (atol + rtol * e.abs())),
            ),
        };
        ensure!(
            share <= 1.0,
            "error is {share:.3} times what {self:?} allows"
        );
        Ok(share)
    }
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;

    fn share(tolerance: Tolerance, actual: &[f32], expected: &[f32]) -> Result<f64> {
        let tensor = |values: &[f32]| Tensor::new(values, &Device::Cpu).unwrap();
        tolerance.check(&tensor(actual), &tensor(expected))
    }

    #[test]
    fn both_calibrated_bounds_count() {
        let bounds = Tolerance::Calibrated {
            max_abs: 1.0,
            mean_abs: 0.5,
        };
        assert_eq!(share(bounds, &[0.5, 0.0], &[0.0, 0.0]).unwrap(), 0.5);
        assert!(share(bounds, &[1.5, 0.0, 0.0, 0.0], &[0.0; 4]).is_err());
        assert!(share(bounds, &[0.75, 0.75], &[0.0, 0.0]).is_err());
    }

    #[test]
    fn a_nan_or_another_shape_fails() {
        let bounds = Tolerance::Elementwise {
            atol: 1.0,
            rtol: 0.0,
        };
        assert!(share(bounds, &[f32::NAN, 0.0], &[0.0, 0.0]).is_err());
        assert!(share(bounds, &[0.0], &[0.0, 0.0]).is_err());
    }

    #[test]
    fn calibrated_bounds_are_read_with_their_note() {
        let read: Tolerance =
            serde_json::from_str(r#"{"max_abs": 1, "mean_abs": 2, "note": "x"}"#).unwrap();
        assert_eq!(
            read,
            Tolerance::Calibrated {
                max_abs: 1.0,
                mean_abs: 2.0
            }
        );
    }
}
