//! From image tokens to the decoder's input: one linear layer in RaDialog v1, two with a GELU between in v2.

use candle_core::{Result, Tensor};

use super::config::LlamaConfig;
use super::linear::LoraLinear;
use crate::layers::gelu;

/// A projection with its weights.
#[derive(Clone, Debug)]
pub(super) struct ImageProjection {
    /// Weight and bias of each linear layer.
    layers: Vec<(LoraLinear, Tensor)>,
}

impl ImageProjection {
    /// The projection of a model; `tensor` gives the tensor of a name and shape, where there is one. None where any is
    /// missing, or where the model has no projection.
    pub(super) fn load(
        config: &LlamaConfig,
        mut tensor: impl FnMut(&str, &[usize]) -> Result<Option<Tensor>>,
    ) -> Result<Option<Self>> {
        let mut layers = Vec::new();
        for (path, inputs, outputs) in config.projection_layers() {
            let weight = tensor(&format!("{path}.weight"), &[outputs, inputs])?;
            let bias = tensor(&format!("{path}.bias"), &[outputs])?;
            let Some((weight, bias)) = weight.zip(bias) else {
                return Ok(None);
            };
            layers.push((LoraLinear::new(weight), bias));
        }
        Ok((!layers.is_empty()).then_some(Self { layers }))
    }

    /// Image tokens `[rows, image_dim]` to the decoder's input `[rows, hidden]`.
    pub(super) fn forward(&self, tokens: &Tensor) -> Result<Tensor> {
        let mut output = tokens.clone();
        for (index, (weight, bias)) in self.layers.iter().enumerate() {
            if index > 0 {
                output = gelu(&output)?;
            }
            output = weight.forward(&output)?.broadcast_add(bias)?;
        }
        Ok(output)
    }
}
