//! Speed of the image networks and of CheXbert on this CPU at published geometry, one sample at a time as the workers run
//! them there.
#![expect(clippy::print_stdout, reason = "a benchmark prints its figures")]

use std::fs;
use std::hint::black_box;
use std::time::Instant;

use anyhow::Result;
use candle_core::{DType, Device, Shape, Tensor};
use candle_nn::var_builder::SimpleBackend;
use candle_nn::{Init, VarBuilder};
use radialog_models::alignment::{Alignment, AlignmentConfig};
use radialog_models::chexbert::{Chexbert, ChexbertConfig};
use radialog_models::findings::{FindingsClassifier, FindingsConfig};
use radialog_models::preprocess::{Limits, Preprocessed};
use radialog_models::vision::{ImageEncoder, VisionConfig};
use radialog_tests::golden::Formula;

const RUNS: usize = 9;
/// Tokens of a report.
const REPORT: u32 = 128;

fn main() -> Result<()> {
    let radiograph = concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures/golden/01_preprocess/images/xray_00000001_000.png");
    let file = fs::read(radiograph)?;
    let image = Preprocessed::from_bytes(&file, &Limits::default())?;
    let input = |side| -> Result<Tensor> { Ok(image.tensor(side, &Device::Cpu)?.unsqueeze(0)?) };

    measure("decode and preprocess, 512 x 512", || Ok(Preprocessed::from_bytes(&file, &Limits::default()).map(drop)?))?;

    let config = VisionConfig::published();
    let encoder = ImageEncoder::single_image(&config, weights())?;
    let embedding = input(config.image_size)?;
    measure("image encoder, 448", || Ok(drop(encoder.project(&embedding)?)))?;

    let alignment = Alignment::new(&AlignmentConfig::published(), weights())?;
    let patches = encoder.project(&embedding)?;
    measure("Q-Former", || Ok(drop(alignment.forward_image(&patches)?)))?;

    let config = FindingsConfig::published();
    let classifier = FindingsClassifier::new(&config, weights())?;
    let findings = input(config.vision.image_size)?;
    measure("findings classifier, 488", || Ok(drop(classifier.forward(&findings)?)))?;

    let labeler = Chexbert::new(&ChexbertConfig::published(), weights())?;
    let report = [(0..REPORT).map(|id| 101 + id * 7).collect()];
    measure("CheXbert, 128 tokens", || Ok(drop(labeler.label(&report)?)))
}

/// Prints the median rate, the processor's time (which says more where the machine is shared) and the largest memory so
/// far.
fn measure(name: &str, mut run: impl FnMut() -> Result<()>) -> Result<()> {
    run()?;
    let (mut seconds, before) = (Vec::with_capacity(RUNS), processor_seconds());
    for _ in 0..RUNS {
        let started = Instant::now();
        black_box(run()?);
        seconds.push(started.elapsed().as_secs_f64());
    }
    seconds.sort_by(f64::total_cmp);
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap_or(" unknown").trim();
    let processor = (processor_seconds() - before) / RUNS as f64;
    let rate = 1.0 / seconds[RUNS / 2];
    println!("{name}: {rate:.2} per second (median of {RUNS}), {processor:.3} processor-seconds each, peak {peak}");
    Ok(())
}

/// User and system time of all threads so far; Linux counts it in hundredths of a second.
fn processor_seconds() -> f64 {
    let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields = stat.rsplit(')').next().unwrap_or_default().split_whitespace();
    fields.skip(11).take(2).filter_map(|ticks| ticks.parse::<f64>().ok()).sum::<f64>() / 100.0
}

/// Random weights of any shape that keep activations in range.
fn weights() -> VarBuilder<'static> {
    VarBuilder::from_backend(Box::new(Random), DType::F32, Device::Cpu)
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
