//! Convolutions and pooling in training: the maps of inference, with operations that have a gradient, and batch norms
//! that follow each batch.

use candle_core::{CpuStorage, CustomOp1, Layout, Result as CandleResult, Shape, Tensor};
use rayon::prelude::*;

use super::conv_tensors::{BatchNormTensors, ConvShape};
use super::storage::floats;
use crate::error::ModelError;

mod batch_norm;
mod pool;

use batch_norm::{AddRelu, BatchNorm};
use pool::TrainedMaxPool;

/// A convolution's variables.
#[derive(Clone, Debug)]
pub(super) struct TrainedConv {
    /// `[out, in, kernel, kernel]`
    weight: Tensor,
    bias: Option<Tensor>,
    norm: Option<BatchNorm>,
}

impl TrainedConv {
    pub(super) fn without_bias(weight: Tensor) -> Self {
        Self {
            weight,
            bias: None,
            norm: None,
        }
    }

    pub(super) fn with_bias(weight: Tensor, bias: Tensor) -> Self {
        Self {
            weight,
            bias: Some(bias),
            norm: None,
        }
    }

    pub(super) fn with_norm(
        weight: Tensor,
        norm: BatchNormTensors,
        eps: f64,
    ) -> Result<Self, ModelError> {
        let norm = BatchNorm::new(norm, eps)?;
        Ok(Self {
            weight,
            bias: None,
            norm: Some(norm),
        })
    }

    /// A map to a map; `residual` is added before the ReLU.
    pub(super) fn forward(
        &self,
        map: &Tensor,
        shape: ConvShape,
        residual: Option<&Tensor>,
        relu: bool,
    ) -> Result<Tensor, ModelError> {
        let ConvShape {
            input,
            output,
            kernel,
            stride,
        } = shape;
        let early = relu && residual.is_none();
        let convolved = if map.device().is_cpu() {
            let (batch, rows, columns, _) = map.dims4()?;
            let (rows, columns) = (rows.div_ceil(stride), columns.div_ceil(stride));
            let patches = if (kernel, stride) == (1, 1) {
                map.reshape(((), input))?
            } else {
                map.contiguous()?.apply_op1(Im2Col { shape })?
            };
            let weight = self.weight.permute((2, 3, 1, 0))?.reshape(((), output))?;
            self.finish(&patches.matmul(&weight)?, early)?
                .reshape((batch, rows, columns, output))?
        } else {
            let output = map
                .conv2d(&self.weight, kernel / 2, stride, 1, 1)?
                .permute((0, 2, 3, 1))?;
            let rows = self
                .finish(&output.flatten_to(2)?, early)?
                .reshape(output.shape())?;
            rows.permute((0, 3, 1, 2))?.contiguous()?
        };
        Ok(match residual {
            None => convolved,
            Some(residual) if relu && map.device().is_cpu() => convolved
                .contiguous()?
                .apply_op2(&residual.contiguous()?, AddRelu)?,
            Some(residual) => {
                let sum = (convolved + residual)?;
                if relu { sum.relu()? } else { sum }
            }
        })
    }

    /// Bias or batch norm of pixels `[.., out]`, and the ReLU.
    fn finish(&self, pixels: &Tensor, relu: bool) -> CandleResult<Tensor> {
        let pixels = match (&self.bias, &self.norm) {
            (_, Some(norm)) => return norm.forward(pixels, relu),
            (Some(bias), None) => pixels.broadcast_add(bias)?,
            (None, None) => pixels.clone(),
        };
        if relu { pixels.relu() } else { Ok(pixels) }
    }
}

/// 3 x 3 maximum with stride 2 and padding 1 of a map without negative values. Elsewhere than on a CPU it is the largest
/// of even, odd and previous odd rows, then of columns, since the tensor library's pool has no such gradient.
pub(super) fn max_pool(map: &Tensor) -> Result<Tensor, ModelError> {
    if map.device().is_cpu() {
        return Ok(map.contiguous()?.apply_op1(TrainedMaxPool)?);
    }
    Ok(halve(&halve(map, 2)?, 3)?)
}

fn halve(map: &Tensor, dim: usize) -> CandleResult<Tensor> {
    let size = map.dim(dim)?;
    let map = if size % 2 == 1 {
        map.pad_with_zeros(dim, 0, 1)?
    } else {
        map.clone()
    };
    let mut dims = map.dims().to_vec();
    dims[dim] = size.div_ceil(2);
    dims.insert(dim + 1, 2);
    let pairs = map.reshape(dims)?;
    let half = |index| pairs.narrow(dim + 1, index, 1)?.squeeze(dim + 1);
    let (even, odd) = (half(0)?, half(1)?);
    let before = odd
        .narrow(dim, 0, size.div_ceil(2) - 1)?
        .pad_with_zeros(dim, 1, 0)?;
    even.maximum(&odd)?.maximum(&before)
}

/// The patches under a kernel as rows: `[B, h, w, in]` to `[B h' w', kernel kernel in]`.
struct Im2Col {
    shape: ConvShape,
}

/// The gradient of [`Im2Col`]: rows are added up where they came from.
struct Im2ColGradient {
    shape: ConvShape,
    map: Shape,
}

impl CustomOp1 for Im2Col {
    fn name(&self) -> &'static str {
        "patches"
    }

    fn cpu_fwd(&self, map: &CpuStorage, layout: &Layout) -> CandleResult<(CpuStorage, Shape)> {
        let values = floats(map, layout)?;
        let (batch, rows, columns, channels) = layout.shape().dims4()?;
        let (kernel, stride) = (self.shape.kernel, self.shape.stride);
        let (new_rows, new_columns) = (rows.div_ceil(stride), columns.div_ceil(stride));
        let depth = kernel * kernel * channels;
        let mut result = vec![0f32; batch * new_rows * new_columns * depth];
        result
            .par_chunks_exact_mut(new_columns * depth)
            .enumerate()
            .for_each(|(index, line)| {
                let (image, row) = (index / new_rows, index % new_rows);
                for (column, patch) in line.chunks_exact_mut(depth).enumerate() {
                    for (source, target) in places(row, column, kernel, stride, (rows, columns)) {
                        let from = (image * rows * columns + source) * channels;
                        patch[target * channels..][..channels]
                            .copy_from_slice(&values[from..from + channels]);
                    }
                }
            });
        Ok((
            CpuStorage::F32(result),
            Shape::from((batch * new_rows * new_columns, depth)),
        ))
    }

    fn bwd(&self, map: &Tensor, _: &Tensor, gradient: &Tensor) -> CandleResult<Option<Tensor>> {
        let op = Im2ColGradient {
            shape: self.shape,
            map: map.shape().clone(),
        };
        gradient.contiguous()?.apply_op1_no_bwd(&op).map(Some)
    }
}

impl CustomOp1 for Im2ColGradient {
    fn name(&self) -> &'static str {
        "gradient of patches"
    }

    fn cpu_fwd(&self, patches: &CpuStorage, layout: &Layout) -> CandleResult<(CpuStorage, Shape)> {
        let values = floats(patches, layout)?;
        let (batch, rows, columns, channels) = self.map.dims4()?;
        let (kernel, stride) = (self.shape.kernel, self.shape.stride);
        let (new_rows, new_columns) = (rows.div_ceil(stride), columns.div_ceil(stride));
        let depth = kernel * kernel * channels;
        let mut result = vec![0f32; batch * rows * columns * channels];
        // Images are apart, so that threads never add to the same place and the order of sums is fixed.
        result
            .par_chunks_exact_mut(rows * columns * channels)
            .enumerate()
            .for_each(|(image, map)| {
                let patches = values[image * new_rows * new_columns * depth..].chunks_exact(depth);
                for (index, patch) in patches.take(new_rows * new_columns).enumerate() {
                    let (row, column) = (index / new_columns, index % new_columns);
                    for (target, source) in places(row, column, kernel, stride, (rows, columns)) {
                        let sums = &mut map[target * channels..][..channels];
                        for (sum, value) in
                            sums.iter_mut().zip(&patch[source * channels..][..channels])
                        {
                            *sum += value;
                        }
                    }
                }
            });
        debug_assert_eq!(result.len(), batch * rows * columns * channels);
        Ok((CpuStorage::F32(result), self.map.clone()))
    }
}

/// Pixels of the map under the kernel at an output position, each with its place in the patch; none beyond the edge.
fn places(
    row: usize,
    column: usize,
    kernel: usize,
    stride: usize,
    (rows, columns): (usize, usize),
) -> impl Iterator<Item = (usize, usize)> {
    let padding = kernel / 2;
    (0..kernel * kernel).filter_map(move |place| {
        let y = (row * stride + place / kernel)
            .checked_sub(padding)
            .filter(|y| *y < rows)?;
        let x = (column * stride + place % kernel)
            .checked_sub(padding)
            .filter(|x| *x < columns)?;
        Some((y * columns + x, place))
    })
}

#[cfg(test)]
mod tests {
    use candle_core::{Device, Var};

    use super::*;

    fn wave(shape: &[usize], phase: f32) -> Tensor {
        let count: usize = shape.iter().product();
        let values: Vec<f32> = (0..count)
            .map(|i| (i as f32 * 0.73 + phase).sin())
            .collect();
        Tensor::from_vec(values, shape, &Device::Cpu).unwrap()
    }

    fn worst(a: &Tensor, b: &Tensor) -> f32 {
        (a - b)
            .unwrap()
            .abs()
            .unwrap()
            .max_all()
            .unwrap()
            .to_scalar()
            .unwrap()
    }

    #[test]
    fn a_trained_convolution_and_its_gradients_agree_with_the_tensor_library() {
        for (kernel, stride, side) in [(1, 1, 5), (1, 2, 5), (3, 1, 6), (3, 2, 7), (7, 2, 9)] {
            let shape = ConvShape {
                input: 3,
                output: 4,
                kernel,
                stride,
            };
            let weight = Var::from_tensor(&wave(&[4, 3, kernel, kernel], 1.0)).unwrap();
            // Square: the gradient of the library takes the output padding of both sides from one.
            let image = Var::from_tensor(&wave(&[2, 3, side, side], 0.0)).unwrap();
            let plain = image.conv2d(&weight, kernel / 2, stride, 1, 1).unwrap();
            let out_grad = wave(plain.dims(), 2.0);
            let expected = (&plain * &out_grad)
                .unwrap()
                .sum_all()
                .unwrap()
                .backward()
                .unwrap();

            let map = image.permute((0, 2, 3, 1)).unwrap();
            let ours = TrainedConv::without_bias(weight.as_tensor().clone())
                .forward(&map, shape, None, false)
                .unwrap();
            let ours = ours.permute((0, 3, 1, 2)).unwrap();
            assert!(worst(&ours, &plain) < 1e-4);
            let found = (&ours * &out_grad)
                .unwrap()
                .sum_all()
                .unwrap()
                .backward()
                .unwrap();
            for var in [&weight, &image] {
                assert!(
                    worst(found.get(var).unwrap(), expected.get(var).unwrap()) < 1e-3,
                    "{kernel} {stride}"
                );
            }
        }
    }

    #[test]
    fn the_pool_and_its_gradient_agree_with_that_of_rows_and_columns() {
        for side in [8, 9] {
            let map = Var::from_tensor(&wave(&[2, side, side + 1, 3], 0.0).abs().unwrap()).unwrap();
            let ours = max_pool(&map).unwrap();
            let plain = halve(&halve(&map, 1).unwrap(), 2).unwrap();
            assert_eq!(worst(&ours, &plain), 0.0, "side {side}");
            let cotangent = wave(plain.dims(), 1.0);
            let slope = |output: &Tensor| {
                (output * &cotangent)
                    .unwrap()
                    .sum_all()
                    .unwrap()
                    .backward()
                    .unwrap()
            };
            assert!(
                worst(
                    slope(&ours).get(&map).unwrap(),
                    slope(&plain).get(&map).unwrap()
                ) < 1e-6,
                "side {side}"
            );
        }
    }
}
