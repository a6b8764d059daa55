//! Learning rates over a training.

use serde::{Deserialize, Serialize};

/// A learning rate as a function of step and epoch.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Schedule {
    /// The rate is the same all the time (findings classifier).
    Constant {
        /// The rate.
        rate: f64,
    },
    /// From `start` to `rate` by step inside the first epoch only; from the second epoch on a cosine to `least` by epoch
    /// (alignment module).
    WarmupCosine {
        /// Highest rate.
        rate: f64,
        /// Rate of step 0.
        start: f64,
        /// Rate at the end of the cosine.
        least: f64,
        /// Steps from `start` to `rate`.
        warmup: u64,
        /// Epochs of the cosine.
        epochs: u64,
    },
    /// The rate rises from 0 to `rate`, then falls linearly to 0 over all steps (language model).
    WarmupLinear {
        /// Highest rate.
        rate: f64,
        /// Steps from 0 to `rate`.
        warmup: u64,
    },
}

impl Schedule {
    /// Computes the rate of a step. `step` counts from 0 over the whole training of `total` steps, `in_epoch` over its epoch.
    pub fn rate(&self, step: u64, total: u64, epoch: u64, in_epoch: u64) -> f64 {
        match *self {
            Schedule::Constant { rate } => rate,
            Schedule::WarmupCosine {
                rate,
                start,
                warmup,
                ..
            } if epoch == 0 => {
                rate.min(start + (rate - start) * in_epoch as f64 / warmup.max(1) as f64)
            }
            Schedule::WarmupCosine {
                rate,
                least,
                epochs,
                ..
            } => {
                let part = epoch as f64 / epochs.max(1) as f64;
                (rate - least) * 0.5 * (1.0 + (std::f64::consts::PI * part).cos()) + least
            }
            Schedule::WarmupLinear { rate, warmup } if step < warmup => {
                rate * step as f64 / warmup as f64
            }
            Schedule::WarmupLinear { rate, warmup } => {
                rate * total.saturating_sub(step) as f64
                    / total.saturating_sub(warmup).max(1) as f64
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_linear_schedule_rises_to_its_rate_and_falls_to_nothing() {
        let schedule = Schedule::WarmupLinear {
            rate: 1.0,
            warmup: 10,
        };
        let rates = [0, 5, 10, 55, 100].map(|step| schedule.rate(step, 100, 0, step));
        assert_eq!(rates, [0.0, 0.5, 1.0, 0.5, 0.0]);
    }
}
