//! Gradients of a convolution. That of its map is a convolution of the result's gradient with turned kernels, by the same
//! kernels as forward; that of its weights a product over all patches, of which a block at a time is made.

use std::ops::Range;

use rayon::prelude::*;

use super::super::buffer::Buffer;
use super::super::cpu::Features;
use super::super::gemm::{COLUMNS, Dense, Finish, PackedMatrix, Source, multiply_rows, outer};
use super::patches::Patches;
use super::{Convolution, Extent, Window};

/// The gradient of a map `[B, h, w, in]`, from that of the result, `[B, h', w', out]`, and `weight [out, in, kernel, kernel]`.
///
/// # Panics
/// Where slices have other lengths than the sides say.
pub(crate) fn of_map(
    window: Window,
    weight: &[f32],
    gradient: &[f32],
    extent: Extent,
    result: &mut [f32],
) {
    let Window {
        input,
        output,
        kernel,
        stride,
    } = window;
    let target = extent.halved_by(stride);
    assert!(gradient.len() == target.pixels() * output && result.len() == extent.pixels() * input);
    if kernel == 1 {
        let weights = PackedMatrix::of_rows(weight, input);
        if stride == 1 {
            multiply_rows(gradient, &weights, Finish::default(), result);
            return;
        }
        let mut pixels = Buffer::take(target.pixels() * input);
        multiply_rows(gradient, &weights, Finish::default(), &mut pixels);
        spread(&pixels, (target, extent), stride, input, result);
        return;
    }
    let turned = turned(window, weight);
    let window = Window {
        input: output,
        output: input,
        kernel,
        stride: 1,
    };
    let convolution = Convolution::once(window, &turned, &vec![0.0; input]);
    if stride == 1 {
        convolution.compute(gradient, extent, None, false, result);
        return;
    }
    // Behind a stride, the gradient lies between pixels that have none.
    let mut between = Buffer::take(extent.pixels() * output);
    spread(gradient, (target, extent), stride, output, &mut between);
    convolution.compute(&between, extent, None, false, result);
}

/// The gradient of `weight [out, in, kernel, kernel]`, from the map and the gradient of the result.
///
/// # Panics
/// Where slices have other lengths than the sides say.
pub(crate) fn of_weights(
    window: Window,
    map: &[f32],
    gradient: &[f32],
    extent: Extent,
    result: &mut [f32],
) {
    let Window {
        input,
        output,
        kernel,
        stride,
    } = window;
    let (target, features) = (extent.halved_by(stride), Features::detected());
    let (places, size) = (kernel * kernel, input * kernel * kernel);
    assert!(
        map.len() == extent.pixels() * input
            && gradient.len() == target.pixels() * output
            && result.len() == output * size
    );
    if (kernel, stride) == (1, 1) {
        let right = Dense {
            values: map,
            depth: input,
        };
        outer(features, (gradient, output), (&right, input), result);
        return;
    }
    let patches = PatchColumns(Patches {
        map,
        extent,
        target,
        window,
    });
    if kernel == 1 {
        outer(features, (gradient, output), (&patches, size), result);
        return;
    }
    let mut sums = Buffer::take(result.len());
    outer(features, (gradient, output), (&patches, size), &mut sums);
    result
        .par_chunks_exact_mut(size)
        .zip(sums.par_chunks_exact(size))
        .for_each(|(kernels, sums)| {
            for (place, sums) in sums.chunks_exact(input).enumerate() {
                for (kernel, sum) in kernels.chunks_exact_mut(places).zip(sums) {
                    kernel[place] = *sum;
                }
            }
        });
}

/// Kernels from the result's channels to the map's, upside down: `[in, out, kernel, kernel]`.
fn turned(window: Window, weight: &[f32]) -> Buffer {
    let Window { input, output, .. } = window;
    let places = window.kernel * window.kernel;
    let mut result = Buffer::take(weight.len());
    result
        .par_chunks_exact_mut(output * places)
        .enumerate()
        .for_each(|(channel, kernels)| {
            for (from, kernel) in kernels.chunks_exact_mut(places).enumerate() {
                let source = &weight[(from * input + channel) * places..][..places];
                for (target, value) in kernel.iter_mut().rev().zip(source) {
                    *target = *value;
                }
            }
        });
    result
}

/// Pixels of a smaller map at every `stride`th place of a larger one, and zeros between them.
fn spread(
    pixels: &[f32],
    (small, large): (Extent, Extent),
    stride: usize,
    channels: usize,
    result: &mut [f32],
) {
    result
        .par_chunks_exact_mut(large.columns * channels)
        .enumerate()
        .for_each(|(index, line)| {
            line.fill(0.0);
            let (image, row) = (index / large.rows, index % large.rows);
            if !row.is_multiple_of(stride) {
                return;
            }
            let start = (image * small.rows + row / stride) * small.columns * channels;
            let source = pixels[start..][..small.columns * channels].chunks_exact(channels);
            for (target, pixel) in line.chunks_mut(stride * channels).zip(source) {
                target[..channels].copy_from_slice(pixel);
            }
        });
}

/// Patches as the right matrix of a product over them: a few columns of many patches at a time.
struct PatchColumns<'a>(Patches<'a>);

#[expect(unsafe_code, reason = "as the trait says")]
// SAFETY: all rows are packed.
unsafe impl Source for PatchColumns<'_> {
    fn rows(&self) -> usize {
        self.0.rows()
    }

    fn pack(
        &self,
        first: usize,
        rows: usize,
        depth: Range<usize>,
        panel: &mut [f32],
        stride: usize,
    ) {
        let Patches { target, window, .. } = self.0;
        let mut entry = depth.start;
        // Entries of one place in the kernel lie together in the map.
        while entry < depth.end {
            let (place, channel) = (entry / window.input, entry % window.input);
            let count = (window.input - channel).min(depth.end - entry);
            let mut pixel = first;
            while pixel < first + rows {
                let run = (target.columns - pixel % target.columns).min(first + rows - pixel);
                let values = &mut panel[(pixel - first) * stride + entry - depth.start..];
                self.pack_line(
                    pixel..pixel + run,
                    place,
                    channel..channel + count,
                    values,
                    stride,
                );
                pixel += run;
            }
            entry += count;
        }
    }
}

impl PatchColumns<'_> {
    /// Some channels under one place of the kernel, at pixels of one line of the result.
    fn pack_line(
        &self,
        pixels: Range<usize>,
        place: usize,
        channels: Range<usize>,
        values: &mut [f32],
        stride: usize,
    ) {
        let Patches {
            map,
            extent,
            target,
            window,
        } = self.0;
        let padding = window.kernel / 2;
        let (line, column) = (pixels.start / target.columns, pixels.start % target.columns);
        let (image, row) = (line / target.rows, line % target.rows);
        let y = (row * window.stride + place / window.kernel).wrapping_sub(padding);
        let shift = place % window.kernel;
        let count = channels.len();
        let lines = values.chunks_mut(stride).take(pixels.len());
        if y >= extent.rows {
            lines.for_each(|target| target[..count].fill(0.0));
            return;
        }
        let start = (image * extent.rows + y) * extent.columns * window.input + channels.start;
        for (index, target) in lines.enumerate() {
            let x = ((column + index) * window.stride + shift).wrapping_sub(padding);
            if x >= extent.columns {
                target[..count].fill(0.0);
                continue;
            }
            let source = &map[start + x * window.input..][..count];
            // Of a whole panel a fixed number is copied, which is faster.
            match (
                target.first_chunk_mut::<COLUMNS>(),
                source.first_chunk::<COLUMNS>(),
            ) {
                (Some(target), Some(source)) => *target = *source,
                _ => target[..count].copy_from_slice(source),
            }
        }
    }
}
