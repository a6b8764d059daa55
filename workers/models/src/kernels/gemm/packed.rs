//! Weights in the order in which kernels read them.

use std::sync::Arc;

use super::super::buffer::Buffer;
use super::bf16;
use super::tile::{COLUMNS, DEPTH};

/// The numbers that a network computes with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Precision {
    /// As the original does.
    #[default]
    F32,
    /// Weights and activations are rounded to bf16 where they are multiplied; sums stay in f32.
    Bf16,
}

/// A matrix `[depth, width]`, cut into blocks of rows and panels of columns. Clones share it.
#[derive(Clone, Debug)]
pub(crate) struct PackedMatrix {
    values: Arc<Buffer>,
    depth: usize,
    width: usize,
    precision: Precision,
}

impl PackedMatrix {
    /// The matrix whose entry in a row and a column is `entry(row, column)`. Rounding to bf16 is done here.
    pub(crate) fn new(
        depth: usize,
        width: usize,
        precision: Precision,
        entry: impl Fn(usize, usize) -> f32,
    ) -> Self {
        let values = match precision {
            Precision::F32 => pack(depth, width, entry),
            Precision::Bf16 => bf16::pack(depth, width, entry),
        };
        Self {
            values: Arc::new(values),
            depth,
            width,
            precision,
        }
    }

    /// The transpose of `weight [width, depth]`.
    pub(crate) fn transposed(weight: &[f32], depth: usize, precision: Precision) -> Self {
        let width = weight.len() / depth.max(1);
        Self::new(depth, width, precision, |row, column| {
            weight[column * depth + row]
        })
    }

    pub(crate) fn depth(&self) -> usize {
        self.depth
    }

    pub(crate) fn width(&self) -> usize {
        self.width
    }

    pub(crate) fn precision(&self) -> Precision {
        self.precision
    }

    /// All of it, as it lies in memory.
    pub(super) fn values(&self) -> &[f32] {
        &self.values
    }

    /// Rows `start` to `start + count` of a panel of columns: `[count, COLUMNS]`. `start` is a multiple of `DEPTH`.
    pub(crate) fn block(&self, start: usize, count: usize, panel: usize) -> &[f32] {
        let panels = self.width.div_ceil(COLUMNS);
        &self.values[(start * panels + panel * count) * COLUMNS..][..count * COLUMNS]
    }
}

fn pack(depth: usize, width: usize, entry: impl Fn(usize, usize) -> f32) -> Buffer {
    let panels = width.div_ceil(COLUMNS);
    let mut values = Buffer::zeroed(depth * panels * COLUMNS);
    let mut rows = values.chunks_exact_mut(COLUMNS);
    for start in (0..depth).step_by(DEPTH) {
        for panel in 0..panels {
            for row in start..(start + DEPTH).min(depth) {
                let Some(target) = rows.next() else {
                    return values;
                };
                for (target, column) in target.iter_mut().zip(panel * COLUMNS..width) {
                    *target = entry(row, column);
                }
            }
        }
    }
    values
}
