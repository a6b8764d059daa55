//! The patches of a map under a kernel, one a row of a product: packed, or read where they lie.

use std::ops::Range;

use rayon::prelude::*;

use super::super::buffer::Buffer;
use super::super::cpu::Features;
use super::super::gemm::{Left, Source, bf16};
use super::{Extent, Window};

/// The patches under a kernel, one a row.
pub(super) struct Patches<'a> {
    pub(super) map: &'a [f32],
    pub(super) extent: Extent,
    /// The sides of the result.
    pub(super) target: Extent,
    pub(super) window: Window,
}

/// The same of a map with a frame of zeros, in which all patches are whole.
pub(super) struct FramedPatches<'a> {
    frame: Frame<'a>,
    map: Buffer,
}

/// The same of numbers that are rounded to bf16.
pub(super) struct RoundedPatches<'a> {
    frame: Frame<'a>,
    map: Buffer,
}

/// Where lines lie in a map with a frame of zeros.
struct Frame<'a> {
    patches: &'a Patches<'a>,
    padding: usize,
    /// Lines of an image.
    lines: usize,
    /// Numbers of a line.
    line: usize,
}

impl<'a> Frame<'a> {
    fn new(patches: &'a Patches<'a>) -> Self {
        let padding = patches.window.kernel / 2;
        Self {
            patches,
            padding,
            lines: patches.extent.rows + 2 * padding,
            line: (patches.extent.columns + 2 * padding) * patches.window.input,
        }
    }

    fn numbers(&self) -> usize {
        self.patches.extent.batch * self.lines * self.line
    }

    /// Fills a map with a frame: zeros, and what `copy` makes of the map's own lines.
    fn fill<T: Copy + Default + Send>(
        &self,
        map: &mut [T],
        copy: impl Fn(&[f32], &mut [T]) + Sync,
    ) {
        let Extent { rows, columns, .. } = self.patches.extent;
        let (side, size) = (
            self.padding * self.patches.window.input,
            columns * self.patches.window.input,
        );
        map.par_chunks_exact_mut(self.line)
            .enumerate()
            .for_each(|(index, target)| {
                let (image, row) = (index / self.lines, index % self.lines);
                let row = row.wrapping_sub(self.padding);
                if row >= rows {
                    target.fill(T::default());
                    return;
                }
                let (before, rest) = target.split_at_mut(side);
                let (inside, behind) = rest.split_at_mut(size);
                before.fill(T::default());
                copy(
                    &self.patches.map[(image * rows + row) * size..][..size],
                    inside,
                );
                behind.fill(T::default());
            });
    }

    /// Where the patch of a pixel of the result begins.
    fn start(&self, pixel: usize) -> usize {
        let (target, window) = (self.patches.target, self.patches.window);
        let (line, column) = (pixel / target.columns, pixel % target.columns);
        let (image, row) = (line / target.rows, line % target.rows);
        (image * self.lines + row * window.stride) * self.line
            + column * window.stride * window.input
    }
}

impl<'a> Patches<'a> {
    pub(super) fn framed(&'a self) -> FramedPatches<'a> {
        let frame = Frame::new(self);
        let mut map = Buffer::take(frame.numbers());
        frame.fill(&mut map, |line, target| target.copy_from_slice(line));
        FramedPatches { frame, map }
    }
}

impl<'a> RoundedPatches<'a> {
    pub(super) fn new(features: Features, patches: &'a Patches<'a>) -> Self {
        let frame = Frame::new(patches);
        // A tile reads whole rows, also behind the last one.
        let Window { input, stride, .. } = patches.window;
        let behind = bf16::ROWS * stride * input + bf16::SQUARE;
        let mut map = Buffer::take((frame.numbers() + behind).div_ceil(2));
        let halves = &mut bf16::halves_mut(&mut map)[..frame.numbers()];
        frame.fill(halves, |line, target| bf16::round(features, line, target));
        Self { frame, map }
    }
}

#[expect(unsafe_code, reason = "as the trait says")]
// SAFETY: a patch lies within the frame, and behind the last line there is room for a tile's rows.
unsafe impl bf16::Source for RoundedPatches<'_> {
    fn rows(&self) -> usize {
        self.frame.patches.target.pixels()
    }

    fn direct(&self, first: usize) -> Option<Left<u16>> {
        let Window {
            input,
            kernel,
            stride,
            ..
        } = self.frame.patches.window;
        let start = self.frame.start(first);
        (kernel * input).is_multiple_of(bf16::SQUARE).then(|| Left {
            values: bf16::halves(&self.map)[start..].as_ptr(),
            stride: stride * input,
            lines: kernel,
            pitch: self.frame.line,
        })
    }

    fn even(&self) -> usize {
        self.frame.patches.target.columns
    }

    fn pack(
        &self,
        _features: Features,
        first: usize,
        rows: usize,
        panel: &mut [u16],
        stride: usize,
    ) {
        let Window { input, kernel, .. } = self.frame.patches.window;
        let (line, map) = (kernel * input, bf16::halves(&self.map));
        let depth = kernel * line;
        for (pixel, patch) in (first..first + rows).zip(panel.chunks_mut(stride)) {
            let start = self.frame.start(pixel);
            for row in 0..kernel {
                let source = start + row * self.frame.line;
                // Of a short line, a fixed number is copied, which is faster; the next line overwrites what was too much.
                if line <= bf16::SQUARE {
                    patch[row * line..][..bf16::SQUARE]
                        .copy_from_slice(&map[source..source + bf16::SQUARE]);
                } else {
                    patch[row * line..][..line].copy_from_slice(&map[source..source + line]);
                }
            }
            patch[depth..depth.next_multiple_of(bf16::SQUARE)].fill(0);
        }
    }
}

#[expect(unsafe_code, reason = "as the trait says")]
// SAFETY: a patch lies within the frame, and a piece of rows within a line.
unsafe impl Source for FramedPatches<'_> {
    fn rows(&self) -> usize {
        self.frame.patches.target.pixels()
    }

    fn direct(&self, first: usize, entries: Range<usize>) -> Option<Left> {
        let Window {
            input,
            kernel,
            stride,
            ..
        } = self.frame.patches.window;
        if entries != (0..kernel * kernel * input) {
            return None;
        }
        Some(Left {
            values: self.map[self.frame.start(first)..].as_ptr(),
            stride: stride * input,
            lines: kernel,
            pitch: self.frame.line,
        })
    }

    fn even(&self) -> usize {
        self.frame.patches.target.columns
    }

    fn pack(
        &self,
        first: usize,
        rows: usize,
        depth: Range<usize>,
        panel: &mut [f32],
        stride: usize,
    ) {
        self.frame.patches.pack(first, rows, depth, panel, stride);
    }
}

#[expect(unsafe_code, reason = "as the trait says")]
// SAFETY: all rows are packed.
unsafe impl Source for Patches<'_> {
    fn rows(&self) -> usize {
        self.target.pixels()
    }

    fn pack(
        &self,
        first: usize,
        rows: usize,
        depth: Range<usize>,
        panel: &mut [f32],
        stride: usize,
    ) {
        let Window {
            input,
            kernel,
            stride: step,
            ..
        } = self.window;
        let (padding, line) = (kernel / 2, kernel * input);
        let pixels = self.target.rows * self.target.columns;
        for (pixel, patch) in (first..first + rows).zip(panel.chunks_mut(stride)) {
            let (image, pixel) = (pixel / pixels, pixel % pixels);
            let top = pixel / self.target.columns * step;
            let left = pixel % self.target.columns * step;
            // Numbers of a line of the kernel that lie before and behind the map.
            let before = padding.saturating_sub(left) * input;
            let behind = (left + kernel).saturating_sub(self.extent.columns + padding) * input;
            let mut patch = &mut patch[..depth.len()];
            let mut place = depth.start;
            while place < depth.end {
                let (row, from) = (place / line, place % line);
                let to = line.min(from + depth.end - place);
                let (target, rest) = patch.split_at_mut(to - from);
                patch = rest;
                place += to - from;
                let y = (top + row).wrapping_sub(padding);
                if y >= self.extent.rows {
                    target.fill(0.0);
                    continue;
                }
                let (start, end) = (from.max(before).min(to), to.min(line - behind).max(from));
                target[..start - from].fill(0.0);
                if start < end {
                    let line_start =
                        ((image * self.extent.rows + y) * self.extent.columns + left) * input;
                    let source = line_start + start - padding * input;
                    target[start - from..end - from]
                        .copy_from_slice(&self.map[source..][..end - start]);
                }
                target[end.max(start) - from..].fill(0.0);
            }
        }
    }
}
