//! What the alignment training starts from: the weights that it moves, and its tokenizer.

use std::path::PathBuf;

use candle_core::{DType, Device, Tensor};
use candle_nn::VarBuilder;
use radialog_models::alignment::{AlignmentConfig, AlignmentTextConfig};
use radialog_models::bundle::components::{Connector, EmbeddingComponent};
use radialog_models::bundle::weights::MappedWeights;
use radialog_models::tensors::TensorSpec;
use radialog_models::vision::VisionConfig;
use radialog_schemas::Stage;

use super::encoder;
use crate::error::TrainingError;
use crate::random::Random;
use crate::recipe::AlignmentRecipe;
use crate::trainers::initial_weights;

/// The output head's matrix is the word embedding, its second bias the first.
const TIED: &str = "Qformer.cls.predictions.decoder.";
/// A tensor that is not learned.
const POSITION_IDS: &str = "Qformer.bert.embeddings.position_ids";
const WORDS: &str = "Qformer.bert.embeddings.word_embeddings.weight";
const WORD_BIAS: &str = "Qformer.cls.predictions.bias";
const POSITIONS: &str = "Qformer.bert.embeddings.position_embeddings.weight";
/// Standard deviation of new weights, BERT's and the original's.
const DEVIATION: f64 = 0.02;
/// Layers that the original draws as torch draws a linear layer.
const HEADS: [&str; 3] = ["vision_proj.", "text_proj.", "itm_head."];
const TEMPERATURE: f32 = 0.07;

/// The component as the training begins with it.
pub(super) struct AlignmentStart {
    pub(super) vision: VisionConfig,
    pub(super) alignment: AlignmentConfig,
    pub(super) text: AlignmentTextConfig,
    pub(super) tensors: Vec<(String, Tensor)>,
    pub(super) tokenizer: PathBuf,
}

/// Takes the weights from a bundle, or draws them for a geometry.
pub(super) fn start(recipe: &AlignmentRecipe) -> Result<AlignmentStart, TrainingError> {
    let no_tokenizer =
        || TrainingError::Empty("tokenizer: name a tokenizer.json; the start has none".to_owned());
    if let Some(dir) = &recipe.training.start {
        let (config, weights, files) =
            initial_weights::component::<EmbeddingComponent>(dir, Stage::Embedding)?;
        let (alignment, text) = parts(&config).ok_or_else(|| {
            let reason =
                "its embedding component has no Q-Former with a text side: start from a checkpoint of this training"
                    .to_owned();
            TrainingError::Content { path: dir.clone(), line: None, reason }
        })?;
        let builder = weights.var_builder(DType::F32, &Device::Cpu);
        let load = |spec: TensorSpec| {
            let tensor = builder.get(spec.header.shape.as_slice(), &spec.header.name)?;
            Ok((spec.header.name, tensor))
        };
        let tensors = learned(&config)?
            .map(load)
            .collect::<Result<_, TrainingError>>()?;
        let tokenizer = recipe
            .tokenizer
            .as_ref()
            .or_else(|| files.get("tokenizer"))
            .ok_or_else(no_tokenizer)?
            .clone();
        return Ok(AlignmentStart {
            vision: config.vision,
            alignment,
            text,
            tensors,
            tokenizer,
        });
    }
    let tokenizer = recipe.tokenizer.clone().ok_or_else(no_tokenizer)?;
    let geometry = recipe
        .geometry
        .clone()
        .and_then(|config| Some((parts(&config)?, config)));
    let ((alignment, text), config) =
        geometry.ok_or_else(|| TrainingError::Empty("no geometry with a text side".to_owned()))?;
    let bert = recipe
        .bert
        .as_ref()
        .map(|path| MappedWeights::open(std::slice::from_ref(path)))
        .transpose()?;
    bert.as_ref().map(MappedWeights::check_finite).transpose()?;
    let bert = bert.map(|weights| weights.var_builder(DType::F32, &Device::Cpu));
    let width = alignment.hidden_size;
    let load = |spec: TensorSpec| {
        let name = spec.header.name.clone();
        let tensor = match bert.as_ref().and_then(|bert| of_bert(bert, &name)) {
            Some(tensor) => fitted(tensor?, &spec, width, recipe)?,
            None => drawn(&spec, width, recipe.training.seed)?,
        };
        Ok((name, tensor))
    };
    let tensors = learned(&config)?
        .map(load)
        .collect::<Result<_, TrainingError>>()?;
    Ok(AlignmentStart {
        vision: config.vision,
        alignment,
        text,
        tensors,
        tokenizer,
    })
}

/// Both sides of a component's Q-Former, where it has them.
fn parts(config: &EmbeddingComponent) -> Option<(AlignmentConfig, AlignmentTextConfig)> {
    match &config.connector {
        Connector::QFormer { alignment, text } => Some((alignment.clone(), text.clone()?)),
        Connector::Grid { .. } => None,
    }
}

/// The tensors that the training moves: all but the image encoder's.
fn learned(config: &EmbeddingComponent) -> Result<impl Iterator<Item = TensorSpec>, TrainingError> {
    let is_learned = |name: &str| {
        !name.starts_with(encoder::ROOT) && !name.starts_with(TIED) && name != POSITION_IDS
    };
    Ok(config
        .tensors()?
        .into_iter()
        .filter(move |spec| is_learned(&spec.header.name)))
}

/// Draws what BERT does not have as the original does. The queries' feed-forward layers start as the texts'.
fn drawn(spec: &TensorSpec, width: usize, seed: u64) -> Result<Tensor, TrainingError> {
    let (name, shape) = (spec.header.name.as_str(), spec.header.shape.as_slice());
    let is_norm = name.ends_with("LayerNorm.weight") || name == "ln_vision.weight";
    let mut random = Random::stream(seed, &of_texts(name));
    // All three heads read hidden states.
    let bound = 1.0 / (width as f64).sqrt();
    let mut value = |_| match name {
        _ if is_norm => 1.0,
        "temp" => TEMPERATURE,
        _ if HEADS.into_iter().any(|head| name.starts_with(head)) => {
            random.between(-bound, bound) as f32
        }
        _ if name.ends_with("bias") => 0.0,
        _ => (DEVIATION * random.normal()) as f32,
    };
    let values: Vec<f32> = (0..shape.iter().product::<usize>())
        .map(&mut value)
        .collect();
    Ok(Tensor::from_vec(values, shape, &Device::Cpu)?)
}

/// Finds the same tensor of a BERT, which is written with several prefixes and, in old files, other names of norms.
fn of_bert(bert: &VarBuilder<'_>, name: &str) -> Option<Result<Tensor, candle_core::Error>> {
    let name = of_texts(name);
    let name = name.strip_prefix("Qformer.")?;
    let old = name
        .replace("LayerNorm.weight", "LayerNorm.gamma")
        .replace("LayerNorm.bias", "LayerNorm.beta");
    let names = [name, &old].into_iter().flat_map(|name| {
        [
            name.to_owned(),
            format!("module.{name}"),
            name.strip_prefix("bert.").unwrap_or(name).to_owned(),
        ]
    });
    let found = names.into_iter().find(|name| bert.contains_tensor(name))?;
    Some(bert.get_unchecked(&found))
}

/// A BERT's tensor with the rows that the geometry asks for: words that it does not know are drawn, positions that are never
/// used are left out.
fn fitted(
    tensor: Tensor,
    spec: &TensorSpec,
    width: usize,
    recipe: &AlignmentRecipe,
) -> Result<Tensor, TrainingError> {
    let (name, expected) = (spec.header.name.as_str(), spec.header.shape.as_slice());
    if tensor.dims() == expected {
        return Ok(tensor);
    }
    let (rows, found) = (expected[0], tensor.dim(0)?);
    let is_same_width = tensor.dims()[1..] == expected[1..];
    if is_same_width && name == POSITIONS && found > rows {
        return Ok(tensor.narrow(0, 0, rows)?.contiguous()?);
    }
    if is_same_width && [WORDS, WORD_BIAS].contains(&name) && found < rows {
        let new = drawn(spec, width, recipe.training.seed)?.narrow(0, found, rows - found)?;
        return Ok(Tensor::cat(&[tensor, new], 0)?);
    }
    let reason = format!(
        "its '{name}' has shape {:?}, and the geometry asks for {expected:?}",
        tensor.dims()
    );
    Err(TrainingError::Content {
        path: recipe.bert.clone().unwrap_or_default(),
        line: None,
        reason,
    })
}

/// The name of what a tensor of the queries' feed-forward layers starts as; any other name as it is.
fn of_texts(name: &str) -> String {
    name.replace("_query.", ".")
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    fn recipe(bert: Option<PathBuf>) -> AlignmentRecipe {
        let vision = VisionConfig {
            image_size: 32,
            stem_width: 4,
            vit_dim: 4,
            joint_feature_size: 8,
            ..VisionConfig::published()
        };
        let alignment = AlignmentConfig {
            hidden_size: 16,
            num_hidden_layers: 1,
            num_attention_heads: 2,
            intermediate_size: 32,
            encoder_width: 8,
            ..AlignmentConfig::published()
        };
        let text = AlignmentTextConfig {
            vocab_size: 400,
            max_position_embeddings: 64,
            embed_dim: 8,
        };
        let geometry = EmbeddingComponent {
            vision,
            connector: Connector::QFormer {
                alignment,
                text: Some(text),
            },
        };
        let mut recipe: AlignmentRecipe =
            toml::from_str("tables = []\ntokenizer = \"t.json\"").unwrap();
        (recipe.geometry, recipe.bert) = (Some(geometry), bert);
        recipe
    }

    fn values(start: &AlignmentStart, name: &str) -> Vec<f32> {
        let (_, tensor) = start
            .tensors
            .iter()
            .find(|(found, _)| found == name)
            .unwrap();
        tensor.flatten_all().unwrap().to_vec1().unwrap()
    }

    #[test]
    fn a_geometry_starts_as_the_original_without_its_bert() {
        let start = start(&recipe(None)).unwrap();
        let words = values(&start, WORDS);
        let variance = words.iter().map(|value| value * value).sum::<f32>() / words.len() as f32;
        assert!((variance.sqrt() - 0.02).abs() < 1e-3, "{variance}");
        let layer = "Qformer.bert.encoder.layer.0";
        let [queries, texts] = ["_query", ""]
            .map(|side| values(&start, &format!("{layer}.intermediate{side}.dense.weight")));
        assert_eq!(queries, texts);
        assert!(
            values(&start, "vision_proj.bias")
                .iter()
                .all(|value| value.abs() <= 0.25 && *value != 0.0)
        );
        assert_eq!(values(&start, "temp"), [0.07]);
        assert_eq!(values(&start, "ln_vision.weight"), [1.0; 8]);
        assert!(
            start
                .tensors
                .iter()
                .all(|(name, _)| !name.starts_with("visual_encoder") && !name.contains("decoder"))
        );
    }

    #[test]
    fn a_bert_gives_what_it_has_and_the_rest_is_drawn() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("bert.safetensors");
        let ones = |shape: &[usize]| Tensor::ones(shape, DType::F32, &Device::Cpu).unwrap();
        let tensors = HashMap::from([
            ("bert.embeddings.word_embeddings.weight", ones(&[399, 16])),
            (
                "bert.embeddings.LayerNorm.gamma",
                ones(&[16]).affine(2.0, 0.0).unwrap(),
            ),
            (
                "bert.encoder.layer.0.intermediate.dense.weight",
                ones(&[32, 16]),
            ),
        ]);
        candle_core::safetensors::save(&tensors, &path).unwrap();
        let start = start(&recipe(Some(path))).unwrap();
        let words = values(&start, WORDS);
        assert!(
            words[..399 * 16].iter().all(|value| *value == 1.0)
                && words[399 * 16..].iter().all(|value| *value < 0.5)
        );
        assert_eq!(
            values(&start, "Qformer.bert.embeddings.LayerNorm.weight"),
            [2.0; 16]
        );
        assert_eq!(
            values(
                &start,
                "Qformer.bert.encoder.layer.0.intermediate_query.dense.weight"
            ),
            [1.0; 32 * 16]
        );
        assert!(
            values(&start, "query_tokens")
                .iter()
                .all(|value| value.abs() < 0.2)
        );
    }
}
