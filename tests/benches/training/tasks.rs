//! The four trainings with random weights and inputs of one size.

use std::collections::HashMap;

use anyhow::{Context, Result, bail};
use candle_core::{DType, Device, Tensor};
use candle_nn::VarBuilder;
use radialog_models::Dropout;
use radialog_models::alignment::{AlignmentPretraining, AlignmentTextConfig, TextBatch};
use radialog_models::bundle::ComponentConfigs;
use radialog_models::bundle::components::{Connector, EmbeddingComponent};
use radialog_models::chexbert::Chexbert;
use radialog_models::findings::FindingsClassifier;
use radialog_models::language::{LanguageModel, LlamaConfig, LoraAdapter};
use radialog_models::tensors::TensorSpec;
use radialog_models::{bundle::Geometry, chexbert::ChexbertConfig};
use radialog_tests::benchmark::random_weights;
use radialog_training::Variables;
use radialog_training::losses::alignment::{HardNegatives, losses};
use radialog_training::losses::chexbert::heads;
use radialog_training::losses::findings::binary_cross_entropy;
use radialog_training::losses::language::NextTokenTargets;
use radialog_training::optimizer::AdamW;
use radialog_training::random::Random;
use serde_json::{Value, json};

/// Ids of a report.
const REPORT: usize = 128;
/// Ids of a prompt with its answer.
const SEQUENCE: usize = 256;

/// The size of networks and batches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Size {
    /// Every part in miniature.
    Tiny,
    /// The published shapes with small batches; the language model in a middle size.
    Published,
}

/// One training, ready for steps.
pub(crate) struct Task {
    /// The name with its sizes.
    pub name: String,
    /// The peer's name of it.
    pub kind: &'static str,
    /// What the peer needs to know.
    pub config: Value,
    pub variables: Variables,
    /// Frozen weights.
    pub base: HashMap<String, Tensor>,
    pub inputs: HashMap<String, Tensor>,
    pub adam: AdamW,
    pub rate: f64,
    pub clip: Option<f64>,
    /// The loss, with dropout or without.
    pub loss: Box<dyn Fn(bool) -> Result<Tensor>>,
}

/// One after the other, so that only one is in memory.
pub(crate) fn tasks(size: Size) -> Result<impl Iterator<Item = Result<Task>>> {
    Ok([findings, alignment, chexbert, language]
        .into_iter()
        .map(move |task| task(size)))
}

fn configs(size: Size) -> ComponentConfigs {
    ComponentConfigs::of(if size == Size::Tiny {
        Geometry::Tiny
    } else {
        Geometry::Published
    })
}

fn findings(size: Size) -> Result<Task> {
    let config = configs(size).findings;
    let batch = if size == Size::Tiny { 8 } else { 2 };
    let side = config.classifier.vision.image_size;
    let variables = drawn(&required(config.tensors()?), "model.")?;
    let network = FindingsClassifier::new(&config.classifier, variables.var_builder(&Device::Cpu))?;
    let positive = Tensor::from_iter(
        (0..batch * 14).map(|cell| f32::from(u8::from(cell % 3 == 0))),
        &Device::Cpu,
    )?;
    let (images, targets) = (
        numbers(&[batch, 3, side, side])?.abs()?,
        positive.reshape((batch, 14))?,
    );
    let (mask, weights) = (targets.ones_like()?, (numbers(&[14])?.abs()? + 1.0)?);
    let inputs = named([
        ("images", &images),
        ("targets", &targets),
        ("weights", &weights),
    ]);
    let loss = move |_| {
        Ok(binary_cross_entropy(
            &network.forward(&images)?.logits,
            &targets,
            &mask,
            &weights,
        )?)
    };
    Ok(Task {
        name: format!("findings, {batch} images of {side} x {side}"),
        kind: "findings",
        config: serde_json::to_value(&config)?,
        variables,
        base: HashMap::new(),
        inputs,
        adam: AdamW::findings(),
        rate: 5e-5,
        clip: None,
        loss: Box::new(loss),
    })
}

fn alignment(size: Size) -> Result<Task> {
    let EmbeddingComponent { vision, connector } = configs(size).embedding;
    let Connector::QFormer { alignment, text } = connector else {
        bail!("this training is of a Q-Former");
    };
    let batch = if size == Size::Tiny { 8 } else { 4 };
    let text = text.unwrap_or(AlignmentTextConfig {
        vocab_size: 401,
        max_position_embeddings: 512,
        embed_dim: 64,
    });
    let component = EmbeddingComponent {
        vision: vision.clone(),
        connector: Connector::QFormer {
            alignment: alignment.clone(),
            text: Some(text.clone()),
        },
    };
    let is_learned = |spec: &TensorSpec| {
        let name = &spec.header.name;
        !name.starts_with("visual_encoder.")
            && !name.contains("decoder.")
            && !name.ends_with("position_ids")
    };
    let specs: Vec<_> = component
        .tensors()?
        .into_iter()
        .filter(is_learned)
        .collect();
    let variables = drawn(&specs, "")?;
    let network = |dropout| {
        AlignmentPretraining::new(
            &alignment,
            &text,
            variables.var_builder(&Device::Cpu),
            dropout,
        )
    };
    let (plain, dropping) = (network(Dropout::default())?, network(Dropout::new(0.1, 1))?);
    let grid = vision.trunk_grid();
    let patches = numbers(&[batch, alignment.encoder_width, grid, grid])?;
    let texts = TextBatch {
        ids: ids(batch, REPORT, text.vocab_size - 1)?,
        mask: Tensor::ones((batch, REPORT), DType::F32, &Device::Cpu)?,
    };
    let others: Vec<u32> = (0..batch as u32)
        .map(|row| (row + 1) % batch as u32)
        .collect();
    let negatives = HardNegatives {
        image_for_text: others.clone(),
        text_for_image: others.clone(),
    };
    let others = Tensor::new(others, &Device::Cpu)?.to_dtype(DType::I64)?;
    let mut inputs = named([("patches", &patches), ("mask", &texts.mask)]);
    inputs.extend(named([
        ("image_for_text", &others),
        ("text_for_image", &others),
    ]));
    inputs.insert("ids".to_owned(), texts.ids.to_dtype(DType::I64)?);
    let start = text.vocab_size as u32 - 1;
    let loss = move |drops: bool| -> Result<Tensor> {
        let (losses, _) = match drops {
            false => losses(&plain, &patches, &texts, start, |_| Ok(negatives.clone()))?,
            true => losses(&dropping, &patches, &texts, start, |contrast| {
                HardNegatives::draw(contrast, &mut Random::stream(1, "negatives"))
            })?,
        };
        Ok(losses.total()?)
    };
    let mut config = serde_json::to_value(&alignment)?;
    config["decoder_start"] = json!(start);
    Ok(Task {
        name: format!("alignment, {batch} pairs, texts of {REPORT} ids"),
        kind: "alignment",
        config,
        variables,
        base: HashMap::new(),
        inputs,
        adam: AdamW::alignment(),
        rate: 1e-4,
        clip: None,
        loss: Box::new(loss),
    })
}

fn chexbert(size: Size) -> Result<Task> {
    let component = configs(size).scoring;
    let batch = if size == Size::Tiny { 16 } else { 4 };
    let variables = drawn(&required(component.tensors()?), "module.")?;
    let config: ChexbertConfig = component.chexbert;
    let network =
        |dropout| Chexbert::with_dropout(&config, variables.var_builder(&Device::Cpu), dropout);
    let (plain, dropping) = (network(Dropout::default())?, network(Dropout::new(0.1, 1))?);
    let ids = ids(batch, REPORT, config.vocab_size)?;
    let rows: Vec<Vec<u32>> = ids.to_vec2()?;
    let classes: Vec<Vec<Option<u32>>> = (0..14)
        .map(|head| {
            (0..batch)
                .map(|row| Some(((row + head) % if head == 13 { 2 } else { 4 }) as u32))
                .collect()
        })
        .collect();
    let known = classes
        .iter()
        .flatten()
        .map(|class| class.map_or(-100, i64::from));
    let known = Tensor::from_iter(known, &Device::Cpu)?.reshape((14, batch))?;
    let inputs = named([("ids", &ids.to_dtype(DType::I64)?), ("classes", &known)]);
    let loss = move |drops: bool| -> Result<Tensor> {
        let network = if drops { &dropping } else { &plain };
        Ok(heads(&network.forward(&rows)?.logits, &classes)?)
    };
    Ok(Task {
        name: format!("chexbert, {batch} reports of {REPORT} ids"),
        kind: "chexbert",
        config: serde_json::to_value(&config)?,
        variables,
        base: HashMap::new(),
        inputs,
        adam: AdamW::language(),
        rate: 2e-5,
        clip: Some(1.0),
        loss: Box::new(loss),
    })
}

fn language(size: Size) -> Result<Task> {
    let mut component = configs(size).language;
    let batch = if size == Size::Tiny { 4 } else { 1 };
    if size == Size::Published {
        component.llama = LlamaConfig {
            hidden_size: 1024,
            intermediate_size: 2816,
            num_hidden_layers: 12,
            num_attention_heads: 16,
            ..component.llama
        };
    }
    let llama = component.llama.clone();
    let f32 = safetensors::Dtype::F32;
    let base = drawn(&required(component.base_tensors(f32)?), "")?.snapshot()?;
    let variables = drawn(&required(component.adapter_tensors()?), "")?;
    let lora = component
        .lora
        .clone()
        .context("both geometries have an adapter")?;
    let dropout = Dropout::new(0.05, 1);
    let weights = variables.var_builder(&Device::Cpu);
    let adapter = LoraAdapter {
        config: lora.clone(),
        weights,
        dropout: dropout.clone(),
    };
    let builder = VarBuilder::from_tensors(base.clone(), DType::F32, &Device::Cpu);
    let model = LanguageModel::load(&llama, &builder, Some(&adapter))?;

    let images = numbers(&[batch, llama.num_image_tokens, llama.image_dim])?;
    let mut rows: Vec<Vec<u32>> = ids(batch, SEQUENCE, llama.vocab_size)?.to_vec2()?;
    // The answer, which is learned, is the second half.
    let half = |row: &Vec<u32>| {
        row.iter()
            .enumerate()
            .map(|(place, &id)| (place >= SEQUENCE / 2).then_some(id))
            .collect()
    };
    let targets: Vec<Vec<Option<u32>>> = rows.iter().map(half).collect();
    let labels = targets
        .iter()
        .flatten()
        .map(|target| target.map_or(-100, i64::from));
    let labels = Tensor::from_iter(labels, &Device::Cpu)?.reshape((batch, SEQUENCE))?;
    let plain: Vec<i64> = rows.iter().flatten().map(|&id| i64::from(id)).collect();
    let inputs = named([
        (
            "ids",
            &Tensor::from_vec(plain, (batch, SEQUENCE), &Device::Cpu)?,
        ),
        ("labels", &labels),
        ("images", &images),
    ]);
    for row in &mut rows {
        row[1..=llama.num_image_tokens].fill(llama.image_token());
    }
    let learned = NextTokenTargets::of(&targets);
    let loss = move |drops: bool| -> Result<Tensor> {
        dropout.rest(!drops);
        let embedded = rows
            .iter()
            .enumerate()
            .map(|(row, ids)| Ok(model.embed(ids, &[images.get(row)?])?));
        let embedded = Tensor::cat(&embedded.collect::<Result<Vec<_>>>()?, 0)?;
        let hidden = model.forward_packed(&embedded, &vec![SEQUENCE; batch])?;
        Ok(learned.loss(&model.logits(&learned.rows(&hidden)?)?)?)
    };
    let mut config = serde_json::to_value(&llama)?;
    config["scale"] = json!(lora.lora_alpha / lora.r as f64);
    Ok(Task {
        name: format!(
            "language (LoRA), width {}, {} blocks, {batch} of {SEQUENCE} ids",
            llama.hidden_size, llama.num_hidden_layers
        ),
        kind: "language",
        config,
        variables,
        base,
        inputs,
        adam: AdamW::language(),
        rate: 3e-4,
        clip: Some(1.0),
        loss: Box::new(loss),
    })
}

fn required(specs: Vec<TensorSpec>) -> Vec<TensorSpec> {
    specs.into_iter().filter(|spec| spec.required).collect()
}

/// Random weights by name; the temperature as it starts, since a random one may be next to 0.
fn drawn(specs: &[TensorSpec], prefix: &str) -> Result<Variables> {
    let builder = random_weights(DType::F32);
    let draw = |spec: &TensorSpec| -> Result<(String, Tensor)> {
        let name = spec
            .header
            .name
            .strip_prefix(prefix)
            .unwrap_or(&spec.header.name)
            .to_owned();
        let tensor = match name.as_str() {
            "temp" => Tensor::new(0.07f32, &Device::Cpu)?,
            _ => builder.get(spec.header.shape.as_slice(), &name)?,
        };
        Ok((name, tensor))
    };
    Ok(Variables::of(
        specs.iter().map(draw).collect::<Result<Vec<_>>>()?,
    )?)
}

fn named<const N: usize>(tensors: [(&str, &Tensor); N]) -> HashMap<String, Tensor> {
    tensors
        .into_iter()
        .map(|(name, tensor)| (name.to_owned(), tensor.clone()))
        .collect()
}

/// Numbers from -1 to 1.
fn numbers(shape: &[usize]) -> Result<Tensor> {
    let values = (0..shape.iter().product::<usize>()).map(|index| (index as f32 * 0.731).sin());
    Ok(Tensor::from_iter(values, &Device::Cpu)?.reshape(shape)?)
}

/// Random ids below `vocabulary`, u32.
fn ids(rows: usize, length: usize, vocabulary: usize) -> Result<Tensor> {
    let ids = (0..rows * length).map(|index| ((index * 7919 + 13) % vocabulary) as u32);
    Ok(Tensor::from_iter(ids, &Device::Cpu)?.reshape((rows, length))?)
}
