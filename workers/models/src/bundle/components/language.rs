//! The language stage's component: image tokens and findings to text. Its base is a LLaMA-family checkpoint, its adapter
//! what PEFT writes (`adapter_model.bin`).

use std::sync::Arc;

use candle_core::{DType, Device};
use radialog_schemas::Stage;
use safetensors::tensor::Dtype;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{ADAPTER, Component, GeometryError, TOKENIZER, WEIGHTS, WeightsFile, json};
use crate::bundle::geometry::{Geometry, TINY_WIDTH};
use crate::bundle::{Bundle, BundleError};
use crate::language::{LanguageError, LanguageModel, LlamaConfig, LoraAdapter, LoraConfig};
use crate::prompt::Prompts;
use crate::tensors::{Initialization, TensorRecorder, TensorSpec};
use crate::tokenizers::synthetic::{self, SyntheticLlama};
use crate::tokenizers::{LlamaTokenizer, TokenizerRules};

/// The configuration of the component.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LanguageComponent {
    /// The base model.
    pub llama: LlamaConfig,
    /// The adapter, where there is one; weights that were trained as a whole bring their image projection themselves.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lora: Option<LoraConfig>,
    /// The texts around a conversation.
    #[serde(default)]
    pub prompts: Prompts,
    /// The way in which prompts are cut into pieces before they become ids.
    #[serde(default, skip_serializing_if = "TokenizerRules::is_default")]
    pub tokenizer: TokenizerRules,
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
            prompts: Prompts::default(),
            tokenizer: TokenizerRules::default(),
        }
    }

    /// The tensors of the base, stored as `dtype`; the image projection is among them where no adapter brings it.
    ///
    /// # Errors
    /// A geometry that the model cannot have.
    pub fn base_tensors(&self, dtype: Dtype) -> Result<Vec<TensorSpec>, LanguageError> {
        Ok(self.tensors(dtype)?.0)
    }

    /// The tensors of the adapter: LoRA and the image projection. None without an adapter.
    ///
    /// # Errors
    /// A geometry that the model cannot have.
    pub fn adapter_tensors(&self) -> Result<Vec<TensorSpec>, LanguageError> {
        Ok(self.tensors(Dtype::F32)?.1)
    }

    fn tensors(&self, dtype: Dtype) -> Result<(Vec<TensorSpec>, Vec<TensorSpec>), LanguageError> {
        let (base, additions) = (TensorRecorder::new(dtype), TensorRecorder::new(Dtype::F32));
        let lora = self.lora.clone();
        let adapter = lora.map(|lora| LoraAdapter::new(lora, additions.var_builder()));
        LanguageModel::load(&self.llama, &base.var_builder(), adapter.as_ref())?;
        Ok((base.into_specs(), additions.into_specs()))
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
        let (base, adapter) = self.tensors(dtype)?;
        let mut files = vec![WeightsFile {
            usage: WEIGHTS,
            name: "language.safetensors",
            tensors: base,
        }];
        if self.lora.is_some() {
            files.push(WeightsFile {
                usage: ADAPTER,
                name: "adapter.safetensors",
                tensors: adapter,
            });
        }
        Ok(files)
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
        let dtype = weights
            .dtype("model.embed_tokens.weight")
            .unwrap_or(DType::F32);
        let base = weights.var_builder(dtype, device);
        let adapter = match &config.lora {
            Some(lora) => Some(LoraAdapter::new(
                lora.clone(),
                bundle
                    .weights(stage, ADAPTER)?
                    .var_builder(DType::F32, device),
            )),
            None => None,
        };
        let model = LanguageModel::load(&config.llama, &base, adapter.as_ref())
            .map_err(bundle.model_error(stage))?;
        let tokenizer = llama_tokenizer(bundle, &config)?;
        Ok(Self {
            model: Arc::new(model),
            tokenizer,
            prompts: config.prompts,
        })
    }

    /// Finds what loading would find, without the memory that the model needs: its tensors are checked when the bundle is
    /// opened.
    fn check(bundle: &Bundle) -> Result<(), BundleError> {
        let config: LanguageComponent = bundle.config(Stage::Language)?;
        config
            .llama
            .validate()
            .map_err(bundle.model_error(Stage::Language))?;
        llama_tokenizer(bundle, &config).map(|_| ())
    }
}

fn llama_tokenizer(
    bundle: &Bundle,
    config: &LanguageComponent,
) -> Result<LlamaTokenizer, BundleError> {
    let llama = &config.llama;
    let path = bundle.file(Stage::Language, TOKENIZER)?;
    let tokenizer = LlamaTokenizer::from_file(&path).map_err(BundleError::unusable(&path))?;
    let (ours, models) = (tokenizer.image_id(), llama.image_token());
    if ours != models {
        let reason = format!(
            "<IMG> has id {ours} and the language model expects {models}: it belongs to another model"
        );
        return Err(BundleError::Unusable { file: path, reason });
    }
    let placeholders = config.prompts.image_tokens;
    if placeholders != llama.num_image_tokens {
        let reason = format!(
            "prompts.image_tokens is {placeholders} and llama.num_image_tokens is {}: both are the tokens of one image",
            llama.num_image_tokens
        );
        return Err(BundleError::Unusable { file: path, reason });
    }
    Ok(tokenizer.with_rules(config.tokenizer, llama.num_image_tokens))
}
