//! The Q-Former's text side, which only its training uses: the same blocks read texts, alone, beside the queries, or after
//! them. Weight names are those of the published checkpoint.

use candle_core::{D, DType, Tensor};
use candle_nn::{Embedding, Module, VarBuilder};
use serde::{Deserialize, Serialize};

use super::{Alignment, AlignmentConfig};
use crate::bert::{BLOCKED, BertFeedForward, BertShape};
use crate::error::ModelError;
use crate::layers::{Dropout, LayerNorm, Linear, gelu, layer_norm, linear};
use crate::tensors::{bias, constant, embedding, unread, unread_integers, unread_linear};

/// How far random values of the embeddings lie from 0.
const EMBEDDING_SPREAD: f32 = 0.06;
/// The temperature that random weights have.
const TEMPERATURE: f32 = 0.07;

/// The alignment module with everything that its three losses need.
pub struct AlignmentPretraining {
    queries: Alignment,
    word_embeddings: Embedding,
    position_embeddings: Embedding,
    text_feed_forward: Vec<BertFeedForward>,
    head: Linear,
    head_norm: LayerNorm,
    head_bias: Tensor,
    vision_proj: Linear,
    text_proj: Linear,
    itm_head: Linear,
    temp: Tensor,
    dropout: Dropout,
}

/// Geometry of what only the training of the Q-Former uses.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AlignmentTextConfig {
    /// Word pieces and `[DEC]`.
    pub vocab_size: usize,
    /// The largest number of ids of a text.
    pub max_position_embeddings: usize,
    /// Width of the space in which texts and images are compared.
    pub embed_dim: usize,
}

/// A batch of texts, padded to one length.
#[derive(Clone, Debug)]
pub struct TextBatch {
    /// `[B, n]`, u32.
    pub ids: Tensor,
    /// `[B, n]`, f32, 1 for each id that is no padding.
    pub mask: Tensor,
}

/// The hidden states of the queries after they have attended to a batch of images.
pub struct QueryStates {
    /// `[B, queries, embed_dim]`, of length 1.
    pub features: Tensor,
    /// The input of each layer, `[B, queries, hidden]`: texts that are written from the images attend to it.
    inputs: Vec<Tensor>,
}

impl AlignmentPretraining {
    /// Reads the weights.
    ///
    /// # Errors
    /// Weights of another geometry.
    pub fn new(
        config: &AlignmentConfig,
        text: &AlignmentTextConfig,
        vb: VarBuilder<'_>,
        dropout: Dropout,
    ) -> Result<Self, ModelError> {
        Self::with_text_from(config, text, &vb, &vb, dropout)
    }

    /// Records the tensors of a checkpoint with its text side, which inference does not read.
    pub(crate) fn record(
        config: &AlignmentConfig,
        text: &AlignmentTextConfig,
        vb: &VarBuilder<'_>,
    ) -> Result<(), ModelError> {
        if let Some(unread) = unread(vb) {
            Self::with_text_from(config, text, vb, &unread, Dropout::default())?;
        }
        Ok(())
    }

    /// Reads the queries' side from `vb` and the texts' from `text_vb`.
    fn with_text_from(
        config: &AlignmentConfig,
        text: &AlignmentTextConfig,
        vb: &VarBuilder<'_>,
        text_vb: &VarBuilder<'_>,
        dropout: Dropout,
    ) -> Result<Self, ModelError> {
        let bert = text_vb.pp("Qformer.bert");
        let mut text_feed_forward = Vec::new();
        let text_layer = |index: usize, shape: &BertShape| {
            let layer = bert.pp("encoder.layer").pp(index);
            text_feed_forward.push(BertFeedForward::new(shape, "", &layer)?);
            Ok(())
        };
        let queries = Alignment::with_dropout(config, vb, dropout.clone(), text_layer)?;
        let (width, words) = (config.hidden_size, text.vocab_size);
        let (embeddings, positions) = (bert.pp("embeddings"), text.max_position_embeddings);
        unread_integers((1, positions), "position_ids", &embeddings)?;
        let table = |name: &str, rows: usize| -> Result<Embedding, ModelError> {
            let weight = embedding(rows, width, EMBEDDING_SPREAD, &embeddings.pp(name))?;
            Ok(Embedding::new(weight, width))
        };
        let word_embeddings = table("word_embeddings", words)?;
        let position_embeddings = table("position_embeddings", positions)?;
        let predictions = text_vb.pp("Qformer.cls.predictions");
        let (dense, norm) = ("transform.dense", "transform.LayerNorm");
        let head_bias = bias(words, &predictions)?;
        let head = Linear::new(width, width, predictions.pp(dense))?;
        let head_norm = layer_norm(width, config.layer_norm_eps, predictions.pp(norm))?;
        // The word embeddings again, and the bias.
        unread_linear(width, words, &predictions.pp("decoder"))?;
        Ok(Self {
            queries,
            word_embeddings,
            position_embeddings,
            text_feed_forward,
            head,
            head_norm,
            head_bias,
            vision_proj: Linear::new(width, text.embed_dim, text_vb.pp("vision_proj"))?,
            text_proj: Linear::new(width, text.embed_dim, text_vb.pp("text_proj"))?,
            itm_head: Linear::new(width, 2, text_vb.pp("itm_head"))?,
            temp: text_vb.get_with_hints((), "temp", constant(TEMPERATURE))?,
            dropout,
        })
    }

    /// The learned temperature of the similarities, a scalar.
    pub fn temperature(&self) -> &Tensor {
        &self.temp
    }

    /// Normalised strips `[B, strips, encoder_width]` of projected patches `[B, encoder_width, h, w]`.
    ///
    /// # Errors
    /// Patches of another width.
    pub fn image_embeds(&self, patches: &Tensor) -> Result<Tensor, ModelError> {
        self.queries.image_embeds(patches)
    }

    /// Lets the queries attend to images `[B, strips, encoder_width]`.
    ///
    /// # Errors
    /// Strips of another width.
    pub fn query_images(&self, image_embeds: &Tensor) -> Result<QueryStates, ModelError> {
        let mut inputs = Vec::new();
        let tokens = self
            .queries
            .query_from(image_embeds, |input| inputs.push(input.clone()))?;
        Ok(QueryStates {
            features: unit_length(&self.vision_proj.forward(&tokens)?)?,
            inputs,
        })
    }

    /// Features `[B, embed_dim]`, of length 1, of texts read alone.
    ///
    /// # Errors
    /// Texts longer than the position table.
    pub fn text_features(&self, texts: &TextBatch) -> Result<Tensor, ModelError> {
        let mut hidden = self.embedded(texts)?;
        let mask = padding(&texts.mask)?;
        for (layer, feed_forward) in self.queries.layers.iter().zip(&self.text_feed_forward) {
            hidden =
                feed_forward.forward(&layer.attention.forward(&hidden, &hidden, Some(&mask))?)?;
        }
        unit_length(
            &self
                .text_proj
                .forward(&hidden.narrow(1, 0, 1)?.squeeze(1)?)?,
        )
    }

    /// Logits `[B, 2]` of whether each text belongs to its image; both are read together.
    ///
    /// # Errors
    /// Not as many images as texts.
    pub fn match_logits(
        &self,
        image_embeds: &Tensor,
        texts: &TextBatch,
    ) -> Result<Tensor, ModelError> {
        let queries = self
            .queries
            .embeddings_norm
            .forward(&self.queries.query_tokens)?;
        let (batch, (_, count, width)) = (texts.ids.dim(0)?, queries.dims3()?);
        let queries = self
            .dropout
            .forward(&queries.broadcast_as((batch, count, width))?.contiguous()?)?;
        let mut hidden = Tensor::cat(&[queries, self.embedded(texts)?], 1)?;
        let seen = Tensor::ones((batch, count), DType::F32, texts.mask.device())?;
        let mask = padding(&Tensor::cat(&[seen, texts.mask.clone()], 1)?)?;
        let length = texts.ids.dim(1)?;
        for (layer, feed_forward) in self.queries.layers.iter().zip(&self.text_feed_forward) {
            let attended = layer.attention.forward(&hidden, &hidden, Some(&mask))?;
            let mut queries = attended.narrow(1, 0, count)?.contiguous()?;
            if let Some(crossattention) = &layer.crossattention {
                queries = crossattention.forward(&queries, image_embeds, None)?;
            }
            let texts = feed_forward.forward(&attended.narrow(1, count, length)?.contiguous()?)?;
            hidden = Tensor::cat(&[layer.query_feed_forward.forward(&queries)?, texts], 1)?;
        }
        let queries = hidden.narrow(1, 0, count)?.contiguous()?;
        Ok(self.itm_head.forward(&queries)?.mean(1)?)
    }

    /// Logits `[B, n, vocab]` of the word after each position, for texts that are written from images: each position sees
    /// the queries and the words before it.
    ///
    /// # Errors
    /// Not as many images as texts.
    pub fn caption_logits(
        &self,
        looked: &QueryStates,
        texts: &TextBatch,
    ) -> Result<Tensor, ModelError> {
        let mut hidden = self.embedded(texts)?;
        let queries = self.queries.query_tokens.dim(1)?;
        let mask = causal(&texts.mask, queries)?;
        let layers = self.queries.layers.iter().zip(&self.text_feed_forward);
        for ((layer, feed_forward), input) in layers.zip(&looked.inputs) {
            let context = Tensor::cat(&[input, &hidden], 1)?;
            hidden = feed_forward.forward(&layer.attention.forward(
                &hidden,
                &context,
                Some(&mask),
            )?)?;
        }
        let (batch, length, width) = hidden.dims3()?;
        let hidden = self
            .head_norm
            .forward(&gelu(&self.head.forward(&hidden)?)?)?
            .reshape((batch * length, width))?;
        let logits = linear(&hidden, self.word_embeddings.embeddings(), &self.head_bias)?;
        Ok(logits.reshape((batch, length, ()))?)
    }

    fn embedded(&self, texts: &TextBatch) -> Result<Tensor, ModelError> {
        let positions = Tensor::arange(0, texts.ids.dim(1)? as u32, texts.ids.device())?;
        let words = self.word_embeddings.forward(&texts.ids)?;
        let sum = words.broadcast_add(&self.position_embeddings.forward(&positions)?)?;
        Ok(self
            .dropout
            .forward(&self.queries.embeddings_norm.forward(&sum)?)?)
    }
}

/// `[B, n]` of ones and zeros as what is added to scores, `[B, 1, 1, n]`.
fn padding(mask: &Tensor) -> Result<Tensor, ModelError> {
    Ok(((1.0 - mask)? * BLOCKED)?.unsqueeze(1)?.unsqueeze(1)?)
}

/// The mask that is added to the scores of text positions over `queries` and text positions, `[B, 1, n, queries + n]`.
fn causal(mask: &Tensor, queries: usize) -> Result<Tensor, ModelError> {
    let (batch, length) = mask.dims2()?;
    let device = mask.device();
    let earlier =
        (0..length * length).map(|index| f32::from(u8::from(index % length <= index / length)));
    let earlier = Tensor::from_iter(earlier, device)?.reshape((1, length, length))?;
    let texts = earlier.broadcast_mul(&mask.unsqueeze(1)?)?;
    let images = Tensor::ones((batch, length, queries), DType::F32, device)?;
    Ok(((1.0 - Tensor::cat(&[images, texts], 2)?)? * BLOCKED)?.unsqueeze(1)?)
}

fn unit_length(features: &Tensor) -> Result<Tensor, ModelError> {
    let length = features.sqr()?.sum_keepdim(D::Minus1)?.sqrt()?;
    Ok(features.broadcast_div(&length.maximum(1e-12)?)?)
}
