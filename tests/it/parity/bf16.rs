//! How far the image networks, the Q-Former and CheXbert in bf16 are from the recorded outputs, which are in f32.

use std::collections::HashMap;

use anyhow::{Result, ensure};
use candle_core::{DType, Tensor};
use radialog_models::alignment::{Alignment, AlignmentConfig};
use radialog_models::chexbert::{Chexbert, ChexbertConfig};
use radialog_models::findings::{FindingsClassifier, FindingsConfig};
use radialog_models::vision::{ImageEncoder, VisionConfig};
use radialog_tests::golden::{self, Case};

use super::biovil::network_input;
use super::chexbert::unpadded;
use super::same_bytes;

/// The largest root mean square of errors, in that of the outputs. bf16 keeps 8 bits: one rounding is off by 0.002 at most.
const ALLOWED: f64 = 0.02;

/// Our outputs, by the names that the recorded ones have.
type Outputs = HashMap<String, Tensor>;

#[test]
fn networks_in_bf16_stay_near_the_recorded_outputs_and_depend_on_no_batch() -> Result<()> {
    for root in golden::roots()? {
        for case in golden::cases(&root)? {
            let (ours, decided) = match case.kind() {
                "biovil_t_image_encoder" => (encoder(&case)?, None),
                "qformer_alignment" => (alignment(&case)?, None),
                "findings_classifier" => findings(&case)?,
                "chexbert_labeler" => chexbert(&case)?,
                _ => continue,
            };
            let recorded = case.tensors("outputs.safetensors")?;
            for (name, ours) in ours {
                let (largest, share) = distance(&ours, &recorded[&name])?;
                println!(
                    "bf16: {} {name}: largest error {largest:.4}, root mean square {share:.4} of the outputs'",
                    case.kind()
                );
                ensure!(share < ALLOWED, "{name} of {}", case.dir().display());
            }
            if let Some((same, all)) = decided {
                println!(
                    "bf16: {}: {same} of {all} decisions as recorded",
                    case.kind()
                );
            }
        }
    }
    Ok(())
}

/// The largest error, and the root mean square of all in that of what is expected.
fn distance(actual: &Tensor, expected: &Tensor) -> Result<(f64, f64)> {
    let values = |tensor: &Tensor| -> Result<Vec<f64>> {
        Ok(tensor.to_dtype(DType::F64)?.flatten_all()?.to_vec1()?)
    };
    ensure!(actual.dims() == expected.dims(), "another shape");
    let (actual, expected) = (values(actual)?, values(expected)?);
    let errors = || actual.iter().zip(&expected).map(|(a, b)| (a - b).abs());
    let square: f64 = errors().map(|error| error * error).sum();
    let size: f64 = expected.iter().map(|value| value * value).sum();
    Ok((errors().fold(0.0, f64::max), (square / size).sqrt()))
}

fn outputs<const N: usize>(named: [(&str, &Tensor); N]) -> Outputs {
    let owned = |(name, tensor): (&str, &Tensor)| (name.to_owned(), tensor.clone());
    named.into_iter().map(owned).collect()
}

fn encoder(case: &Case) -> Result<Outputs> {
    let config: VisionConfig = case.field("/config")?;
    let encoder = ImageEncoder::single_image(&config, case.weights()?.set_dtype(DType::BF16))?;
    let images = network_input(&case.tensors("inputs.safetensors")?["current_u8"])?;
    let projected = encoder.project(&images)?;
    let last = images.dim(0)? - 1;
    same_bytes(
        &encoder.project(&images.narrow(0, last, 1)?)?,
        &projected.narrow(0, last, 1)?,
    )?;
    Ok(outputs([("noprev.projected_patch_embeddings", &projected)]))
}

fn alignment(case: &Case) -> Result<Outputs> {
    let config: AlignmentConfig = case.field("/config")?;
    let alignment = Alignment::new(&config, case.weights()?.set_dtype(DType::BF16))?;
    let name = "forward_image.query_output";
    let count = case.tensors("outputs.safetensors")?[name].dim(0)?;
    let features = case.formula_input("/inputs/features")?;
    let tokens = alignment
        .forward_image(&features.narrow(0, 0, count)?)?
        .tokens;
    let last = features.narrow(0, count - 1, 1)?;
    same_bytes(
        &alignment.forward_image(&last)?.tokens,
        &tokens.narrow(0, count - 1, 1)?,
    )?;
    Ok(outputs([(name, &tokens)]))
}

/// With how many of the predictions, for all images and findings, are the recorded ones.
fn findings(case: &Case) -> Result<(Outputs, Option<(usize, usize)>)> {
    let config: FindingsConfig = case.field("/config")?;
    let classifier = FindingsClassifier::new(&config, case.weights()?.set_dtype(DType::BF16))?;
    let images = network_input(&case.tensors("inputs.safetensors")?["image_u8"])?;
    let output = classifier.forward(&images)?;
    let alone = classifier.forward(&images.narrow(0, 0, 1)?)?;
    same_bytes(&alone.logits, &output.logits.narrow(0, 0, 1)?)?;
    let recorded = case.tensors("outputs.safetensors")?;
    let present = |probs: &Tensor| -> Result<Vec<bool>> {
        let values: Vec<f32> = probs.flatten_all()?.to_vec1()?;
        Ok(values.into_iter().map(|value| value > 0.5).collect())
    };
    let (ours, theirs) = (present(&output.probs)?, present(&recorded["probs"])?);
    let same = ours.iter().zip(&theirs).filter(|(a, b)| a == b).count();
    let named = outputs([("logits", &output.logits), ("probs", &output.probs)]);
    Ok((named, Some((same, ours.len()))))
}

/// With how many of the classes, for all reports and findings, are the recorded ones.
fn chexbert(case: &Case) -> Result<(Outputs, Option<(usize, usize)>)> {
    let config: ChexbertConfig = case.field("/config")?;
    let labeler = Chexbert::new(&config, case.weights()?.set_dtype(DType::BF16))?;
    let inputs = case.tensors("inputs.safetensors")?;
    let reports = unpadded(&inputs["input_ids"], &inputs["attention_mask"])?;
    let output = labeler.forward(&reports)?;
    let last = labeler.forward(&reports[reports.len() - 1..])?;
    same_bytes(
        &last.cls_hidden,
        &output.cls_hidden.narrow(0, reports.len() - 1, 1)?,
    )?;
    let recorded = case.tensors("outputs.safetensors")?;
    let (mut same, mut all) = (0, 0);
    for (head, logits) in output.logits.iter().enumerate() {
        let classes = |logits: &Tensor| logits.argmax(1)?.to_vec1::<u32>();
        let (ours, theirs) = (
            classes(logits)?,
            classes(&recorded[&format!("logits.{head}")])?,
        );
        same += ours.iter().zip(&theirs).filter(|(a, b)| a == b).count();
        all += ours.len();
    }
    Ok((
        outputs([("cls_hidden", &output.cls_hidden)]),
        Some((same, all)),
    ))
}
