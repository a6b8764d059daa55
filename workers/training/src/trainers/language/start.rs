//! What a training of the language model starts from, and how its checkpoints look: an adapter in PEFT's names beside
//! links to the frozen weights, or all weights.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};
use radialog_models::Dropout;
use radialog_models::bundle::components::{LanguageComponent, adapter_usage};
use radialog_models::bundle::weights::MappedWeights;
use radialog_models::language::{
    ImageProjectionKind, LanguageModel, LlamaConfig, LoraAdapter, LoraConfig,
};
use radialog_models::prompt::Prompts;
use radialog_models::tensors::TensorSpec;
use radialog_models::tokenizers::{BlankRule, LlamaTokenizer};
use radialog_schemas::{AdapterName, Stage};
use safetensors::tensor::Dtype;
use serde_json::json;

use super::super::initial_weights;
use crate::data::sample_form::SampleForm;
use crate::error::TrainingError;
use crate::random::Random;
use crate::recipe::{LanguageRecipe, LoraRecipe};
use crate::trainers::checkpoint::{ComponentDescription, ComponentFile};
use crate::variables::Variables;

/// The prefix of the model's tensors in an adapter, as PEFT writes it.
const ADAPTER: &str = "base_model.model.";
/// PEFT looks for these names in a folder.
const ADAPTER_FILE: &str = "adapter_model.safetensors";
const ADAPTER_CONFIG: &str = "adapter_config.json";
const TOKENIZER_FILE: &str = "language.tokenizer.json";
/// Deviation of random matrices times the root of their inputs: GPT-2's 0.02 at its width of 768.
const SPREAD: f64 = 0.55;

/// Weights, tokenizer and the description of checkpoints.
pub(super) struct LanguageStart {
    /// The checkpoint's component.
    pub component: ComponentDescription,
    /// What is trained, and what goes with it.
    pub variables: Variables,
    /// Texts to ids.
    pub tokenizer: LlamaTokenizer,
    config: LanguageComponent,
    /// The frozen weights beside an adapter.
    frozen: Option<MappedWeights>,
    device: Device,
}

impl LanguageStart {
    /// Finds or draws the weights in main memory, and puts those that learn on the device.
    pub(super) fn of(recipe: &LanguageRecipe, device: &Device) -> Result<Self, TrainingError> {
        let mut start = Self::in_memory(recipe)?;
        start.variables = start.variables.to_device(device)?;
        start.device = device.clone();
        Ok(start)
    }

    fn in_memory(recipe: &LanguageRecipe) -> Result<Self, TrainingError> {
        match (&recipe.training.start, &recipe.geometry, &recipe.tokenizer) {
            (Some(dir), ..) => {
                let (config, weights, files) =
                    initial_weights::component::<LanguageComponent>(dir, Stage::Language)?;
                let found = LanguageBundle {
                    config,
                    weights,
                    files,
                };
                let found = found.of_one_adapter(recipe)?.with_images(recipe)?;
                if recipe.full {
                    found.all_weights(recipe)
                } else {
                    found.adapter(recipe)
                }
            }
            (None, Some(llama), Some(tokenizer)) => random(recipe, llama, tokenizer),
            _ => Err(TrainingError::Empty(
                "neither a start nor a geometry with a tokenizer".to_owned(),
            )),
        }
    }

    /// The way in which samples are written.
    pub(super) fn form(&self) -> SampleForm {
        SampleForm::new(self.config.prompts.clone())
    }

    /// What the frozen weights cost where they are stored quantised: no gradient passes through whole numbers.
    pub(super) fn widening(&self) -> Option<String> {
        let (stored, widened) = self.frozen.as_ref()?.quantized_bytes(DType::F32);
        let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
        (stored > 0).then(|| {
            format!(
                "the base is quantised: to train beside it, its {:.0} MiB are widened to f32, which takes {:.0} MiB of memory",
                mib(stored),
                mib(widened)
            )
        })
    }

    /// The model with variables where it learns.
    pub(super) fn model(&self, dropout: &Dropout) -> Result<LanguageModel, TrainingError> {
        let variables = self.variables.var_builder(&self.device);
        let llama = &self.config.llama;
        let (Some(frozen), Some(lora)) = (&self.frozen, &self.config.lora) else {
            return Ok(LanguageModel::load(llama, &variables, None)?.with_dropout(dropout.clone()));
        };
        let dtype = frozen
            .dtype("model.embed_tokens.weight")
            .unwrap_or(DType::F32);
        let base = frozen.var_builder(dtype, &self.device);
        let adapter = LoraAdapter {
            config: lora.clone(),
            weights: variables,
            dropout: dropout.clone(),
        };
        Ok(LanguageModel::load(llama, &base, Some(&adapter))?)
    }
}

/// A bundle's language component.
struct LanguageBundle {
    config: LanguageComponent,
    weights: MappedWeights,
    files: BTreeMap<String, PathBuf>,
}

impl LanguageBundle {
    /// The same with one adapter, where it has several: the one that the recipe names.
    fn of_one_adapter(mut self, recipe: &LanguageRecipe) -> Result<Self, TrainingError> {
        let known = std::mem::take(&mut self.config.adapters);
        self.config.default_adapters = None;
        let names: Vec<&str> = known.keys().map(AdapterName::as_str).collect();
        let name = match &recipe.adapter {
            None if known.len() > 1 => {
                return Err(TrainingError::Empty(format!(
                    "adapter: the bundle to start from has several, {}; name one",
                    names.join(", ")
                )));
            }
            None => known.keys().next(),
            Some(name) if known.contains_key(name) => Some(name),
            Some(name) => {
                let reason = format!(
                    "adapter: the bundle to start from has no adapter '{name}' by name; it has: {}",
                    names.join(", ")
                );
                return Err(TrainingError::Empty(reason));
            }
        };
        if let Some((name, lora)) = name.and_then(|name| known.get_key_value(name)) {
            self.config.lora = Some(lora.clone());
            let usage = adapter_usage(name);
            let files = self.files.iter().filter_map(|(shard, file)| {
                let rest = shard.strip_prefix(&usage)?;
                let is_shard = rest.is_empty() || rest.starts_with('.');
                is_shard.then(|| (format!("adapter{rest}"), file.clone()))
            });
            let files: Vec<_> = files.collect();
            self.files.extend(files);
        }
        Ok(self)
    }

    /// The same with an image projection to train, where the model has seen text alone and the recipe has images: a linear
    /// layer, from image tokens of the shape that the embeddings have.
    fn with_images(mut self, recipe: &LanguageRecipe) -> Result<Self, TrainingError> {
        if self.config.llama.image_projection != ImageProjectionKind::None {
            return Ok(self);
        }
        if let Some(&[tokens, width]) = MappedWeights::open(&recipe.embeddings)?.first_shape() {
            let llama = &mut self.config.llama;
            llama.image_projection = ImageProjectionKind::Linear;
            (llama.num_image_tokens, llama.image_dim) = (tokens, width);
            self.config.prompts.image_tokens = tokens;
        }
        Ok(self)
    }

    /// A new adapter, or the one that is there, beside weights that stay.
    fn adapter(self, recipe: &LanguageRecipe) -> Result<LanguageStart, TrainingError> {
        let wanted = recipe.lora.clone().unwrap_or_default();
        let (old, mut config) = (self.old_adapter()?, self.config.clone());
        let lora = LoraConfig {
            r: wanted.r,
            lora_alpha: wanted.alpha,
            target_modules: wanted.target_modules.clone(),
        };
        if wanted.resume_adapter && config.lora.as_ref() != Some(&lora) {
            let reason = format!(
                "lora.resume_adapter: the adapter of the bundle to start from is {:?}; give the same r, alpha and \
                 target_modules in [lora]",
                config.lora
            );
            return Err(TrainingError::Empty(reason));
        }
        config.lora = Some(lora);
        let mut tensors = Vec::new();
        for spec in config.adapter_tensors()? {
            let (name, shape) = (spec.header.name, spec.header.shape);
            let mut random = Random::stream(recipe.training.seed, &name);
            let path = name.strip_prefix(ADAPTER).unwrap_or(&name);
            let tensor = match path.split_once(".lora_") {
                None => self.projection(path, &shape, old.as_ref(), &mut random)?,
                Some((path, part)) => match old.as_ref().filter(|_| wanted.resume_adapter) {
                    Some(old) => {
                        old.matrix(path, &format!("lora_{}", &part[..1]), (shape[0], shape[1]))?
                    }
                    // As PEFT starts: the addition is nothing at first.
                    None if part.starts_with('B') => {
                        Tensor::zeros(shape.as_slice(), DType::F32, &Device::Cpu)?
                    }
                    None => uniform(&mut random, &shape, shape[1])?,
                },
            };
            tensors.push((name, tensor));
        }
        let mut component = ComponentDescription::new(Stage::Language, &config, "")?
            .with(ComponentFile::copied(
                "tokenizer",
                TOKENIZER_FILE,
                self.tokenizer()?,
            ))
            .with(ComponentFile::text(
                "adapter_config",
                ADAPTER_CONFIG,
                adapter_config(&wanted),
            ));
        component.weights = ("adapter".to_owned(), ADAPTER_FILE.to_owned());
        for (usage, path) in self
            .files
            .iter()
            .filter(|(usage, _)| usage.starts_with("weights"))
        {
            let name = usage.replacen("weights", "language.base", 1) + ".safetensors";
            component = component.with(ComponentFile::linked(usage, &name, path)?);
        }
        let tokenizer = tokenizer(&self.tokenizer()?, &config)?;
        let frozen = Some(self.weights);
        Ok(LanguageStart {
            component,
            variables: variables(tensors, &config.llama, recipe)?,
            tokenizer,
            config,
            frozen,
            device: Device::Cpu,
        })
    }

    /// All weights, with what an adapter adds to them taken in.
    fn all_weights(self, recipe: &LanguageRecipe) -> Result<LanguageStart, TrainingError> {
        let old = self.old_adapter()?;
        let config = LanguageComponent {
            lora: None,
            ..self.config.clone()
        };
        let base = self.weights.var_builder(DType::F32, &Device::Cpu);
        let mut tensors = Vec::new();
        for spec in config.base_tensors(Dtype::F32)? {
            let (name, shape) = (spec.header.name, spec.header.shape);
            let tensor = if name.starts_with(config.llama.image_projection.prefix()) {
                self.projection(
                    &name,
                    &shape,
                    old.as_ref(),
                    &mut Random::stream(recipe.training.seed, &name),
                )?
            } else {
                base.get(shape.as_slice(), &name)?
            };
            let path = name.strip_suffix(".weight").unwrap_or(&name);
            let tensor = match old.as_ref().filter(|old| old.targets(path)) {
                Some(old) => (tensor + old.addition(path, (shape[1], shape[0]))?)?,
                None => tensor,
            };
            tensors.push((name, tensor));
        }
        whole(recipe, config, tensors, self.tokenizer()?)
    }

    fn old_adapter(&self) -> Result<Option<LoraAdapter<'static>>, TrainingError> {
        let Some(lora) = &self.config.lora else {
            return Ok(None);
        };
        let of_adapter = |usage: &str| usage == "adapter" || usage.starts_with("adapter.");
        let files = self
            .files
            .iter()
            .filter(|(usage, _)| of_adapter(usage))
            .map(|(_, path)| path.clone());
        let weights =
            MappedWeights::open(&files.collect::<Vec<_>>())?.var_builder(DType::F32, &Device::Cpu);
        Ok(Some(LoraAdapter::new(lora.clone(), weights)))
    }

    /// The image projection that the bundle has, or a new one, as torch starts a linear layer.
    fn projection(
        &self,
        path: &str,
        shape: &[usize],
        old: Option<&LoraAdapter<'_>>,
        random: &mut Random,
    ) -> Result<Tensor, TrainingError> {
        if let Some(tensor) = old.map(|old| old.extra(path, shape)).transpose()?.flatten() {
            return Ok(tensor);
        }
        let base = self.weights.var_builder(DType::F32, &Device::Cpu);
        match base.contains_tensor(path) {
            true => Ok(base.get(shape, path)?),
            false => uniform(random, shape, projection_inputs(&self.config.llama, path)),
        }
    }

    fn tokenizer(&self) -> Result<PathBuf, TrainingError> {
        let missing =
            || TrainingError::Empty("the bundle's language component has no tokenizer".to_owned());
        self.files.get("tokenizer").cloned().ok_or_else(missing)
    }
}

/// A model of this geometry with random weights.
fn random(
    recipe: &LanguageRecipe,
    llama: &LlamaConfig,
    tokenizer: &Path,
) -> Result<LanguageStart, TrainingError> {
    let prompts = Prompts {
        image_tokens: llama.num_image_tokens,
        // It will have learned from images alone.
        text_only: false,
        trim_answers: recipe.trim_answers,
        ..Prompts::default()
    };
    let config = LanguageComponent {
        llama: llama.clone(),
        lora: None,
        adapters: BTreeMap::new(),
        default_adapters: None,
        prompts,
        blank_rule: BlankRule::default(),
        precision: None,
    };
    let draw = |spec: TensorSpec| {
        let (name, shape) = (spec.header.name, spec.header.shape);
        let mut random = Random::stream(recipe.training.seed, &name);
        let tensor = match shape.as_slice() {
            _ if name.starts_with(llama.image_projection.prefix()) => {
                uniform(&mut random, &shape, projection_inputs(llama, &name))?
            }
            [_, inputs] => {
                let deviation = SPREAD / (*inputs as f64).sqrt();
                // Each half of a layer adds to the same sum.
                let halves =
                    if name.ends_with("o_proj.weight") || name.ends_with("down_proj.weight") {
                        (2.0 * llama.num_hidden_layers as f64).sqrt()
                    } else {
                        1.0
                    };
                let count = shape.iter().product();
                let values =
                    std::iter::repeat_with(|| (random.normal() * deviation / halves) as f32)
                        .take(count);
                Tensor::from_vec(values.collect(), shape.as_slice(), &Device::Cpu)?
            }
            _ => Tensor::ones(shape.as_slice(), DType::F32, &Device::Cpu)?,
        };
        Ok((name, tensor))
    };
    let tensors = config.base_tensors(Dtype::F32)?.into_iter().map(draw);
    whole(
        recipe,
        config,
        tensors.collect::<Result<_, TrainingError>>()?,
        tokenizer.to_owned(),
    )
}

/// A training of all weights.
fn whole(
    recipe: &LanguageRecipe,
    config: LanguageComponent,
    tensors: Vec<(String, Tensor)>,
    path: PathBuf,
) -> Result<LanguageStart, TrainingError> {
    let tokenizer = tokenizer(&path, &config)?;
    let component = ComponentDescription::new(Stage::Language, &config, "")?
        .with(ComponentFile::copied("tokenizer", TOKENIZER_FILE, path));
    Ok(LanguageStart {
        component,
        variables: variables(tensors, &config.llama, recipe)?,
        tokenizer,
        config,
        frozen: None,
        device: Device::Cpu,
    })
}

fn variables(
    tensors: Vec<(String, Tensor)>,
    llama: &LlamaConfig,
    recipe: &LanguageRecipe,
) -> Result<Variables, TrainingError> {
    let (stays, projection) = (!recipe.train_projection, llama.image_projection.prefix());
    Ok(Variables::of(tensors)?.freeze(|name| stays && name.contains(projection)))
}

/// Inputs of the linear layer of the image projection that a weight or bias belongs to: torch draws both by them.
fn projection_inputs(llama: &LlamaConfig, path: &str) -> usize {
    let layers = llama.projection_layers();
    let layer = layers.iter().find(|(layer, ..)| path.starts_with(layer));
    layer.map_or(llama.image_dim, |(_, inputs, _)| *inputs)
}

fn tokenizer(path: &Path, config: &LanguageComponent) -> Result<LlamaTokenizer, TrainingError> {
    let llama = &config.llama;
    let tokenizer = LlamaTokenizer::from_file(path)?;
    let fitting = tokenizer.for_image_id(llama.image_token());
    let tokenizer = fitting.map_err(|error| {
        let reason = format!(
            "{error}: use the tokenizer of these weights, or a geometry whose vocab_size is the tokenizer's"
        );
        TrainingError::Content {
            path: path.to_owned(),
            line: None,
            reason,
        }
    })?;
    Ok(tokenizer.with_rules(config.tokenizer_rules(), llama.num_image_tokens))
}

/// Uniform with the spread of torch's linear layers of so many inputs, which is also that of PEFT's `lora_A`.
fn uniform(random: &mut Random, shape: &[usize], inputs: usize) -> Result<Tensor, TrainingError> {
    let spread = 1.0 / (inputs as f64).sqrt();
    let values = std::iter::repeat_with(|| random.between(-spread, spread) as f32)
        .take(shape.iter().product());
    Ok(Tensor::from_vec(values.collect(), shape, &Device::Cpu)?)
}

/// What PEFT reads beside an adapter.
fn adapter_config(lora: &LoraRecipe) -> String {
    let config = json!({
        "base_model_name_or_path": lora.base_model,
        "bias": "none",
        "fan_in_fan_out": false,
        "inference_mode": true,
        "lora_alpha": lora.alpha,
        "lora_dropout": lora.dropout,
        "modules_to_save": null,
        "peft_type": "LORA",
        "r": lora.r,
        "target_modules": lora.target_modules,
        "task_type": "CAUSAL_LM",
    });
    format!("{config:#}\n")
}
