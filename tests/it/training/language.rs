//! The language model's training: loss, gradients of LoRA and image projection, clipping and AdamW steps.

use anyhow::{Context, Result, ensure};
use candle_core::{DType, Device, Tensor};
use candle_nn::VarBuilder;
use radialog_models::language::{
    LanguageModel, LlamaConfig, LoraAdapter, LoraConfig, TrainingSequence,
};
use radialog_tests::golden::{Case, Formula, Tolerance, read_json};
use radialog_training::Variables;
use radialog_training::losses::language::NextTokenTargets;
use radialog_training::optimizer::{AdamW, Gradients, Optimizer};

/// Tokens that are not learned.
const IGNORED: i64 = -100;

struct RecordedBatch {
    ids: Vec<Vec<u32>>,
    targets: Vec<Vec<Option<u32>>>,
    images: Vec<Tensor>,
}

/// Holds two optimizer steps to the recorded ones.
pub(super) fn check(case: &Case) -> Result<()> {
    let mut config: LlamaConfig = read_json(&case.dir().join("base_safetensors/config.json"))?;
    config.image_token_id = case.field("/config/image_token_id")?;
    let base = case.tensors("base_safetensors/model.safetensors")?;
    let base = VarBuilder::from_tensors(base, DType::F32, &Device::Cpu);
    let variables = Variables::of(case.tensors("adapter_safetensors/adapter_model.safetensors")?)?;
    let trainable: Vec<String> = case.field("/training/trainable")?;
    let names: Vec<&str> = variables.learned().map(|(name, _)| name).collect();
    ensure!(
        trainable.iter().all(|name| names.contains(&name.as_str()))
            && names.len() == trainable.len()
    );
    let lora: LoraConfig = read_json(&case.dir().join("adapter_safetensors/adapter_config.json"))?;
    let adapter = LoraAdapter::new(lora, variables.var_builder(&Device::Cpu));
    // Networks keep the variables themselves, so that a step is seen at once.
    let model = LanguageModel::load(&config, &base, Some(&adapter))?;
    let batch = batch(case)?;

    let adam: AdamW = AdamW::language();
    let field = |name: &str| case.field::<f64>(&format!("/training/optimizer/{name}"));
    ensure!(
        adam.eps == field("eps")? && adam.weight_decay == field("weight_decay")?,
        "AdamW's constants"
    );
    let mut optimizer = Optimizer::new(adam, variables.clone());
    let norms: Vec<f64> = case.field("/training/grad_norm_before_clip")?;
    let atol = case.field("/tolerance/losses/atol")?;
    for (index, name) in ["step1", "step2", "after_step2"].into_iter().enumerate() {
        let (loss, logits) = loss(&model, &batch)?;
        let expected = Tensor::new(
            case.field::<f64>(&format!("/training/losses/{name}"))?,
            &Device::Cpu,
        )?;
        case.close(
            name,
            &loss,
            &expected,
            Tolerance::Elementwise { atol, rtol: 0.0 },
        )?;
        let Some(&recorded) = norms.get(index) else {
            break;
        };
        let mut gradients = Gradients::default();
        gradients.add(&variables, &loss.backward()?, 1.0)?;
        if index == 0 {
            let recorded = &case.tensors("train_batch.safetensors")?["train.logits_row0"];
            let length = batch.ids[0].len();
            let ours = logits.narrow(0, 0, length)?;
            case.close(
                "logits",
                &ours,
                &recorded.narrow(0, 0, length)?,
                case.field("/tolerance/outputs")?,
            )?;
            check_gradients(case, &gradients)?;
        }
        let norm = gradients.clip(field("max_grad_norm")?)?;
        ensure!(
            (norm - recorded).abs() < 1e-4 * recorded,
            "length of the gradients: {norm}, recorded {recorded}"
        );
        optimizer.step(&gradients, field("lr")?)?;
        if index == 0 {
            check_variables(case, &variables)?;
        }
    }
    Ok(())
}

/// The loss of the whole batch, of which only what is learned goes through the head, and the logits of all positions. The
/// original's vocabulary has one more row here, of zeros.
fn loss(model: &LanguageModel, batch: &RecordedBatch) -> Result<(Tensor, Tensor)> {
    let sequences: Vec<TrainingSequence<'_>> = batch
        .ids
        .iter()
        .zip(&batch.images)
        .map(|(ids, image)| TrainingSequence {
            ids,
            images: std::slice::from_ref(image),
        })
        .collect();
    let lengths: Vec<usize> = batch.ids.iter().map(Vec::len).collect();
    let hidden = model.forward_packed(&model.embed_packed(&sequences)?, &lengths)?;
    let logits =
        |hidden: &Tensor| Ok::<_, anyhow::Error>(model.logits(hidden)?.pad_with_zeros(1, 0, 1)?);
    let learned = NextTokenTargets::of(&batch.targets);
    Ok((
        learned.loss(&logits(&learned.rows(&hidden)?)?)?,
        logits(&hidden.detach())?,
    ))
}

fn check_gradients(case: &Case, gradients: &Gradients) -> Result<()> {
    let bound: Tolerance = case.field("/tolerance/grads")?;
    for (name, expected) in case.tensors("train_grads.safetensors")? {
        let ours = gradients
            .get(&name)
            .with_context(|| format!("'{name}' has no gradient"))?;
        // A tensor's largest gradient sets the scale of its rounding.
        let largest = f64::from(expected.abs()?.flatten_all()?.max(0)?.to_scalar::<f32>()?);
        let Tolerance::Elementwise { atol, rtol } = bound else {
            anyhow::bail!("bounds of gradients")
        };
        let bound = Tolerance::Elementwise {
            atol: atol.max(1e-5 * largest),
            rtol,
        };
        case.close(&format!("gradient of {name}"), ours, &expected, bound)?;
    }
    Ok(())
}

/// A first step is close to the rate times the gradient's sign: where the gradient is all but zero, so is its sign.
fn check_variables(case: &Case, variables: &Variables) -> Result<()> {
    let gradients = case.tensors("train_grads.safetensors")?;
    let (atol, elsewhere) = (
        case.field::<f64>("/tolerance/params/atol")?,
        case.field::<f64>("/tolerance/params/elsewhere_atol")?,
    );
    for (name, expected) in case.tensors("train_params_after_step1.safetensors")? {
        let ours = variables
            .get(&name)
            .with_context(|| format!("no variable '{name}'"))?;
        let flat = |tensor: &Tensor| tensor.to_dtype(DType::F32)?.flatten_all()?.to_vec1::<f32>();
        let values = flat(ours.as_tensor())?
            .into_iter()
            .zip(flat(&expected)?)
            .zip(flat(&gradients[&name])?);
        for ((ours, expected), gradient) in values {
            let allowed = if gradient.abs() > 1e-4 {
                atol
            } else {
                elsewhere
            };
            ensure!(
                f64::from((ours - expected).abs()) <= allowed,
                "'{name}' after a step: {ours}, recorded {expected}"
            );
        }
    }
    Ok(())
}

fn batch(case: &Case) -> Result<RecordedBatch> {
    let tensors = case.tensors("train_batch.safetensors")?;
    let rows =
        |name: &str| Ok::<_, anyhow::Error>(tensors[name].to_dtype(DType::I64)?.to_vec2::<i64>()?);
    let (ids, labels, mask) = (
        rows("batch.input_ids")?,
        rows("batch.labels")?,
        rows("batch.attention_mask")?,
    );
    let kept = |row: usize, values: &[Vec<i64>]| -> Vec<i64> {
        values[row]
            .iter()
            .zip(&mask[row])
            .filter(|(_, mask)| **mask == 1)
            .map(|(value, _)| *value)
            .collect()
    };
    let embedding: Formula = case.field("/inputs/image_embeddings")?;
    let image = |dicom: &String| {
        let name = embedding.name.replace("<dicom>", dicom);
        Formula {
            name,
            ..embedding.clone()
        }
        .tensor()
    };
    let target = |label: i64| (label != IGNORED).then_some(label as u32);
    Ok(RecordedBatch {
        ids: (0..ids.len())
            .map(|row| kept(row, &ids).into_iter().map(|id| id as u32).collect())
            .collect(),
        targets: (0..ids.len())
            .map(|row| kept(row, &labels).into_iter().map(target).collect())
            .collect(),
        images: case
            .field::<Vec<String>>("/training/dicom")?
            .iter()
            .map(image)
            .collect::<Result<_>>()?,
    })
}
