//! Weights in the order in which kernels read them.

use std::ops::Range;
use std::sync::Arc;

use rayon::prelude::*;

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
    /// Weights and activations are rounded to bf16 where they are multiplied, but where products of f32 are faster; sums stay in
    /// f32.
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
        entry: impl Fn(usize, usize) -> f32 + Sync,
    ) -> Self {
        let values = match precision {
            Precision::F32 => pack(depth, width, Buffer::zeroed, entry),
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

    /// The matrix `values [depth, width]` in f32, for a product or two: in memory that goes back to the next layer.
    pub(crate) fn of_rows<T: Copy + Into<f32> + Sync>(values: &[T], width: usize) -> Self {
        let depth = values.len() / width.max(1);
        let values = packed(depth, width, Buffer::take, |rows, columns, target| {
            let count = columns.len();
            for (row, target) in rows.zip(target.chunks_exact_mut(COLUMNS)) {
                let values = &values[row * width + columns.start..][..count];
                for (target, value) in target.iter_mut().zip(values) {
                    *target = (*value).into();
                }
            }
        });
        Self::lent(values, depth, width)
    }

    /// The transpose of `weight [width, depth]`, as [`PackedMatrix::of_rows`].
    pub(crate) fn of_columns<T: Copy + Into<f32> + Sync>(weight: &[T], depth: usize) -> Self {
        /// Rows that are turned together: those of all columns of a panel stay in the first-level cache.
        const TURNED: usize = 16;
        let width = weight.len() / depth.max(1);
        let values = packed(depth, width, Buffer::take, |rows, columns, target| {
            for (index, target) in target.chunks_mut(TURNED * COLUMNS).enumerate() {
                let start = rows.start + index * TURNED;
                let count = target.len() / COLUMNS;
                for (lane, column) in columns.clone().enumerate() {
                    let entries = &weight[column * depth + start..][..count];
                    for (row, entry) in target.chunks_exact_mut(COLUMNS).zip(entries) {
                        row[lane] = (*entry).into();
                    }
                }
            }
        });
        Self::lent(values, depth, width)
    }

    /// The f32 matrix whose entry in a row and a column is `entry(row, column)`, as [`PackedMatrix::of_rows`].
    pub(crate) fn of_entries(
        depth: usize,
        width: usize,
        entry: impl Fn(usize, usize) -> f32 + Sync,
    ) -> Self {
        Self::lent(pack(depth, width, Buffer::take, entry), depth, width)
    }

    fn lent(values: Buffer, depth: usize, width: usize) -> Self {
        Self {
            values: Arc::new(values),
            depth,
            width,
            precision: Precision::F32,
        }
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

/// Packs in parallel: `fill` writes rows of a panel of columns, `[rows, COLUMNS]`, of which those beyond the width are zero.
fn packed(
    depth: usize,
    width: usize,
    memory: fn(usize) -> Buffer,
    fill: impl Fn(Range<usize>, Range<usize>, &mut [f32]) + Sync,
) -> Buffer {
    let panels = width.div_ceil(COLUMNS);
    let mut values = memory(depth * panels * COLUMNS);
    let block = block_depth(depth).max(1);
    values
        .par_chunks_mut((block * panels * COLUMNS).max(1))
        .enumerate()
        .for_each(|(index, values)| {
            let rows = index * block..((index + 1) * block).min(depth);
            values
                .par_chunks_exact_mut(rows.len() * COLUMNS)
                .enumerate()
                .for_each(|(panel, target)| {
                    let columns = panel * COLUMNS..((panel + 1) * COLUMNS).min(width);
                    if columns.len() < COLUMNS {
                        target.fill(0.0);
                    }
                    fill(rows.clone(), columns, target);
                });
        });
    values
}

fn pack(
    depth: usize,
    width: usize,
    memory: fn(usize) -> Buffer,
    entry: impl Fn(usize, usize) -> f32 + Sync,
) -> Buffer {
    packed(depth, width, memory, |rows, columns, target| {
        for (row, target) in rows.zip(target.chunks_exact_mut(COLUMNS)) {
            for (target, column) in target.iter_mut().zip(columns.clone()) {
                *target = entry(row, column);
            }
        }
    })
}
