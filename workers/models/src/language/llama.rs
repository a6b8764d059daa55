//! The decoder (Touvron et al., 2023) with image tokens in its input, as the published weights use it.

use candle_core::{DType, Device, Result as CandleResult, Tensor};
use candle_nn::ops::{rms_norm_slow, silu};

use super::LanguageError;
use super::adapter_id::AdapterId;
use super::cache::KvCache;
use super::config::LlamaConfig;
use super::linear::{AdapterRows, LoraLinear};
use super::lora::LoraAdapter;
use super::projection::ImageProjection;
use super::quantized::{BaseWeights, QuantizedMatrix};
use super::trained;
use crate::kernels::paged_cache::Numbers;
use crate::layers::Dropout;
use crate::layers::parallel::each_part;
use crate::layers::storage::with_floats;

mod loading;
mod packed;
mod pages;
mod ragged_attention;
mod rotary;

use loading::{Adapters, TensorLoader};
pub use packed::TrainingSequence;
use ragged_attention::RaggedAttention;
use rotary::{rotary_tables, rotate};

/// A LLaMA-family language model that sees images.
pub struct LanguageModel {
    config: LlamaConfig,
    embedding: EmbeddingTable,
    layers: Vec<DecoderLayer>,
    norm: Tensor,
    head: LoraLinear,
    /// By adapter; one where there are none.
    projections: Vec<Option<ImageProjection>>,
    /// Cosines and sines of the rotary angles, `[context, head_dim / 2]`.
    rotary: (Tensor, Tensor),
    dtype: DType,
    device: Device,
    dropout: Dropout,
    /// Keys and values of sequences, and attention over them.
    memory: Memory,
}

/// Where keys and values are, and what attends over them.
enum Memory {
    /// In pages of such numbers, halves beside quantised weights: on a CPU.
    Pages(Numbers),
    /// Among the pages of all sequences, which are attended to together: on every other device.
    Ragged(RaggedAttention),
}

/// The vectors of all tokens, `[vocab, hidden]`.
enum EmbeddingTable {
    /// In the type it is stored in.
    Dense(Tensor),
    /// Its rows are widened when they are looked up.
    Quantized(QuantizedMatrix),
}

struct DecoderLayer {
    input_norm: Tensor,
    q: LoraLinear,
    k: LoraLinear,
    v: LoraLinear,
    o: LoraLinear,
    post_norm: Tensor,
    gate: LoraLinear,
    up: LoraLinear,
    down: LoraLinear,
}

/// The new positions of one sequence in a forward pass.
pub struct SequenceChunk<'a> {
    /// The keys and values of the sequence; they grow by `len` positions.
    pub cache: &'a mut KvCache,
    /// Number of new positions.
    pub len: usize,
}

impl LanguageModel {
    /// Loads a model. Matrices stay in the type of `weights` (f32, f16 or bf16) on its device; a CPU computes in f32, a
    /// GPU in that type. `weights` has the names of a Hugging Face checkpoint, from `model.` and `lm_head.` on.
    ///
    /// # Errors
    /// Tensors that are missing or have another shape than the configuration says.
    pub fn load<'a>(
        config: &LlamaConfig,
        weights: impl Into<BaseWeights<'a>>,
        adapter: Option<&LoraAdapter>,
    ) -> Result<Self, LanguageError> {
        Self::load_from(
            config,
            weights.into(),
            adapter.map_or(Adapters::None, Adapters::One),
        )
    }

    /// Loads one base with several adapters beside it. Each sequence goes through one of them, and its bytes are those
    /// that it has where its adapter is the only one; the base is in memory once and keeps the type it is stored in.
    ///
    /// # Errors
    /// As [`LanguageModel::load`], and an adapter of unknown layers.
    pub fn load_with_adapters<'a>(
        config: &LlamaConfig,
        weights: impl Into<BaseWeights<'a>>,
        adapters: &[LoraAdapter],
    ) -> Result<Self, LanguageError> {
        let adapters = match adapters {
            [] => Adapters::None,
            several => Adapters::Several(several),
        };
        Self::load_from(config, weights.into(), adapters)
    }

    fn load_from(
        config: &LlamaConfig,
        BaseWeights { weights, quantized }: BaseWeights<'_>,
        adapters: Adapters,
    ) -> Result<Self, LanguageError> {
        config.validate()?;
        for adapter in adapters.iter() {
            adapter.config.validate(config)?;
        }
        let dtype = if weights.device().is_cpu() {
            DType::F32
        } else {
            weights.dtype()
        };
        let loader = TensorLoader {
            weights,
            quantized: quantized.filter(|_| weights.device().is_cpu()),
            adapters,
            dtype,
        };
        let (hidden, vocabulary) = (config.hidden_size, config.vocab_size);
        let embedding = loader.embedding(vocabulary, hidden)?;
        let layers = (0..config.num_hidden_layers)
            .map(|index| DecoderLayer::load(config, &loader, index))
            .collect::<CandleResult<Vec<_>>>()?;
        let norm = loader.norm("model.norm.weight", hidden)?;
        let head = match config.tie_word_embeddings {
            true => embedding.head(),
            false => loader.linear("lm_head", hidden, vocabulary)?,
        };
        let memory = match weights.device() {
            Device::Cpu => Memory::Pages(match layers.iter().any(DecoderLayer::is_quantized) {
                true => Numbers::Halves,
                false => Numbers::Floats,
            }),
            device => Memory::Ragged(RaggedAttention::new(config, dtype, device)?),
        };
        Ok(Self {
            memory,
            layers,
            norm,
            projections: loader.projections(config)?,
            rotary: rotary_tables(config, dtype, weights.device())?,
            device: weights.device().clone(),
            config: config.clone(),
            embedding,
            head,
            dtype,
            dropout: Dropout::default(),
        })
    }

    /// The model's geometry.
    pub fn config(&self) -> &LlamaConfig {
        &self.config
    }

    /// The device on which the model computes.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// The same with the attention and the cache of other devices, which a CPU computes, too.
    #[cfg(test)]
    pub(super) fn into_device_form(self) -> Result<Self, LanguageError> {
        let ragged = RaggedAttention::new(&self.config, self.dtype, &self.device)?;
        Ok(Self {
            memory: Memory::Ragged(ragged),
            ..self
        })
    }

    /// Whether sequences are computed as one batch on a device: their tokens are then best chosen together, too.
    pub(super) fn is_ragged(&self) -> bool {
        self.ragged().is_some()
    }

    /// The number of pages of a device's cache, and of those that no sequence holds.
    #[cfg(test)]
    pub(super) fn device_pages(&self) -> Option<(usize, usize)> {
        self.ragged().map(RaggedAttention::pages)
    }

    fn ragged(&self) -> Option<&RaggedAttention> {
        match &self.memory {
            Memory::Ragged(ragged) => Some(ragged),
            Memory::Pages(_) => None,
        }
    }

    /// The adapter at this place among those that the model was loaded with; none where there are not so many. A base
    /// without adapters counts as one.
    pub fn adapter(&self, index: usize) -> Option<AdapterId> {
        (index < self.projections.len()).then_some(AdapterId(index))
    }

    /// An empty cache for a sequence of this adapter, of at most `capacity` positions. A forward pass takes a sequence
    /// through the adapter of its cache.
    ///
    /// # Errors
    /// None that is known.
    pub fn cache_of(&self, adapter: AdapterId, capacity: usize) -> Result<KvCache, LanguageError> {
        Ok(self.cache(capacity)?.of(adapter))
    }

    /// An empty cache for a sequence of at most `capacity` positions, of the first adapter.
    ///
    /// # Errors
    /// None that is known.
    pub fn cache(&self, capacity: usize) -> Result<KvCache, LanguageError> {
        Ok(match &self.memory {
            Memory::Pages(numbers) => KvCache::paged(&self.config, capacity, *numbers),
            Memory::Ragged(ragged) => ragged.cache(capacity),
        })
    }

    /// Bytes that the cache takes for one token of one sequence: keys and values of all layers. On a CPU they are kept in f32, or
    /// in half precision beside quantised weights; on a GPU in the type of the computation. For Vicuna-7B 1 MiB in f32, and
    /// 0.5 MiB in half precision.
    pub fn cache_bytes_per_token(&self) -> usize {
        let values = self.config.cache_bytes_per_token() / size_of::<f32>();
        values
            * match &self.memory {
                Memory::Pages(numbers) => numbers.bytes(),
                Memory::Ragged(_) => self.dtype.size_in_bytes(),
            }
    }

    /// The decoder's input for a prompt, `[ids, hidden]`: each block of image placeholders is replaced by the projected
    /// image tokens, one embedding (`[32, 768]`, or `[196, 512]` in v2) per block in order. A prompt without placeholders ignores the images.
    ///
    /// # Errors
    /// Ids outside the vocabulary, incomplete blocks, another number of embeddings than blocks, or of another shape.
    pub fn embed(&self, ids: &[u32], images: &[Tensor]) -> Result<Tensor, LanguageError> {
        self.embed_for(AdapterId::default(), ids, images)
    }

    /// The same as [`LanguageModel::embed`], with the image projection of this adapter.
    ///
    /// # Errors
    /// As [`LanguageModel::embed`].
    pub fn embed_for(
        &self,
        adapter: AdapterId,
        ids: &[u32],
        images: &[Tensor],
    ) -> Result<Tensor, LanguageError> {
        let image = self.config.image_token();
        let vocabulary = self.config.vocab_size;
        let mut parts = Vec::new();
        let mut used = 0;
        for run in ids.chunk_by(|a, b| (*a == image) == (*b == image)) {
            if run[0] != image {
                if let Some(&token) = run.iter().find(|&&id| id as usize >= vocabulary) {
                    return Err(LanguageError::UnknownToken { token, vocabulary });
                }
                parts.push(self.embedding.rows(run, self.dtype)?);
                continue;
            }
            let block = self.config.num_image_tokens;
            if !run.len().is_multiple_of(block) {
                return Err(LanguageError::PlaceholderRun {
                    run: run.len(),
                    block,
                });
            }
            for _ in 0..run.len() / block {
                if let Some(tokens) = images.get(used) {
                    parts.push(self.project_rows(adapter, &self.checked(tokens)?)?);
                }
                used += 1;
            }
        }
        if used != images.len() && used > 0 {
            return Err(LanguageError::ImageCount {
                blocks: used,
                images: images.len(),
            });
        }
        if parts.is_empty() {
            return Err(LanguageError::EmptyPrompt);
        }
        Ok(Tensor::cat(&parts, 0)?)
    }

    /// An image embedding of the right shape, where and as the model computes.
    fn checked(&self, tokens: &Tensor) -> Result<Tensor, LanguageError> {
        let expected = [self.config.num_image_tokens, self.config.image_dim];
        if tokens.dims() != expected {
            return Err(LanguageError::ImageShape {
                found: tokens.dims().to_vec(),
                expected,
            });
        }
        Ok(tokens.to_device(self.device())?.to_dtype(self.dtype)?)
    }

    fn project_rows(
        &self,
        AdapterId(adapter): AdapterId,
        tokens: &Tensor,
    ) -> Result<Tensor, LanguageError> {
        let kind = self.config.image_projection;
        let projection = self
            .projections
            .get(adapter)
            .and_then(Option::as_ref)
            .ok_or(LanguageError::NoImageProjection(kind.prefix()))?;
        Ok(projection.forward(tokens)?)
    }

    /// Runs new positions `[positions, hidden]` of one or more sequences, those of the first span first, and returns
    /// the normalised last hidden states of the same shape. Sequences see nothing of each other. Each goes through the
    /// adapter of its cache; those of one adapter stand together where speed matters.
    ///
    /// # Errors
    /// A span does not fit its cache or the context.
    pub fn forward(
        &self,
        input: &Tensor,
        spans: &mut [SequenceChunk],
    ) -> Result<Tensor, LanguageError> {
        if !self.device().is_cpu() {
            return self.forward_here(input, spans);
        }
        // On one of the threads that every layer is shared out to: from elsewhere, each of them would be woken by each product.
        rayon::scope(|_| self.forward_here(input, spans))
    }

    fn forward_here(
        &self,
        input: &Tensor,
        spans: &mut [SequenceChunk],
    ) -> Result<Tensor, LanguageError> {
        let ragged = self.ragged().map(|ragged| ragged.step(spans)).transpose()?;
        let positions = spans.iter().flat_map(|span| {
            let start = span.cache.len() as u32;
            start..start + span.len as u32
        });
        let positions = Tensor::new(positions.collect::<Vec<_>>(), self.device())?;
        let rotary = (
            self.rotary.0.index_select(&positions, 0)?,
            self.rotary.1.index_select(&positions, 0)?,
        );
        let parts = adapter_rows(spans.iter().map(|span| (span.cache.adapter(), span.len)));
        let (config, dropout) = (&self.config, &Dropout::default());
        let mut hidden = input.clone();
        for (index, layer) in self.layers.iter().enumerate() {
            hidden = layer.forward(config, &hidden, dropout, &parts, |projected| {
                let [queries, keys, values] = &self.heads(projected, &rotary)?;
                if let Some(step) = &ragged {
                    return step.attend(index, [queries, keys, values]);
                }
                let mixed = with_floats([queries, keys, values], |floats| {
                    pages::attend(config, index, floats, spans)
                });
                Tensor::from_vec(mixed??, input.dims(), self.device())
            })?;
        }
        for span in spans {
            span.cache.advance(span.len);
        }
        Ok(rms_norm(
            &hidden,
            &self.norm,
            self.config.rms_norm_eps as f32,
        )?)
    }

    /// Queries, keys and values `[positions, heads, head_dim]` of what a layer projects, rotated.
    fn heads(
        &self,
        [q, k, v]: [Tensor; 3],
        rotary: &(Tensor, Tensor),
    ) -> CandleResult<[Tensor; 3]> {
        let (heads, kv_heads) = (self.config.num_attention_heads, self.config.kv_heads());
        let split =
            |x: Tensor, count: usize| x.reshape((1, x.dim(0)?, count, self.config.head_dim()));
        let (q, k) = (
            rotate(&split(q, heads)?, rotary)?,
            rotate(&split(k, kv_heads)?, rotary)?,
        );
        Ok([
            q.squeeze(0)?,
            k.squeeze(0)?,
            split(v, kv_heads)?.squeeze(0)?,
        ])
    }

    /// Logits `[positions, vocab]` in f32 of hidden states `[positions, hidden]`.
    ///
    /// # Errors
    /// Another width than the model's.
    pub fn logits(&self, hidden: &Tensor) -> Result<Tensor, LanguageError> {
        Ok(self.head.forward(hidden)?.to_dtype(DType::F32)?)
    }

    /// The same for rows of these adapters, in order.
    pub(super) fn logits_of(
        &self,
        hidden: &Tensor,
        rows: impl Iterator<Item = AdapterId>,
    ) -> Result<Tensor, LanguageError> {
        let parts = adapter_rows(rows.map(|adapter| (adapter, 1)));
        let logits = self.head.forward_mixed(hidden, &parts)?;
        Ok(logits.to_dtype(DType::F32)?)
    }
}

impl EmbeddingTable {
    /// The vectors of these tokens, `[ids, hidden]`.
    fn rows(&self, ids: &[u32], dtype: DType) -> CandleResult<Tensor> {
        match self {
            EmbeddingTable::Dense(table) => table
                .index_select(&Tensor::new(ids, table.device())?, 0)?
                .to_dtype(dtype),
            EmbeddingTable::Quantized(table) => table.select(ids),
        }
    }

    /// The table as an output head.
    fn head(&self) -> LoraLinear {
        match self {
            EmbeddingTable::Dense(table) => LoraLinear::new(table.clone()),
            EmbeddingTable::Quantized(table) => LoraLinear::quantized(table.clone()),
        }
    }
}

impl DecoderLayer {
    fn load(config: &LlamaConfig, loader: &TensorLoader, index: usize) -> CandleResult<Self> {
        let path = |name: &str| format!("model.layers.{index}.{name}");
        let matrices = config.layer_matrices();
        let [q, k, v, o, gate, up, down] =
            matrices.map(|(name, inputs, outputs)| loader.linear(&path(name), inputs, outputs));
        let norm = |name: &str| loader.norm(&path(name), config.hidden_size);
        Ok(Self {
            q: q?,
            k: k?,
            v: v?,
            o: o?,
            gate: gate?,
            up: up?,
            down: down?,
            input_norm: norm("input_layernorm.weight")?,
            post_norm: norm("post_attention_layernorm.weight")?,
        })
    }

    fn is_quantized(&self) -> bool {
        let layers = [
            &self.q, &self.k, &self.v, &self.o, &self.gate, &self.up, &self.down,
        ];
        layers.into_iter().any(LoraLinear::is_quantized)
    }

    fn forward(
        &self,
        config: &LlamaConfig,
        input: &Tensor,
        dropout: &Dropout,
        parts: &[AdapterRows],
        mut attend: impl FnMut([Tensor; 3]) -> CandleResult<Tensor>,
    ) -> CandleResult<Tensor> {
        let eps = config.rms_norm_eps as f32;
        let x = rms_norm(input, &self.input_norm, eps)?;
        let projected = [
            self.q.forward_mixed(&x, parts)?,
            self.k.forward_mixed(&x, parts)?,
            self.v.forward_mixed(&x, parts)?,
        ];
        let attended = self.o.forward_mixed(&attend(projected)?, parts)?;
        let x = add(input, &dropout.forward(&attended)?)?;

        let y = rms_norm(&x, &self.post_norm, eps)?;
        let y = swiglu(
            &self.gate.forward_mixed(&y, parts)?,
            &self.up.forward_mixed(&y, parts)?,
        )?;
        add(&x, &dropout.forward(&self.down.forward_mixed(&y, parts)?)?)
    }
}

/// Neighbours of one adapter as one part.
fn adapter_rows(spans: impl Iterator<Item = (AdapterId, usize)>) -> Vec<AdapterRows> {
    let mut parts: Vec<AdapterRows> = Vec::new();
    for (adapter, rows) in spans {
        match parts.last_mut() {
            Some(last) if last.adapter == adapter => last.rows += rows,
            _ => parts.push(AdapterRows { adapter, rows }),
        }
    }
    parts
}

/// `silu(gate) · up`.
fn swiglu(gate: &Tensor, up: &Tensor) -> CandleResult<Tensor> {
    if trained::applies(&[gate, up]) {
        return trained::swiglu(gate, up);
    }
    if gate.device().is_cpu() {
        return elementwise(gate, up, |gate, up| gate / (1.0 + (-gate).exp()) * up);
    }
    silu(gate)? * up
}

/// The residual connection.
fn add(x: &Tensor, y: &Tensor) -> CandleResult<Tensor> {
    if x.device().is_cpu() && !x.track_op() && !y.track_op() {
        return elementwise(x, y, |x, y| x + y);
    }
    x + y
}

/// A function of each two numbers at the same place, on our own threads: those of candle, which it keeps for this and lets
/// spin for a while when they have nothing to do, would take the cores from ours.
fn elementwise(
    x: &Tensor,
    y: &Tensor,
    of: impl Fn(f32, f32) -> f32 + Sync,
) -> CandleResult<Tensor> {
    let out = with_floats([x, y], |[x, y]| {
        each_part((x, y), 1, |x, y, out| {
            for ((out, x), y) in out.iter_mut().zip(x).zip(y) {
                *out = of(*x, *y);
            }
        })
    })?;
    Tensor::from_vec(out, x.dims(), x.device())
}

/// RMSNorm. The fast kernel has no gradient.
fn rms_norm(x: &Tensor, weight: &Tensor, eps: f32) -> CandleResult<Tensor> {
    if trained::applies(&[x, weight]) {
        return trained::rms_norm(x, weight, eps);
    }
    if x.track_op() || weight.track_op() {
        return rms_norm_slow(x, weight, eps);
    }
    candle_nn::ops::rms_norm(x, weight, eps)
}
