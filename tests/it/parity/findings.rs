//! The findings classifier: logits, probabilities, predictions and both texts.

use anyhow::{Result, bail, ensure};
use candle_core::Tensor;
use radialog_models::findings::{FindingsClassifier, FindingsConfig, NO_FINDINGS_TEXT, TextRule};
use radialog_tests::golden::Case;
use serde::Deserialize;

use super::biovil::network_input;
use super::same_bytes;

#[derive(Deserialize)]
struct Prediction {
    predicted: Vec<String>,
    demo_text: String,
    eval_text: String,
    eval_no_labels: bool,
}

/// Holds every recorded output, and every image's findings and texts.
pub(super) fn check(case: &Case) -> Result<()> {
    let config: FindingsConfig = case.field("/config")?;
    check_classifier(case, &FindingsClassifier::new(&config, case.weights()?)?)
}

/// The same of a classifier that may have come another way.
pub(crate) fn check_classifier(case: &Case, classifier: &FindingsClassifier) -> Result<()> {
    let images = network_input(&case.tensors("inputs.safetensors")?["image_u8"])?;
    let output = classifier.forward(&images)?;

    let tolerance = case.tolerance("/tolerance")?;
    for (key, expected) in case.tensors("outputs.safetensors")? {
        let actual = match key.as_str() {
            "pooled_features" => &output.pooled_features,
            "logits" => &output.logits,
            "probs" => &output.probs,
            _ => bail!("unknown output '{key}'"),
        };
        case.close(&key, actual, &expected, tolerance)?;
    }
    let (first, other) = (
        images.narrow(0, 0, 1)?,
        (1.0 - images.narrow(0, images.dim(0)? - 1, 1)?)?,
    );
    let pair = classifier.forward(&Tensor::cat(&[other, first], 0)?)?;
    same_bytes(
        &pair.logits.narrow(0, 1, 1)?,
        &output.logits.narrow(0, 0, 1)?,
    )?;

    let predictions: Vec<Prediction> = case.field("/predictions")?;
    let (reports, demo) = (
        output.reports(TextRule::TestProgram, None, None)?,
        output.reports(TextRule::Demo, None, None)?,
    );
    ensure!(
        reports.len() == predictions.len(),
        "{} images, {} predictions",
        reports.len(),
        predictions.len()
    );
    for (index, recorded) in predictions.iter().enumerate() {
        let present = reports[index]
            .findings
            .iter()
            .filter(|finding| finding.present);
        let present: Vec<_> = present.map(|finding| finding.finding.name()).collect();
        ensure!(
            present == recorded.predicted,
            "image {index}: {present:?}, recorded {:?}",
            recorded.predicted
        );
        ensure!(
            present.is_empty() == recorded.eval_no_labels,
            "image {index}: no labels"
        );
        let text = if recorded.eval_no_labels {
            NO_FINDINGS_TEXT
        } else {
            &recorded.eval_text
        };
        ensure!(
            reports[index].text == text,
            "image {index}: '{}'",
            reports[index].text
        );
        ensure!(
            demo[index].text == recorded.demo_text,
            "image {index}: demo text '{}'",
            demo[index].text
        );
    }
    Ok(())
}
