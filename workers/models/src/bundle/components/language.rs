//! The language stage's component: image tokens and findings to text. Its base is a LLaMA-family checkpoint, its adapter
//! what PEFT writes (`adapter_model.bin`). It may have several: one for reports and one for dialogs, as published.

use std::collections::BTreeMap;
use std::sync::Arc;

use candle_core::{DType, Device};
use radialog_schemas::{AdapterName, Stage};
use safetensors::tensor::Dtype;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{
    ADAPTER, Component, EmbeddingComponent, GeometryError, TOKENIZER, WEIGHTS, WeightsFile,
    adapter_usage, json,
};
use crate::bundle::geometry::{Geometry, TINY_WIDTH};
use crate::bundle::weights::MappedWeights;
use crate::bundle::{Bundle, BundleError, Precision};
use crate::language::{
    AdapterId, BaseWeights, LanguageError, LanguageModel, LlamaConfig, LoraAdapter, LoraConfig,
    LoraConfigError,
};
use crate::prompt::Prompts;
use crate::tensors::{Initialization, TensorRecorder, TensorSpec};
use crate::tokenizers::synthetic::{self, SyntheticLlama};
use crate::tokenizers::{BlankRule, LlamaTokenizer, TokenizerRules};

/// The configuration of the component.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LanguageComponent {
    /// The base model.
    pub llama: LlamaConfig,
    /// The adapter, where there is one; weights that were trained as a whole bring their image projection themselves.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lora: Option<LoraConfig>,
    /// Several adapters by name, instead of `lora`: each in a file of its own (`adapter-NAME`) with an image projection of
    /// its own, all of them loaded beside the one base.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub adapters: BTreeMap<AdapterName, LoraConfig>,
    /// The adapters that the tasks have unless a request names one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub default_adapters: Option<DefaultAdapters>,
    /// The texts around a conversation.
    #[serde(default)]
    pub prompts: Prompts,
    /// The blank that the tokenizer puts before a text, behind a special token.
    #[serde(default, skip_serializing_if = "BlankRule::is_default")]
    pub blank_rule: BlankRule,
    /// The numbers of the base's matrices in memory; those that they are stored in unless given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub precision: Option<Precision>,
}

/// The adapter of each kind of task: the published system writes reports with one and holds dialogs with another.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DefaultAdapters {
    /// The adapter that writes the reports of a run.
    pub report: AdapterName,
    /// The adapter that answers conversations, the report that one begins with included.
    pub chat: AdapterName,
}

/// What a text is generated for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LanguageTask {
    /// A report of a run.
    Report,
    /// A turn of a conversation, or the answer to a text.
    Chat,
}

impl LanguageComponent {
    /// The component of a geometry.
    pub fn of(geometry: Geometry) -> Self {
        let published = LlamaConfig::vicuna_7b();
        let llama = match geometry {
            Geometry::Published => published,
            Geometry::Tiny => LlamaConfig {
                vocab_size: 1000,
                hidden_size: TINY_WIDTH,
                intermediate_size: 3 * TINY_WIDTH,
                num_hidden_layers: 2,
                num_attention_heads: 4,
                image_dim: TINY_WIDTH,
                ..published
            },
        };
        let lora = LoraConfig {
            r: 8,
            lora_alpha: 16.0,
            target_modules: ["q_proj", "v_proj"].map(String::from).into(),
        };
        Self {
            llama,
            lora: Some(lora),
            adapters: BTreeMap::new(),
            default_adapters: None,
            prompts: Prompts::default(),
            blank_rule: BlankRule::default(),
            precision: None,
        }
    }

    /// The component of a geometry of RaDialog v2.
    pub fn v2(geometry: Geometry) -> Self {
        let (v1, published) = (Self::of(geometry), LlamaConfig::llava_7b());
        let (llama, r) = match geometry {
            Geometry::Published => (published, 128),
            Geometry::Tiny => {
                let tiny = LlamaConfig {
                    max_position_embeddings: published.max_position_embeddings,
                    rms_norm_eps: published.rms_norm_eps,
                    num_image_tokens: published.num_image_tokens,
                    image_dim: 2 * TINY_WIDTH,
                    image_projection: published.image_projection,
                    ..v1.llama
                };
                (tiny, 16)
            }
        };
        let modules = llama.layer_matrices().map(|(path, ..)| path);
        let modules = modules.map(|path| path.rsplit('.').next().unwrap_or(path).to_owned());
        Self {
            lora: Some(LoraConfig {
                r,
                lora_alpha: 2.0 * r as f64,
                target_modules: modules.into(),
            }),
            llama,
            prompts: Prompts::v2(),
            blank_rule: BlankRule::TakenAgain,
            ..v1
        }
    }

    /// The rules of the component's tokenizer.
    pub fn tokenizer_rules(&self) -> TokenizerRules {
        TokenizerRules {
            image: self.prompts.image_rule,
            after_special: self.blank_rule,
        }
    }

    /// The tensors of the base, stored as `dtype`; the image projection is among them where no adapter brings it.
    ///
    /// # Errors
    /// A geometry that the model cannot have.
    pub fn base_tensors(&self, dtype: Dtype) -> Result<Vec<TensorSpec>, LanguageError> {
        Ok(self.tensors(dtype)?.0)
    }

    /// The tensors of the only adapter, or of the first of several: LoRA and the image projection. None without one.
    ///
    /// # Errors
    /// A geometry that the model cannot have.
    pub fn adapter_tensors(&self) -> Result<Vec<TensorSpec>, LanguageError> {
        let (_, mut adapters) = self.tensors(Dtype::F32)?;
        Ok(match adapters.is_empty() {
            true => Vec::new(),
            false => adapters.swap_remove(0),
        })
    }

    /// The adapter that a task has where the request names none; none where there is no choice.
    pub fn default_adapter(&self, task: LanguageTask) -> Option<&AdapterName> {
        match (&self.default_adapters, task) {
            (Some(defaults), LanguageTask::Report) => Some(&defaults.report),
            (Some(defaults), LanguageTask::Chat) => Some(&defaults.chat),
            (None, _) => self.adapters.keys().next(),
        }
    }

    /// Checks that the adapters fit the base, and that every task has one.
    ///
    /// # Errors
    /// Says which field is wrong.
    pub fn check_adapters(&self) -> Result<(), LoraConfigError> {
        let fault = |fault: String| Err(LoraConfigError::new(fault));
        if self.lora.is_some() && !self.adapters.is_empty() {
            return fault(
                "both lora and adapters are given: name the one of lora among the adapters".into(),
            );
        }
        for (name, lora) in &self.adapters {
            lora.validate(&self.llama)
                .map_err(|error| LoraConfigError::new(format!("adapters.{name}: {error}")))?;
        }
        match &self.default_adapters {
            None if self.adapters.len() > 1 => {
                fault("default_adapters is missing: name the adapter of report and of chat".into())
            }
            None => Ok(()),
            Some(DefaultAdapters { report, chat }) => {
                let unknown = [("report", report), ("chat", chat)]
                    .into_iter()
                    .find(|(_, name)| !self.adapters.contains_key(name));
                match unknown {
                    None => Ok(()),
                    Some((task, name)) => fault(format!(
                        "default_adapters.{task} is '{name}', and the adapters are: {}",
                        names(&self.adapters)
                    )),
                }
            }
        }
    }

    /// The tensors of the base, and of each adapter.
    fn tensors(
        &self,
        dtype: Dtype,
    ) -> Result<(Vec<TensorSpec>, Vec<Vec<TensorSpec>>), LanguageError> {
        self.check_adapters()?;
        let base = TensorRecorder::new(dtype);
        let configs = self.lora.iter().chain(self.adapters.values());
        let (recorders, adapters): (Vec<_>, Vec<_>) = configs
            .map(|lora| {
                let recorder = TensorRecorder::new(Dtype::F32);
                let adapter = LoraAdapter::new(lora.clone(), recorder.var_builder());
                (recorder, adapter)
            })
            .unzip();
        LanguageModel::load_with_adapters(&self.llama, &base.var_builder(), &adapters)?;
        drop(adapters);
        let additions = recorders.into_iter().map(TensorRecorder::into_specs);
        Ok((base.into_specs(), additions.collect()))
    }

    /// Use and name of each adapter's file, in the order of their ids in the model.
    fn adapter_files(&self) -> Vec<(String, String)> {
        let only = self
            .lora
            .iter()
            .map(|_| (ADAPTER.to_owned(), "adapter.safetensors".to_owned()));
        let several = self.adapters.keys().map(|name| {
            let usage = adapter_usage(name);
            let file = format!("{usage}.safetensors");
            (usage, file)
        });
        only.chain(several).collect()
    }

    fn synthetic_tokenizer(&self) -> SyntheticLlama {
        synthetic::llama(self.llama.vocab_size).expect("both geometries have room for every byte")
    }
}

impl Component for LanguageComponent {
    fn config(&self) -> Value {
        json(self)
    }

    fn weights(&self, dtype: Dtype) -> Result<Vec<WeightsFile>, GeometryError> {
        let (base, adapters) = self.tensors(dtype)?;
        let base = WeightsFile {
            usage: WEIGHTS.into(),
            name: "language.safetensors".into(),
            tensors: base,
        };
        let files = self.adapter_files().into_iter().zip(adapters);
        let adapters = files.map(|((usage, name), tensors)| WeightsFile {
            usage,
            name,
            tensors,
        });
        Ok([base].into_iter().chain(adapters).collect())
    }

    /// The output head only says words: random bytes would not be text.
    fn random_weights(&self, dtype: Dtype) -> Result<Vec<WeightsFile>, GeometryError> {
        let mut files = self.weights(dtype)?;
        let tensors = files.iter_mut().flat_map(|file| &mut file.tensors);
        for spec in tensors.filter(|spec| spec.header.name == "lm_head.weight") {
            if let Initialization::Uniform { spread, .. } = spec.init {
                spec.init = Initialization::Words {
                    spread,
                    width: self.llama.hidden_size,
                    first: self.synthetic_tokenizer().first_word as usize,
                    end: self.llama.eos_token_id as usize,
                };
            }
        }
        Ok(files)
    }

    fn tokenizer(&self) -> Option<&'static str> {
        Some("language.tokenizer.json")
    }

    fn random_tokenizer(&self) -> Option<String> {
        Some(self.synthetic_tokenizer().json)
    }

    fn verify(&self, bundle: &Bundle) -> Result<(), BundleError> {
        LanguagePipeline::check(bundle)
    }
}

/// The network of the component, with the tokenizer and the prompts around it.
pub struct LanguagePipeline {
    /// The decoder with its adapter.
    pub model: Arc<LanguageModel>,
    /// Text to ids and back.
    pub tokenizer: LlamaTokenizer,
    /// The texts around a conversation.
    pub prompts: Prompts,
    /// The adapters of the model by name, where it has several.
    adapters: BTreeMap<AdapterName, AdapterId>,
    /// Those of the tasks.
    defaults: [AdapterId; 2],
}

impl LanguagePipeline {
    /// Loads the component. The base stays in the type that it is stored in.
    ///
    /// # Errors
    /// A component that is missing or does not load.
    pub fn load(bundle: &Bundle, device: &Device) -> Result<Self, BundleError> {
        let stage = Stage::Language;
        let config: LanguageComponent = bundle.config(stage)?;
        let weights = bundle.weights(stage, WEIGHTS)?;
        let numbers = numbers(&config, weights, device).map_err(bundle.model_error(stage))?;
        let stored = weights.dtype("model.embed_tokens.weight");
        let dtype = numbers.or(stored).unwrap_or(if device.is_cpu() {
            DType::F32
        } else {
            DType::F16
        });
        let base = weights.var_builder(dtype, device);
        let (stored, widened) = weights.quantized_bytes(dtype);
        if stored > 0 && !device.is_cpu() && numbers.is_none() {
            tracing::warn!(
                stored,
                widened,
                "quantised weights have kernels on a CPU only: on this device they are widened and take so many bytes"
            );
        }
        let base = BaseWeights {
            weights: &base,
            quantized: match numbers {
                None => Some(weights),
                Some(_) => None,
            },
        };
        config.check_adapters().map_err(bundle.model_error(stage))?;
        let adapter = |usage: &str, lora: &LoraConfig| -> Result<LoraAdapter, BundleError> {
            let weights = bundle.weights(stage, usage)?;
            let weights = weights.var_builder(DType::F32, device);
            Ok(LoraAdapter::new(lora.clone(), weights))
        };
        let model = match &config.lora {
            Some(lora) => {
                let adapter = adapter(ADAPTER, lora)?;
                LanguageModel::load(&config.llama, base, Some(&adapter))
            }
            None => {
                let several = config.adapters.iter();
                let several = several.map(|(name, lora)| adapter(&adapter_usage(name), lora));
                let several: Vec<LoraAdapter> = several.collect::<Result<_, _>>()?;
                LanguageModel::load_with_adapters(&config.llama, base, &several)
            }
        };
        let model = model.map_err(bundle.model_error(stage))?;
        let names = config.adapters.keys().cloned().enumerate();
        let adapters: BTreeMap<AdapterName, AdapterId> = names
            .filter_map(|(index, name)| Some((name, model.adapter(index)?)))
            .collect();
        let defaults = [LanguageTask::Report, LanguageTask::Chat].map(|task| {
            let default = config.default_adapter(task);
            default
                .and_then(|name| adapters.get(name))
                .copied()
                .unwrap_or_default()
        });
        let tokenizer = llama_tokenizer(bundle, &config)?;
        Ok(Self {
            model: Arc::new(model),
            tokenizer,
            prompts: config.prompts,
            adapters,
            defaults,
        })
    }

    /// The adapter of this name, or where none is named that of the task.
    ///
    /// # Errors
    /// The bundle has no adapter of this name.
    pub fn adapter(
        &self,
        named: Option<&AdapterName>,
        task: LanguageTask,
    ) -> Result<AdapterId, LanguageError> {
        let [report, chat] = self.defaults;
        match (named, task) {
            (None, LanguageTask::Report) => Ok(report),
            (None, LanguageTask::Chat) => Ok(chat),
            (Some(name), _) => {
                let unknown = || LanguageError::NoAdapter {
                    name: name.clone(),
                    known: names(&self.adapters),
                };
                self.adapters.get(name).copied().ok_or_else(unknown)
            }
        }
    }

    /// Finds what loading would find, without the memory that the model needs: its tensors are checked when the bundle is
    /// opened.
    fn check(bundle: &Bundle) -> Result<(), BundleError> {
        let config: LanguageComponent = bundle.config(Stage::Language)?;
        config
            .llama
            .validate()
            .map_err(bundle.model_error(Stage::Language))?;
        check_image_tokens(bundle, &config.llama)?;
        llama_tokenizer(bundle, &config).map(|_| ())
    }
}

/// The type of numbers that the base's matrices are to have in memory; none where they stay as they are stored. In words what
/// of this cannot be.
fn numbers(
    config: &LanguageComponent,
    weights: &MappedWeights,
    device: &Device,
) -> Result<Option<DType>, String> {
    let Some(precision) = config.precision else {
        return Ok(None);
    };
    let Precision::Quantised(types) = precision else {
        return Ok(precision.dtype());
    };
    let llama = &config.llama;
    let (layers, tied) = (llama.num_hidden_layers, llama.tie_word_embeddings);
    if !types.are_of(weights.quantized_matrices(), layers, tied) {
        let found: Vec<String> = weights.quantized_types().into_keys().collect();
        return Err(format!(
            "its weights are not in precision {precision}, but in {}: `radialog bundle quantise --to {precision}` writes such a \
             bundle of one in f32, f16 or bf16",
            match found.is_empty() {
                true => "numbers".to_owned(),
                false => found.join(", "),
            }
        ));
    }
    match device.is_cpu() {
        true => Ok(None),
        false => Err(format!(
            "quantised weights have kernels on a CPU only, so that precision {precision} cannot be had on this device: give f16 \
             or bf16"
        )),
    }
}

/// Checks that the model reads the image tokens which the bundle's own embedding component makes, where it has one.
fn check_image_tokens(bundle: &Bundle, llama: &LlamaConfig) -> Result<(), BundleError> {
    if !bundle.manifest().components.contains_key(&Stage::Embedding) {
        return Ok(());
    }
    let made = bundle
        .config::<EmbeddingComponent>(Stage::Embedding)?
        .token_shape();
    let read = (llama.num_image_tokens, llama.image_dim);
    if made == read {
        let manifest = bundle.manifest();
        let checked = manifest.check_image_tokens(manifest);
        return checked.map_err(bundle.model_error(Stage::Language));
    }
    let reason = format!(
        "llama.num_image_tokens and llama.image_dim are {read:?}, and the embedding component makes image tokens \
         {made:?}: they belong to different models"
    );
    Err(bundle.model_error(Stage::Language)(reason))
}

/// The names of adapters, for messages.
fn names<T>(adapters: &BTreeMap<AdapterName, T>) -> String {
    let names: Vec<&str> = adapters.keys().map(AdapterName::as_str).collect();
    match names.is_empty() {
        true => "none with a name".to_owned(),
        false => names.join(", "),
    }
}

fn llama_tokenizer(
    bundle: &Bundle,
    config: &LanguageComponent,
) -> Result<LlamaTokenizer, BundleError> {
    let llama = &config.llama;
    let path = bundle.file(Stage::Language, TOKENIZER)?;
    let tokenizer = LlamaTokenizer::from_file(&path).map_err(BundleError::unusable(&path))?;
    let tokenizer = tokenizer
        .for_image_id(llama.image_token())
        .map_err(BundleError::unusable(&path))?;
    let placeholders = config.prompts.image_tokens;
    if placeholders != llama.num_image_tokens {
        let reason = format!(
            "prompts.image_tokens is {placeholders} and llama.num_image_tokens is {}: both are the tokens of one image",
            llama.num_image_tokens
        );
        return Err(BundleError::Unusable { file: path, reason });
    }
    Ok(tokenizer.with_rules(config.tokenizer_rules(), llama.num_image_tokens))
}
