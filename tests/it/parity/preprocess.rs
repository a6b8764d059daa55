//! Image files to network inputs, exact to the byte for PNG. JPEG decoders differ by rounding, so a JPEG is exact from its
//! recorded decoded pixels on, and close from its bytes.

use std::collections::HashMap;
use std::fs;

use anyhow::{Context, Result, ensure};
use candle_core::{Device, Tensor};
use radialog_models::preprocess::{GrayImage, ImageLimits, Preprocessed, SHORT_SIDE, decode};
use radialog_schemas::ContentHash;
use radialog_tests::golden::Case;
use serde::Deserialize;

#[derive(Deserialize)]
struct Image {
    file: String,
    gray_size_wh: (usize, usize),
    resized_wh: (usize, usize),
    gray_sha256: ContentHash,
    resized_sha256: ContentHash,
    embedding: Crop,
    findings: Crop,
}

#[derive(Deserialize)]
struct Crop {
    shape: (usize, usize, usize),
    mean: f64,
    first5: Vec<f32>,
    center: f32,
}

/// Holds every image of the case to its recorded stages.
pub(super) fn check(case: &Case) -> Result<()> {
    let outputs = case.tensors("outputs.safetensors")?;
    let images: Vec<Image> = case.field("/images")?;
    for key in outputs.keys() {
        let known = images
            .iter()
            .any(|image| key.starts_with(&format!("{}.", name(image))));
        ensure!(known, "{key} belongs to no image of the case");
    }
    for image in &images {
        check_image(case, image, &outputs).with_context(|| image.file.clone())?;
    }
    Ok(())
}

fn check_image(case: &Case, image: &Image, outputs: &HashMap<String, Tensor>) -> Result<()> {
    let recorded = |stage: &str| outputs.get(&format!("{}.{stage}", name(image)));
    let bytes = fs::read(case.dir().join(&image.file))?;
    let decoded = decode(&bytes, &ImageLimits::default())?;
    ensure!(decoded.warnings.is_empty(), "{:?}", decoded.warnings);
    let gray = decoded.image;
    ensure!((gray.width(), gray.height()) == image.gray_size_wh, "size");
    if let Some(decoded) = recorded("decoded_u8") {
        ensure!(gray == gray_of(decoded)?, "decoded pixels");
    }
    ensure!(
        ContentHash::of(gray.pixels()) == image.gray_sha256,
        "grey pixels"
    );
    if let Some(expected) = recorded("gray_u8") {
        ensure!(
            expected.flatten_all()?.to_vec1::<u8>()? == gray.pixels(),
            "grey pixels"
        );
    }

    let preprocessed = Preprocessed::from_gray(&gray, SHORT_SIDE);
    let resized = preprocessed.resized();
    ensure!(
        (resized.width(), resized.height()) == image.resized_wh,
        "resized size"
    );
    ensure!(
        ContentHash::of(resized.pixels()) == image.resized_sha256,
        "resized pixels"
    );
    check_crop(&preprocessed, &image.embedding, recorded("embedding_u8"))
        .context("embedding crop")?;
    check_crop(&preprocessed, &image.findings, recorded("findings_u8")).context("findings crop")
}

fn check_crop(image: &Preprocessed, crop: &Crop, recorded: Option<&Tensor>) -> Result<()> {
    let side = crop.shape.1;
    if let Some(expected) = recorded {
        ensure!(
            expected.flatten_all()?.to_vec1::<u8>()? == image.crop(side).pixels(),
            "pixels"
        );
    }
    let tensor = image.tensor(side, &Device::Cpu)?;
    ensure!(tensor.dims3()? == crop.shape, "tensor shape");
    let values: Vec<f32> = tensor.flatten_all()?.to_vec1()?;
    let mean = values.iter().copied().map(f64::from).sum::<f64>() / values.len() as f64;
    ensure!(
        (mean - crop.mean).abs() < 1e-7,
        "mean {mean}, recorded {}",
        crop.mean
    );
    ensure!(values.starts_with(&crop.first5), "first values");
    ensure!(
        values[side / 2 * side + side / 2] == crop.center,
        "centre value"
    );
    Ok(())
}

/// The grey image of decoded pixels `[height, width]` or `[height, width, channels]`.
fn gray_of(decoded: &Tensor) -> Result<GrayImage> {
    let channels = decoded.dims().get(2).copied().unwrap_or(1);
    Ok(GrayImage::from_samples(
        decoded.dim(1)?,
        decoded.dim(0)?,
        channels,
        decoded.flatten_all()?.to_vec1()?,
    ))
}

fn name(image: &Image) -> &str {
    image.file.rsplit('/').next().unwrap_or_default()
}
