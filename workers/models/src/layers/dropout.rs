//! Dropout (Srivastava et al., 2014) with masks that follow from a seed and a count of draws alone, so that a training
//! that is resumed drops what the uninterrupted one would have dropped.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use candle_core::{CpuStorage, CustomOp1, DType, Layout, Result, Shape, Tensor};
use rayon::prelude::*;

use super::storage::{floats, with_floats};

/// Values that one thread takes at least.
const PART: usize = 1 << 14;

/// Zeroes a share of values and scales the rest up; without a rate it does nothing. Clones share their count of draws.
#[derive(Clone, Debug, Default)]
pub struct Dropout {
    rate: f64,
    seed: u64,
    draws: Arc<AtomicU64>,
    rests: Arc<AtomicBool>,
}

impl Dropout {
    /// Drops this share of values, 0 to 1.
    pub fn new(rate: f64, seed: u64) -> Self {
        Self {
            rate,
            seed,
            draws: Arc::default(),
            rests: Arc::default(),
        }
    }

    /// Whether nothing is ever dropped.
    pub(crate) fn is_none(&self) -> bool {
        self.rate <= 0.0
    }

    /// Whether nothing is dropped for now: a network that is too large to have twice is measured as it stands.
    pub fn rest(&self, rests: bool) {
        self.rests.store(rests, Ordering::Relaxed);
    }

    /// The number of masks that were drawn: what a checkpoint has to keep.
    pub fn draws(&self) -> u64 {
        self.draws.load(Ordering::Relaxed)
    }

    /// Goes on as if so many masks had been drawn.
    pub fn resume(&self, draws: u64) {
        self.draws.store(draws, Ordering::Relaxed);
    }

    /// The next mask; none where nothing is dropped.
    pub(crate) fn draw(&self) -> Option<DropoutMask> {
        if self.is_none() || self.rests.load(Ordering::Relaxed) {
            return None;
        }
        let draw = self.draws.fetch_add(1, Ordering::Relaxed);
        Some(DropoutMask {
            key: mixed(self.seed ^ mixed(draw.wrapping_add(1))),
            kept: (1.0 / (1.0 - self.rate)) as f32,
            threshold: (self.rate * 16_777_216.0) as u64,
        })
    }

    /// The tensor with some of its values dropped.
    pub(crate) fn forward(&self, input: &Tensor) -> Result<Tensor> {
        let Some(mask) = self.draw() else {
            return Ok(input.clone());
        };
        if input.device().is_cpu() && input.dtype() == DType::F32 {
            return input.contiguous()?.apply_op1(mask);
        }
        let values: Vec<f32> = (0..input.elem_count() as u64)
            .map(|index| mask.value(index))
            .collect();
        input * Tensor::from_vec(values, input.shape(), input.device())?.to_dtype(input.dtype())?
    }
}

/// The factors that values are multiplied with; they are drawn again for the gradient, and not kept.
pub(crate) struct DropoutMask {
    key: u64,
    kept: f32,
    threshold: u64,
}

impl DropoutMask {
    /// The factor of the value at this place.
    pub(crate) fn value(&self, index: u64) -> f32 {
        if mixed(self.key.wrapping_add(index)) >> 40 < self.threshold {
            0.0
        } else {
            self.kept
        }
    }

    fn times(&self, values: &[f32]) -> Vec<f32> {
        let times = |(index, value): (usize, &f32)| value * self.value(index as u64);
        values
            .par_iter()
            .enumerate()
            .with_min_len(PART)
            .map(times)
            .collect()
    }
}

impl CustomOp1 for DropoutMask {
    fn name(&self) -> &'static str {
        "dropout"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        Ok((
            CpuStorage::F32(self.times(floats(storage, layout)?)),
            layout.shape().clone(),
        ))
    }

    fn bwd(&self, _: &Tensor, _: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let passed = with_floats([grad], |[grad]| self.times(grad))?;
        Tensor::from_vec(passed, grad.shape(), grad.device()).map(Some)
    }
}

/// SplitMix64's output function (Steele et al., 2014).
fn mixed(value: u64) -> u64 {
    let mut z = value.wrapping_mul(0x9E37_79B9_7F4A_7C15);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use candle_core::{DType, Device};

    use super::*;

    #[test]
    fn a_share_is_dropped_the_mean_is_kept_and_a_resumed_count_gives_the_same_mask() {
        let ones = Tensor::ones((100, 200), DType::F32, &Device::Cpu).unwrap();
        let dropout = Dropout::new(0.1, 7);
        let values = |dropout: &Dropout| {
            dropout
                .forward(&ones)
                .unwrap()
                .flatten_all()
                .unwrap()
                .to_vec1::<f32>()
                .unwrap()
        };
        let (first, second) = (values(&dropout), values(&dropout));
        let zeros = first.iter().filter(|value| **value == 0.0).count();
        assert!((1800..2200).contains(&zeros), "{zeros} of 20000");
        assert!((first.iter().sum::<f32>() / 20_000.0 - 1.0).abs() < 0.02);
        assert_ne!(first, second);
        let resumed = Dropout::new(0.1, 7);
        resumed.resume(1);
        assert_eq!(values(&resumed), second);
    }
}
