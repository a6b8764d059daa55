//! The scoring stage's component: report to labels, from `chexbert.pth`.

use candle_core::Device;
use radialog_schemas::{Labels, Stage};
use safetensors::tensor::Dtype;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Component, GeometryError, TOKENIZER, WEIGHTS, WeightsFile, json};
use crate::ModelError;
use crate::bundle::geometry::{Geometry, TINY_WIDTH};
use crate::bundle::{Bundle, BundleError};
use crate::chexbert::{self, Chexbert, ChexbertConfig};
use crate::tensors::{TensorRecorder, TensorSpec};
use crate::tokenizers::{BertTokenizer, TokenizerError, synthetic};

/// The prefix of the network's names.
const NETWORK: &str = "module";

/// The configuration of the component.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ScoringComponent {
    /// CheXbert.
    pub chexbert: ChexbertConfig,
}

impl ScoringComponent {
    /// The component of a geometry.
    pub fn of(geometry: Geometry) -> Self {
        let published = ChexbertConfig::published();
        let chexbert = match geometry {
            Geometry::Published => published,
            Geometry::Tiny => ChexbertConfig {
                vocab_size: 400,
                hidden_size: TINY_WIDTH,
                num_hidden_layers: 2,
                num_attention_heads: 4,
                intermediate_size: 2 * TINY_WIDTH,
                ..published
            },
        };
        Self { chexbert }
    }

    /// The tensors of the component.
    ///
    /// # Errors
    /// A geometry that the network cannot have.
    pub fn tensors(&self) -> Result<Vec<TensorSpec>, ModelError> {
        let recorder = TensorRecorder::new(Dtype::F32);
        Chexbert::new(&self.chexbert, recorder.var_builder().pp(NETWORK))?;
        Ok(recorder.into_specs())
    }
}

impl Component for ScoringComponent {
    fn config(&self) -> Value {
        json(self)
    }

    fn weights(&self, _: Dtype) -> Result<Vec<WeightsFile>, GeometryError> {
        Ok(vec![WeightsFile {
            usage: WEIGHTS.into(),
            name: "scoring.safetensors".into(),
            tensors: self.tensors()?,
        }])
    }

    fn tokenizer(&self) -> Option<&'static str> {
        Some("scoring.tokenizer.json")
    }

    fn random_tokenizer(&self) -> Option<String> {
        let json = synthetic::bert(self.chexbert.vocab_size);
        Some(json.expect("both geometries have room for every character"))
    }

    fn verify(&self, bundle: &Bundle) -> Result<(), BundleError> {
        ReportLabeler::load(bundle, &Device::Cpu).map(drop)
    }
}

/// The network of the component: CheXbert and its tokenizer.
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
            .var_builder(bundle.network_type(stage, device)?, device);
        let chexbert = Chexbert::new(&config.chexbert, weights.pp(NETWORK))
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
