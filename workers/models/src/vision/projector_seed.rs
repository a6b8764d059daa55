//! The alignment projector as its seed makes it.
//!
//! The published projector was never trained: it kept the random values that PyTorch's generator gave it, and the
//! published checkpoint leaves it out as a frozen parameter. The Q-Former was trained on exactly these values, so they are
//! made again: PyTorch's CPU generator is a 32-bit Mersenne Twister (Matsumoto and Nishimura, 1998), and the number of draws
//! before the projector's is known.

use std::collections::HashMap;

use candle_core::{DType, Device, Tensor};
use candle_nn::VarBuilder;

use crate::error::ModelError;

/// The seed of the published training and of its embeddings.
pub const TRAINING_SEED: u32 = 42;

/// The seed of the published demo, whose projector is not the one that the Q-Former was trained on.
pub const DEMO_SEED: u32 = 16;

/// Channels before and after the published projector.
const PUBLISHED: (usize, usize) = (512, 1408);

/// Draws for the layers that are made before the projector.
const DRAWS_BEFORE: usize = 53_049_704;

/// Whether a projector of this shape is the published one.
pub(crate) fn fits(input: usize, output: usize) -> bool {
    (input, output) == PUBLISHED
}

/// The weights `projector.model.{0,1,3}.*` of the published geometry that a seed makes.
pub fn weights(seed: u32, device: &Device) -> Result<VarBuilder<'static>, ModelError> {
    let (input, output) = PUBLISHED;
    let mut generator = MersenneTwister::new(seed);
    generator.skip(DRAWS_BEFORE);
    let mut uniform = |shape: &[usize], fan_in: usize| {
        let bound = (1.0 / (fan_in as f64).sqrt()) as f32;
        let values = (0..shape.iter().product())
            .map(|_| generator.uniform(bound))
            .collect();
        Tensor::from_vec::<_, f32>(values, shape, device)
    };
    let mut tensors = HashMap::new();
    let mut insert = |name: &str, tensor| tensors.insert(format!("projector.model.{name}"), tensor);
    insert("0.weight", uniform(&[output, input, 1, 1], input)?);
    insert("3.weight", uniform(&[output, output, 1, 1], output)?);
    insert("3.bias", uniform(&[output], output)?);
    for (name, value) in [
        ("weight", 1f32),
        ("bias", 0.0),
        ("running_mean", 0.0),
        ("running_var", 1.0),
    ] {
        insert(&format!("1.{name}"), Tensor::full(value, output, device)?);
    }
    Ok(VarBuilder::from_tensors(tensors, DType::F32, device))
}

/// MT19937 with its single-integer initialisation.
struct MersenneTwister {
    state: [u32; Self::SIZE],
    next: usize,
}

impl MersenneTwister {
    const SIZE: usize = 624;
    const SHIFT: usize = 397;

    fn new(seed: u32) -> Self {
        let mut state = [seed; Self::SIZE];
        for index in 1..Self::SIZE {
            let previous = state[index - 1];
            state[index] = 1_812_433_253u32
                .wrapping_mul(previous ^ (previous >> 30))
                .wrapping_add(index as u32);
        }
        Self {
            state,
            next: Self::SIZE,
        }
    }

    fn refill(&mut self) {
        for index in 0..Self::SIZE {
            let joined = (self.state[index] & 0x8000_0000)
                | (self.state[(index + 1) % Self::SIZE] & 0x7FFF_FFFF);
            let twist = if joined & 1 == 1 { 0x9908_B0DF } else { 0 };
            self.state[index] =
                self.state[(index + Self::SHIFT) % Self::SIZE] ^ (joined >> 1) ^ twist;
        }
        self.next = 0;
    }

    fn draw(&mut self) -> u32 {
        if self.next == Self::SIZE {
            self.refill();
        }
        let mut value = self.state[self.next];
        self.next += 1;
        value ^= value >> 11;
        value ^= (value << 7) & 0x9D2C_5680;
        value ^= (value << 15) & 0xEFC6_0000;
        value ^ (value >> 18)
    }

    fn skip(&mut self, mut count: usize) {
        while count > 0 {
            if self.next == Self::SIZE {
                self.refill();
            }
            let step = count.min(Self::SIZE - self.next);
            self.next += step;
            count -= step;
        }
    }

    /// Uniform in [-bound, bound), rounded once, as PyTorch's fused multiply-add does.
    fn uniform(&mut self, bound: f32) -> f32 {
        let unit = (self.draw() & 0x00FF_FFFF) as f32 * (1.0 / 16_777_216.0);
        unit.mul_add(2.0 * bound, -bound)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(weights: &VarBuilder<'_>, name: &str) -> Vec<f32> {
        let tensor = weights
            .get_unchecked(&format!("projector.model.{name}"))
            .unwrap();
        tensor.flatten_all().unwrap().to_vec1().unwrap()
    }

    fn assert_published(
        weights: &VarBuilder<'_>,
        name: &str,
        first: &[f32],
        last: &[f32],
        sum: f64,
    ) {
        let values = values(weights, name);
        let close = |a: &[f32], b: &[f32]| a.iter().zip(b).all(|(a, b)| (a - b).abs() < 1e-9);
        assert!(
            close(&values[..first.len()], first),
            "{name} starts {:?}",
            &values[..first.len()]
        );
        assert!(
            close(&values[values.len() - last.len()..], last),
            "{name} ends otherwise"
        );
        let total: f64 = values.iter().copied().map(f64::from).sum();
        assert!(
            (total - sum).abs() < 1e-6,
            "{name} sums to {total}, published {sum}"
        );
    }

    #[test]
    fn the_generator_is_the_mersenne_twister() {
        let mut generator = MersenneTwister::new(42);
        let draws = [(); 4].map(|()| generator.draw());
        assert_eq!(draws, [0x5FE1_DC66, 0xCBEA_3DB3, 0xF362_035C, 0x2EF5_950E]);
    }

    #[test]
    fn the_training_seed_makes_the_published_projector() {
        let weights = weights(TRAINING_SEED, &Device::Cpu).unwrap();
        assert_published(
            &weights,
            "0.weight",
            &[-0.024_817_508, 0.020_326_551, 0.013_128_459, 0.013_500_03],
            &[0.006_978_412, 0.023_453_377, -0.029_752_03],
            -1.327_984_845_9,
        );
        assert_published(
            &weights,
            "3.weight",
            &[0.016_876_806, 0.011_782_896, -0.009_486_881, -0.000_803_651],
            &[0.003_097_133_5, -0.024_367_657, 0.009_906_285],
            19.574_101_038_9,
        );
        assert_published(
            &weights,
            "3.bias",
            &[0.000_696_531, 0.013_007_894, 0.014_193_785, 0.020_461_04],
            &[-0.001_261_609_8, -0.012_180_683, 0.018_474_372],
            -0.240_106_274_2,
        );
    }

    #[test]
    fn the_demo_seed_makes_another_one() {
        let weights = weights(DEMO_SEED, &Device::Cpu).unwrap();
        let first = [-0.024_872_188, -0.018_664_3, 0.011_769_255, -0.034_432_046];
        assert_published(&weights, "0.weight", &first, &[], -10.692_029_216_3);
    }
}
