//! Low-rank adapters (Hu et al., 2021) in the files and names that PEFT writes, with the image projection beside them.

use candle_core::{DType, Result, Tensor};
use candle_nn::VarBuilder;
use serde::{Deserialize, Serialize};

use super::adapter_id::AdapterId;
use super::config::LlamaConfig;
use super::linear::LoraLinear;
use crate::layers::Dropout;
use crate::tensors::{linear_init, unit_variance};

/// The part of PEFT's `adapter_config.json` that is needed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LoraConfig {
    /// The rank of the additions.
    pub r: usize,
    /// The addition is scaled by `lora_alpha / r`.
    pub lora_alpha: f64,
    /// The linear layers that have an addition, e.g. `q_proj`.
    pub target_modules: Vec<String>,
}

/// An adapter that no decoder, or not this one, can have.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("adapter configuration: {0}")]
pub struct LoraConfigError(String);

impl LoraConfigError {
    pub(crate) fn new(fault: String) -> Self {
        Self(fault)
    }
}

impl LoraConfig {
    /// Checks that every target is a linear layer of this decoder, so that no part of an adapter is left out unnoticed.
    ///
    /// # Errors
    /// Says which field is wrong.
    pub fn validate(&self, base: &LlamaConfig) -> std::result::Result<(), LoraConfigError> {
        let fault = |fault: String| Err(LoraConfigError(fault));
        if self.r == 0 {
            return fault("r is 0".to_owned());
        }
        if !self.lora_alpha.is_finite() {
            return fault("lora_alpha is no number".to_owned());
        }
        // None at all is an adapter that brings only an image projection.
        let layers = base.layer_matrices();
        let mut known: Vec<&str> = layers
            .iter()
            .filter_map(|(path, ..)| path.rsplit('.').next())
            .collect();
        if !base.tie_word_embeddings {
            known.push("lm_head");
        }
        let unknown = |target: &&String| !known.contains(&target.as_str());
        match self.target_modules.iter().find(unknown) {
            None => Ok(()),
            Some(target) => fault(format!(
                "target_modules has '{target}', and the linear layers of this base are {}",
                known.join(", ")
            )),
        }
    }
}

/// An adapter to load with a base model.
pub struct LoraAdapter<'a> {
    /// Rank, scale and targets.
    pub config: LoraConfig,
    /// Tensors named as PEFT names them, from `base_model.` on.
    pub weights: VarBuilder<'a>,
    /// The dropout of the additions' input, in training.
    pub dropout: Dropout,
}

impl<'a> LoraAdapter<'a> {
    /// An adapter as inference uses it.
    pub fn new(config: LoraConfig, weights: VarBuilder<'a>) -> Self {
        Self {
            config,
            weights,
            dropout: Dropout::default(),
        }
    }
}

impl LoraAdapter<'_> {
    /// Whether the layer of this name in the base, e.g. `model.layers.0.self_attn.q_proj`, has an addition.
    pub fn targets(&self, path: &str) -> bool {
        let module = path.rsplit('.').next().unwrap_or(path);
        self.config
            .target_modules
            .iter()
            .any(|target| target == module)
    }

    /// The layer with its addition, where this adapter targets it: as the only adapter of the base, or as one of several,
    /// which then leaves the weight as it is.
    pub(super) fn apply(
        &self,
        linear: LoraLinear,
        path: &str,
        (inputs, outputs): (usize, usize),
        one_of_several: Option<AdapterId>,
    ) -> Result<LoraLinear> {
        if !self.targets(path) {
            return Ok(linear);
        }
        let down = self.matrix(path, "lora_A", (self.config.r, inputs))?;
        let up = self.matrix(path, "lora_B", (outputs, self.config.r))?;
        let scale = self.scale();
        let linear = match one_of_several {
            None => linear.with_low_rank(&down, &up, scale)?,
            Some(id) => linear.with_addition(id, &down, &up, scale)?,
        };
        Ok(linear.with_dropout(&self.dropout))
    }

    /// The addition to a targeted layer's weight, `[outputs, inputs]`.
    ///
    /// # Errors
    /// An adapter without this layer, or of another shape.
    pub fn addition(&self, path: &str, (inputs, outputs): (usize, usize)) -> Result<Tensor> {
        let down = self.matrix(path, "lora_A", (self.config.r, inputs))?;
        let up = self.matrix(path, "lora_B", (outputs, self.config.r))?;
        up.matmul(&down)? * self.scale()
    }

    fn scale(&self) -> f64 {
        self.config.lora_alpha / self.config.r as f64
    }

    /// A tensor that the adapter brings beside the low-rank ones, if it does.
    ///
    /// # Errors
    /// A tensor of another shape.
    pub fn extra(&self, path: &str, shape: &[usize]) -> Result<Option<Tensor>> {
        let name = format!("base_model.model.{path}");
        if !self.weights.contains_tensor(&name) {
            return Ok(None);
        }
        self.weights
            .get_with_hints_dtype(shape, &name, linear_init(shape), DType::F32)
            .map(Some)
    }

    /// One of a layer's two matrices, `lora_A` or `lora_B`. Older PEFT names `lora_A.weight` what newer ones name
    /// `lora_A.default.weight`.
    ///
    /// # Errors
    /// An adapter without this layer, or of another shape.
    pub fn matrix(&self, path: &str, part: &str, shape: (usize, usize)) -> Result<Tensor> {
        let name = |adapter: &str| format!("base_model.model.{path}.{part}.{adapter}weight");
        let (older, newer) = (name(""), name("default."));
        let is_newer =
            !self.weights.contains_tensor(&older) && self.weights.contains_tensor(&newer);
        let name = if is_newer { newer } else { older };
        self.weights
            .get_with_hints_dtype(shape, &name, unit_variance(shape.1), DType::F32)
    }
}
