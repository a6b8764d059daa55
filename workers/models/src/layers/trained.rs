//! Convolutions and pooling in training: the maps of inference, with operations that have a gradient, and batch norms
//! that follow each batch.

use candle_core::{Result as CandleResult, Tensor};

use super::conv_tensors::{BatchNormTensors, ConvShape};
use crate::error::ModelError;

mod attention;
mod batch_norm;
mod convolution;
mod linear;
mod pool;

pub(crate) use attention::{AttentionShape, attend};
use batch_norm::{AddRelu, BatchNorm};
use convolution::{Behind, convolve};
pub(super) use linear::linear;
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
        let early = relu && residual.is_none();
        let convolved = if map.device().is_cpu() {
            let behind = match (&self.norm, &self.bias) {
                (Some(norm), _) => Behind::Norm(norm),
                (None, Some(bias)) => Behind::Bias(bias),
                (None, None) => Behind::Nothing,
            };
            convolve(map, &self.weight, shape, behind, early)?
        } else {
            let output = map
                .conv2d(&self.weight, shape.kernel / 2, shape.stride, 1, 1)?
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

    /// Bias or batch norm of pixels `[.., out]` elsewhere than on a CPU, and the ReLU.
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

#[cfg(test)]
mod tests {
    use candle_core::{Device, Var};

    use super::*;
    use crate::layers::differences::worst;

    fn wave(shape: &[usize], phase: f32) -> Tensor {
        let count: usize = shape.iter().product();
        let values: Vec<f32> = (0..count)
            .map(|i| (i as f32 * 0.73 + phase).sin())
            .collect();
        Tensor::from_vec(values, shape, &Device::Cpu).unwrap()
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
    fn a_norm_behind_a_convolution_and_all_gradients_agree_with_the_tensor_library() {
        let variable = |dims: &[usize], phase| Var::from_tensor(&wave(dims, phase)).unwrap();
        for (kernel, stride, relu) in [(1, 1, true), (3, 1, false), (3, 2, true)] {
            let shape = ConvShape {
                input: 3,
                output: 5,
                kernel,
                stride,
            };
            let (weight, image) = (
                variable(&[5, 3, kernel, kernel], 1.0),
                variable(&[2, 3, 61, 61], 0.0),
            );
            let (scale, bias) = (variable(&[5], 2.0), variable(&[5], 3.0));
            let zeros = scale.zeros_like().unwrap().detach();
            let tensors = BatchNormTensors {
                weight: scale.as_tensor().clone(),
                bias: bias.as_tensor().clone(),
                running_mean: zeros.clone(),
                running_var: zeros,
            };
            let ours = TrainedConv::with_norm(weight.as_tensor().clone(), tensors, 1e-5).unwrap();
            let map = image.permute((0, 2, 3, 1)).unwrap();
            let found = ours.forward(&map, shape, None, relu).unwrap();

            let rows = image
                .conv2d(&weight, kernel / 2, stride, 1, 1)
                .unwrap()
                .permute((0, 2, 3, 1))
                .unwrap();
            let norm = ours.norm.as_ref().unwrap();
            let follow = norm.clone();
            let plain = norm.forward(&rows.reshape(((), 5)).unwrap(), relu).unwrap();
            let plain = plain.reshape(found.shape()).unwrap();
            assert!(worst(&found, &plain) < 1e-4, "{kernel} {stride}");
            // Both have moved the same running statistics, the second time from where the first had left them.
            let mean = rows.reshape(((), 5)).unwrap().mean(0).unwrap();
            let expected = (mean * (1.0 - 0.81)).unwrap();
            assert!(worst(&follow.running_mean(), &expected) < 1e-5);

            let cotangent = wave(plain.dims(), 4.0);
            let slope = |output: &Tensor| {
                (output * &cotangent)
                    .unwrap()
                    .sum_all()
                    .unwrap()
                    .backward()
                    .unwrap()
            };
            let (found, expected) = (slope(&found), slope(&plain));
            for variable in [&image, &weight, &scale, &bias] {
                let (found, expected) = (
                    found.get(variable).unwrap(),
                    expected.get(variable).unwrap(),
                );
                let largest = worst(expected, &expected.zeros_like().unwrap());
                let difference = worst(found, expected);
                assert!(
                    difference < 2e-4 * largest.max(1.0),
                    "{kernel} {stride} {relu}: {difference} of {largest}"
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
