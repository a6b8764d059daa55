//! The trunk's max pool in training.

use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor};
use rayon::prelude::*;

use super::super::cpu::MaxPool;
use super::super::storage::with_floats;
use crate::kernels::convolution::window;

/// [`MaxPool`] with a gradient: the first largest pixel under each window gets it, as in torch.
pub(super) struct TrainedMaxPool;

impl CustomOp1 for TrainedMaxPool {
    fn name(&self) -> &'static str {
        "max pool"
    }

    fn cpu_fwd(&self, map: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        MaxPool.cpu_fwd(map, layout)
    }

    fn bwd(&self, map: &Tensor, pooled: &Tensor, gradient: &Tensor) -> Result<Option<Tensor>> {
        let shapes = (map.dims4()?, pooled.dims4()?);
        let result = with_floats([map, pooled, gradient], |[map, pooled, gradient]| {
            scattered(map, pooled, gradient, shapes)
        })?;
        Ok(Some(Tensor::from_vec(result, map.shape(), map.device())?))
    }
}

type Dims = (usize, usize, usize, usize);

fn scattered(
    map: &[f32],
    pooled: &[f32],
    gradient: &[f32],
    ((_, rows, columns, channels), (_, new_rows, new_columns, _)): (Dims, Dims),
) -> Vec<f32> {
    let mut result = vec![0f32; map.len()];
    let (size, new_size) = (rows * columns * channels, new_rows * new_columns * channels);
    let images = result
        .par_chunks_exact_mut(size)
        .zip(map.par_chunks_exact(size));
    let images = images
        .zip(pooled.par_chunks_exact(new_size))
        .zip(gradient.par_chunks_exact(new_size));
    images.for_each(|(((result, map), pooled), gradient)| {
        for index in 0..new_rows * new_columns {
            let (row, column) = (index / new_columns, index % new_columns);
            for channel in 0..channels {
                let place = index * channels + channel;
                let mut under = window(row, rows)
                    .flat_map(|y| window(column, columns).map(move |x| y * columns + x));
                let largest = under.find(|pixel| map[pixel * channels + channel] == pooled[place]);
                if let Some(pixel) = largest {
                    result[pixel * channels + channel] += gradient[place];
                }
            }
        }
    });
    result
}
