//! What a model is made of, while it loads: weights, or blocks that stay quantised, and adapters beside them.

use candle_core::{DType, Result as CandleResult, Tensor};
use candle_nn::VarBuilder;

use super::EmbeddingTable;
use crate::language::adapter_id::AdapterId;
use crate::language::config::LlamaConfig;
use crate::language::linear::LoraLinear;
use crate::language::lora::LoraAdapter;
use crate::language::projection::ImageProjection;
use crate::language::quantized::{QuantizedMatrices, QuantizedMatrix};
use crate::tensors::{constant, embedding, linear_init, matrix};

/// What is loaded beside a base.
#[derive(Clone, Copy)]
pub(super) enum Adapters<'a> {
    None,
    /// The base is its own: an f32 weight takes the addition in.
    One(&'a LoraAdapter<'a>),
    Several(&'a [LoraAdapter<'a>]),
}

impl<'a> Adapters<'a> {
    pub(super) fn iter(self) -> impl Iterator<Item = &'a LoraAdapter<'a>> {
        let (one, several) = match self {
            Adapters::None => (None, [].as_slice()),
            Adapters::One(adapter) => (Some(adapter), [].as_slice()),
            Adapters::Several(adapters) => (None, adapters),
        };
        one.into_iter().chain(several)
    }
}

/// The source of tensors while a model loads.
pub(super) struct TensorLoader<'a> {
    pub(super) weights: &'a VarBuilder<'a>,
    pub(super) quantized: Option<&'a dyn QuantizedMatrices>,
    pub(super) adapters: Adapters<'a>,
    pub(super) dtype: DType,
}

impl TensorLoader<'_> {
    pub(super) fn linear(
        &self,
        path: &str,
        inputs: usize,
        outputs: usize,
    ) -> CandleResult<LoraLinear> {
        let name = format!("{path}.weight");
        let linear = match self.quantized(&name, (outputs, inputs))? {
            Some(weight) => LoraLinear::quantized(weight),
            None => LoraLinear::new(matrix(inputs, outputs, &name, self.weights)?),
        };
        match self.adapters {
            Adapters::None => Ok(linear),
            Adapters::One(adapter) => adapter.apply(linear, path, (inputs, outputs), None),
            Adapters::Several(adapters) => {
                let mut ids = (0..).map(AdapterId);
                adapters.iter().try_fold(linear, |linear, adapter| {
                    adapter.apply(linear, path, (inputs, outputs), ids.next())
                })
            }
        }
    }

    pub(super) fn embedding(
        &self,
        vocabulary: usize,
        width: usize,
    ) -> CandleResult<EmbeddingTable> {
        let path = "model.embed_tokens";
        let quantized = self.quantized(&format!("{path}.weight"), (vocabulary, width))?;
        match quantized {
            Some(table) => Ok(EmbeddingTable::Quantized(table)),
            None => {
                embedding(vocabulary, width, 1.0, &self.weights.pp(path)).map(EmbeddingTable::Dense)
            }
        }
    }

    fn quantized(
        &self,
        name: &str,
        shape: (usize, usize),
    ) -> CandleResult<Option<QuantizedMatrix>> {
        match self.quantized {
            Some(matrices) => matrices.quantized(name, shape),
            None => Ok(None),
        }
    }

    pub(super) fn norm(&self, name: &str, width: usize) -> CandleResult<Tensor> {
        self.weights
            .get_with_hints_dtype(width, name, constant(1.0), self.dtype)
    }

    pub(super) fn projections(
        &self,
        config: &LlamaConfig,
    ) -> CandleResult<Vec<Option<ImageProjection>>> {
        match self.adapters {
            Adapters::None => Ok(vec![self.projection(config, None)?]),
            Adapters::One(adapter) => Ok(vec![self.projection(config, Some(adapter))?]),
            Adapters::Several(adapters) => {
                let each = adapters.iter();
                each.map(|adapter| self.projection(config, Some(adapter)))
                    .collect()
            }
        }
    }

    /// The image projection comes with the adapter, or with a base that was saved with it.
    fn projection(
        &self,
        config: &LlamaConfig,
        adapter: Option<&LoraAdapter>,
    ) -> CandleResult<Option<ImageProjection>> {
        ImageProjection::load(config, |path, shape| {
            let of_adapter = match adapter {
                Some(adapter) => adapter.extra(path, shape)?,
                None => None,
            };
            match of_adapter {
                Some(tensor) => tensor.to_dtype(self.dtype).map(Some),
                None if self.weights.contains_tensor(path) => self
                    .weights
                    .get_with_hints_dtype(shape, path, linear_init(shape), self.dtype)
                    .map(Some),
                None => Ok(None),
            }
        })
    }
}
