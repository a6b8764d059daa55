//! The image encoder, with and without a previous image.

use anyhow::{Result, bail, ensure};
use candle_core::{DType, Tensor};
use candle_nn::VarBuilder;
use radialog_models::vision::{ImageEncoder, ImageFeatures, VisionConfig};
use radialog_tests::golden::Case;

use super::same_bytes;

/// Holds every recorded output of the encoder.
pub(super) fn check(case: &Case) -> Result<()> {
    check_weights(case, case.weights()?)
}

/// The same with these weights, which may have come another way.
pub(crate) fn check_weights(case: &Case, weights: VarBuilder<'_>) -> Result<()> {
    let config: VisionConfig = case.field("/config")?;
    let encoder = ImageEncoder::with_previous(&config, weights)?;
    let inputs = case.tensors("inputs.safetensors")?;
    let (current, previous) = (
        network_input(&inputs["current_u8"])?,
        network_input(&inputs["previous_u8"])?,
    );
    let alone = encoder.features(&current, None)?;
    let compared = encoder.features(&current, Some(&previous))?;

    let tolerance = case.tolerance("/tolerance")?;
    for (key, expected) in case.tensors("outputs.safetensors")? {
        let (features, name) = match key.split_once('.') {
            Some(("noprev", name)) => (&alone, name),
            Some(("prev", name)) => (&compared, name),
            _ => bail!("unknown output '{key}'"),
        };
        case.close(&key, output(features, name)?, &expected, tolerance)?;
    }

    same_bytes(
        &encoder.project(&current)?,
        &alone.projected_patch_embeddings,
    )?;
    for index in 0..current.dim(0)? {
        let (image, before) = (current.narrow(0, index, 1)?, previous.narrow(0, index, 1)?);
        let single = encoder
            .features(&image, Some(&before))?
            .projected_patch_embeddings;
        same_bytes(
            &single,
            &compared.projected_patch_embeddings.narrow(0, index, 1)?,
        )?;
    }
    Ok(())
}

/// Grey bytes `[B, 1, H, W]` as the networks read them: `[B, 3, H, W]`, from 0 to 1.
pub(super) fn network_input(grey: &Tensor) -> Result<Tensor> {
    let (batch, channels, height, width) = grey.dims4()?;
    ensure!(channels == 1, "{channels} channels");
    let scaled = (grey.to_dtype(DType::F32)? / 255.0)?;
    Ok(scaled.expand((batch, 3, height, width))?.contiguous()?)
}

fn output<'a>(features: &'a ImageFeatures, name: &str) -> Result<&'a Tensor> {
    Ok(match name {
        "patch_embeddings" => &features.patch_embeddings,
        "img_embedding" => &features.img_embedding,
        "projected_patch_embeddings" => &features.projected_patch_embeddings,
        "projected_global_embedding" => &features.projected_global_embedding,
        _ => bail!("unknown output '{name}'"),
    })
}
