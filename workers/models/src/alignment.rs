//! From projected image patches to 32 image tokens: the Q-Former of BLIP-2 (Li et al., 2023) as RaDialog trained it, in
//! the part that inference uses (learned queries that attend to the image, no text).

use candle_core::Tensor;
use candle_nn::VarBuilder;
use serde::{Deserialize, Serialize};

use crate::bert::{BertAttention, BertFeedForward, BertShape};
use crate::error::ModelError;
use crate::kernels::attention::Span;
use crate::kernels::buffer::Buffer;
use crate::layers::storage::with_floats;
use crate::layers::{Dropout, LayerNorm, each_sample, in_pool, layer_norm, with_precision};
use crate::tensors::uniform;

mod pretraining;

pub use pretraining::{AlignmentPretraining, AlignmentTextConfig, QueryStates, TextBatch};

/// The epsilon of the layer norm over the image's strips, which the published code fixes.
const VISION_NORM_EPS: f64 = 1e-5;
/// Images for each thread that are computed together on a CPU: enough that weights are read seldom, while all between two layers
/// stays in the caches.
const IMAGES_A_THREAD: usize = 1;

/// Geometry of the alignment module.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AlignmentConfig {
    /// Width of a query, and of an image token.
    pub hidden_size: usize,
    /// The number of transformer layers.
    pub num_hidden_layers: usize,
    /// The number of attention heads in each layer.
    pub num_attention_heads: usize,
    /// Width inside the feed-forward layers.
    pub intermediate_size: usize,
    /// The number of learned queries, and so of image tokens.
    pub num_query_token: usize,
    /// Width of a strip of image features.
    pub encoder_width: usize,
    /// The queries attend to the image in every so many layers, the first one among them.
    pub cross_attention_freq: usize,
    /// The epsilon of the Q-Former's layer norms.
    #[serde(default = "AlignmentConfig::default_eps")]
    pub layer_norm_eps: f64,
}

impl AlignmentConfig {
    /// The published geometry.
    pub fn published() -> Self {
        Self {
            hidden_size: 768,
            num_hidden_layers: 12,
            num_attention_heads: 12,
            intermediate_size: 3072,
            num_query_token: 32,
            encoder_width: 1408,
            cross_attention_freq: 2,
            layer_norm_eps: Self::default_eps(),
        }
    }

    fn default_eps() -> f64 {
        1e-12
    }

    fn shape(&self, dropout: Dropout) -> Result<BertShape, ModelError> {
        let (width, heads) = (self.hidden_size, self.num_attention_heads);
        BertShape {
            width,
            heads,
            feed_forward: self.intermediate_size,
            eps: self.layer_norm_eps,
            dropout,
        }
        .check()
    }
}

/// The two outputs of the alignment module.
#[derive(Clone, Debug)]
pub struct AlignedImage {
    /// Image tokens `[B, queries, hidden]`: not projected, not normalised.
    pub tokens: Tensor,
    /// Image features after their layer norm, `[B, strips, encoder_width]`.
    pub image_embeds: Tensor,
}

/// The alignment module. Weight names are those of the published checkpoint (`ln_vision`, `query_tokens`, `Qformer.bert`).
#[derive(Clone, Debug)]
pub struct Alignment {
    ln_vision: LayerNorm,
    query_tokens: Tensor,
    embeddings_norm: LayerNorm,
    layers: Vec<QFormerLayer>,
    encoder_width: usize,
    dropout: Dropout,
}

#[derive(Clone, Debug)]
struct QFormerLayer {
    attention: BertAttention,
    crossattention: Option<BertAttention>,
    query_feed_forward: BertFeedForward,
}

impl Alignment {
    /// Reads the weights that inference needs.
    ///
    /// # Errors
    /// Weights of another geometry, or a geometry whose heads do not divide its width.
    pub fn new(config: &AlignmentConfig, vb: VarBuilder<'_>) -> Result<Self, ModelError> {
        let no_text = |_: usize, _: &BertShape| Ok(());
        Self::with_dropout(config, &vb, Dropout::default(), no_text)
    }

    /// Reads the weights that inference needs; `text_layer` reads what a layer, by its index, has for texts.
    fn with_dropout(
        config: &AlignmentConfig,
        vb: &VarBuilder<'_>,
        dropout: Dropout,
        mut text_layer: impl FnMut(usize, &BertShape) -> Result<(), ModelError>,
    ) -> Result<Self, ModelError> {
        let shape = config.shape(dropout.clone())?;
        let bert = vb.pp("Qformer.bert");
        let layer = |index: usize| {
            let vb = bert.pp("encoder.layer").pp(index);
            let crosses = index.is_multiple_of(config.cross_attention_freq);
            let attention =
                |name: &str, width: usize| BertAttention::new(&shape, width, &vb.pp(name));
            let layer = QFormerLayer {
                attention: attention("attention", shape.width)?,
                crossattention: crosses
                    .then(|| attention("crossattention", config.encoder_width))
                    .transpose()?,
                query_feed_forward: BertFeedForward::new(&shape, "_query", &vb)?,
            };
            text_layer(index, &shape)?;
            Ok(layer)
        };
        let (queries, width) = (config.num_query_token, config.hidden_size);
        Ok(Self {
            query_tokens: with_precision(vb).0.get_with_hints(
                (1, queries, width),
                "query_tokens",
                uniform(1.0),
            )?,
            ln_vision: layer_norm(config.encoder_width, VISION_NORM_EPS, vb.pp("ln_vision"))?,
            embeddings_norm: layer_norm(shape.width, shape.eps, bert.pp("embeddings.LayerNorm"))?,
            layers: (0..config.num_hidden_layers)
                .map(layer)
                .collect::<Result<_, ModelError>>()?,
            encoder_width: config.encoder_width,
            dropout,
        })
    }

    /// Aligns projected patches `[B, encoder_width, h, w]` of images.
    pub fn forward_image(&self, patches: &Tensor) -> Result<AlignedImage, ModelError> {
        let image_embeds = self.image_embeds(patches)?;
        let tokens = match self.query_rows(&image_embeds)? {
            Some(tokens) => tokens,
            None => each_sample(&image_embeds, |image| self.query(image))?,
        };
        Ok(AlignedImage {
            tokens,
            image_embeds,
        })
    }

    /// The map is reshaped, not transposed: a row is a strip of about seven channels over all positions. The Q-Former was
    /// trained on just that.
    fn image_embeds(&self, patches: &Tensor) -> Result<Tensor, ModelError> {
        let (batch, channels, rows, columns) = patches.dims4()?;
        if channels != self.encoder_width {
            let message = format!(
                "{channels} channels of image features, expected {}",
                self.encoder_width
            );
            return Err(ModelError::Input(message));
        }
        Ok(self
            .ln_vision
            .forward(&patches.reshape((batch, rows * columns, channels))?)?)
    }

    /// Does what `query` does, on a CPU, of some images together; None where it is trained or elsewhere.
    fn query_rows(&self, images: &Tensor) -> Result<Option<Tensor>, ModelError> {
        let is_ours = self.layers.iter().all(|layer| layer.attention.takes_rows());
        if !is_ours || images.track_op() || !self.embeddings_norm.takes_rows() {
            return Ok(None);
        }
        let (batch, strips, encoder_width) = images.dims3()?;
        let (_, count, width) = self.query_tokens.dims3()?;
        let mut queries = self.query_tokens.flatten_all()?.to_vec1::<f32>()?;
        self.embeddings_norm.rows(&mut queries);
        let at_once = IMAGES_A_THREAD * rayon::current_num_threads();
        let computed = with_floats([images], |[images]| {
            in_pool(|| {
                let mut tokens = Vec::with_capacity(batch * queries.len());
                for group in images.chunks((at_once * strips * encoder_width).max(1)) {
                    tokens.extend_from_slice(&self.rows_of_images(group, strips, &queries)?);
                }
                Some(tokens)
            })
        })?;
        let tensor = |rows| Tensor::from_vec(rows, (batch, count, width), images.device());
        Ok(computed.map(tensor).transpose()?)
    }

    /// The image tokens `[B, queries, width]` of strips `[B, strips, encoder_width]`; see [`Alignment::query_rows`].
    fn rows_of_images(&self, images: &[f32], strips: usize, queries: &[f32]) -> Option<Buffer> {
        let batch = images.len() / (strips * self.encoder_width);
        let count = self.query_tokens.dim(1).ok()?;
        let mut hidden = Buffer::take(batch * queries.len());
        for rows in hidden.chunks_exact_mut(queries.len().max(1)) {
            rows.copy_from_slice(queries);
        }
        let spans = |keys: usize| -> Vec<Span> {
            let span = |image: usize| Span {
                queries: image * count..(image + 1) * count,
                keys: image * keys..(image + 1) * keys,
            };
            (0..batch).map(span).collect()
        };
        let (own, crossing) = (spans(count), spans(strips));
        for layer in &self.layers {
            hidden = layer.attention.rows(&hidden, None, &own)?;
            if let Some(crossattention) = &layer.crossattention {
                hidden = crossattention.rows(&hidden, Some(images), &crossing)?;
            }
            hidden = layer.query_feed_forward.rows(&hidden)?;
        }
        Some(hidden)
    }

    fn query(&self, image: &Tensor) -> Result<Tensor, ModelError> {
        self.query_from(image, |_| ())
    }

    /// Does what `query` does; `see` is shown what goes into each block.
    fn query_from(
        &self,
        image: &Tensor,
        mut see: impl FnMut(&Tensor),
    ) -> Result<Tensor, ModelError> {
        let queries = self.embeddings_norm.forward(&self.query_tokens)?;
        let (_, count, width) = queries.dims3()?;
        let queries = queries
            .broadcast_as((image.dim(0)?, count, width))?
            .contiguous()?;
        let mut hidden = self.dropout.forward(&queries)?;
        for layer in &self.layers {
            see(&hidden);
            hidden = layer.attention.forward(&hidden, &hidden, None)?;
            if let Some(crossattention) = &layer.crossattention {
                hidden = crossattention.forward(&hidden, image, None)?;
            }
            hidden = layer.query_feed_forward.forward(&hidden)?;
        }
        Ok(hidden)
    }
}
