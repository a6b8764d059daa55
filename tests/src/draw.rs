//! Random numbers for generated inputs: the same ones for the same seed, on every machine.

use anyhow::{Context, Result};

/// Set to another number, tests with generated inputs draw others.
pub const SEED_VARIABLE: &str = "RADIALOG_TEST_SEED";

/// Numbers that follow from a seed: SplitMix64 (Steele et al., 2014).
#[derive(Clone, Debug)]
pub struct Draw(u64);

/// The seed of this run.
///
/// # Errors
/// [`SEED_VARIABLE`] is no number.
pub fn seed() -> Result<u64> {
    match std::env::var(SEED_VARIABLE) {
        Ok(seed) => seed
            .parse()
            .with_context(|| format!("{SEED_VARIABLE}={seed}")),
        Err(_) => Ok(7),
    }
}

impl Draw {
    /// The numbers of a seed.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next number, from 0 to `end`, that one excluded.
    ///
    /// # Panics
    /// If `end` is 0.
    pub fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((z ^ (z >> 31)) % end as u64) as usize
    }
}
