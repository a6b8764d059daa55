//! Dropout (Srivastava et al., 2014) with masks that follow from a seed and a count of draws alone, so that a training
//! that is resumed drops what the uninterrupted one would have dropped.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use candle_core::{Result, Tensor};

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
        Self { rate, seed, draws: Arc::default(), rests: Arc::default() }
    }

    /// Whether nothing is dropped for now: a network that is too large to have twice is measured as it stands.
    pub fn rest(&self, rests: bool) {
        self.rests.store(rests, Ordering::Relaxed);
    }

    /// How many masks were drawn: what a checkpoint has to keep.
    pub fn draws(&self) -> u64 {
        self.draws.load(Ordering::Relaxed)
    }

    /// Goes on as if so many masks had been drawn.
    pub fn resume(&self, draws: u64) {
        self.draws.store(draws, Ordering::Relaxed);
    }

    /// The tensor with some of its values dropped.
    pub(crate) fn forward(&self, input: &Tensor) -> Result<Tensor> {
        if self.rate <= 0.0 || self.rests.load(Ordering::Relaxed) {
            return Ok(input.clone());
        }
        let draw = self.draws.fetch_add(1, Ordering::Relaxed);
        let key = mixed(self.seed ^ mixed(draw.wrapping_add(1)));
        let kept = (1.0 / (1.0 - self.rate)) as f32;
        let threshold = (self.rate * 16_777_216.0) as u64;
        let value = |index: u64| if mixed(key.wrapping_add(index)) >> 40 < threshold { 0.0 } else { kept };
        let mask: Vec<f32> = (0..input.elem_count() as u64).map(value).collect();
        input * Tensor::from_vec(mask, input.shape(), input.device())?.to_dtype(input.dtype())?
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
    #![allow(clippy::unwrap_used)]
    use candle_core::{DType, Device};

    use super::*;

    #[test]
    fn a_share_is_dropped_the_mean_is_kept_and_a_resumed_count_gives_the_same_mask() {
        let ones = Tensor::ones((100, 200), DType::F32, &Device::Cpu).unwrap();
        let dropout = Dropout::new(0.1, 7);
        let values =
            |dropout: &Dropout| dropout.forward(&ones).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
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
