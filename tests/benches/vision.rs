//! Speed of the image networks and of CheXbert on this CPU at published geometry, one sample at a time as the workers run
//! them there.
#![expect(clippy::print_stdout, reason = "a benchmark prints its figures")]

use std::fs;
use std::hint::black_box;
use std::time::Instant;

use anyhow::Result;
use candle_core::{DType, Device, Tensor};
use radialog_models::alignment::{Alignment, AlignmentConfig};
use radialog_models::chexbert::{Chexbert, ChexbertConfig};
use radialog_models::findings::{FindingsClassifier, FindingsConfig};
use radialog_models::preprocess::{ImageLimits, Preprocessed, SHORT_SIDE};
use radialog_models::vision::{ImageEncoder, VisionConfig};
use radialog_tests::benchmark::{Usage, peak_memory, processor_seconds, random_weights};

const RUNS: usize = 9;
/// Tokens of a report.
const REPORT: u32 = 128;

fn main() -> Result<()> {
    Usage("cargo benchmark vision").takes_nothing();
    let radiograph = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/fixtures/golden/01_preprocess/images/xray_00000001_000.png"
    );
    let file = fs::read(radiograph)?;
    let image = Preprocessed::from_bytes(&file, &ImageLimits::default(), SHORT_SIDE)?;
    let input = |side| -> Result<Tensor> { Ok(image.tensor(side, &Device::Cpu)?.unsqueeze(0)?) };

    measure("decode and preprocess, 512 x 512", || {
        Ok(Preprocessed::from_bytes(
            &file,
            &ImageLimits::default(),
            SHORT_SIDE,
        )?)
    })?;

    let config = VisionConfig::published();
    let encoder = ImageEncoder::single_image(&config, random_weights(DType::F32))?;
    let embedding = input(config.image_size)?;
    measure("image encoder, 448", || Ok(encoder.project(&embedding)?))?;

    let alignment = Alignment::new(&AlignmentConfig::published(), random_weights(DType::F32))?;
    let patches = encoder.project(&embedding)?;
    measure("Q-Former", || Ok(alignment.forward_image(&patches)?))?;

    let config = FindingsConfig::published();
    let classifier = FindingsClassifier::new(&config, random_weights(DType::F32))?;
    let findings = input(config.vision.image_size)?;
    measure("findings classifier, 488", || {
        Ok(classifier.forward(&findings)?)
    })?;

    let labeler = Chexbert::new(&ChexbertConfig::published(), random_weights(DType::F32))?;
    let report = [(0..REPORT).map(|id| 101 + id * 7).collect()];
    measure("CheXbert, 128 tokens", || Ok(labeler.label(&report)?))
}

/// Prints the median rate, the processor's time (which says more where the machine is shared) and the largest memory so
/// far.
fn measure<T>(name: &str, mut run: impl FnMut() -> Result<T>) -> Result<()> {
    run()?;
    let (mut seconds, before) = (Vec::with_capacity(RUNS), processor_seconds());
    for _ in 0..RUNS {
        let started = Instant::now();
        black_box(run()?);
        seconds.push(started.elapsed().as_secs_f64());
    }
    seconds.sort_by(f64::total_cmp);
    let peak = peak_memory() >> 20;
    let processor = (processor_seconds() - before) / RUNS as f64;
    let rate = 1.0 / seconds[RUNS / 2];
    println!(
        "{name}: {rate:.2} per second (median of {RUNS}), {processor:.3} processor-seconds each, peak {peak} MiB"
    );
    Ok(())
}
