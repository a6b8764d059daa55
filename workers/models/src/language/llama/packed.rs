//! Whole sequences without a cache, many in one pass: what training uses.

use candle_core::{Result as CandleResult, Tensor};

use super::super::adapter_id::AdapterId;
use super::super::linear::AdapterRows;
use super::{LanguageModel, rms_norm, trained};
use crate::language::LanguageError;
use crate::language::attention::attention;
use crate::layers::Dropout;

/// One sequence and the embeddings of its images.
#[derive(Clone, Copy, Debug)]
pub struct TrainingSequence<'a> {
    /// Its ids, image placeholders among them.
    pub ids: &'a [u32],
    /// Image tokens `[32, 768]` of each block of placeholders.
    pub images: &'a [Tensor],
}

/// The inputs that the positions of packed sequences are made of.
#[derive(Default)]
struct PackedInputs {
    rows: Vec<InputRow>,
    tokens: Vec<u32>,
    images: Vec<Tensor>,
}

/// The source of a position's vector.
enum InputRow {
    Token(u32),
    Image(u32),
}

impl LanguageModel {
    /// The same with dropout of the embedded input and of what each half of a layer adds to it, in
    /// [`LanguageModel::forward_packed`] alone. LLaMA has none; a small model that is trained on few texts needs it.
    pub fn with_dropout(self, dropout: Dropout) -> Self {
        Self { dropout, ..self }
    }

    /// Like [`LanguageModel::embed`] for many sequences one after the other, `[all positions, hidden]`, in a number of
    /// operations that does not grow with them: each would have a gradient of the embedding's size.
    ///
    /// # Errors
    /// As [`LanguageModel::embed`].
    pub fn embed_packed(
        &self,
        sequences: &[TrainingSequence<'_>],
    ) -> Result<Tensor, LanguageError> {
        let mut sources = PackedInputs::default();
        for sequence in sequences {
            self.locate(sequence, &mut sources)?;
        }
        let PackedInputs {
            rows,
            tokens,
            images,
        } = sources;
        let mut parts = Vec::new();
        if !tokens.is_empty() {
            parts.push(self.embedding.rows(&tokens, self.dtype)?);
        }
        if !images.is_empty() {
            parts.push(self.project_rows(AdapterId::default(), &Tensor::cat(&images, 0)?)?);
        }
        if parts.is_empty() {
            return Err(LanguageError::EmptyPrompt);
        }
        let place = |row: &InputRow| match row {
            InputRow::Token(index) => *index,
            InputRow::Image(index) => tokens.len() as u32 + *index,
        };
        let places: Vec<u32> = rows.iter().map(place).collect();
        Ok(Tensor::cat(&parts, 0)?.index_select(&Tensor::new(places, self.device())?, 0)?)
    }

    fn locate(
        &self,
        sequence: &TrainingSequence<'_>,
        to: &mut PackedInputs,
    ) -> Result<(), LanguageError> {
        let (image, block) = (self.config.image_token(), self.config.num_image_tokens);
        let vocabulary = self.config.vocab_size;
        let mut used = 0;
        for run in sequence.ids.chunk_by(|a, b| (*a == image) == (*b == image)) {
            if run[0] != image {
                if let Some(&token) = run.iter().find(|&&id| id as usize >= vocabulary) {
                    return Err(LanguageError::UnknownToken { token, vocabulary });
                }
                let start = to.tokens.len();
                to.rows
                    .extend((start..start + run.len()).map(|index| InputRow::Token(index as u32)));
                to.tokens.extend_from_slice(run);
                continue;
            }
            if !run.len().is_multiple_of(block) {
                return Err(LanguageError::PlaceholderRun {
                    run: run.len(),
                    block,
                });
            }
            for _ in 0..run.len() / block {
                if let Some(embedding) = sequence.images.get(used) {
                    let start = to.images.len() * block;
                    to.rows
                        .extend((start..start + block).map(|index| InputRow::Image(index as u32)));
                    to.images.push(self.checked(embedding)?);
                }
                used += 1;
            }
        }
        if used != sequence.images.len() && used > 0 {
            return Err(LanguageError::ImageCount {
                blocks: used,
                images: sequence.images.len(),
            });
        }
        Ok(())
    }

    /// Like [`LanguageModel::forward`] for whole sequences of these lengths, without a cache: what training uses, since
    /// nothing that is written to a cache has a gradient.
    ///
    /// # Errors
    /// A sequence longer than the context, or lengths that do not add up.
    pub fn forward_packed(
        &self,
        input: &Tensor,
        lengths: &[usize],
    ) -> Result<Tensor, LanguageError> {
        let mut hidden = self.dropout.forward(input)?;
        // What is trained is the first adapter.
        let parts = [AdapterRows {
            adapter: AdapterId::default(),
            rows: input.dim(0)?,
        }];
        for layer in &self.layers {
            hidden = layer.forward(&self.config, &hidden, &self.dropout, &parts, |projected| {
                self.attend(projected, lengths)
            })?;
        }
        Ok(rms_norm(
            &hidden,
            &self.norm,
            self.config.rms_norm_eps as f32,
        )?)
    }

    fn attend(&self, projected: [Tensor; 3], lengths: &[usize]) -> CandleResult<Tensor> {
        if self.device().is_cpu() {
            let shape = (
                self.config.num_attention_heads,
                self.config.kv_heads(),
                self.config.head_dim(),
            );
            return trained::attend(projected.each_ref(), &self.rotary, lengths, shape);
        }
        let positions: Vec<u32> = lengths
            .iter()
            .flat_map(|&length| 0..length as u32)
            .collect();
        let positions = Tensor::new(positions, self.device())?;
        let rotary = (
            self.rotary.0.index_select(&positions, 0)?,
            self.rotary.1.index_select(&positions, 0)?,
        );
        let [queries, keys, values] = &self.heads(projected, &rotary)?;
        let mut attended = Vec::with_capacity(lengths.len());
        let mut start = 0;
        for &length in lengths {
            let part = |x: &Tensor| x.narrow(0, start, length)?.transpose(0, 1)?.contiguous();
            attended.push(attention(&part(queries)?, &part(keys)?, &part(values)?)?);
            start += length;
        }
        Tensor::cat(&attended, 0)
    }
}
