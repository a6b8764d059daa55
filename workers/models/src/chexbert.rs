//! CheXbert (Smit et al., 2020): BERT with 14 heads that labels a radiology report. Each head says whether a finding is
//! not mentioned, present, denied or possible; the last one, "No Finding", knows only the first two.

use candle_core::{DType, Device, Tensor};
use candle_nn::{Embedding, Module, VarBuilder};
use radialog_schemas::{Finding, Label, Labels};
use serde::{Deserialize, Serialize};

use crate::bert::{BLOCKED, BertAttention, BertFeedForward, BertShape};
use crate::error::ModelError;
use crate::kernels::attention::Span;
use crate::kernels::buffer::Buffer;
use crate::layers::storage::with_floats;
use crate::layers::{Dropout, LayerNorm, Linear, in_pool, layer_norm, with_precision};
use crate::tensors::{embedding, unread_integers, unread_linear};

/// Tokens for each thread that are computed together on a CPU: enough that weights are read seldom, while all between two layers
/// stays in the caches.
const TOKENS_A_THREAD: usize = 64;

/// Geometry of the labeler.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ChexbertConfig {
    /// The number of word pieces.
    pub vocab_size: usize,
    /// Width of a token.
    pub hidden_size: usize,
    /// The number of transformer layers.
    pub num_hidden_layers: usize,
    /// The number of attention heads in each layer.
    pub num_attention_heads: usize,
    /// Width inside the feed-forward layers.
    pub intermediate_size: usize,
    /// The most ids that a report may have, with `[CLS]` and `[SEP]`.
    pub max_position_embeddings: usize,
    /// The epsilon of all layer norms.
    #[serde(default = "ChexbertConfig::default_eps")]
    pub layer_norm_eps: f64,
}

impl ChexbertConfig {
    /// The published geometry, that of bert-base-uncased.
    pub fn published() -> Self {
        Self {
            vocab_size: 30_522,
            hidden_size: 768,
            num_hidden_layers: 12,
            num_attention_heads: 12,
            intermediate_size: 3072,
            max_position_embeddings: 512,
            layer_norm_eps: Self::default_eps(),
        }
    }

    fn default_eps() -> f64 {
        1e-12
    }
}

/// The outputs of the labeler for a batch of reports.
#[derive(Clone, Debug)]
pub struct ChexbertOutput {
    /// `[B, hidden]`, the last hidden state of `[CLS]`.
    pub cls_hidden: Tensor,
    /// The logits of the 14 heads, in CheXbert's order: 13 times `[B, 4]`, then `[B, 2]`.
    pub logits: Vec<Tensor>,
}

/// The labeler. Weight names are those of the published checkpoint without its prefix `module.` (`bert.*`,
/// `linear_heads.*`).
#[derive(Clone, Debug)]
pub struct Chexbert {
    word_embeddings: Embedding,
    position_embeddings: Embedding,
    /// The row of token type 0, the only one in use: `[hidden]`.
    token_type: Tensor,
    embeddings_norm: LayerNorm,
    layers: Vec<(BertAttention, BertFeedForward)>,
    linear_heads: Vec<Linear>,
    dropout: Dropout,
    max_length: usize,
    device: Device,
}

impl Chexbert {
    /// Reads the weights.
    pub fn new(config: &ChexbertConfig, vb: VarBuilder<'_>) -> Result<Self, ModelError> {
        Self::with_dropout(config, vb, Dropout::default())
    }

    /// A labeler for training: its weights are variables.
    pub fn with_dropout(
        config: &ChexbertConfig,
        vb: VarBuilder<'_>,
        dropout: Dropout,
    ) -> Result<Self, ModelError> {
        let shape = BertShape {
            width: config.hidden_size,
            heads: config.num_attention_heads,
            feed_forward: config.intermediate_size,
            eps: config.layer_norm_eps,
            dropout: dropout.clone(),
        }
        .check()?;
        let embeddings = with_precision(&vb.pp("bert.embeddings")).0;
        let layer = |index: usize| {
            let vb = vb.pp("bert.encoder.layer").pp(index);
            Ok((
                BertAttention::new(&shape, shape.width, &vb.pp("attention"))?,
                BertFeedForward::new(&shape, "", &vb)?,
            ))
        };
        let head = |(index, finding)| {
            let classes = if finding == Finding::NoFinding { 2 } else { 4 };
            Linear::new(shape.width, classes, vb.pp("linear_heads").pp(index))
        };
        let positions = config.max_position_embeddings;
        unread_integers((1, positions), "position_ids", &embeddings)?;
        let table = |name: &str, rows: usize, spread: f32| -> Result<Embedding, ModelError> {
            let weight = embedding(rows, shape.width, spread, &embeddings.pp(name))?;
            Ok(Embedding::new(weight, shape.width))
        };
        let word_embeddings = table("word_embeddings", config.vocab_size, 1.0)?;
        let position_embeddings = table("position_embeddings", positions, 0.1)?;
        let token_types = table("token_type_embeddings", 2, 0.1)?;
        let embeddings_norm = layer_norm(shape.width, shape.eps, embeddings.pp("LayerNorm"))?;
        let layers = (0..config.num_hidden_layers)
            .map(layer)
            .collect::<Result<_, ModelError>>()?;
        unread_linear(shape.width, shape.width, &vb.pp("bert.pooler.dense"))?;
        Ok(Self {
            word_embeddings,
            position_embeddings,
            token_type: token_types.embeddings().get(0)?,
            embeddings_norm,
            layers,
            linear_heads: (0_usize..)
                .zip(Finding::chexbert_order())
                .map(head)
                .collect::<Result<_, ModelError>>()?,
            dropout,
            max_length: config.max_position_embeddings,
            device: vb.device().clone(),
        })
    }

    /// The largest number of ids of a report, with `[CLS]` and `[SEP]`: the limit to encode with.
    pub fn max_length(&self) -> usize {
        self.max_length
    }

    /// Computes all outputs for reports given as ids, each from `[CLS]` to `[SEP]`.
    ///
    /// On a CPU each report has its own length, and its bytes do not depend on the others; in training they are padded.
    pub fn forward(&self, reports: &[Vec<u32>]) -> Result<ChexbertOutput, ModelError> {
        for ids in reports {
            if ids.is_empty() || ids.len() > self.max_length {
                let message = format!(
                    "report of {} ids, must have 1 to {}",
                    ids.len(),
                    self.max_length
                );
                return Err(ModelError::Input(message));
            }
        }
        if let Some(output) = self.forward_rows(reports)? {
            return Ok(output);
        }
        let at_once = if self.device.is_cpu() && !self.token_type.track_op() {
            1
        } else {
            reports.len().max(1)
        };
        let batches = reports
            .chunks(at_once)
            .map(|batch| self.forward_batch(batch))
            .collect::<Result<Vec<_>, _>>()?;
        let join = |part: &dyn Fn(&ChexbertOutput) -> Tensor| {
            Tensor::cat(&batches.iter().map(part).collect::<Vec<_>>(), 0)
        };
        Ok(ChexbertOutput {
            cls_hidden: join(&|output| output.cls_hidden.clone())?,
            logits: (0..self.linear_heads.len())
                .map(|head| join(&|output| output.logits[head].clone()))
                .collect::<Result<_, _>>()?,
        })
    }

    /// Labels reports given as ids, each from `[CLS]` to `[SEP]`.
    pub fn label(&self, reports: &[Vec<u32>]) -> Result<Vec<Labels>, ModelError> {
        if reports.is_empty() {
            return Ok(Vec::new());
        }
        labels(&self.forward(reports)?.logits, reports.len())
    }

    fn forward_batch(&self, reports: &[Vec<u32>]) -> Result<ChexbertOutput, ModelError> {
        let length = reports.iter().map(Vec::len).max().unwrap_or_default();
        let padded = |ids: &Vec<u32>| {
            ids.iter()
                .copied()
                .chain(std::iter::repeat(0))
                .take(length)
                .collect::<Vec<_>>()
        };
        let ids: Vec<u32> = reports.iter().flat_map(padded).collect();
        let ids = Tensor::from_vec(ids, (reports.len(), length), &self.device)?;
        let positions = Tensor::arange(0, length as u32, &self.device)?;
        let embedded = self
            .word_embeddings
            .forward(&ids)?
            .broadcast_add(&self.position_embeddings.forward(&positions)?)?
            .broadcast_add(&self.token_type)?;
        let mut hidden = self
            .dropout
            .forward(&self.embeddings_norm.forward(&embedded)?)?;
        let mask = self.padding_mask(reports, length)?;
        for (attention, feed_forward) in &self.layers {
            hidden =
                feed_forward.forward(&attention.forward(&hidden, &hidden, mask.as_ref())?)?;
        }
        let cls_hidden = hidden.narrow(1, 0, 1)?.squeeze(1)?.contiguous()?;
        let dropped = self.dropout.forward(&cls_hidden)?;
        let logits = self
            .linear_heads
            .iter()
            .map(|head| head.forward(&dropped))
            .collect::<Result<_, _>>()?;
        Ok(ChexbertOutput { cls_hidden, logits })
    }

    /// Reports on a CPU, some tokens at a time, without padding; None where it is trained or elsewhere.
    fn forward_rows(&self, reports: &[Vec<u32>]) -> Result<Option<ChexbertOutput>, ModelError> {
        let is_ours = self
            .layers
            .iter()
            .all(|(attention, _)| attention.takes_rows());
        if !is_ours || !self.embeddings_norm.takes_rows() || reports.is_empty() {
            return Ok(None);
        }
        let at_once = TOKENS_A_THREAD * rayon::current_num_threads();
        let mut first_rows = Vec::new();
        let mut rest = reports;
        while !rest.is_empty() {
            let mut tokens = 0;
            let fitting = rest.iter().take_while(|ids| {
                tokens += ids.len();
                tokens <= at_once
            });
            let (group, later) = rest.split_at(fitting.count().max(1));
            rest = later;
            match self.first_rows(group)? {
                Some(rows) => first_rows.extend(rows),
                None => return Ok(None),
            }
        }
        let cls_hidden = Tensor::from_vec(first_rows, (reports.len(), ()), &self.device)?;
        let heads = self.linear_heads.iter();
        Ok(Some(ChexbertOutput {
            logits: heads
                .map(|head| head.forward(&cls_hidden))
                .collect::<Result<_, _>>()?,
            cls_hidden,
        }))
    }

    /// The last hidden states of each report's first token.
    fn first_rows(&self, reports: &[Vec<u32>]) -> Result<Option<Vec<f32>>, ModelError> {
        let (words, width) = self.word_embeddings.embeddings().dims2()?;
        if let Some(id) = reports.iter().flatten().find(|id| **id as usize >= words) {
            return Err(ModelError::Input(format!(
                "id {id} in a report, but the labeler knows {words} word pieces"
            )));
        }
        let mut spans = Vec::new();
        let mut end = 0;
        for ids in reports {
            spans.push(Span {
                queries: end..end + ids.len(),
                keys: end..end + ids.len(),
            });
            end += ids.len();
        }
        let mut hidden = Buffer::take(end * width);
        let tables = [
            self.word_embeddings.embeddings(),
            self.position_embeddings.embeddings(),
            &self.token_type,
        ];
        with_floats(tables, |[words, positions, token_type]| {
            let ids = reports.iter().flat_map(|ids| ids.iter().enumerate());
            for (row, (position, id)) in hidden.chunks_exact_mut(width).zip(ids) {
                let word = &words[*id as usize * width..][..width];
                let position = &positions[position * width..][..width];
                for (entry, value) in row.iter_mut().enumerate() {
                    *value = word[entry] + position[entry] + token_type[entry];
                }
            }
        })?;
        self.embeddings_norm.rows(&mut hidden);
        let Some(((last_attention, last_feed_forward), before)) = self.layers.split_last() else {
            return Ok(None);
        };
        Ok(in_pool(|| {
            for (attention, feed_forward) in before {
                hidden = attention.rows(&hidden, None, &spans)?;
                hidden = feed_forward.rows(&hidden)?;
            }
            // Of the last block nobody reads another token's state.
            let mut first = Buffer::take(spans.len() * width);
            for (row, span) in first.chunks_exact_mut(width).zip(&spans) {
                row.copy_from_slice(&hidden[span.queries.start * width..][..width]);
            }
            for (row, span) in spans.iter_mut().enumerate() {
                span.queries = row..row + 1;
            }
            let attended = last_attention.rows(&first, Some(&hidden), &spans)?;
            Some(last_feed_forward.rows(&attended)?.to_vec())
        }))
    }

    /// `[B, 1, 1, length]`, where any report is shorter than the batch.
    fn padding_mask(
        &self,
        reports: &[Vec<u32>],
        length: usize,
    ) -> Result<Option<Tensor>, ModelError> {
        if reports.iter().all(|ids| ids.len() == length) {
            return Ok(None);
        }
        let padding = reports
            .iter()
            .flat_map(|ids| (0..length).map(|position| f32::from(u8::from(position >= ids.len()))));
        let padding =
            Tensor::from_iter(padding, &self.device)?.reshape((reports.len(), 1, 1, length))?;
        Ok(Some((padding * BLOCKED)?))
    }
}

/// The labels of each report: the class with the largest logit, the first one of equals.
fn labels(logits: &[Tensor], reports: usize) -> Result<Vec<Labels>, ModelError> {
    let mut labels = vec![Labels::new(); reports];
    for (finding, logits) in Finding::chexbert_order().zip(logits) {
        let rows = logits.to_dtype(DType::F32)?.to_vec2::<f32>()?;
        for (labels, row) in labels.iter_mut().zip(&rows) {
            let best = (0..row.len()).fold(
                0,
                |best, class| if row[class] > row[best] { class } else { best },
            );
            labels.insert(finding, Label::from_class(best).unwrap_or(Label::Blank));
        }
    }
    Ok(labels)
}

/// A report as the labeler reads it: every run of white space is one space, none at the ends.
pub fn clean_text(report: &str) -> String {
    // Python counts the four separator controls as white space too
    let is_space = |c: char| c.is_whitespace() || matches!(c, '\x1c'..='\x1f');
    report
        .split(is_space)
        .filter(|word| !word.is_empty())
        .collect::<Vec<_>>()
        .join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_of_white_space_become_one_space() {
        assert_eq!(
            clean_text("  Heart\n size\t\tis   normal. \n"),
            "Heart size is normal."
        );
        assert_eq!(clean_text(" \n"), "");
    }

    #[test]
    fn equal_logits_give_the_first_class() {
        let four = Tensor::new(&[[0f32, 2.0, 2.0, 1.0]], &Device::Cpu).unwrap();
        let two = Tensor::new(&[[0.5f32, 0.5]], &Device::Cpu).unwrap();
        let logits: Vec<_> = std::iter::repeat_n(four, 13).chain([two]).collect();
        let labels = labels(&logits, 1).unwrap().remove(0);
        assert_eq!(labels[&Finding::Edema], Label::Positive);
        assert_eq!(labels[&Finding::NoFinding], Label::Blank);
        assert_eq!(labels.len(), 14);
    }
}
