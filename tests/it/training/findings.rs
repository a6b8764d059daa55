//! The findings classifier and the labeler in training: no gradients are recorded for them, so that these are held to
//! differences of the loss.

use anyhow::Result;
use candle_core::{DType, Device, Tensor, Var};
use radialog_models::chexbert::Chexbert;
use radialog_models::findings::FindingsClassifier;
use radialog_tests::golden::{Case, FormulaWeights, roots};
use radialog_training::Variables;
use radialog_training::losses::{chexbert, findings};

fn fixture(path: &str) -> Result<Case> {
    Case::open(roots()?[0].join(path))
}

fn variables(case: &Case) -> Result<Variables> {
    let weights = FormulaWeights::open(
        case.dir(),
        "weights_manifest.json",
        case.field("/weights/seed")?,
    )?;
    let names: Vec<String> = weights.names().map(str::to_owned).collect();
    let tensors = names
        .into_iter()
        .map(|name| Ok((name.clone(), weights.tensor(&name)?)));
    Ok(Variables::of(tensors.collect::<Result<Vec<_>>>()?)?)
}

/// Compares the gradient along itself with the change of the loss when the variable moves a little that way.
fn holds(variable: &Var, gradient: &Tensor, loss: &dyn Fn() -> Result<f64>) -> Result<()> {
    let before = variable.as_detached_tensor().copy()?;
    let length = gradient.sqr()?.sum_all()?.to_scalar::<f32>()?.sqrt();
    let largest = before.abs()?.flatten_all()?.max(0)?.to_scalar::<f32>()?;
    let step = f64::from(1e-3 * largest.max(1e-2));
    let towards = ((gradient.detach() / f64::from(length))? * step)?;
    variable.set(&(&before + &towards)?)?;
    let above = loss()?;
    variable.set(&(&before - &towards)?)?;
    let below = loss()?;
    variable.set(&before)?;
    let (slope, expected) = ((above - below) / (2.0 * step), f64::from(length));
    anyhow::ensure!(
        (slope - expected).abs() < 0.05 * expected + 1e-4,
        "slope {slope}, gradient {expected}"
    );
    Ok(())
}

#[test]
fn gradients_of_the_findings_classifier_are_the_slopes_of_its_loss_and_batches_move_its_statistics()
-> Result<()> {
    let case = fixture("04_findings/tiny")?;
    let variables = variables(&case)?;
    let mean = variables
        .get("biovil_encoder.encoder.encoder.bn1.running_mean")
        .unwrap();
    let before = mean.as_detached_tensor().copy()?;
    let network =
        FindingsClassifier::new(&case.field("/config")?, variables.var_builder(&Device::Cpu))?;
    let noise: Vec<f32> = (0..3 * 128 * 128)
        .map(|i| ((i as f32 * 0.37).sin() * 43_758.5).fract().abs())
        .collect();
    // 488 pixels are what the head is made for; one image in two crops of a wave keeps the test short.
    let image =
        Tensor::from_vec(noise, (1, 3, 128, 128), &Device::Cpu)?.upsample_nearest2d(488, 488)?;
    let images = Tensor::cat(&[&image, &(1.0 - &image)?.sqr()?], 0)?;
    let targets = Tensor::from_vec(
        (0..28)
            .map(|i| f32::from(u8::from(i % 3 == 0)))
            .collect::<Vec<_>>(),
        (2, 14),
        &Device::Cpu,
    )?;
    let mask = Tensor::ones((2, 14), DType::F32, &Device::Cpu)?;
    let weights = Tensor::full(2f32, 14, &Device::Cpu)?;
    let loss = || -> Result<Tensor> {
        let logits = network.forward(&images)?.logits;
        Ok(findings::binary_cross_entropy(
            &logits, &targets, &mask, &weights,
        )?)
    };
    let store = loss()?.backward()?;
    let moved = (mean.as_tensor() - before)?
        .abs()?
        .sum_all()?
        .to_scalar::<f32>()?;
    assert!(moved > 0.0, "running statistics stay where they were");
    let mut without = Vec::new();
    for (name, variable) in variables.learned() {
        if store.get(variable.as_tensor()).is_none() {
            without.push(name);
        }
    }
    let unused = |name: &&str| name.contains("vit_pooler") || name.contains("encoder.encoder.fc");
    assert!(without.iter().all(unused), "no gradient for {without:?}");
    for name in [
        "fc2.weight",
        "fc1.bias",
        "biovil_encoder.projector.model.0.weight",
        "biovil_encoder.projector.model.1.bias",
        "biovil_encoder.encoder.backbone_to_vit.weight",
        "biovil_encoder.encoder.encoder.layer3.0.conv2.weight",
    ] {
        let variable = variables.get(name).unwrap();
        let gradient = store.get(variable.as_tensor()).unwrap();
        let value = || Ok(f64::from(loss()?.to_scalar::<f32>()?));
        holds(variable, gradient, &value).map_err(|error| error.context(name))?;
    }
    Ok(())
}

#[test]
fn gradients_of_the_labeler_are_the_slopes_of_its_loss() -> Result<()> {
    let case = fixture("06_chexbert/tiny")?;
    let variables = variables(&case)?;
    let network = Chexbert::new(&case.field("/config")?, variables.var_builder(&Device::Cpu))?;
    let reports: Vec<Vec<u32>> = case.field("/token_ids")?;
    let recorded = case.tensors("outputs.safetensors")?;
    let outputs = network.forward(&reports)?;
    // Padded together, the reports must read as they do alone.
    case.close(
        "cls_hidden",
        &outputs.cls_hidden,
        &recorded["cls_hidden"],
        case.tolerance("/tolerance")?,
    )?;
    let classes: Vec<Vec<Option<u32>>> = (0..14)
        .map(|head| {
            (0..reports.len())
                .map(|row| (row != 2).then_some(((row + head) % 2) as u32))
                .collect()
        })
        .collect();
    let loss = || -> Result<Tensor> {
        Ok(chexbert::heads(
            &network.forward(&reports)?.logits,
            &classes,
        )?)
    };
    let store = loss()?.backward()?;
    for name in [
        "linear_heads.13.weight",
        "bert.embeddings.word_embeddings.weight",
        "bert.encoder.layer.0.attention.self.key.weight",
        "bert.encoder.layer.1.output.LayerNorm.bias",
        "bert.encoder.layer.0.intermediate.dense.weight",
    ] {
        let variable = variables.get(name).unwrap();
        let value = || Ok(f64::from(loss()?.to_scalar::<f32>()?));
        holds(variable, store.get(variable.as_tensor()).unwrap(), &value)
            .map_err(|error| error.context(name))?;
    }
    Ok(())
}
