//! Convolutions on a CPU: patches of the map, laid out as rows, times the weights, with bias, residual and ReLU applied
//! while a tile of the result is still in cache. Several times as fast as the tensor library's own, in a fraction of its
//! memory.
//!
//! A tile's size follows from the layer alone, and threads share out tiles or whole columns, so that a result does not
//! depend on their number.

use std::ops::RangeInclusive;
use std::sync::Arc;

use candle_core::{CpuStorage, CustomOp1, CustomOp2, Layout, Result, Shape, Tensor, bail};
use gemm::Parallelism;
use rayon::prelude::*;

use super::ConvShape;
use super::storage::floats;

/// Numbers that a tile of patches may have, so that patches and result stay in the second-level cache.
const TILE_NUMBERS: usize = 96 * 1024;
/// Pixels of a tile: enough to repay reading the weights.
const TILE_PIXELS: RangeInclusive<usize> = 96..=1024;

/// Weights as the matrix product reads them.
#[derive(Clone, Debug)]
pub(super) struct PackedWeights {
    /// `[kernel * kernel * in, out]`
    weight: Arc<[f32]>,
    /// `[out]`
    bias: Arc<[f32]>,
}

impl PackedWeights {
    /// A convolution with `weight [out, in, kernel, kernel]` and `bias [out]`.
    pub(super) fn new(weight: &Tensor, bias: &Tensor) -> Result<Self> {
        let rows = weight.permute((2, 3, 1, 0))?.flatten_all()?;
        Ok(Self {
            weight: rows.to_vec1()?.into(),
            bias: bias.to_vec1()?.into(),
        })
    }
}

/// A convolution of maps `[B, h, w, in]` to `[B, h', w', out]`; a second operand, of the result's shape, is added before
/// the ReLU.
pub(super) struct Convolution<'a> {
    pub(super) shape: ConvShape,
    pub(super) weights: &'a PackedWeights,
    pub(super) relu: bool,
}

/// 3 x 3 maximum with stride 2 and padding 1 of maps `[B, h, w, C]` without negative values.
pub(super) struct MaxPool;

/// A convolution at work on one image.
struct ConvImage<'a> {
    convolution: &'a Convolution<'a>,
    input: &'a [f32],
    residual: Option<&'a [f32]>,
    /// Rows and columns of the input, and columns of the output.
    rows: usize,
    columns: usize,
    output_columns: usize,
}

impl CustomOp1 for Convolution<'_> {
    fn name(&self) -> &'static str {
        "convolution"
    }

    fn cpu_fwd(&self, input: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        self.run(floats(input, layout)?, layout.shape(), None)
    }
}

impl CustomOp2 for Convolution<'_> {
    fn name(&self) -> &'static str {
        "convolution with residual"
    }

    fn cpu_fwd(
        &self,
        input: &CpuStorage,
        layout: &Layout,
        residual: &CpuStorage,
        residual_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let residual = (floats(residual, residual_layout)?, residual_layout.shape());
        self.run(floats(input, layout)?, layout.shape(), Some(residual))
    }
}

impl Convolution<'_> {
    fn run(
        &self,
        input: &[f32],
        shape: &Shape,
        residual: Option<(&[f32], &Shape)>,
    ) -> Result<(CpuStorage, Shape)> {
        let (batch, rows, columns, channels) = shape.dims4()?;
        let (output_rows, output_columns) = (
            rows.div_ceil(self.shape.stride),
            columns.div_ceil(self.shape.stride),
        );
        let output = Shape::from((batch, output_rows, output_columns, self.shape.output));
        if channels != self.shape.input || residual.is_some_and(|(_, shape)| *shape != output) {
            bail!(
                "a map of shape {shape:?} for a convolution {:?}",
                self.shape
            );
        }
        let (input_size, size) = (
            rows * columns * channels,
            output_rows * output_columns * self.shape.output,
        );
        let mut result = vec![0f32; batch * size];
        for (index, result) in result.chunks_exact_mut(size).enumerate() {
            let image = ConvImage {
                convolution: self,
                input: &input[index * input_size..][..input_size],
                residual: residual.map(|(values, _)| &values[index * size..][..size]),
                rows,
                columns,
                output_columns,
            };
            image.convolve(result);
        }
        Ok((CpuStorage::F32(result), output))
    }
}

impl CustomOp1 for MaxPool {
    fn name(&self) -> &'static str {
        "max pool"
    }

    fn cpu_fwd(&self, input: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let input = floats(input, layout)?;
        let (batch, rows, columns, channels) = layout.shape().dims4()?;
        let (output_rows, output_columns) = (rows.div_ceil(2), columns.div_ceil(2));
        let mut result = vec![0f32; batch * output_rows * output_columns * channels];
        result
            .par_chunks_exact_mut(output_columns * channels)
            .enumerate()
            .for_each(|(index, line)| {
                let (image, row) = (index / output_rows, index % output_rows);
                for (column, pixel) in line.chunks_exact_mut(channels).enumerate() {
                    for y in window(row, rows) {
                        for x in window(column, columns) {
                            let start = ((image * rows + y) * columns + x) * channels;
                            for (largest, &value) in
                                pixel.iter_mut().zip(&input[start..start + channels])
                            {
                                *largest = at_least(value, *largest);
                            }
                        }
                    }
                }
            });
        Ok((
            CpuStorage::F32(result),
            Shape::from((batch, output_rows, output_columns, channels)),
        ))
    }
}

/// The three positions around `2 * index` that exist.
pub(super) fn window(index: usize, size: usize) -> std::ops::Range<usize> {
    (2 * index).saturating_sub(1)..(2 * index + 2).min(size)
}

impl ConvImage<'_> {
    fn convolve(&self, result: &mut [f32]) {
        let Convolution { shape, weights, .. } = self.convolution;
        let (depth, width) = (shape.kernel * shape.kernel * shape.input, shape.output);
        let pixels =
            (TILE_NUMBERS / depth.max(width)).clamp(*TILE_PIXELS.start(), *TILE_PIXELS.end());
        let tiles = (result.len() / width).div_ceil(pixels);
        let pixels = (result.len() / width).div_ceil(tiles);
        let threads = rayon::current_num_threads();
        let parallelism = if tiles < threads {
            Parallelism::Rayon(threads.div_ceil(tiles))
        } else {
            Parallelism::None
        };
        result
            .par_chunks_mut(pixels * width)
            .enumerate()
            .for_each_init(Vec::new, |patches, (index, tile)| {
                let first = index * pixels;
                let count = tile.len() / width;
                if shape.kernel == 1 && shape.stride == 1 {
                    multiply(
                        &self.input[first * depth..][..count * depth],
                        &weights.weight,
                        tile,
                        depth,
                        parallelism,
                    );
                } else {
                    patches.resize(count * depth, 0.0);
                    self.gather(first, depth, patches);
                    multiply(patches, &weights.weight, tile, depth, parallelism);
                }
                self.finish(first, tile);
            });
    }

    /// Copies the patches of consecutive output pixels, from `first` on, each as rows of pixels; zeros where a patch
    /// reaches over the edge.
    fn gather(&self, first: usize, depth: usize, patches: &mut [f32]) {
        let ConvShape {
            input: channels,
            kernel,
            stride,
            ..
        } = self.convolution.shape;
        let padding = kernel / 2;
        for (pixel, patch) in (first..).zip(patches.chunks_exact_mut(depth)) {
            let top = (pixel / self.output_columns * stride) as isize - padding as isize;
            let left = (pixel % self.output_columns * stride) as isize - padding as isize;
            let skipped = left.min(0).unsigned_abs();
            let kept = kernel.min((self.columns as isize - left) as usize) - skipped;
            let begin = left.max(0) as usize;
            for (y, line) in (top..).zip(patch.chunks_exact_mut(kernel * channels)) {
                if y < 0 || y >= self.rows as isize {
                    line.fill(0.0);
                    continue;
                }
                let start = (y as usize * self.columns + begin) * channels;
                let (before, rest) = line.split_at_mut(skipped * channels);
                let (inside, after) = rest.split_at_mut(kept * channels);
                before.fill(0.0);
                inside.copy_from_slice(&self.input[start..start + kept * channels]);
                after.fill(0.0);
            }
        }
    }

    /// Adds bias and residual and applies the ReLU to consecutive output pixels from `first` on.
    fn finish(&self, first: usize, tile: &mut [f32]) {
        let Convolution {
            shape,
            weights,
            relu,
        } = self.convolution;
        let (width, floor) = (shape.output, if *relu { 0.0 } else { f32::NEG_INFINITY });
        match self.residual {
            Some(residual) => {
                let residual = residual[first * width..].chunks_exact(width);
                for (pixel, residual) in tile.chunks_exact_mut(width).zip(residual) {
                    for ((value, bias), residual) in
                        pixel.iter_mut().zip(&*weights.bias).zip(residual)
                    {
                        *value = at_least(*value + bias + residual, floor);
                    }
                }
            }
            None => {
                for pixel in tile.chunks_exact_mut(width) {
                    for (value, bias) in pixel.iter_mut().zip(&*weights.bias) {
                        *value = at_least(*value + bias, floor);
                    }
                }
            }
        }
    }
}

/// The larger one; a `value` that is not a number stays, so that broken weights show.
fn at_least(value: f32, floor: f32) -> f32 {
    if value < floor { floor } else { value }
}

/// `left [m, depth]` times `right [depth, n]` into `result [m, n]`, all row-major.
fn multiply(
    left: &[f32],
    right: &[f32],
    result: &mut [f32],
    depth: usize,
    parallelism: Parallelism,
) {
    let (m, n) = (left.len() / depth, right.len() / depth);
    assert!(
        left.len() == m * depth && right.len() == depth * n && result.len() == m * n,
        "matrices do not fit"
    );
    let (depth_stride, n_stride) = (depth as isize, n as isize);
    #[expect(unsafe_code, reason = "the matrix product takes pointers")]
    // SAFETY: the strides are those of row-major matrices, whose lengths were checked; `result` is borrowed alone.
    unsafe {
        gemm::gemm(
            m,
            n,
            depth,
            result.as_mut_ptr(),
            1,
            n_stride,
            false,
            left.as_ptr(),
            1,
            depth_stride,
            right.as_ptr(),
            1,
            n_stride,
            0.0,
            1.0,
            false,
            false,
            false,
            parallelism,
        );
    }
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;

    /// Numbers without a pattern, from -1 to 1.
    fn noise(shape: &[usize], seed: u32) -> Tensor {
        let count: usize = shape.iter().product();
        let value = |index: usize| {
            let mixed = (index as u32 + seed).wrapping_mul(0x9E37_79B9);
            ((mixed ^ (mixed >> 15)).wrapping_mul(0x85EB_CA6B) >> 8) as f32 / 8_388_608.0 - 1.0
        };
        Tensor::from_vec((0..count).map(value).collect(), shape, &Device::Cpu).unwrap()
    }

    fn largest_difference(a: &Tensor, b: &Tensor) -> f32 {
        (a - b)
            .unwrap()
            .abs()
            .unwrap()
            .flatten_all()
            .unwrap()
            .max(0)
            .unwrap()
            .to_scalar()
            .unwrap()
    }

    fn as_map(features: &Tensor) -> Tensor {
        super::super::to_map(features).unwrap()
    }

    #[test]
    fn a_convolution_agrees_with_the_tensor_library() {
        for (kernel, stride, side) in [
            (1, 1, 9),
            (1, 2, 9),
            (3, 1, 13),
            (3, 2, 13),
            (3, 2, 14),
            (7, 2, 31),
        ] {
            let shape = ConvShape {
                input: 5,
                output: 20,
                kernel,
                stride,
            };
            let (input, weight) = (
                noise(&[2, 5, side, side + 2], 1),
                noise(&[20, 5, kernel, kernel], 2),
            );
            let bias = noise(&[20], 3);
            let plain = input.conv2d(&weight, kernel / 2, stride, 1, 1).unwrap();
            let residual = noise(plain.dims(), 4);
            let expected = plain
                .broadcast_add(&bias.reshape((1, 20, 1, 1)).unwrap())
                .unwrap();
            let with_residual = (&expected + &residual).unwrap().relu().unwrap();

            let weights = PackedWeights::new(&weight, &bias).unwrap();
            let convolution = |relu| Convolution {
                shape,
                weights: &weights,
                relu,
            };
            let actual = as_map(&input)
                .apply_op1_no_bwd(&convolution(false))
                .unwrap();
            assert!(
                largest_difference(&actual, &as_map(&expected)) < 1e-4,
                "{shape:?}"
            );
            let actual = as_map(&input)
                .apply_op2_no_bwd(&as_map(&residual), &convolution(true))
                .unwrap();
            assert!(
                largest_difference(&actual, &as_map(&with_residual)) < 1e-4,
                "{shape:?} with residual"
            );
        }
    }

    #[test]
    fn the_pool_agrees_with_the_tensor_library() {
        for side in [8, 9] {
            let input = noise(&[2, 3, side, side + 1], 5).abs().unwrap();
            let padded = input
                .pad_with_zeros(2, 1, 1)
                .unwrap()
                .pad_with_zeros(3, 1, 1)
                .unwrap();
            let expected = padded.max_pool2d_with_stride(3, 2).unwrap();
            let actual = as_map(&input).apply_op1_no_bwd(&MaxPool).unwrap();
            assert_eq!(largest_difference(&actual, &as_map(&expected)), 0.0);
        }
    }

    #[test]
    fn a_result_does_not_depend_on_the_number_of_threads() {
        let shape = ConvShape {
            input: 64,
            output: 96,
            kernel: 3,
            stride: 1,
        };
        let weights = PackedWeights::new(&noise(&[96, 64, 3, 3], 1), &noise(&[96], 2)).unwrap();
        let input = as_map(&noise(&[1, 64, 17, 17], 3));
        let run = |threads| {
            let pool = rayon::ThreadPoolBuilder::new()
                .num_threads(threads)
                .build()
                .unwrap();
            let convolution = Convolution {
                shape,
                weights: &weights,
                relu: false,
            };
            pool.install(|| input.apply_op1_no_bwd(&convolution))
                .unwrap()
        };
        let alone = run(1).flatten_all().unwrap().to_vec1::<f32>().unwrap();
        for threads in [2, 3, 8] {
            assert_eq!(
                run(threads)
                    .flatten_all()
                    .unwrap()
                    .to_vec1::<f32>()
                    .unwrap(),
                alone,
                "{threads} threads"
            );
        }
    }
}
