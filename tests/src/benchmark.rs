//! What the benchmarks share.

use std::fmt::Display;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::process::{self, Command};
use std::str::FromStr;
use std::{env, fs};

use anyhow::{Context, Result, ensure};
use candle_core::quantized::GgmlDType;
use candle_core::{DType, Device, Result as CandleResult, Shape, Tensor};
use candle_nn::var_builder::SimpleBackend;
use candle_nn::{Init, VarBuilder};
use radialog_models::language::{QuantizedMatrices, QuantizedMatrix};

use crate::golden::Formula;
use crate::install;

pub mod limits;
pub mod rows;

/// What the peers of image networks and of whole reports need, for [`peer_python`]'s environment `vision`.
pub const VISION_PACKAGES: [&str; 6] = [
    "torch==2.15.0",
    "torchvision==0.29.2",
    "transformers==5.24.0",
    "onnx==1.23.2",
    "onnxruntime==1.32.0",
    "onnxscript==0.7.2",
];

/// Random weights of any name and shape, that keep activations in range.
pub fn random_weights(dtype: DType) -> VarBuilder<'static> {
    VarBuilder::from_backend(Box::new(RandomWeights), dtype, Device::Cpu)
}

/// How a benchmark is called, e.g. `cargo benchmark scores -- [PAIRS]`.
pub struct Usage(pub &'static str);

/// What arguments are that a benchmark cannot run with.
#[derive(Debug, PartialEq, Eq)]
enum NoArguments {
    /// Somebody asks what it takes.
    Help,
    /// An option; no benchmark has any.
    Option(String),
}

impl Usage {
    /// The arguments that a person gave, without what cargo adds. Where they ask for help, or are an option, the process ends
    /// with what the benchmark takes.
    #[expect(clippy::print_stdout, reason = "it is asked what it takes")]
    pub fn arguments(&self) -> Vec<String> {
        match given(env::args().skip(1)) {
            Ok(given) => given,
            Err(NoArguments::Help) => {
                println!("{}", self.0);
                process::exit(0)
            }
            Err(NoArguments::Option(option)) => {
                self.refuse(format!("there is no option '{option}'"))
            }
        }
    }

    /// Ends the process where a person gave any argument.
    pub fn takes_nothing(&self) {
        if let Some(argument) = self.arguments().first() {
            self.refuse(format!("'{argument}' is nothing that it takes"))
        }
    }

    /// Which of these names were given, and the number behind `rounds=`, or else this one.
    pub fn names_and_rounds(&self, names: &[&str], rounds: usize) -> (Vec<String>, usize) {
        names_and_rounds(self.arguments(), names, rounds).unwrap_or_else(|wrong| self.refuse(wrong))
    }

    /// The number that a person wrote; where it is none, the process ends with what the benchmark takes.
    pub fn number<N: FromStr>(&self, written: &str) -> N {
        number(written).unwrap_or_else(|wrong| self.refuse(wrong))
    }

    /// As [`Usage::number`], of something that is measured: of none there is no figure.
    pub fn count(&self, written: &str) -> usize {
        self.number::<NonZeroUsize>(written).get()
    }

    /// Ends the process with what is wrong, and with what the benchmark takes.
    #[expect(clippy::print_stderr, reason = "it says how it is called")]
    pub fn refuse(&self, wrong: impl Display) -> ! {
        eprintln!("{wrong}; it is called as: {}", self.0);
        process::exit(64)
    }
}

/// The arguments without what cargo adds.
fn given(arguments: impl Iterator<Item = String>) -> Result<Vec<String>, NoArguments> {
    let given: Vec<String> = arguments.filter(|argument| argument != "--bench").collect();
    match given.iter().find(|argument| argument.starts_with('-')) {
        None => Ok(given),
        Some(help) if help == "--help" || help == "-h" => Err(NoArguments::Help),
        Some(option) => Err(NoArguments::Option(option.clone())),
    }
}

/// Which of these names are among the arguments, and the number behind `rounds=`, or else this one; or what is wrong.
fn names_and_rounds(
    arguments: Vec<String>,
    names: &[&str],
    mut rounds: usize,
) -> Result<(Vec<String>, usize), String> {
    let mut chosen = Vec::new();
    for argument in arguments {
        match argument.strip_prefix("rounds=") {
            Some(written) => rounds = number::<NonZeroUsize>(written)?.get(),
            None if names.contains(&argument.as_str()) => chosen.push(argument),
            None => return Err(format!("there is no '{argument}'")),
        }
    }
    Ok((chosen, rounds))
}

/// The number that is written, or what is wrong.
fn number<N: FromStr>(written: &str) -> Result<N, String> {
    let read = written.parse::<N>();
    read.map_err(|_| format!("'{written}' is no number that it takes"))
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

/// The largest memory that this process has had, in bytes.
pub fn peak_memory() -> u64 {
    status_bytes("VmHWM:")
}

/// The memory that this process has now, in bytes.
pub fn memory() -> u64 {
    status_bytes("VmRSS:")
}

fn status_bytes(field: &str) -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let value = status
        .lines()
        .find_map(|line| line.strip_prefix(field))
        .unwrap_or_default();
    value
        .trim()
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

/// Random blocks for matrices that stay quantised: no answer means anything, and each takes the time of a published one.
pub struct RandomBlocks {
    /// The type of the matrix of a name.
    pub dtype: fn(&str) -> GgmlDType,
}

impl RandomBlocks {
    /// The mix that llama.cpp calls Q4_K_M, for a model of 32 layers.
    pub fn q4_k_m() -> Self {
        let dtype = |name: &str| {
            let layer = name.split('.').find_map(|part| part.parse::<usize>().ok());
            let more = layer.is_none_or(|layer| !(4..28).contains(&layer) || (layer - 4) % 3 == 2);
            let finer = ["v_proj", "down_proj", "lm_head"];
            match more && finer.iter().any(|part| name.contains(part)) {
                true => GgmlDType::Q6K,
                false => GgmlDType::Q4K,
            }
        };
        Self { dtype }
    }
}

impl QuantizedMatrices for RandomBlocks {
    fn quantized(
        &self,
        name: &str,
        (rows, columns): (usize, usize),
    ) -> CandleResult<Option<QuantizedMatrix>> {
        let dtype = (self.dtype)(name);
        let size = dtype.type_size();
        let mut bytes = vec![0; rows * columns / dtype.block_size() * size];
        let mut state = name.bytes().fold(1u64, |state, byte| {
            state.wrapping_mul(31).wrapping_add(byte.into())
        });
        for word in bytes.chunks_mut(size_of::<u64>()) {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            word.copy_from_slice(&state.to_le_bytes()[..word.len()]);
        }
        // Scales that keep activations in range.
        let scale = match dtype {
            GgmlDType::Q4K => 3e-5,
            GgmlDType::Q6K => 2e-5,
            GgmlDType::Q8_0 => 2e-4,
            _ => 3e-3,
        };
        let scale = half::f16::from_f32(scale).to_le_bytes();
        for block in bytes.chunks_exact_mut(size) {
            match dtype {
                GgmlDType::Q6K => block[208..].copy_from_slice(&scale),
                GgmlDType::Q4K | GgmlDType::Q4_1 => {
                    block[..2].copy_from_slice(&scale);
                    block[2..4].copy_from_slice(&scale);
                }
                _ => block[..2].copy_from_slice(&scale),
            }
        }
        QuantizedMatrix::new(&bytes, dtype, (rows, columns)).map(Some)
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn help_and_options_are_no_arguments() {
        let of = |words: &str| given(words.split_whitespace().map(str::to_owned));
        assert_eq!(of("--bench 300"), Ok(vec!["300".to_owned()]));
        assert_eq!(of("--bench"), Ok(Vec::new()));
        assert_eq!(of("--help --bench"), Err(NoArguments::Help));
        assert_eq!(of("-h"), Err(NoArguments::Help));
        let option = NoArguments::Option("--rounds=3".to_owned());
        assert_eq!(of("tiny --rounds=3"), Err(option));
    }

    #[test]
    fn names_are_known_ones_and_rounds_one_or_more() {
        let of = |words: &str| {
            let words = words.split_whitespace().map(str::to_owned);
            names_and_rounds(words.collect(), &["tiny", "large"], 9)
        };
        assert_eq!(of("large"), Ok((vec!["large".to_owned()], 9)));
        assert_eq!(of("rounds=1"), Ok((Vec::new(), 1)));
        for words in ["rounds=0", "rounds=-1", "rounds=", "small"] {
            assert!(of(words).is_err(), "{words}");
        }
    }
}
