//! How far the networks of an image, and CheXbert, are in bf16 from themselves in f32.
//!
//! The recorded Q-Former and CheXbert are held to it. The recorded encoders and classifiers are not: their random weights enlarge
//! what is rounded some ten thousand times (the recordings' own bounds say how far f32 is from f64 there), so that bf16 leaves no
//! digit of them, in any program. Trained ones do not, so the demo bundle's are held to it on the shipped X-rays.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use candle_core::{DType, Device, Tensor};
use radialog_models::alignment::{Alignment, AlignmentConfig};
use radialog_models::bundle::components::{FindingsPredictor, ImageEmbedder};
use radialog_models::bundle::{Bundle, HashCache};
use radialog_models::chexbert::{Chexbert, ChexbertConfig};
use radialog_models::findings::{FindingsClassifier, FindingsConfig};
use radialog_models::preprocess::{ImageLimits, InputSize, Preprocessed};
use radialog_models::vision::{ImageEncoder, VisionConfig};
use radialog_schemas::{PredictedFinding, Stage};
use radialog_tests::fixtures;
use radialog_tests::golden::{self, Case};

use super::biovil::network_input;
use super::chexbert::unpadded;
use super::same_bytes;

/// The largest root mean square of errors, in that of the outputs. bf16 keeps 8 bits: one rounding is off by 0.002 on average.
const ALLOWED: f64 = 0.02;
/// The largest difference of a probability.
const ALLOWED_PROBABILITY: f64 = 0.04;

#[test]
fn recorded_networks_in_bf16_depend_on_no_batch_and_texts_stay_near_the_recordings() -> Result<()> {
    for root in golden::roots()? {
        for case in golden::cases(&root)? {
            match case.kind() {
                "biovil_t_image_encoder" => encoder(&case)?,
                "qformer_alignment" => alignment(&case)?,
                "findings_classifier" => findings(&case)?,
                "chexbert_labeler" => chexbert(&case)?,
                _ => {}
            }
        }
    }
    Ok(())
}

#[test]
fn trained_image_networks_in_bf16_stay_near_those_in_f32() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let demo =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../workers/training/recipes/demo/bundle");
    let open = |precision: &str| -> Result<_> {
        let cache = HashCache::at(dir.path().join("hashes.json"));
        let bundle = Bundle::open_with(&demo, &[Stage::Embedding, Stage::Findings], &cache)?;
        let bundle = bundle.with_precision(&[
            format!("embedding={precision}").parse()?,
            format!("findings={precision}").parse()?,
        ])?;
        Ok((
            ImageEmbedder::load(&bundle, &Device::Cpu)?,
            FindingsPredictor::load(&bundle, &Device::Cpu)?,
        ))
    };
    let ((embedder, predictor), (rounded_embedder, rounded_predictor)) =
        (open("f32")?, open("bf16")?);
    let mut images = 0;
    for entry in fs::read_dir(fixtures::xrays())? {
        let path = entry?.path();
        if path.extension().is_none_or(|ending| ending != "jpg") {
            continue;
        }
        images += 1;
        let bytes = fs::read(&path)?;
        let image = |size: InputSize| -> Result<Tensor> {
            let read = Preprocessed::from_bytes(&bytes, &ImageLimits::default(), size.short_side)?;
            Ok(read.tensor(size.side, &Device::Cpu)?.unsqueeze(0)?)
        };
        let tokens = image(embedder.input())?;
        let (exact, rounded) = (embedder.embed(&tokens)?, rounded_embedder.embed(&tokens)?);
        let name = path.display();
        ensure!(held(&format!("{name}"), &rounded, &exact)? > 0.0, "{name}");
        let pixels = image(predictor.input())?;
        let (exact, rounded) = (
            predictor.predict(&pixels)?,
            rounded_predictor.predict(&pixels)?,
        );
        let pairs = exact.iter().zip(&rounded);
        let pairs = pairs.flat_map(|(exact, rounded)| exact.findings.iter().zip(&rounded.findings));
        for (exact, rounded) in pairs {
            let of = |finding: &PredictedFinding| f64::from(finding.probability.unwrap_or(-1.0));
            let error = (of(exact) - of(rounded)).abs();
            ensure!(error < ALLOWED_PROBABILITY, "{name}: {exact:?} {rounded:?}");
        }
    }
    ensure!(images == 10, "{images} images");
    Ok(())
}

/// Prints the distance of an output from another, and holds the root mean square of it, which it returns, to what is allowed.
fn held(name: &str, actual: &Tensor, expected: &Tensor) -> Result<f64> {
    let values = |tensor: &Tensor| -> Result<Vec<f64>> {
        Ok(tensor.to_dtype(DType::F64)?.flatten_all()?.to_vec1()?)
    };
    ensure!(actual.dims() == expected.dims(), "{name}: another shape");
    let (actual, expected) = (values(actual)?, values(expected)?);
    let errors = || actual.iter().zip(&expected).map(|(a, b)| (a - b).abs());
    let square: f64 = errors().map(|error| error * error).sum();
    let size: f64 = expected.iter().map(|value| value * value).sum();
    let share = (square / size).sqrt();
    let largest = errors().fold(0.0, f64::max);
    println!(
        "bf16: {name}: largest error {largest:.4}, root mean square {share:.4} of the output's"
    );
    ensure!(share < ALLOWED, "{name} in bf16 is off by {share}");
    Ok(share)
}

fn encoder(case: &Case) -> Result<()> {
    let config: VisionConfig = case.field("/config")?;
    let encoder = ImageEncoder::single_image(&config, case.weights()?.set_dtype(DType::BF16))?;
    let images = network_input(&case.tensors("inputs.safetensors")?["current_u8"])?;
    let last = images.dim(0)? - 1;
    same_bytes(
        &encoder.project(&images.narrow(0, last, 1)?)?,
        &encoder.project(&images)?.narrow(0, last, 1)?,
    )
}

fn findings(case: &Case) -> Result<()> {
    let config: FindingsConfig = case.field("/config")?;
    let classifier = FindingsClassifier::new(&config, case.weights()?.set_dtype(DType::BF16))?;
    let images = network_input(&case.tensors("inputs.safetensors")?["image_u8"])?;
    let alone = classifier.forward(&images.narrow(0, 0, 1)?)?;
    let together = classifier.forward(&images)?;
    same_bytes(&alone.logits, &together.logits.narrow(0, 0, 1)?)
}

fn alignment(case: &Case) -> Result<()> {
    let config: AlignmentConfig = case.field("/config")?;
    let alignment = Alignment::new(&config, case.weights()?.set_dtype(DType::BF16))?;
    let recorded = case.tensors("outputs.safetensors")?;
    let recorded = recorded
        .get("forward_image.query_output")
        .context("no query output")?;
    let count = recorded.dim(0)?;
    let features = case.formula_input("/inputs/features")?;
    let tokens = |first: usize, count: usize| -> Result<Tensor> {
        Ok(alignment
            .forward_image(&features.narrow(0, first, count)?)?
            .tokens)
    };
    let together = tokens(0, count)?;
    same_bytes(&tokens(count - 1, 1)?, &together.narrow(0, count - 1, 1)?)?;
    held(&format!("{}", case.dir().display()), &together, recorded)?;
    Ok(())
}

fn chexbert(case: &Case) -> Result<()> {
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
        let recorded = classes(&recorded[&format!("logits.{head:02}")])?;
        let pairs = classes(logits)?.into_iter().zip(&recorded);
        same += pairs.filter(|(own, recorded)| own == *recorded).count();
        all += recorded.len();
    }
    let name = format!("{}", case.dir().display());
    println!("bf16: {name}: {same} of {all} labels as recorded");
    held(&name, &output.cls_hidden, &recorded["cls_hidden"])?;
    Ok(())
}
