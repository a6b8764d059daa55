//! Weights in the order in which kernels read them.

use std::ops::Range;
use std::sync::Arc;

use super::super::buffer::Buffer;
use super::bf16;
use super::tile::COLUMNS;

/// The most rows of a block of weights.
const MOST_DEPTH: usize = 512;

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

    /// Rows that are multiplied before the next ones: so many that a panel of left rows stays in the first-level cache, and
    /// about the same number each time.
    pub(crate) fn block_depth(&self) -> usize {
        block_depth(self.depth)
    }

    /// Rows `start` to `start + count` of a panel of columns: `[count, COLUMNS]`. `start` is a multiple of
    /// [`PackedMatrix::block_depth`].
    pub(crate) fn block(&self, start: usize, count: usize, panel: usize) -> &[f32] {
        self.blocks(start, count, panel..panel + 1)
    }

    /// The same of several panels, one behind the other.
    pub(crate) fn blocks(&self, start: usize, count: usize, panels: Range<usize>) -> &[f32] {
        let all = self.width.div_ceil(COLUMNS);
        &self.values[(start * all + panels.start * count) * COLUMNS..]
            [..panels.len() * count * COLUMNS]
    }
}

fn block_depth(depth: usize) -> usize {
    depth
        .div_ceil(depth.div_ceil(MOST_DEPTH).max(1))
        .next_multiple_of(16)
}

fn pack(depth: usize, width: usize, entry: impl Fn(usize, usize) -> f32) -> Buffer {
    let panels = width.div_ceil(COLUMNS);
    let mut values = Buffer::zeroed(depth * panels * COLUMNS);
    let mut rows = values.chunks_exact_mut(COLUMNS);
    let block = block_depth(depth);
    for start in (0..depth).step_by(block.max(1)) {
        for panel in 0..panels {
            for row in start..(start + block).min(depth) {
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
