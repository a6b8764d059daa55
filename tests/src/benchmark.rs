//! What the benchmarks share.

use std::path::PathBuf;
use std::process::Command;
use std::{env, fs};

use anyhow::{Context, Result, ensure};
use candle_core::{DType, Device, Result as CandleResult, Shape, Tensor};
use candle_nn::var_builder::SimpleBackend;
use candle_nn::{Init, VarBuilder};

use crate::golden::Formula;
use crate::install;

/// RandomWeights weights of any name and shape, that keep activations in range.
pub fn random_weights(dtype: DType) -> VarBuilder<'static> {
    VarBuilder::from_backend(Box::new(RandomWeights), dtype, Device::Cpu)
}

/// User and system time of all threads so far, in seconds; Linux counts it in hundredths of one. It says more than the
/// clock where a machine is shared.
pub fn processor_seconds() -> f64 {
    let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields = stat
        .rsplit(')')
        .next()
        .unwrap_or_default()
        .split_whitespace();
    fields
        .skip(11)
        .take(2)
        .filter_map(|ticks| ticks.parse::<f64>().ok())
        .sum::<f64>()
        / 100.0
}

/// Most memory that this process has had, in bytes.
pub fn peak_memory() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let peak = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))
        .unwrap_or_default();
    peak.trim()
        .trim_end_matches(" kB")
        .parse::<u64>()
        .unwrap_or_default()
        * 1024
}

/// The middle one; of an even number the larger of two.
pub fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or(f64::NAN)
}

/// Returns a Python with these packages, in a virtual environment below the temporary folder that is made where there is
/// none yet.
///
/// # Errors
/// As [`install::python`].
pub fn peer_python(name: &str, packages: &[&str]) -> Result<PathBuf> {
    let folder = env::temp_dir().join(format!("radialog-peer-{name}"));
    let programs = install::python(&folder, packages, "the comparison with Python")?;
    Ok(programs.join("python"))
}

/// What a command prints.
///
/// # Errors
/// A command that cannot be run or fails, with what it says of it.
pub fn run(command: &mut Command) -> Result<String> {
    let output = command
        .output()
        .with_context(|| format!("cannot run {}", command.get_program().display()))?;
    ensure!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

struct RandomWeights;

impl SimpleBackend for RandomWeights {
    fn get(
        &self,
        shape: Shape,
        name: &str,
        _: Init,
        dtype: DType,
        device: &Device,
    ) -> CandleResult<Tensor> {
        let dims = shape.dims();
        let norm = name.ends_with("running_var") || (dims.len() == 1 && name.ends_with("weight"));
        let fan_in: usize = dims.iter().skip(1).product();
        let (offset, scale) = if norm {
            (1.0, 0.1)
        } else {
            (0.0, (1.0 / fan_in as f64).sqrt())
        };
        let formula = Formula {
            name: name.to_owned(),
            shape: dims.to_vec(),
            offset,
            scale,
            seed: 1,
        };
        formula
            .tensor()
            .map_err(candle_core::Error::msg)?
            .to_dtype(dtype)?
            .to_device(device)
    }

    fn get_unchecked(&self, name: &str, _: DType, _: &Device) -> CandleResult<Tensor> {
        candle_core::bail!("the shape of '{name}' is not known")
    }

    fn contains_tensor(&self, _: &str) -> bool {
        true
    }
}
