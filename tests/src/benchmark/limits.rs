//! What the machine allows, measured in the run that is compared with it.

use std::hint::black_box;
use std::time::Instant;

use anyhow::Result;
use candle_core::{Device, Tensor};

use super::rows::Share;

/// Side of the matrices whose product is measured.
const SIDE: usize = 2048;
/// Times that each is tried; the best counts.
const TRIES: usize = 5;

/// The two limits of a language model on a CPU.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Bytes per second that all threads read together.
    pub bandwidth: f64,
    /// Operations per second of candle's product of two matrices in f32.
    pub product: f64,
}

impl Limits {
    /// Measures both.
    ///
    /// # Errors
    /// A product that fails.
    pub fn measured() -> Result<Self> {
        Ok(Self {
            bandwidth: read_bandwidth(),
            product: product_rate()?,
        })
    }

    /// The share of the bandwidth of what reads so many bytes in so many seconds.
    pub fn of_reading(&self, bytes: f64, seconds: f64) -> Share {
        Share {
            part: bytes / seconds / self.bandwidth,
            of: format!("{:.1} GB/s read", self.bandwidth / 1e9),
        }
    }

    /// The share of the product's rate of what multiplies and adds so many times in so many seconds.
    pub fn of_products(&self, products: f64, seconds: f64) -> Share {
        Share {
            part: 2.0 * products / seconds / self.product,
            of: format!("{:.0} GFLOP/s of an f32 product", self.product / 1e9),
        }
    }
}

/// Bytes per second that all threads read together.
pub fn read_bandwidth() -> f64 {
    let data = vec![1u64; 1 << 26];
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let seconds = best(|| {
        std::thread::scope(|scope| {
            for part in data.chunks(data.len().div_ceil(threads)) {
                scope.spawn(move || {
                    black_box(
                        part.iter()
                            .fold(0, |sum: u64, value| sum.wrapping_add(*value)),
                    )
                });
            }
        });
        Ok(())
    });
    size_of_val(data.as_slice()) as f64 / seconds.unwrap_or(f64::NAN)
}

/// Operations per second of a product of two matrices in f32.
fn product_rate() -> Result<f64> {
    let matrix = || Tensor::rand(0f32, 1f32, (SIDE, SIDE), &Device::Cpu);
    let (a, b) = (matrix()?, matrix()?);
    let seconds = best(|| {
        black_box(a.matmul(&b)?);
        Ok(())
    })?;
    Ok(2.0 * (SIDE as f64).powi(3) / seconds)
}

/// Seconds of the fastest run.
fn best(mut run: impl FnMut() -> Result<()>) -> Result<f64> {
    let mut best = f64::INFINITY;
    for _ in 0..TRIES {
        let started = Instant::now();
        run()?;
        best = best.min(started.elapsed().as_secs_f64());
    }
    Ok(best)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_is_of_what_was_measured() {
        let limits = Limits {
            bandwidth: 32e9,
            product: 160e9,
        };
        let reading = limits.of_reading(4e9, 0.25);
        assert_eq!((reading.part, reading.of.as_str()), (0.5, "32.0 GB/s read"));
        let products = limits.of_products(10e9, 0.25);
        assert_eq!(products.part, 0.5);
        assert_eq!(products.of, "160 GFLOP/s of an f32 product");
    }
}
