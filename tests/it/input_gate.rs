//! What the shipped input gate says of X-rays and of other pictures.

use std::fs;
use std::path::Path;

use anyhow::{Result, ensure};
use radialog_models::input_gate::InputGate;
use radialog_models::preprocess::{self, GrayImage, ImageLimits};
use radialog_schemas::{GateVerdict, ImageKind};
use radialog_tests::draw::Draw;
use radialog_tests::fixtures;

fn read(path: &Path) -> Result<GrayImage> {
    let decoded = preprocess::decode(&fs::read(path)?, &ImageLimits::default());
    Ok(decoded
        .map_err(|failure| anyhow::anyhow!(failure.message))?
        .image)
}

fn judge(image: &GrayImage) -> Result<GateVerdict> {
    Ok(InputGate::shipped()?.judge(image)?)
}

fn xrays() -> Result<Vec<(String, GrayImage)>> {
    let mut images = Vec::new();
    for entry in fs::read_dir(fixtures::xrays())? {
        let path = entry?.path();
        if path.extension().is_some_and(|suffix| suffix == "jpg") {
            images.push((path.display().to_string(), read(&path)?));
        }
    }
    ensure!(images.len() == 10, "{} X-rays", images.len());
    Ok(images)
}

/// The image turned clockwise by a quarter.
fn turned(image: &GrayImage) -> GrayImage {
    let (width, height) = (image.width(), image.height());
    let pixel = |place: usize| {
        let (x, y) = (place % height, place / height);
        image.pixels()[(height - 1 - x) * width + y]
    };
    GrayImage::new(height, width, (0..width * height).map(pixel).collect())
}

fn inverted(image: &GrayImage) -> GrayImage {
    let pixels = image.pixels().iter().map(|pixel| 255 - pixel).collect();
    GrayImage::new(image.width(), image.height(), pixels)
}

#[test]
fn every_shipped_xray_passes_upright_and_none_turned_or_inverted() -> Result<()> {
    let mut named_right = 0;
    for (name, image) in xrays()? {
        let verdict = judge(&image)?;
        ensure!(verdict.passed, "{name}: {verdict:?}");
        let (quarter, negative) = (turned(&image), inverted(&image));
        for (what, image) in [
            ("turned by a quarter", &quarter),
            ("turned by a half", &turned(&quarter)),
            ("turned by three quarters", &turned(&turned(&quarter))),
            ("inverted", &negative),
        ] {
            let verdict = judge(image)?;
            ensure!(!verdict.passed, "{name} {what}: {verdict:?}");
            let kind = match what {
                "inverted" => ImageKind::Inverted,
                _ => ImageKind::Turned,
            };
            named_right += u32::from(verdict.looks_like == kind);
        }
    }
    // What is wrong with an image is told less surely than that something is.
    ensure!(named_right >= 36, "{named_right} of 40 named right");
    Ok(())
}

#[test]
fn a_red_square_a_document_and_noise_do_not_pass() -> Result<()> {
    for name in ["red-square.png", "document.png"] {
        let verdict = judge(&read(&fixtures::other_image(name))?)?;
        ensure!(!verdict.passed, "{name}: {verdict:?}");
        ensure!(
            verdict.looks_like == ImageKind::Other,
            "{name}: {verdict:?}"
        );
    }
    for seed in 0..20 {
        let mut draw = Draw::new(seed);
        let pixels = (0..300 * 400).map(|_| draw.below(256) as u8);
        let verdict = judge(&GrayImage::new(300, 400, pixels.collect()))?;
        ensure!(!verdict.passed, "noise {seed}: {verdict:?}");
    }
    Ok(())
}
