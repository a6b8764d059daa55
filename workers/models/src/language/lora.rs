//! Low-rank adapters (Hu et al., 2021) in the files and names that PEFT writes, with the image projection beside them.

use candle_core::{DType, Result, Tensor};
use candle_nn::{Init, VarBuilder};
use serde::{Deserialize, Serialize};

use super::linear::Linear;

/// What is needed of PEFT's `adapter_config.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LoraConfig {
    /// Rank.
    pub r: usize,
    /// The addition is scaled by `lora_alpha / r`.
    pub lora_alpha: f64,
    /// Which linear layers have an addition, e.g. `q_proj`.
    pub target_modules: Vec<String>,
}

/// An adapter to load with a base model.
pub struct Adapter<'a> {
    /// Rank, scale and targets.
    pub config: LoraConfig,
    /// Tensors named as PEFT names them, from `base_model.` on.
    pub weights: VarBuilder<'a>,
}

impl Adapter<'_> {
    /// The layer with its addition, where this adapter targets it. `path` is the layer's name in the base, e.g.
    /// `model.layers.0.self_attn.q_proj`.
    pub(super) fn apply(&self, linear: Linear, path: &str, (inputs, outputs): (usize, usize)) -> Result<Linear> {
        let module = path.rsplit('.').next().unwrap_or(path);
        if !self.config.target_modules.iter().any(|target| target == module) {
            return Ok(linear);
        }
        let r = self.config.r;
        let down = self.matrix(path, "lora_A", (r, inputs))?;
        let up = self.matrix(path, "lora_B", (outputs, r))?;
        linear.with_low_rank(&down, &up, self.config.lora_alpha / r as f64)
    }

    /// A tensor that the adapter brings beside the low-rank ones, if it does.
    pub(super) fn extra(&self, path: &str, shape: &[usize]) -> Result<Option<Tensor>> {
        let name = format!("base_model.model.{path}");
        if !self.weights.contains_tensor(&name) {
            return Ok(None);
        }
        self.weights.get_with_hints_dtype(shape, &name, Init::default(), DType::F32).map(Some)
    }

    /// Older PEFT names `lora_A.weight` what newer ones name `lora_A.default.weight`.
    fn matrix(&self, path: &str, part: &str, shape: (usize, usize)) -> Result<Tensor> {
        let name = |adapter: &str| format!("base_model.model.{path}.{part}.{adapter}weight");
        let newer = name("default.");
        let name = if self.weights.contains_tensor(&newer) { newer } else { name("") };
        self.weights.get_with_hints_dtype(shape, &name, Init::default(), DType::F32)
    }
}
