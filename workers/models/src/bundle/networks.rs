//! The networks of a bundle with all that stands around them, one type a stage.

use std::sync::Arc;

use candle_core::{DType, Device, Tensor};
use radialog_schemas::{FindingsReport, Labels, Stage};

use super::config::{EmbeddingComponent, FindingsComponent, LanguageComponent, ScoringComponent};
use super::{ADAPTER, Bundle, BundleError, TOKENIZER, WEIGHTS};
use crate::ModelError;
use crate::alignment::Alignment;
use crate::chexbert::{self, Chexbert};
use crate::findings::{FindingsClassifier, TextRule};
use crate::language::{LanguageModel, LlamaConfig, LoraAdapter};
use crate::preprocess::InputSize;
use crate::prompt::Prompts;
use crate::tokenizers::{BertTokenizer, LlamaTokenizer, TokenizerError};
use crate::vision::ImageEncoder;

/// The embedding stage's: image encoder and Q-Former.
pub struct ImageEmbedder {
    encoder: ImageEncoder,
    alignment: Alignment,
    input: InputSize,
}

impl ImageEmbedder {
    /// Loads the component.
    ///
    /// # Errors
    /// A component that is missing or does not load.
    pub fn load(bundle: &Bundle, device: &Device) -> Result<Self, BundleError> {
        let stage = Stage::Embedding;
        let config: EmbeddingComponent = bundle.config(stage)?;
        let weights = bundle
            .weights(stage, WEIGHTS)?
            .var_builder(DType::F32, device);
        let encoder = ImageEncoder::single_image(&config.vision, weights.pp("visual_encoder"));
        Ok(Self {
            encoder: encoder.map_err(bundle.model_error(stage))?,
            alignment: Alignment::new(&config.alignment, weights)
                .map_err(bundle.model_error(stage))?,
            input: config.vision.input(),
        })
    }

    /// What it sees of an image.
    pub fn input(&self) -> InputSize {
        self.input
    }

    /// Image tokens `[B, 32, 768]` (at published geometry) of images `[B, 3, side, side]`.
    ///
    /// # Errors
    /// Images of another shape.
    pub fn embed(&self, images: &Tensor) -> Result<Tensor, ModelError> {
        Ok(self
            .alignment
            .forward_image(&self.encoder.project(images)?)?
            .tokens)
    }
}

/// The findings stage's: classifier and the rule for its text.
pub struct FindingsPredictor {
    classifier: FindingsClassifier,
    rule: TextRule,
    input: InputSize,
}

impl FindingsPredictor {
    /// Loads the component.
    ///
    /// # Errors
    /// A component that is missing or does not load.
    pub fn load(bundle: &Bundle, device: &Device) -> Result<Self, BundleError> {
        let stage = Stage::Findings;
        let config: FindingsComponent = bundle.config(stage)?;
        let weights = bundle
            .weights(stage, WEIGHTS)?
            .var_builder(DType::F32, device);
        let classifier = FindingsClassifier::new(&config.classifier, weights.pp("model"));
        Ok(Self {
            classifier: classifier.map_err(bundle.model_error(stage))?,
            rule: config.text_rule,
            input: config.classifier.vision.input(),
        })
    }

    /// What it sees of an image.
    pub fn input(&self) -> InputSize {
        self.input
    }

    /// Findings of images `[B, 3, side, side]`, one report an image.
    ///
    /// # Errors
    /// Images of another shape.
    pub fn predict(&self, images: &Tensor) -> Result<Vec<FindingsReport>, ModelError> {
        self.classifier.forward(images)?.reports(self.rule)
    }
}

/// The scoring stage's: CheXbert and its tokenizer.
pub struct ReportLabeler {
    chexbert: Chexbert,
    tokenizer: BertTokenizer,
}

impl ReportLabeler {
    /// Loads the component.
    ///
    /// # Errors
    /// A component that is missing or does not load.
    pub fn load(bundle: &Bundle, device: &Device) -> Result<Self, BundleError> {
        let stage = Stage::Scoring;
        let config: ScoringComponent = bundle.config(stage)?;
        let weights = bundle
            .weights(stage, WEIGHTS)?
            .var_builder(DType::F32, device);
        let chexbert = Chexbert::new(&config.chexbert, weights.pp("module"))
            .map_err(bundle.model_error(stage))?;
        let path = bundle.file(stage, TOKENIZER)?;
        let tokenizer = BertTokenizer::from_file(&path).map_err(BundleError::unusable(&path))?;
        Ok(Self {
            chexbert,
            tokenizer,
        })
    }

    /// A report's ids, cleaned and cut as the labeler was trained.
    ///
    /// # Errors
    /// Only a broken tokenizer file.
    pub fn encode(&self, report: &str) -> Result<Vec<u32>, TokenizerError> {
        self.tokenizer
            .encode(&chexbert::clean_text(report), self.chexbert.max_length())
    }

    /// Labels of reports given as ids.
    ///
    /// # Errors
    /// A report that is empty or too long; [`ReportLabeler::encode`] makes neither.
    pub fn label(&self, reports: &[Vec<u32>]) -> Result<Vec<Labels>, ModelError> {
        self.chexbert.label(reports)
    }
}

/// The language stage's: model, tokenizer and prompts.
pub struct LanguagePipeline {
    /// The decoder with its adapter.
    pub model: Arc<LanguageModel>,
    /// Text to ids and back.
    pub tokenizer: LlamaTokenizer,
    /// What the model is told.
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
        let adapter = match config.lora {
            Some(lora) => Some(LoraAdapter::new(
                lora,
                bundle
                    .weights(stage, ADAPTER)?
                    .var_builder(DType::F32, device),
            )),
            None => None,
        };
        let model = LanguageModel::load(&config.llama, &base, adapter.as_ref())
            .map_err(bundle.model_error(stage))?;
        let tokenizer = llama_tokenizer(bundle, &config.llama)?;
        Ok(Self {
            model: Arc::new(model),
            tokenizer,
            prompts: config.prompts,
        })
    }

    /// Finds what loading would find, without the memory that the model needs: its tensors are checked when the bundle is
    /// opened.
    pub(super) fn check(bundle: &Bundle) -> Result<(), BundleError> {
        let config: LanguageComponent = bundle.config(Stage::Language)?;
        config
            .llama
            .validate()
            .map_err(bundle.model_error(Stage::Language))?;
        llama_tokenizer(bundle, &config.llama).map(|_| ())
    }
}

fn llama_tokenizer(bundle: &Bundle, llama: &LlamaConfig) -> Result<LlamaTokenizer, BundleError> {
    let path = bundle.file(Stage::Language, TOKENIZER)?;
    let tokenizer = LlamaTokenizer::from_file(&path).map_err(BundleError::unusable(&path))?;
    let (ours, models) = (tokenizer.image_id(), llama.image_token());
    if ours != models {
        let reason = format!(
            "<IMG> has id {ours} and the language model expects {models}: it belongs to another model"
        );
        return Err(BundleError::Unusable { file: path, reason });
    }
    Ok(tokenizer)
}
