//! How all evaluations draw their intervals.

use clap::Args;
use radialog_training::evaluation::bootstrap::{REPEATS, Resampling, SEED};

/// The bootstrap of the 95 % intervals.
#[derive(Args, Clone, Copy)]
pub(super) struct ResamplingArgs {
    /// Determines the resamples of the 95 % intervals, and the exchanges of a comparison
    #[arg(long, default_value_t = SEED)]
    seed: u64,
    /// Resamples of the 95 % intervals, and exchanges of a comparison
    #[arg(long, default_value_t = REPEATS as u32, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    resamples: u32,
}

impl ResamplingArgs {
    pub(super) fn resampling(self) -> Resampling {
        Resampling {
            seed: self.seed,
            repeats: self.resamples as usize,
        }
    }
}
