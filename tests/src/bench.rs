//! What the benchmarks share.

use std::fs;

use candle_core::{DType, Device, Shape, Tensor};
use candle_nn::var_builder::SimpleBackend;
use candle_nn::{Init, VarBuilder};

use crate::golden::Formula;

/// Random weights of any name and shape, that keep activations in range.
pub fn random_weights(dtype: DType) -> VarBuilder<'static> {
    VarBuilder::from_backend(Box::new(Random), dtype, Device::Cpu)
}

/// User and system time of all threads so far, in seconds; Linux counts it in hundredths of one. It says more than the
/// clock where a machine is shared.
pub fn processor_seconds() -> f64 {
    let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields = stat.rsplit(')').next().unwrap_or_default().split_whitespace();
    fields.skip(11).take(2).filter_map(|ticks| ticks.parse::<f64>().ok()).sum::<f64>() / 100.0
}

struct Random;

impl SimpleBackend for Random {
    fn get(&self, shape: Shape, name: &str, _: Init, dtype: DType, device: &Device) -> candle_core::Result<Tensor> {
        let dims = shape.dims();
        let norm = name.ends_with("running_var") || (dims.len() == 1 && name.ends_with("weight"));
        let fan_in: usize = dims.iter().skip(1).product();
        let (offset, scale) = if norm { (1.0, 0.1) } else { (0.0, (1.0 / fan_in as f64).sqrt()) };
        let formula = Formula { name: name.to_owned(), shape: dims.to_vec(), offset, scale, seed: 1 };
        formula.tensor().map_err(candle_core::Error::msg)?.to_dtype(dtype)?.to_device(device)
    }

    fn get_unchecked(&self, name: &str, _: DType, _: &Device) -> candle_core::Result<Tensor> {
        candle_core::bail!("the shape of '{name}' is not known")
    }

    fn contains_tensor(&self, _: &str) -> bool {
        true
    }
}
