//! Convolutions of maps `[B, h, w, in]` with square kernels, padding `kernel / 2`: patches of the map are rows of a
//! product, made a panel at a time. Kernels of 3 x 3 with stride 1 go by Winograd's way where it saves work.

use std::ops::Range;
use std::sync::Arc;

use rayon::prelude::*;

use super::buffer::Buffer;
use super::cpu::Features;
use super::gemm::{
    Activation, Finish, PackedMatrix, Precision, bf16, multiply, multiply_rows_with,
};

pub(crate) mod gradients;
mod patches;
mod winograd;

use patches::{Patches, RoundedPatches};
use winograd::Winograd;

/// Fewer channels than this make lines of patches so short that packing them would take as long as the products: they are
/// read where they lie, in a copy of the map with a frame of zeros.
const FEW_CHANNELS: usize = 16;

/// Channels, side and stride of a convolution.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Window {
    pub(crate) input: usize,
    pub(crate) output: usize,
    pub(crate) kernel: usize,
    pub(crate) stride: usize,
}

/// A convolution's weights, packed. Clones share them.
#[derive(Clone, Debug)]
pub(crate) struct Convolution {
    window: Window,
    weights: Weights,
    bias: Arc<[f32]>,
}

#[derive(Clone, Debug)]
enum Weights {
    /// `[kernel * kernel * in, out]`.
    Direct(PackedMatrix),
    Winograd(Winograd),
}

/// Whole pixels of a batch of images, row by row.
#[derive(Debug)]
pub(crate) struct Map {
    pub(crate) values: Buffer,
    pub(crate) batch: usize,
    pub(crate) rows: usize,
    pub(crate) columns: usize,
    pub(crate) channels: usize,
}

/// The sides of a map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Extent {
    pub(crate) batch: usize,
    pub(crate) rows: usize,
    pub(crate) columns: usize,
}

impl Extent {
    pub(crate) fn pixels(self) -> usize {
        self.batch * self.rows * self.columns
    }

    fn halved_by(self, stride: usize) -> Self {
        Self {
            batch: self.batch,
            rows: self.rows.div_ceil(stride),
            columns: self.columns.div_ceil(stride),
        }
    }
}

impl Map {
    /// A map without values yet.
    pub(crate) fn new(extent: Extent, channels: usize) -> Self {
        let Extent {
            batch,
            rows,
            columns,
        } = extent;
        Self {
            values: Buffer::take(extent.pixels() * channels),
            batch,
            rows,
            columns,
            channels,
        }
    }

    pub(crate) fn extent(&self) -> Extent {
        Extent {
            batch: self.batch,
            rows: self.rows,
            columns: self.columns,
        }
    }
}

impl Convolution {
    /// A convolution with `weight [out, in, kernel, kernel]` and `bias [out]`.
    ///
    /// # Panics
    /// Where slices have other lengths.
    pub(crate) fn new(window: Window, weight: &[f32], bias: &[f32], precision: Precision) -> Self {
        let Window {
            input,
            output,
            kernel,
            ..
        } = window;
        assert!(weight.len() == output * input * kernel * kernel && bias.len() == output);
        let weights = match winograd::tile_side(Features::detected(), window, precision) {
            Some(side) => {
                let kernel = |column, row| kernel_of(weight, window, column, row);
                Weights::Winograd(Winograd::new(side, window, Buffer::zeroed, kernel))
            }
            None => Weights::Direct(PackedMatrix::new(
                kernel * kernel * input,
                output,
                precision,
                |row, column| weight_at(weight, window, column, row),
            )),
        };
        Self {
            window,
            weights,
            bias: bias.into(),
        }
    }

    /// The f32 convolution with `weight [out, in, kernel, kernel]` that a training computes once: its packed weights lie in
    /// memory that goes back to the next layer.
    ///
    /// # Panics
    /// Where slices have other lengths.
    pub(crate) fn once(window: Window, weight: &[f32], bias: &[f32]) -> Self {
        let Window {
            input,
            output,
            kernel,
            ..
        } = window;
        assert!(weight.len() == output * input * kernel * kernel && bias.len() == output);
        let weights = match winograd::tile_side(Features::detected(), window, Precision::F32) {
            Some(side) => {
                let kernel = |column, row| kernel_of(weight, window, column, row);
                Weights::Winograd(Winograd::new(side, window, Buffer::take, kernel))
            }
            None if kernel == 1 => Weights::Direct(PackedMatrix::of_columns(weight, input)),
            None => Weights::Direct(PackedMatrix::of_entries(
                kernel * kernel * input,
                output,
                |row, column| weight_at(weight, window, column, row),
            )),
        };
        Self {
            window,
            weights,
            bias: bias.into(),
        }
    }

    pub(crate) fn window(&self) -> Window {
        self.window
    }

    /// The sides of the result of a map.
    pub(crate) fn extent(&self, map: Extent) -> Extent {
        map.halved_by(self.window.stride)
    }

    /// A map to a new one, with `residual` added before the ReLU.
    pub(crate) fn forward(&self, map: &Map, residual: Option<&Map>, relu: bool) -> Map {
        let mut result = Map::new(self.extent(map.extent()), self.window.output);
        let residual = residual.map(|residual| &*residual.values);
        self.compute(
            &map.values,
            map.extent(),
            residual,
            relu,
            &mut result.values,
        );
        result
    }

    /// The same of slices.
    ///
    /// # Panics
    /// Where slices have other lengths than the sides say.
    pub(crate) fn compute(
        &self,
        map: &[f32],
        extent: Extent,
        residual: Option<&[f32]>,
        relu: bool,
        result: &mut [f32],
    ) {
        let finish = Finish {
            bias: Some(&self.bias),
            residual,
            activation: if relu {
                Activation::Relu
            } else {
                Activation::None
            },
        };
        self.compute_with(Features::detected(), map, extent, finish, result);
    }

    fn compute_with(
        &self,
        features: Features,
        map: &[f32],
        extent: Extent,
        finish: Finish<'_>,
        result: &mut [f32],
    ) {
        let Window {
            input,
            output,
            kernel,
            stride,
        } = self.window;
        let target = self.extent(extent);
        assert!(map.len() == extent.pixels() * input && result.len() == target.pixels() * output);
        match &self.weights {
            Weights::Winograd(winograd) => {
                winograd.compute(features, map, extent, finish, result);
            }
            Weights::Direct(weights) if (kernel, stride) == (1, 1) => {
                multiply_rows_with(features, map, weights, finish, result);
            }
            Weights::Direct(weights) => {
                let patches = Patches {
                    map,
                    extent,
                    target,
                    window: self.window,
                };
                if weights.precision() == Precision::Bf16 {
                    let rounded = RoundedPatches::new(features, &patches);
                    bf16::multiply(features, &rounded, weights, finish, result);
                } else if input < FEW_CHANNELS {
                    multiply(features, &patches.framed(), weights, finish, result);
                } else {
                    multiply(features, &patches, weights, finish, result);
                }
            }
        }
    }
}

/// The weight of an output channel and a place in a patch, `[kernel, kernel, in]`, from `weight [out, in, kernel, kernel]`.
fn weight_at(weight: &[f32], window: Window, output: usize, row: usize) -> f32 {
    let (place, channel) = (row / window.input, row % window.input);
    weight[(output * window.input + channel) * window.kernel * window.kernel + place]
}

/// The nine weights of an output and an input channel.
fn kernel_of(weight: &[f32], window: Window, output: usize, input: usize) -> [f32; 9] {
    let start = (output * window.input + input) * 9;
    std::array::from_fn(|place| weight[start + place])
}

/// 3 x 3 maximum with stride 2 and padding 1 of maps without negative values. What is not a number stays, so that broken weights
/// show.
pub(crate) fn max_pool(map: &[f32], extent: Extent, result: &mut [f32]) {
    let target = extent.halved_by(2);
    let channels = map.len() / extent.pixels().max(1);
    assert!(map.len() == extent.pixels() * channels && result.len() == target.pixels() * channels);
    if result.is_empty() {
        return;
    }
    result
        .par_chunks_exact_mut(target.columns * channels)
        .enumerate()
        .for_each(|(index, line)| {
            let (image, row) = (index / target.rows, index % target.rows);
            for (column, pixel) in line.chunks_exact_mut(channels).enumerate() {
                pixel.fill(0.0);
                for y in window(row, extent.rows) {
                    for x in window(column, extent.columns) {
                        let start = ((image * extent.rows + y) * extent.columns + x) * channels;
                        for (largest, &value) in pixel.iter_mut().zip(&map[start..start + channels])
                        {
                            if value > *largest || value.is_nan() {
                                *largest = value;
                            }
                        }
                    }
                }
            }
        });
}

/// The three positions around `2 * index` that exist.
pub(crate) fn window(index: usize, size: usize) -> Range<usize> {
    (2 * index).saturating_sub(1)..(2 * index + 2).min(size)
}

#[cfg(test)]
mod tests;
