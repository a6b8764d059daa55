//! The alignment module's losses and gradients, with the recorded negatives.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use candle_core::{DType, Device, Tensor};
use radialog_models::Dropout;
use radialog_models::alignment::{
    AlignmentConfig, AlignmentPretraining, AlignmentTextConfig, TextBatch,
};
use radialog_tests::golden::{Case, FormulaWeights, Tolerance};
use radialog_training::Variables;
use radialog_training::losses::alignment::{HardNegatives, losses};
use serde::Deserialize;

use super::is_fixture;

/// The output head's matrix is the word embedding, its second bias the first.
const TIED: &str = "Qformer.cls.predictions.decoder.";
/// The number of positions where a case does not say.
const PUBLISHED_POSITIONS: usize = 512;
/// A tensor that is not learned.
const BUFFER: &str = "position_ids";

#[derive(Deserialize)]
struct GradientNorm {
    l2: f64,
    sum: f64,
}

/// Holds features, weights of the negatives, losses, and every recorded gradient.
pub(super) fn check(case: &Case) -> Result<()> {
    let config: AlignmentConfig = case.field("/config")?;
    let positions = "/config/max_position_embeddings";
    let text = AlignmentTextConfig {
        vocab_size: case.field("/config/vocab_after_resize")?,
        max_position_embeddings: match case.has(positions) {
            true => case.field(positions)?,
            false => PUBLISHED_POSITIONS,
        },
        embed_dim: case.field("/config/embed_dim")?,
    };
    let variables = variables(case)?;
    let builder = variables.var_builder(&Device::Cpu);
    let model = AlignmentPretraining::new(&config, &text, builder, Dropout::default())?;
    let inputs = case.tensors("inputs.safetensors")?;
    let texts = TextBatch {
        ids: inputs["input_ids"].to_dtype(DType::U32)?,
        mask: inputs["attention_mask"].to_dtype(DType::F32)?,
    };
    let negatives = HardNegatives {
        image_for_text: case.field("/negatives/image_for_text")?,
        text_for_image: case.field("/negatives/text_for_image")?,
    };
    let patches = case.formula_input("/inputs/features")?;
    let start = case.field("/inputs/bos_token_id")?;
    let (losses, contrast) = losses(&model, &patches, &texts, start, |_| Ok(negatives))?;

    let pairs = texts.ids.dim(0)?;
    let tolerance = case.tolerance("/tolerance/outputs")?;
    for (name, expected) in case.tensors("outputs.safetensors")? {
        let actual = match name.as_str() {
            "train.image_feats" => contrast.image_features.clone(),
            "train.text_feat" => contrast.text_features.clone(),
            "train.neg_weights_i2t" => contrast.image_to_text.clone(),
            "train.neg_weights_t2i" => contrast.text_to_image.clone(),
            "train.itm_logit_positive_pairs" => losses
                .match_logits
                .narrow(0, 0, pairs)?
                .narrow(1, 1, 1)?
                .squeeze(1)?,
            _ => continue,
        };
        case.close(&name, &actual, &expected, tolerance)?;
    }
    let atol = case.field("/tolerance/losses/atol")?;
    let total = losses.total()?;
    for (name, loss) in [
        ("loss", &total),
        ("loss_itc", &losses.itc),
        ("loss_itm", &losses.itm),
        ("loss_lm", &losses.lm),
    ] {
        let expected = Tensor::new(case.field::<f64>(&format!("/losses/{name}"))?, &Device::Cpu)?;
        case.close(
            name,
            loss,
            &expected,
            Tolerance::Elementwise { atol, rtol: 0.0 },
        )?;
    }
    check_gradients(case, &variables, &total)
}

fn check_gradients(case: &Case, variables: &Variables, loss: &Tensor) -> Result<()> {
    let store = loss.backward()?;
    let gradient = |name: &str| {
        let variable = variables
            .get(name)
            .with_context(|| format!("no variable '{name}'"))?;
        store
            .get(variable.as_tensor())
            .with_context(|| format!("'{name}' has no gradient"))
    };
    let bounds = |part: &str| case.field::<f64>(&format!("/tolerance/grads/{part}"));
    let (atol, rtol) = (bounds("atol")?, bounds("rtol")?);
    let norms: BTreeMap<String, GradientNorm> = case.json("grad_norms.json")?;
    ensure!(!norms.is_empty(), "no gradient is recorded");
    let learned = variables.learned().count();
    ensure!(
        norms.len() == learned,
        "{learned} variables, {} recorded gradients",
        norms.len()
    );
    for (name, recorded) in &norms {
        let ours = gradient(name)?
            .to_dtype(DType::F64)?
            .sqr()?
            .sum_all()?
            .to_scalar::<f64>()?
            .sqrt();
        let allowed = atol + rtol * recorded.l2;
        ensure!(
            (ours - recorded.l2).abs() <= allowed,
            "length of '{name}': {ours}, recorded {}",
            recorded.l2
        );
        let sum = gradient(name)?
            .to_dtype(DType::F64)?
            .sum_all()?
            .to_scalar::<f64>()?;
        let allowed = allowed.max(1e-3);
        ensure!(
            (sum - recorded.sum).abs() <= allowed,
            "sum of '{name}': {sum}, recorded {}",
            recorded.sum
        );
    }
    let file = case.dir().join("grads.safetensors");
    if is_fixture(case.dir()) && !file.is_file() {
        return Ok(());
    }
    for (name, expected) in case.tensors("grads.safetensors")? {
        // A tensor's largest gradient sets the scale of its rounding.
        let largest = expected.abs()?.flatten_all()?.max(0)?.to_scalar::<f32>()?;
        let bound = Tolerance::Elementwise {
            atol: atol.max(1e-4 * f64::from(largest)),
            rtol,
        };
        case.close(
            &format!("gradient of {name}"),
            gradient(&name)?,
            &expected,
            bound,
        )?;
    }
    Ok(())
}

/// All weights that are learned; the image encoder is frozen and not in the case.
fn variables(case: &Case) -> Result<Variables> {
    let weights = FormulaWeights::open(
        case.dir(),
        "weights_manifest.json",
        case.field("/weights/seed")?,
    )?;
    let names: Vec<String> = weights
        .names()
        .filter(|name| !name.starts_with(TIED) && !name.ends_with(BUFFER))
        .map(str::to_owned)
        .collect();
    let tensors = names
        .into_iter()
        .map(|name| Ok((name.clone(), weights.tensor(&name)?)));
    Ok(Variables::of(tensors.collect::<Result<Vec<_>>>()?)?)
}
