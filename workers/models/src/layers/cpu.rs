//! Convolutions and pooling on a CPU, by our own kernels: several times as fast as the tensor library's, in a fraction of
//! its memory.

use candle_core::{CpuStorage, CustomOp1, CustomOp2, Layout, Result, Shape, Tensor, bail};
use rayon::prelude::*;

use super::ConvShape;
use super::storage::floats;
use crate::kernels::buffer::Buffer;
use crate::kernels::convolution::{self, Convolution, Extent, Map, Window};
use crate::kernels::gemm::Precision;

/// Packs the weights of a convolution with `weight [out, in, kernel, kernel]` and `bias [out]`.
pub(super) fn pack(
    shape: ConvShape,
    weight: &Tensor,
    bias: &Tensor,
    precision: Precision,
) -> Result<Convolution> {
    let window = Window {
        input: shape.input,
        output: shape.output,
        kernel: shape.kernel,
        stride: shape.stride,
    };
    let weight: Vec<f32> = weight.flatten_all()?.to_vec1()?;
    Ok(Convolution::new(
        window,
        &weight,
        &bias.to_vec1::<f32>()?,
        precision,
    ))
}

/// A convolution of maps `[B, h, w, in]` to `[B, h', w', out]`; a second operand, of the result's shape, is added before
/// the ReLU.
pub(super) struct ConvolutionOp<'a> {
    pub(super) convolution: &'a Convolution,
    pub(super) relu: bool,
}

/// 3 x 3 maximum with stride 2 and padding 1 of maps `[B, h, w, C]` without negative values.
pub(super) struct MaxPool;

impl CustomOp1 for ConvolutionOp<'_> {
    fn name(&self) -> &'static str {
        "convolution"
    }

    fn cpu_fwd(&self, input: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        self.run(floats(input, layout)?, layout.shape(), None)
    }
}

impl CustomOp2 for ConvolutionOp<'_> {
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

impl ConvolutionOp<'_> {
    fn run(
        &self,
        input: &[f32],
        shape: &Shape,
        residual: Option<(&[f32], &Shape)>,
    ) -> Result<(CpuStorage, Shape)> {
        let (batch, rows, columns, channels) = shape.dims4()?;
        let extent = Extent {
            batch,
            rows,
            columns,
        };
        let (window, target) = (self.convolution.window(), self.convolution.extent(extent));
        let output = Shape::from((batch, target.rows, target.columns, window.output));
        if channels != window.input || residual.is_some_and(|(_, shape)| *shape != output) {
            bail!("a map of shape {shape:?} for a convolution {window:?}");
        }
        let mut result = vec![0f32; output.elem_count()];
        let residual = residual.map(|(values, _)| values);
        self.convolution
            .compute(input, extent, residual, self.relu, &mut result);
        Ok((CpuStorage::F32(result), output))
    }
}

impl CustomOp1 for MaxPool {
    fn name(&self) -> &'static str {
        "max pool"
    }

    fn cpu_fwd(&self, input: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (batch, rows, columns, channels) = layout.shape().dims4()?;
        let output = Shape::from((batch, rows.div_ceil(2), columns.div_ceil(2), channels));
        let mut result = vec![0f32; output.elem_count()];
        convolution::max_pool(
            floats(input, layout)?,
            Extent {
                batch,
                rows,
                columns,
            },
            &mut result,
        );
        Ok((CpuStorage::F32(result), output))
    }
}

/// Matrices `[rows, columns]`, as many as there are, each turned into `[columns, rows]`.
pub(super) fn transposed(matrices: &Tensor, rows: usize, columns: usize) -> Result<Tensor> {
    let count = matrices.elem_count();
    let mut result = vec![0f32; count];
    super::storage::with_floats([matrices], |[values]| {
        let size = (rows * columns).max(1);
        for (matrix, result) in values.chunks_exact(size).zip(result.chunks_exact_mut(size)) {
            // The larger step is taken by the reader: a few rows of the result at a time stay in the cache.
            for (row, values) in matrix.chunks_exact(columns).enumerate() {
                for (value, target) in values.iter().zip(result[row..].iter_mut().step_by(rows)) {
                    *target = *value;
                }
            }
        }
    })?;
    Tensor::from_vec(result, count, &candle_core::Device::Cpu)
}

/// `[B, C, h, w]` of the tensor library as a map of ours.
pub(crate) fn map_of(images: &Tensor) -> Result<Map> {
    let (batch, channels, rows, columns) = images.dims4()?;
    let extent = Extent {
        batch,
        rows,
        columns,
    };
    let mut result = Map::new(extent, channels);
    let plane = rows * columns;
    super::storage::with_floats([images], |[values]| {
        result
            .values
            .par_chunks_exact_mut((columns * channels).max(1))
            .enumerate()
            .for_each(|(line, pixels)| {
                let (image, row) = (line / rows, line % rows);
                for channel in 0..channels {
                    let start = (image * channels + channel) * plane + row * columns;
                    let values = &values[start..start + columns];
                    for (pixel, value) in pixels.chunks_exact_mut(channels).zip(values) {
                        pixel[channel] = *value;
                    }
                }
            });
    })?;
    Ok(result)
}

/// A map of ours as `[B, h, w, C]` of the tensor library.
pub(crate) fn tensor_of(map: &Map) -> Result<Tensor> {
    let shape = (map.batch, map.rows, map.columns, map.channels);
    Tensor::from_vec(map.values.to_vec(), shape, &candle_core::Device::Cpu)
}

/// See [`MaxPool`].
pub(crate) fn max_pool(map: &Map) -> Map {
    let (rows, columns) = (map.rows.div_ceil(2), map.columns.div_ceil(2));
    let mut result = Map::new(
        Extent {
            batch: map.batch,
            rows,
            columns,
        },
        map.channels,
    );
    let values: &mut Buffer = &mut result.values;
    convolution::max_pool(&map.values, map.extent(), values);
    result
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

            let packed = pack(shape, &weight, &bias, Precision::F32).unwrap();
            let convolution = |relu| ConvolutionOp {
                convolution: &packed,
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
}
