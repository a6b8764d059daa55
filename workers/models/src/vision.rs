//! The BioViL-T image encoder (Bannur et al., 2023): a ResNet-50 trunk, a reduction to the temporal pooler's width, and a
//! projector. Half of each patch's features are the image's own; the other half compare it with a previous image, or are
//! a learned constant where there is none.

use candle_core::Tensor;
use candle_nn::VarBuilder;
use serde::{Deserialize, Serialize};

use crate::error::ModelError;
pub use crate::layers::BatchNormStatistics;
use crate::layers::{
    BatchNormShape, Conv, ConvShape, each_sample, from_map, to_map, with_precision,
};
use crate::preprocess::{InputSize, SHORT_SIDE};
use crate::tensors::{uniform, unread};

mod pooler;
pub mod projector_seed;
mod resnet;

use pooler::TemporalPooler;
use resnet::ResNet;

/// The distance from 0 up to which random values of a learned vector lie.
const PARAMETER_SPREAD: f32 = 0.5;

/// Geometry of an image encoder.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct VisionConfig {
    /// Side of the square input, in pixels.
    pub image_size: usize,
    /// The shorter side of the image that it is cropped from, in pixels.
    #[serde(default = "VisionConfig::default_short_side")]
    pub short_side: usize,
    /// Channels of the first convolution; the trunk ends in 32 times as many. 64 in ResNet-50.
    pub stem_width: usize,
    /// Width of the reduction and of the temporal pooler.
    pub vit_dim: usize,
    /// Channels of the projected patches.
    pub joint_feature_size: usize,
    /// The number of attention heads in the pooler.
    #[serde(default = "VisionConfig::default_heads")]
    pub vit_heads: usize,
    /// The number of transformer layers in the pooler.
    #[serde(default = "VisionConfig::default_blocks")]
    pub vit_blocks: usize,
    /// Rows and columns that the pooler is made for.
    #[serde(default = "VisionConfig::default_grid")]
    pub grid: (usize, usize),
    /// The epsilon of the batch norms.
    #[serde(default = "VisionConfig::default_bn_eps")]
    pub bn_eps: f64,
    /// The epsilon of the pooler's layer norms.
    #[serde(default = "VisionConfig::default_ln_eps")]
    pub ln_eps: f64,
}

impl VisionConfig {
    /// The published encoder of the alignment path: 448 pixels, 1408 channels.
    pub fn published() -> Self {
        Self {
            image_size: 448,
            short_side: SHORT_SIDE,
            stem_width: 64,
            vit_dim: 256,
            joint_feature_size: 1408,
            vit_heads: Self::default_heads(),
            vit_blocks: Self::default_blocks(),
            grid: Self::default_grid(),
            bn_eps: Self::default_bn_eps(),
            ln_eps: Self::default_ln_eps(),
        }
    }

    /// The crop that the encoder sees of an image.
    pub fn input(&self) -> InputSize {
        InputSize {
            short_side: self.short_side,
            side: self.image_size,
        }
    }

    /// Rows (and columns) of the trunk's output: five halvings, rounded up.
    pub fn trunk_grid(&self) -> usize {
        (0..5).fold(self.image_size, |side, _| side.div_ceil(2))
    }

    /// Refuses an input that no crop can be, and sizes of nothing.
    fn check(&self) -> Result<(), ModelError> {
        if !(1..=SHORT_SIDE).contains(&self.short_side) {
            let message = format!(
                "short_side {} is not within 1 to {SHORT_SIDE}",
                self.short_side
            );
            return Err(ModelError::Geometry(message));
        }
        if !(1..=self.short_side).contains(&self.image_size) {
            let message = format!(
                "image_size {} is not within 1 to {}",
                self.image_size, self.short_side
            );
            return Err(ModelError::Geometry(message));
        }
        if [self.stem_width, self.vit_dim, self.joint_feature_size].contains(&0) {
            return Err(ModelError::Geometry(
                "stem_width, vit_dim or joint_feature_size is 0".to_owned(),
            ));
        }
        Ok(())
    }

    fn default_short_side() -> usize {
        SHORT_SIDE
    }

    fn default_heads() -> usize {
        8
    }

    fn default_blocks() -> usize {
        3
    }

    fn default_grid() -> (usize, usize) {
        (14, 14)
    }

    fn default_bn_eps() -> f64 {
        1e-5
    }

    fn default_ln_eps() -> f64 {
        1e-6
    }
}

/// All outputs of the encoder; `V` is the pooler's width, `P` the projector's.
#[derive(Clone, Debug)]
pub struct ImageFeatures {
    /// `[B, 2V, h, w]`: the image's own features, then those of the comparison.
    pub patch_embeddings: Tensor,
    /// `[B, 2V]`: their mean over the grid.
    pub img_embedding: Tensor,
    /// `[B, P, h, w]`.
    pub projected_patch_embeddings: Tensor,
    /// `[B, P]`: their mean over the grid.
    pub projected_global_embedding: Tensor,
}

/// The image encoder. Weight names are those of the published checkpoint (`encoder.*`, `projector.*`).
#[derive(Clone, Debug)]
pub struct ImageEncoder {
    trunk: ResNet,
    backbone_to_vit: Conv,
    missing_previous_emb: Tensor,
    vit_pooler: Option<TemporalPooler>,
    projector: Option<[Conv; 2]>,
    /// Whether an image's features depend on the batch that it is in.
    whole_batch: bool,
}

impl ImageEncoder {
    /// An encoder of single images, without the temporal pooler.
    pub fn single_image(config: &VisionConfig, vb: VarBuilder<'_>) -> Result<Self, ModelError> {
        let encoder = Self::patches_only(config, BatchNormStatistics::Running, vb.clone())?;
        Ok(Self {
            projector: Some(projector(config, &vb)?),
            ..encoder
        })
    }

    /// An encoder of single images without temporal pooler and projector, for [`ImageEncoder::grid_tokens`]. Its batch norms
    /// read these statistics.
    ///
    /// # Errors
    /// Tensors that are missing or have another shape than the configuration says.
    pub fn patches_only(
        config: &VisionConfig,
        statistics: BatchNormStatistics,
        vb: VarBuilder<'_>,
    ) -> Result<Self, ModelError> {
        config.check()?;
        let (encoder, width) = (vb.pp("encoder"), config.vit_dim);
        let reduction = ConvShape::pointwise(32 * config.stem_width, width);
        let missing_previous_emb = with_precision(&encoder).0.get_with_hints(
            (1, width, 1, 1),
            "missing_previous_emb",
            uniform(PARAMETER_SPREAD),
        )?;
        let norm = BatchNormShape {
            eps: config.bn_eps,
            scale: 1.0,
            statistics,
        };
        let trunk = ResNet::new(config.stem_width, norm, &encoder.pp("encoder"))?;
        let backbone_to_vit = Conv::without_bias(reduction, &encoder.pp("backbone_to_vit"))?;
        // Files have the pooler also where the geometry allows none to be built.
        if let Some(vb) = unread(&encoder.pp("vit_pooler"))
            && TemporalPooler::check(config).is_ok()
        {
            TemporalPooler::new(config, &vb)?;
        }
        Ok(Self {
            trunk,
            backbone_to_vit,
            missing_previous_emb,
            vit_pooler: None,
            projector: None,
            whole_batch: statistics == BatchNormStatistics::Batch,
        })
    }

    /// An encoder that can also compare an image with a previous one. It is held to the recording; no stage uses it.
    pub fn with_previous(config: &VisionConfig, vb: VarBuilder<'_>) -> Result<Self, ModelError> {
        let pooler = TemporalPooler::new(config, &vb.pp("encoder.vit_pooler"))?;
        Ok(Self {
            vit_pooler: Some(pooler),
            ..Self::single_image(config, vb)?
        })
    }

    /// Projected patches `[B, P, h, w]` of images `[B, 3, H, W]`: all that RaDialog's own path uses.
    pub fn project(&self, images: &Tensor) -> Result<Tensor, ModelError> {
        let project = |images: &Tensor| self.project_patches(&self.patches(images, None)?);
        // Batch norms in training need the whole batch.
        if self.missing_previous_emb.track_op() {
            project(images)
        } else {
            each_sample(images, project)
        }
    }

    /// The grid of patch embeddings as tokens `[B, h w, 2V]` of images `[B, 3, H, W]`: token `w * row + column`, entry = channel.
    /// Where batch norms read the statistics of the batch, a token depends on all images of it.
    ///
    /// # Errors
    /// Images of another shape.
    pub fn grid_tokens(&self, images: &Tensor) -> Result<Tensor, ModelError> {
        let patches = |images: &Tensor| self.patches(images, None);
        let grid = if self.whole_batch {
            patches(images)
        } else {
            each_sample(images, patches)
        };
        Ok(grid?.flatten_from(2)?.transpose(1, 2)?.contiguous()?)
    }

    /// Whether an image's features depend on the other images of its batch.
    pub fn sees_whole_batch(&self) -> bool {
        self.whole_batch
    }

    /// All features of images `[B, 3, H, W]`, each compared with its previous image of the same shape where given.
    ///
    /// A previous image needs an encoder made by [`ImageEncoder::with_previous`] and the pooler's grid.
    pub fn features(
        &self,
        images: &Tensor,
        previous: Option<&Tensor>,
    ) -> Result<ImageFeatures, ModelError> {
        let stacked = match previous {
            None => images.unsqueeze(1)?,
            Some(previous) => Tensor::stack(&[images, previous], 1)?,
        };
        let patch_embeddings = each_sample(&stacked, |images| {
            let previous = if images.dim(1)? == 2 {
                Some(images.get_on_dim(1, 1)?)
            } else {
                None
            };
            self.patches(&images.get_on_dim(1, 0)?, previous.as_ref())
        })?;
        let projected_patch_embeddings =
            each_sample(&patch_embeddings, |patches| self.project_patches(patches))?;
        Ok(ImageFeatures {
            img_embedding: patch_embeddings.mean((2, 3))?,
            projected_global_embedding: projected_patch_embeddings.mean((2, 3))?,
            patch_embeddings,
            projected_patch_embeddings,
        })
    }

    fn patches(&self, images: &Tensor, previous: Option<&Tensor>) -> Result<Tensor, ModelError> {
        let own = self.reduced(images)?;
        let compared = match previous {
            None => self
                .missing_previous_emb
                .broadcast_as(own.shape())?
                .contiguous()?,
            Some(previous) => {
                let pooler = self.vit_pooler.as_ref().ok_or_else(|| {
                    ModelError::Input(
                        "this encoder was made without its temporal pooler".to_owned(),
                    )
                })?;
                pooler.forward(&own, &self.reduced(previous)?)?
            }
        };
        Ok(Tensor::cat(&[own, compared], 1)?)
    }

    fn reduced(&self, images: &Tensor) -> Result<Tensor, ModelError> {
        from_map(&self.backbone_to_vit.forward(&self.trunk.forward(images)?)?)
    }

    fn project_patches(&self, patches: &Tensor) -> Result<Tensor, ModelError> {
        let missing =
            || ModelError::Input("this encoder was made without its projector".to_owned());
        let [first, second] = self.projector.as_ref().ok_or_else(missing)?;
        from_map(&second.forward(&first.forward(&to_map(patches)?)?)?)
    }
}

/// The projector's two convolutions. The published alignment checkpoint leaves the projector out; it is then the one that
/// the published seed makes.
fn projector(config: &VisionConfig, vb: &VarBuilder<'_>) -> Result<[Conv; 2], ModelError> {
    let (input, output) = (2 * config.vit_dim, config.joint_feature_size);
    let seeded =
        if !vb.contains_tensor("projector.model.0.weight") && projector_seed::fits(input, output) {
            let seeded = projector_seed::weights(projector_seed::TRAINING_SEED, vb.device())?;
            Some(seeded.set_dtype(vb.dtype()))
        } else {
            None
        };
    let model = seeded.as_ref().unwrap_or(vb).pp("projector.model");
    let first = ConvShape::pointwise(input, output);
    let second = ConvShape::pointwise(output, output);
    let norm = BatchNormShape {
        eps: config.bn_eps,
        scale: 1.0,
        statistics: BatchNormStatistics::Running,
    };
    Ok([
        Conv::with_norm(first, &model.pp(0), &model.pp(1), norm)?.relu(),
        Conv::with_bias(second, &model.pp(3))?,
    ])
}
