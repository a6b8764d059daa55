//! What the networks of an image, and CheXbert, take in memory in f32 and in bf16: each is loaded and run in a process of its own.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};
use candle_core::{DType, Device};
use radialog_models::alignment::{Alignment, AlignmentConfig};
use radialog_models::bundle::components::{FindingsPredictor, ImageEmbedder, ReportLabeler};
use radialog_models::chexbert::{Chexbert, ChexbertConfig};
use radialog_models::findings::{FindingsClassifier, FindingsConfig};
use radialog_models::vision::{ImageEncoder, VisionConfig};
use radialog_tests::benchmark::{memory, peak_memory, random_weights, run};

use super::networks::{drawn_report, files, image, open};

/// The networks by their stages.
const NETWORKS: [&str; 3] = ["embedding", "findings", "scoring"];
/// What `radialog --precision` has for them.
const PRECISIONS: [&str; 2] = ["f32", "bf16"];
/// A report as long as most.
const REPORT: &str = "The heart is mildly enlarged. There is a small left pleural effusion with adjacent atelectasis. The right lung is \
                      clear. There is no pneumothorax.";

/// Prints a line for each network and precision.
///
/// # Errors
/// A network that cannot be loaded.
pub(crate) fn compare(images: &Path, bundle: Option<&Path>) -> Result<()> {
    println!(
        "\n| network | precision | memory once loaded, MB | most memory, one input at a time, MB |\n| --- | --- | --- | --- |"
    );
    for network in NETWORKS {
        for precision in PRECISIONS {
            let mut child = Command::new(std::env::current_exe()?);
            child.args(["network", network, precision]).arg(images);
            let said = run(child.args(bundle))?;
            let (loaded, peak) = said.trim().split_once(' ').context("two numbers")?;
            let megabytes = |bytes: &str| Ok::<_, anyhow::Error>(bytes.parse::<f64>()? / 1e6);
            println!(
                "| {network} | {precision} | {:.1} | {:.1} |",
                megabytes(loaded)?,
                megabytes(peak)?
            );
        }
    }
    println!();
    Ok(())
}

/// Loads a network, runs it twice, and prints the memory that it has taken once loaded, and at most. Without a bundle it has the
/// published geometry and random weights.
///
/// # Errors
/// A network that cannot be loaded.
pub(crate) fn measure(
    network: &str,
    precision: &str,
    images: &Path,
    bundle: Option<&Path>,
) -> Result<()> {
    let before = memory();
    let bundle = bundle.map(|bundle| open(bundle, Some(precision)));
    let bundle = bundle.transpose()?;
    let weights = match precision {
        "f32" => random_weights(DType::F32),
        "bf16" => random_weights(DType::BF16),
        other => bail!("'{other}': give f32 or bf16"),
    };
    let first = files(images)?.remove(0);
    let cpu = &Device::Cpu;
    let run: Box<dyn Fn() -> Result<()>> = match (network, &bundle) {
        ("embedding", Some(bundle)) => {
            let network = ImageEmbedder::load(bundle, cpu)?;
            let input = image(&first, network.input())?;
            Box::new(move || Ok(network.embed(&input).map(drop)?))
        }
        ("embedding", None) => {
            let vision = VisionConfig::published();
            let encoder = ImageEncoder::single_image(&vision, weights.clone())?;
            let alignment = Alignment::new(&AlignmentConfig::published(), weights)?;
            let input = image(&first, vision.input())?;
            Box::new(move || {
                let patches = encoder.project(&input)?;
                Ok(alignment.forward_image(&patches).map(drop)?)
            })
        }
        ("findings", Some(bundle)) => {
            let network = FindingsPredictor::load(bundle, cpu)?;
            let input = image(&first, network.input())?;
            Box::new(move || Ok(network.predict(&input).map(drop)?))
        }
        ("findings", None) => {
            let config = FindingsConfig::published();
            let network = FindingsClassifier::new(&config, weights)?;
            let input = image(&first, config.vision.input())?;
            Box::new(move || Ok(network.forward(&input).map(drop)?))
        }
        ("scoring", Some(bundle)) => {
            let network = ReportLabeler::load(bundle, cpu)?;
            let report = [network.encode(REPORT)?];
            Box::new(move || Ok(network.label(&report).map(drop)?))
        }
        ("scoring", None) => {
            let network = Chexbert::new(&ChexbertConfig::published(), weights)?;
            let report = [drawn_report(0)];
            Box::new(move || Ok(network.label(&report).map(drop)?))
        }
        (other, _) => bail!("'{other}': give embedding, findings or scoring"),
    };
    let loaded = memory().saturating_sub(before);
    run()?;
    run()?;
    println!("{loaded} {}", peak_memory());
    Ok(())
}
