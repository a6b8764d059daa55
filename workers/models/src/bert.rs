//! The post-norm blocks of BERT (Devlin et al., 2018), shared by the Q-Former and CheXbert. Dropout is for training.

use candle_core::Tensor;
use candle_nn::VarBuilder;

use crate::error::ModelError;
use crate::kernels::attention::{Heads, Span, attend};
use crate::kernels::buffer::Buffer;
use crate::kernels::gemm::Activation;
use crate::layers::{
    AttentionShape, Dropout, LayerNorm, Linear, attend_in_training, gelu, layer_norm, softmax,
};

/// This is added to the score of a position that must not be seen, as BERT does it.
pub(crate) const BLOCKED: f64 = -10_000.0;

/// Geometry that all blocks of a network share.
#[derive(Clone, Debug)]
pub(crate) struct BertShape {
    pub(crate) width: usize,
    pub(crate) heads: usize,
    pub(crate) feed_forward: usize,
    pub(crate) eps: f64,
    pub(crate) dropout: Dropout,
}

impl BertShape {
    /// Refuses heads that do not divide the width.
    pub(crate) fn check(self) -> Result<Self, ModelError> {
        if self.heads == 0 || !self.width.is_multiple_of(self.heads) {
            return Err(ModelError::Geometry(format!(
                "width {} cannot be cut into {} heads",
                self.width, self.heads
            )));
        }
        Ok(self)
    }
}

/// Attention with its output layer: `norm(input + dense(attention))`.
#[derive(Clone, Debug)]
pub(crate) struct BertAttention {
    query: Linear,
    key: Linear,
    value: Linear,
    output: BertOutput,
    heads: usize,
    dropout: Dropout,
}

/// `norm(input + dense(gelu(dense(input))))`.
#[derive(Clone, Debug)]
pub(crate) struct BertFeedForward {
    intermediate: Linear,
    output: BertOutput,
}

/// A dense layer whose result is added to the block's input and normalised.
#[derive(Clone, Debug)]
struct BertOutput {
    dense: Linear,
    norm: LayerNorm,
    dropout: Dropout,
}

impl BertAttention {
    /// Attention to `context_width` wide tokens; for self-attention that is the shape's own width.
    pub(crate) fn new(
        shape: &BertShape,
        context_width: usize,
        vb: &VarBuilder<'_>,
    ) -> Result<Self, ModelError> {
        let projections = vb.pp("self");
        Ok(Self {
            query: Linear::new(shape.width, shape.width, projections.pp("query"))?,
            key: Linear::new(context_width, shape.width, projections.pp("key"))?,
            value: Linear::new(context_width, shape.width, projections.pp("value"))?,
            output: BertOutput::new(shape.width, shape, &vb.pp("output"))?,
            heads: shape.heads,
            dropout: shape.dropout.clone(),
        })
    }

    /// `hidden [B, n, width]` attends to `context [B, m, context_width]`; `mask`, broadcast to `[B, heads, n, m]`, is added
    /// to the scores.
    pub(crate) fn forward(
        &self,
        hidden: &Tensor,
        context: &Tensor,
        mask: Option<&Tensor>,
    ) -> Result<Tensor, ModelError> {
        let query = self.query.forward(hidden)?;
        let (key, value) = (self.key.forward(context)?, self.value.forward(context)?);
        if query.track_op() && query.device().is_cpu() {
            let shape = AttentionShape {
                heads: self.heads,
                width: query.dim(2)? / self.heads,
            };
            let attended =
                attend_in_training([&query, &key, &value], shape, mask, self.dropout.draw())?;
            return self.output.forward(&attended, hidden);
        }
        let split = |rows: Tensor| -> Result<Tensor, ModelError> {
            let (batch, length, _) = rows.dims3()?;
            let heads = rows.reshape((batch, length, self.heads, ()))?;
            Ok(heads.transpose(1, 2)?.contiguous()?)
        };
        let (query, key, value) = (split(query)?, split(key)?, split(value)?);
        let mut scores = (query.matmul(&key.t()?)? / (query.dim(3)? as f64).sqrt())?;
        if let Some(mask) = mask {
            scores = scores.broadcast_add(mask)?;
        }
        let attended = self
            .dropout
            .forward(&softmax(&scores)?)?
            .matmul(&value)?
            .transpose(1, 2)?;
        self.output
            .forward(&attended.reshape(hidden.shape())?, hidden)
    }
}

impl BertAttention {
    /// Whether [`BertAttention::rows`] computes it: on a CPU, where it is not trained.
    pub(crate) fn takes_rows(&self) -> bool {
        self.output.takes_rows()
    }

    /// Like [`BertAttention::forward`] without a mask, of the tokens of several sequences one behind the other. They attend to
    /// themselves where there is no `context`. None where [`BertAttention::takes_rows`] says so.
    pub(crate) fn rows(
        &self,
        hidden: &[f32],
        context: Option<&[f32]>,
        spans: &[Span],
    ) -> Option<Buffer> {
        let context = context.unwrap_or(hidden);
        let project = |layer: &Linear, rows: &[f32]| {
            Some(layer.projection()?.rows(rows, None, Activation::None))
        };
        let query = project(&self.query, hidden)?;
        let (key, value) = (project(&self.key, context)?, project(&self.value, context)?);
        let heads = Heads {
            query: &query,
            key: &key,
            value: &value,
            count: self.heads,
            width: self.query.projection()?.width() / self.heads,
        };
        let mut attended = Buffer::take(query.len());
        attend(heads, spans, &mut attended);
        self.output.rows(&attended, hidden)
    }
}

impl BertFeedForward {
    /// Like [`BertFeedForward::forward`], of rows of tokens; see [`BertAttention::rows`].
    pub(crate) fn rows(&self, hidden: &[f32]) -> Option<Buffer> {
        let inner = self
            .intermediate
            .projection()?
            .rows(hidden, None, Activation::Gelu);
        self.output.rows(&inner, hidden)
    }

    /// The layers `intermediate{suffix}` and `output{suffix}` of a block.
    pub(crate) fn new(
        shape: &BertShape,
        suffix: &str,
        vb: &VarBuilder<'_>,
    ) -> Result<Self, ModelError> {
        let intermediate = vb.pp(format!("intermediate{suffix}.dense"));
        Ok(Self {
            intermediate: Linear::new(shape.width, shape.feed_forward, intermediate)?,
            output: BertOutput::new(shape.feed_forward, shape, &vb.pp(format!("output{suffix}")))?,
        })
    }

    /// `[B, n, width]` to the same.
    pub(crate) fn forward(&self, hidden: &Tensor) -> Result<Tensor, ModelError> {
        let inner = gelu(&self.intermediate.forward(hidden)?)?;
        self.output.forward(&inner, hidden)
    }
}

impl BertOutput {
    fn new(input: usize, shape: &BertShape, vb: &VarBuilder<'_>) -> Result<Self, ModelError> {
        Ok(Self {
            dense: Linear::new(input, shape.width, vb.pp("dense"))?,
            norm: layer_norm(shape.width, shape.eps, vb.pp("LayerNorm"))?,
            dropout: shape.dropout.clone(),
        })
    }

    fn forward(&self, inner: &Tensor, residual: &Tensor) -> Result<Tensor, ModelError> {
        Ok(self
            .norm
            .forward(&(self.dropout.forward(&self.dense.forward(inner)?)? + residual)?)?)
    }

    fn takes_rows(&self) -> bool {
        self.dense.projection().is_some() && self.norm.takes_rows() && self.dropout.is_none()
    }

    fn rows(&self, inner: &[f32], residual: &[f32]) -> Option<Buffer> {
        let dense = self.dense.projection()?;
        let mut result = dense.rows(inner, Some(residual), Activation::None);
        self.norm.rows(&mut result);
        Some(result)
    }
}
