//! Random numbers that are the same on every machine, with a state of one number: a checkpoint keeps it, so that a
//! resumed run draws what the uninterrupted one would have drawn. SplitMix64 (Steele et al., 2014).

use serde::{Deserialize, Serialize};

/// What a draw adds to the state.
const STEP: u64 = 0x9E37_79B9_7F4A_7C15;

/// A stream of pseudo-random numbers that depends on a seed and a name alone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Random {
    state: u64,
}

impl Random {
    /// Starts the stream of this name: what is drawn from one stream does not change what another gives.
    pub fn stream(seed: u64, name: &str) -> Self {
        let mut hash = 0xCBF2_9CE4_8422_2325_u64;
        for byte in seed.to_le_bytes().into_iter().chain(name.bytes()) {
            hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01B3);
        }
        Self { state: hash }
    }

    /// Draws 64 random bits.
    pub fn bits(&mut self) -> u64 {
        self.skip(1);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// Goes on as if so many times 64 bits had been drawn.
    pub fn skip(&mut self, draws: u64) {
        self.state = self.state.wrapping_add(STEP.wrapping_mul(draws));
    }

    /// Draws a number uniformly from [0, 1).
    pub fn unit(&mut self) -> f64 {
        (self.bits() >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// Draws a number uniformly from `low..high`.
    pub fn between(&mut self, low: f64, high: f64) -> f64 {
        low + (high - low) * self.unit()
    }

    /// Draws a standard normal number (Box and Muller, 1958).
    pub fn normal(&mut self) -> f64 {
        let radius = (-2.0 * (1.0 - self.unit()).ln()).sqrt();
        radius * (std::f64::consts::TAU * self.unit()).cos()
    }

    /// Uniform in `0..count`, which must not be empty: the high half of a wide product, as good as exact for any number
    /// of samples that fits a disk.
    pub fn below(&mut self, count: usize) -> usize {
        ((u128::from(self.bits()) * count as u128) >> 64) as usize
    }

    /// Draws one of the items, which must not be empty.
    pub fn pick<'a, T>(&mut self, items: &'a [T]) -> &'a T {
        &items[self.below(items.len())]
    }

    /// Draws an index in proportion to its weight; weights must not all be 0.
    pub fn weighted(&mut self, weights: &[f32]) -> usize {
        let total: f64 = weights.iter().copied().map(f64::from).sum();
        let mut left = self.unit() * total;
        for (index, &weight) in weights.iter().enumerate() {
            left -= f64::from(weight);
            if left < 0.0 && weight > 0.0 {
                return index;
            }
        }
        weights
            .iter()
            .rposition(|&weight| weight > 0.0)
            .unwrap_or_default()
    }

    /// Puts the items in a random order (Fisher and Yates).
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            items.swap(last, self.below(last + 1));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_of_other_names_differ_and_the_same_name_repeats() {
        let draw = |seed, name| Random::stream(seed, name).bits();
        assert_eq!(draw(42, "order"), draw(42, "order"));
        assert_ne!(draw(42, "order"), draw(42, "dropout"));
        assert_ne!(draw(42, "order"), draw(43, "order"));
    }

    #[test]
    fn draws_that_are_skipped_are_those_that_would_have_been_drawn() {
        let (mut drawn, mut skipped) = (Random::stream(1, "x"), Random::stream(1, "x"));
        for _ in 0..3 {
            drawn.bits();
        }
        skipped.skip(3);
        assert_eq!(drawn.bits(), skipped.bits());
    }

    #[test]
    fn a_shuffle_keeps_every_item_and_moves_most() {
        let mut items: Vec<usize> = (0..1000).collect();
        Random::stream(1, "x").shuffle(&mut items);
        assert!(
            items
                .iter()
                .enumerate()
                .filter(|(index, item)| index == *item)
                .count()
                < 20
        );
        items.sort_unstable();
        assert!(items.iter().enumerate().all(|(index, item)| index == *item));
    }

    #[test]
    fn weights_of_zero_are_never_drawn_and_others_in_proportion() {
        let mut random = Random::stream(7, "w");
        let mut counts = [0_u32; 3];
        for _ in 0..10_000 {
            counts[random.weighted(&[1.0, 0.0, 3.0])] += 1;
        }
        assert_eq!(counts[1], 0);
        assert!((2300..2700).contains(&counts[0]), "{counts:?}");
    }

    #[test]
    fn normal_numbers_have_mean_0_and_variance_1() {
        let mut random = Random::stream(7, "n");
        let values: Vec<f64> = (0..20_000).map(|_| random.normal()).collect();
        let mean = values.iter().sum::<f64>() / 20_000.0;
        let variance = values
            .iter()
            .map(|value| (value - mean).powi(2))
            .sum::<f64>()
            / 20_000.0;
        assert!(
            mean.abs() < 0.03 && (variance - 1.0).abs() < 0.05,
            "{mean} {variance}"
        );
    }
}
