//! ResNet-50 (He et al., 2016) in torchvision's layout: the stride of a bottleneck sits in its 3 x 3 convolution.

use candle_core::Tensor;
use candle_nn::VarBuilder;

use crate::error::ModelError;
use crate::kernels::convolution::Map;
use crate::layers::{BatchNormShape, Conv, ConvShape, cpu, in_pool, max_pool, to_map};
use crate::tensors::unread_linear;

/// Bottlenecks of the four stages.
const BLOCKS: [usize; 4] = [3, 4, 6, 3];
/// A bottleneck's output is this many times as wide as its middle.
const EXPANSION: usize = 4;
/// Classes of the ImageNet head that image encoder files carry.
const IMAGENET_CLASSES: usize = 1000;
/// Scale of the last batch norm in each bottleneck of random weights: keeps the sum over 16 residual branches small.
const RESIDUAL_SCALE: f32 = 0.5;

#[derive(Clone, Debug)]
pub(super) struct ResNet {
    conv1: Conv,
    layers: Vec<Bottleneck>,
}

#[derive(Clone, Debug)]
struct Bottleneck {
    conv1: Conv,
    conv2: Conv,
    conv3: Conv,
    downsample: Option<Conv>,
}

impl ResNet {
    pub(super) fn new(
        stem: usize,
        norm: BatchNormShape,
        vb: &VarBuilder<'_>,
    ) -> Result<Self, ModelError> {
        let shape = ConvShape {
            input: 3,
            output: stem,
            kernel: 7,
            stride: 2,
        };
        let conv1 = Conv::with_norm(shape, &vb.pp("conv1"), &vb.pp("bn1"), norm)?.relu();
        let mut layers = Vec::new();
        let mut input = stem;
        for (stage, blocks) in BLOCKS.into_iter().enumerate() {
            let middle = stem << stage;
            for block in 0..blocks {
                let stride = if stage > 0 && block == 0 { 2 } else { 1 };
                let vb = vb.pp(format!("layer{}", stage + 1)).pp(block);
                layers.push(Bottleneck::new(
                    input,
                    middle,
                    stride,
                    block == 0,
                    norm,
                    &vb,
                )?);
                input = EXPANSION * middle;
            }
        }
        unread_linear(input, IMAGENET_CLASSES, &vb.pp("fc"))?;
        Ok(Self { conv1, layers })
    }

    /// `[B, 3, H, W]` to a map of `32 stem` channels, its sides divided by 32, rounded up at each halving.
    pub(super) fn forward(&self, images: &Tensor) -> Result<Tensor, ModelError> {
        if self.conv1.takes_maps() {
            let features = in_pool(|| -> Result<_, ModelError> {
                Ok(self.forward_map(&cpu::map_of(images)?))
            });
            return match features? {
                Some(features) => Ok(cpu::tensor_of(&features)?),
                None => unreachable!("convolutions of a trunk are all of one kind"),
            };
        }
        let images = to_map(images)?;
        let features = max_pool(&self.conv1.forward(&images)?)?;
        self.layers
            .iter()
            .try_fold(features, |features, block| block.forward(&features))
    }
}

impl ResNet {
    fn forward_map(&self, images: &Map) -> Option<Map> {
        let features = cpu::max_pool(&self.conv1.forward_map(images, None)?);
        self.layers
            .iter()
            .try_fold(features, |features, block| block.forward_map(features))
    }
}

impl Bottleneck {
    fn new(
        input: usize,
        middle: usize,
        stride: usize,
        downsample: bool,
        norm: BatchNormShape,
        vb: &VarBuilder<'_>,
    ) -> Result<Self, ModelError> {
        let output = EXPANSION * middle;
        let conv = |shape: ConvShape, index: usize, scale: f32| {
            Conv::with_norm(
                shape,
                &vb.pp(format!("conv{index}")),
                &vb.pp(format!("bn{index}")),
                BatchNormShape { scale, ..norm },
            )
        };
        let residual = |input: usize| {
            let shape = ConvShape {
                input,
                output,
                kernel: 1,
                stride,
            };
            let norm = BatchNormShape {
                scale: RESIDUAL_SCALE,
                ..norm
            };
            Conv::with_norm(shape, &vb.pp("downsample.0"), &vb.pp("downsample.1"), norm)
        };
        Ok(Self {
            conv1: conv(ConvShape::pointwise(input, middle), 1, 1.0)?.relu(),
            conv2: conv(
                ConvShape {
                    input: middle,
                    output: middle,
                    kernel: 3,
                    stride,
                },
                2,
                1.0,
            )?
            .relu(),
            conv3: conv(ConvShape::pointwise(middle, output), 3, RESIDUAL_SCALE)?.relu(),
            downsample: downsample.then(|| residual(input)).transpose()?,
        })
    }

    fn forward(&self, input: &Tensor) -> Result<Tensor, ModelError> {
        let residual = match &self.downsample {
            Some(downsample) => downsample.forward(input)?,
            None => input.clone(),
        };
        let features = self.conv2.forward(&self.conv1.forward(input)?)?;
        self.conv3.forward_with(&features, Some(&residual))
    }

    fn forward_map(&self, input: Map) -> Option<Map> {
        let features = self.conv1.forward_map(&input, None)?;
        let features = self.conv2.forward_map(&features, None)?;
        let residual = match &self.downsample {
            Some(downsample) => downsample.forward_map(&input, None)?,
            None => input,
        };
        self.conv3.forward_map(&features, Some(&residual))
    }
}
