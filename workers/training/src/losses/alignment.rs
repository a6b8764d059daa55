//! The three losses of the alignment module (BLIP-2's first stage, Li et al., 2023): images and texts attract each other
//! (ITC), belong together or not (ITM), and texts are written from images (LM).

use candle_core::{D, DType, Result as CandleResult, Tensor};
use candle_nn::ops::softmax;
use radialog_models::alignment::{AlignmentPretraining, TextBatch};

use super::{cross_entropy, cross_entropy_of_some};
use crate::error::TrainingError;
use crate::random::Random;

/// Label smoothing of ITC and LM.
const SMOOTHING: f64 = 0.1;
/// Added to each weight of a negative, so that none is impossible.
const LEAST_WEIGHT: f64 = 1e-4;

/// The hard negatives of a batch: the image and the text that each pair is confused with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HardNegatives {
    /// For each text, the image that does not belong to it.
    pub image_for_text: Vec<u32>,
    /// For each image, the text that does not belong to it.
    pub text_for_image: Vec<u32>,
}

/// The contrastive half of a batch, from which its hard negatives can be drawn.
pub struct Contrast {
    /// Features `[B, queries, embed_dim]` of the images.
    pub image_features: Tensor,
    /// Features `[B, embed_dim]` of the texts.
    pub text_features: Tensor,
    /// The ITC loss.
    pub loss: Tensor,
    /// Weights `[B, B]` of the texts as negatives of each image.
    pub image_to_text: Tensor,
    /// Weights `[B, B]` of the images as negatives of each text.
    pub text_to_image: Tensor,
}

/// The three losses of a batch, each a scalar.
pub struct AlignmentLosses {
    /// Attraction.
    pub itc: Tensor,
    /// Matching.
    pub itm: Tensor,
    /// Writing.
    pub lm: Tensor,
    /// Logits `[3B, 2]` of the matching: pairs, texts with another image, images with another text.
    pub match_logits: Tensor,
}

impl AlignmentLosses {
    /// Adds the three losses up, with equal weights.
    ///
    /// # Errors
    /// None but the tensor library's.
    pub fn total(&self) -> CandleResult<Tensor> {
        (&self.itc + &self.itm)? + &self.lm
    }
}

/// All losses of `patches [B, encoder_width, h, w]` and their texts, whose ids start with `[CLS]`. `choose` draws the
/// negatives.
///
/// # Errors
/// A batch of one pair, which has no negatives; shapes that do not fit.
pub fn losses(
    model: &AlignmentPretraining,
    patches: &Tensor,
    texts: &TextBatch,
    decoder_start: u32,
    choose: impl FnOnce(&Contrast) -> Result<HardNegatives, TrainingError>,
) -> Result<(AlignmentLosses, Contrast), TrainingError> {
    if texts.ids.dim(0)? < 2 {
        let message = "a batch of one pair has no negatives: use a batch size of 2 or more";
        return Err(TrainingError::Empty(message.to_owned()));
    }
    let images = model.image_embeds(patches)?;
    let looked = model.query_images(&images)?;
    let contrast = contrast(
        &looked.features,
        &model.text_features(texts)?,
        model.temperature(),
    )?;
    let negatives = choose(&contrast)?;
    let match_logits = match_logits(model, &images, texts, &negatives)?;
    let pairs = texts.ids.dim(0)?;
    let belongs: Vec<u32> = (0..3 * pairs).map(|row| u32::from(row < pairs)).collect();
    let itm = cross_entropy(
        &match_logits,
        &Tensor::new(belongs, texts.ids.device())?,
        0.0,
    )?;
    let lm = writing(
        model.caption_logits(&looked, &started(texts, decoder_start)?)?,
        texts,
    )?;
    Ok((
        AlignmentLosses {
            itc: contrast.loss.clone(),
            itm,
            lm,
            match_logits,
        },
        contrast,
    ))
}

impl HardNegatives {
    /// Draws negatives in proportion to similarity: what is easily confused is drawn often.
    ///
    /// # Errors
    /// None but the tensor library's.
    pub fn draw(contrast: &Contrast, random: &mut Random) -> Result<Self, TrainingError> {
        let mut draw = |weights: &Tensor| -> Result<Vec<u32>, TrainingError> {
            let rows = weights.to_vec2::<f32>()?;
            Ok(rows
                .iter()
                .map(|weights| random.weighted(weights) as u32)
                .collect())
        };
        Ok(Self {
            image_for_text: draw(&contrast.text_to_image)?,
            text_for_image: draw(&contrast.image_to_text)?,
        })
    }
}

fn contrast(
    images: &Tensor,
    texts: &Tensor,
    temperature: &Tensor,
) -> Result<Contrast, TrainingError> {
    let (batch, queries, width) = images.dims3()?;
    let all = images
        .reshape((batch * queries, width))?
        .matmul(&texts.t()?)?;
    // [image, text]: the query that is nearest to the text stands for its image.
    let similarity = all
        .reshape((batch, queries, batch))?
        .max(1)?
        .broadcast_div(temperature)?;
    let own = Tensor::arange(0, batch as u32, images.device())?;
    let to_text = cross_entropy(&similarity, &own, SMOOTHING)?;
    let to_image = cross_entropy(&similarity.t()?.contiguous()?, &own, SMOOTHING)?;
    let others = (1.0 - Tensor::eye(batch, DType::F32, images.device())?)?;
    let weights =
        |similarity: &Tensor| (softmax(&similarity.detach(), D::Minus1)? + LEAST_WEIGHT)? * &others;
    Ok(Contrast {
        loss: ((to_text + to_image)? / 2.0)?,
        image_to_text: weights(&similarity)?,
        text_to_image: weights(&similarity.t()?.contiguous()?)?,
        image_features: images.clone(),
        text_features: texts.clone(),
    })
}

fn match_logits(
    model: &AlignmentPretraining,
    images: &Tensor,
    texts: &TextBatch,
    negatives: &HardNegatives,
) -> Result<Tensor, TrainingError> {
    let device = images.device();
    let other_images = images.index_select(
        &Tensor::new(negatives.image_for_text.as_slice(), device)?,
        0,
    )?;
    let other_texts = Tensor::new(negatives.text_for_image.as_slice(), device)?;
    let with_others = |all: &Tensor| -> CandleResult<Tensor> {
        Tensor::cat(
            &[all.clone(), all.clone(), all.index_select(&other_texts, 0)?],
            0,
        )
    };
    let texts = TextBatch {
        ids: with_others(&texts.ids)?,
        mask: with_others(&texts.mask)?,
    };
    Ok(model.match_logits(&Tensor::cat(&[images, &other_images, images], 0)?, &texts)?)
}

/// The texts with the decoder's own start in place of `[CLS]`.
fn started(texts: &TextBatch, decoder_start: u32) -> Result<TextBatch, TrainingError> {
    let (batch, length) = texts.ids.dims2()?;
    let start = Tensor::full(decoder_start, (batch, 1), texts.ids.device())?;
    let ids = Tensor::cat(&[start, texts.ids.narrow(1, 1, length - 1)?], 1)?;
    Ok(TextBatch {
        ids,
        mask: texts.mask.clone(),
    })
}

/// Each position writes the word behind it; padding is not learned.
fn writing(logits: Tensor, texts: &TextBatch) -> Result<Tensor, TrainingError> {
    let (ids, mask) = (texts.ids.to_vec2::<u32>()?, texts.mask.to_vec2::<f32>()?);
    let next = ids.iter().zip(&mask).flat_map(|(ids, mask)| {
        let known = ids
            .iter()
            .zip(mask)
            .skip(1)
            .map(|(&id, &mask)| (mask > 0.0).then_some(id));
        known.chain([None])
    });
    Ok(cross_entropy_of_some(
        &logits.flatten_to(1)?,
        &next.collect::<Vec<_>>(),
        SMOOTHING,
    )?)
}
