//! The input of a product in eight bits: whole numbers up to 127 and a scale for each group of them, with their sums.

use rayon::prelude::*;

use super::formats::{SUPER, UNIT};

/// Bytes between the rows beyond their values: rows a power of two apart would fall on the same lines of a cache.
const APART: usize = 64;
/// Values below which one thread quantises them all.
const PARALLEL: usize = 1 << 16;
/// Bytes of a line of a cache, and of a row of a matrix tile.
pub(super) const LINE: usize = 64;
/// Rows of a matrix tile.
pub(super) const TILE: usize = 16;

/// Rows `[rows, inner]` in eight bits.
pub(super) struct Activations {
    pub(super) rows: usize,
    /// Values of a row.
    pub(super) inner: usize,
    /// Values that share a scale.
    pub(super) group: usize,
    /// Groups and parts of a row.
    groups: usize,
    parts: usize,
    stride: usize,
    values: Vec<i8>,
    scales: Vec<f32>,
    sums: Vec<i16>,
    /// The values once more, for matrix tiles: 64 of each of sixteen rows after the other, or 32 where that is a group.
    tiles: Vec<Line>,
}

/// A line of a cache.
#[derive(Clone, Copy)]
#[repr(align(64))]
struct Line([i8; LINE]);

/// A row's values, and where they go in eight bits, with their scales and sums.
type Places<'a> = (((&'a [f32], &'a mut [i8]), &'a mut [f32]), &'a mut [i16]);

/// Where a row's numbers are.
#[derive(Clone, Copy)]
pub(super) struct Row {
    pub(super) values: *const i8,
    pub(super) scales: *const f32,
    pub(super) sums: *const i16,
}

impl Activations {
    /// Quantises rows of `inner` values, a whole number of groups. The sums of four parts of a group of 256 lie as 0, 2,
    /// 1, 3; those of smaller groups in order.
    pub(super) fn new(x: &[f32], inner: usize, group: usize, part: usize) -> Self {
        let rows = x.len() / inner;
        let stride = inner + APART;
        let (groups, parts) = (inner / group, inner / part);
        let mut new = Self {
            rows,
            inner,
            group,
            groups,
            parts,
            stride,
            values: vec![0; rows * stride],
            scales: vec![0.0; rows * groups],
            sums: vec![0; rows * parts],
            tiles: Vec::new(),
        };
        let one = |(((x, values), scales), sums): Places<'_>| {
            let groups = x.chunks_exact(group).zip(values.chunks_exact_mut(group));
            let groups = groups.zip(scales).zip(sums.chunks_exact_mut(group / part));
            for (((x, values), scale), sums) in groups {
                *scale = match group {
                    SUPER => quantise::<SUPER>(x, values),
                    _ => quantise::<UNIT>(x, values),
                };
                for (sum, values) in sums.iter_mut().zip(values.chunks_exact(part)) {
                    *sum = values.iter().map(|value| i16::from(*value)).sum();
                }
                if group == SUPER {
                    for four in sums.chunks_exact_mut(4) {
                        four.swap(1, 2);
                    }
                }
            }
        };
        if x.len() < PARALLEL {
            let all = x
                .chunks_exact(inner)
                .zip(new.values.chunks_exact_mut(stride));
            let all = all.zip(new.scales.chunks_exact_mut(groups));
            all.zip(new.sums.chunks_exact_mut(parts)).for_each(one);
        } else {
            let all = x
                .par_chunks_exact(inner)
                .zip(new.values.par_chunks_exact_mut(stride));
            let all = all.zip(new.scales.par_chunks_exact_mut(groups));
            all.zip(new.sums.par_chunks_exact_mut(parts)).for_each(one);
        }
        new
    }

    /// Lays the values out for matrix tiles, too.
    pub(super) fn with_tiles(mut self) -> Self {
        let (rows, inner, stride) = (self.rows, self.inner, self.stride);
        let lines = TILE * inner / LINE;
        self.tiles = vec![Line([0; LINE]); rows.div_ceil(TILE) * lines];
        let (values, width) = (&self.values, self.tile_width());
        let lay = |(tile, to): (usize, &mut [Line])| {
            for row in 0..TILE.min(rows - tile * TILE) {
                let from = &values[(tile * TILE + row) * stride..][..inner];
                for (at, from) in from.chunks_exact(width).enumerate() {
                    let place = (at * TILE + row) * width;
                    to[place / LINE].0[place % LINE..][..width].copy_from_slice(from);
                }
            }
        };
        self.tiles.par_chunks_mut(lines).enumerate().for_each(lay);
        self
    }

    /// Whether the values are laid out for matrix tiles.
    pub(super) fn has_tiles(&self) -> bool {
        !self.tiles.is_empty()
    }

    /// Values that share a scale, and a sum.
    pub(super) fn groups(&self) -> (usize, usize) {
        (self.group, self.inner / self.parts)
    }

    /// Values of a row of a tile.
    pub(super) fn tile_width(&self) -> usize {
        match self.group {
            SUPER => LINE,
            _ => UNIT,
        }
    }

    /// A row's numbers.
    pub(super) fn row(&self, row: usize) -> Row {
        Row {
            values: self.values[row * self.stride..].as_ptr(),
            scales: self.scales[row * self.groups..].as_ptr(),
            sums: self.sums[row * self.parts..].as_ptr(),
        }
    }

    /// The values of sixteen rows.
    pub(super) fn tile(&self, tile: usize) -> *const i8 {
        self.tiles[tile * TILE * self.inner / LINE..]
            .as_ptr()
            .cast()
    }
}

/// Quantises a group and returns its scale. A value that is no number makes the scale none, so that the products show it.
fn quantise<const N: usize>(x: &[f32], values: &mut [i8]) -> f32 {
    /// Added to a number below 2²², it leaves the nearest whole number in the lowest bits.
    const ROUND: f32 = 12_582_912.0;
    let (Some(x), Some(values)) = (x.first_chunk::<N>(), values.first_chunk_mut::<N>()) else {
        return f32::NAN;
    };
    let mut largest = [0f32; 16];
    let mut bad = [0u32; 16];
    for chunk in x.as_chunks::<16>().0 {
        for lane in 0..16 {
            largest[lane] = largest[lane].max(chunk[lane].abs());
            bad[lane] |= u32::from(chunk[lane].is_nan());
        }
    }
    let largest = largest.iter().copied().fold(0f32, f32::max);
    if bad.iter().any(|bad| *bad > 0) || largest == f32::INFINITY {
        values.fill(0);
        return f32::NAN;
    }
    let inverse = if largest > f32::MIN_POSITIVE * 256.0 {
        127.0 / largest
    } else {
        0.0
    };
    for (value, x) in values.iter_mut().zip(x) {
        *value = (x * inverse + ROUND).to_bits() as i8;
    }
    largest / 127.0
}
