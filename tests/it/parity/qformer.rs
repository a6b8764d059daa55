//! The alignment module's inference outputs; what its cases record for training is not checked here.

use anyhow::{Context, Result};
use radialog_models::alignment::{Alignment, AlignmentConfig};
use radialog_tests::golden::Case;

use super::same_bytes;

/// Outputs of the training losses, with this prefix in their names.
const TRAINING: &str = "train.";

/// Holds the image tokens and the normalised strips; the recorded rows say how many images and strips were run.
pub(super) fn check(case: &Case) -> Result<()> {
    let config: AlignmentConfig = case.field("/config")?;
    check_alignment(case, &Alignment::new(&config, case.weights()?)?)
}

/// The same of an alignment module that may have come another way.
pub(crate) fn check_alignment(case: &Case, alignment: &Alignment) -> Result<()> {
    let features = case.formula_input("/inputs/features")?;
    let tolerance = case.tolerance("/tolerance/outputs")?;

    let mut outputs = case.tensors("outputs.safetensors")?;
    outputs.retain(|key, _| !key.starts_with(TRAINING));
    let images = outputs
        .get("forward_image.query_output")
        .context("no query_output is recorded")?
        .dim(0)?;
    let aligned = alignment.forward_image(&features.narrow(0, 0, images)?)?;
    for (key, expected) in outputs {
        let actual = match key.as_str() {
            "forward_image.query_output" => aligned.tokens.clone(),
            "forward_image.image_embeds_first4rows" => {
                aligned.image_embeds.narrow(1, 0, expected.dim(1)?)?
            }
            _ => anyhow::bail!("unknown output '{key}'"),
        };
        case.close(&key, &actual, &expected, tolerance)?;
    }
    let last = features.narrow(0, images - 1, 1)?;
    same_bytes(
        &alignment.forward_image(&last)?.tokens,
        &aligned.tokens.narrow(0, images - 1, 1)?,
    )
}
