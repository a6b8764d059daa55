//! Thousands of generated image files, decoded by us and by Pillow, the original's reader: the same grey picture of each, to
//! the bit. Pillow comes from PyPI into a folder beside the build.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use mozjpeg::{ColorSpace, Compress, ScanMode};
use radialog_models::preprocess::{ImageLimits, decode};
use radialog_schemas::ContentHash;
use radialog_tests::draw::{self, Draw};
use radialog_tests::install;
use serde::Deserialize;

/// What is installed. Bounded, so that a new major version does not change the test by itself.
const PACKAGES: [&str; 2] = ["pillow>=12,<14", "numpy<3"];
/// Files of each of the three kinds: PNG and JPEG by Python, JPEG of unusual layouts by libjpeg.
const FILES: usize = 1200;

const PILLOW: &str = include_str!("pillow.py");

/// A line of `expected.jsonl`.
#[derive(Deserialize)]
struct Expected {
    file: String,
    width: Option<usize>,
    height: Option<usize>,
    sha256: Option<ContentHash>,
    error: Option<String>,
}

/// A JPEG file whose components have sampling factors that cameras do not write, in one scan, in a scan a component, or
/// progressive.
fn unusual_jpeg(draw: &mut Draw) -> Result<Vec<u8>> {
    let (width, height) = (2 + draw.below(100), 2 + draw.below(100));
    let channels = if draw.below(6) == 0 { 1 } else { 3 };
    let color = match channels {
        1 => ColorSpace::JCS_GRAYSCALE,
        _ => ColorSpace::JCS_RGB,
    };
    let mut compress = Compress::new(color);
    compress.set_size(width, height);
    if channels == 3 && draw.below(8) == 0 {
        compress.set_color_space(ColorSpace::JCS_RGB);
    }
    compress.set_quality((5 + draw.below(95)) as f32);
    match draw.below(4) {
        0 => compress.set_fastest_defaults(),
        1 => compress.set_progressive_mode(),
        2 => compress.set_scan_optimization_mode(ScanMode::ScanPerComponent),
        _ => compress.set_scan_optimization_mode(ScanMode::AllComponentsTogether),
    }
    compress.set_optimize_coding(draw.below(2) == 0);
    let components = compress.components_mut();
    if channels == 3 {
        for component in &mut *components {
            component.h_samp_factor = 1 + draw.below(2) as i32;
            component.v_samp_factor = 1 + draw.below(2) as i32;
        }
    }
    // The encoder wants the smallest factors to be 1.
    components[draw.below(channels)].h_samp_factor = 1;
    components[draw.below(channels)].v_samp_factor = 1;
    let (phase, low, range) = (draw.below(50), draw.below(100), 20 + draw.below(130));
    let mut pixels = Vec::with_capacity(width * height * channels);
    for y in 0..height {
        for x in 0..width {
            for channel in 0..channels {
                let wave = ((x * (3 + channel) + phase) as f64 / 9.0).sin()
                    * ((y * 5 + channel * phase) as f64 / 13.0).cos();
                let grain = draw.below(15) as f64;
                pixels.push((low as f64 + (wave + 1.0) / 2.0 * range as f64 + grain) as u8);
            }
        }
    }
    let mut started = compress.start_compress(Vec::new())?;
    started.write_scanlines(&pixels)?;
    Ok(started.finish()?)
}

fn python() -> Result<std::path::PathBuf> {
    let test = std::env::current_exe()?;
    let target = test
        .ancestors()
        .nth(3)
        .context("a test lies in target/PROFILE/deps")?;
    let purpose = "the test that holds image decoding against Pillow";
    Ok(install::python(&target.join("python-pillow"), &PACKAGES, purpose)?.join("python"))
}

fn check(folder: &Path, expected: &Expected) -> Result<(), String> {
    let bytes = fs::read(folder.join(&expected.file)).map_err(|error| error.to_string())?;
    let ours = decode(&bytes, &ImageLimits::default());
    match (ours, &expected.sha256) {
        (Err(failure), None) => {
            let theirs = expected.error.as_deref().unwrap_or_default();
            Err(format!("neither reads it: {failure} | {theirs}"))
        }
        (Ok(_), None) => Err(format!("Pillow does not read it: {:?}", expected.error)),
        (Err(failure), Some(_)) => Err(format!("we do not read it: {failure}")),
        (Ok(decoded), Some(sha256)) => {
            let image = decoded.image;
            let size = (Some(image.width()), Some(image.height()));
            if size != (expected.width, expected.height) {
                return Err(format!("{size:?} pixels"));
            }
            if !decoded.warnings.is_empty() {
                return Err(format!(
                    "a warning about a whole file: {:?}",
                    decoded.warnings
                ));
            }
            (ContentHash::of(image.pixels()) == *sha256)
                .then_some(())
                .ok_or_else(|| "other pixels".to_owned())
        }
    }
}

#[test]
#[expect(
    clippy::print_stdout,
    reason = "how many files agree is this test's result"
)]
fn generated_files_of_all_kinds_have_pillows_pixels() -> Result<()> {
    let python = python()?;
    let seed = draw::seed()?;
    let folder = tempfile::tempdir()?;
    let mut draw = Draw::new(seed);
    for index in 0..FILES {
        let jpeg = unusual_jpeg(&mut draw)?;
        fs::write(folder.path().join(format!("libjpeg{index:05}.jpg")), jpeg)?;
    }
    let output = Command::new(python)
        .args(["-c", PILLOW])
        .arg(folder.path())
        .args([seed.to_string(), FILES.to_string()])
        .output()?;
    ensure!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let lines = fs::read_to_string(folder.path().join("expected.jsonl"))?;
    let mut faults = Vec::new();
    for line in lines.lines() {
        let expected: Expected = serde_json::from_str(line)?;
        if let Err(fault) = check(folder.path(), &expected) {
            faults.push(format!("{}: {fault}", expected.file));
        }
    }
    let files = lines.lines().count();
    ensure!(files == 3 * FILES, "{files} files");
    ensure!(
        faults.is_empty(),
        "{} of {files} files differ, seed {seed}:\n{}",
        faults.len(),
        faults[..faults.len().min(40)].join("\n")
    );
    println!("images: {files} generated files have Pillow's pixels");
    Ok(())
}
