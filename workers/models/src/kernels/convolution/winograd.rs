//! 3 x 3 convolutions with stride 1 by Winograd's minimal filtering (Lavin and Gray, 2016): squares of the map are
//! transformed, multiplied with transformed weights, one product for each place in the square, and transformed back.
//! Squares of 2 x 2 results take 2.25 times fewer multiplications, those of 4 x 4 four times fewer, with larger weights.

use std::ops::Range;
use std::sync::Arc;

use rayon::prelude::*;

use super::super::buffer::Buffer;
use super::super::cpu::Features;
use super::super::gemm::{
    Activation, Ahead, COLUMNS, Finish, Left, Precision, ROWS, Shared, Tile, even_panels, f32_tiles,
};
use super::{Extent, Window};

mod transform;

use transform::{LANES, Place, Transform};

/// Weights up to this number (in times out) are transformed for squares of 4 x 4 results, which makes them four times as many:
/// reading those of wider layers would take longer than what is spared.
const WEIGHTS_OF_FOUR: usize = 256 * 256;
/// Transformed numbers that a thread has at a time: with as many weights they stay in the second-level cache.
const GROUP_NUMBERS: usize = 256 << 10;
/// Numbers by which a square's channels are longer than they are, so that they do not all lie in the same places of the cache.
const GAP: usize = 16;

/// Transformed weights. Clones share them.
#[derive(Clone, Debug)]
pub(super) struct Winograd {
    transform: Transform,
    input: usize,
    output: usize,
    /// `[in, COLUMNS]` for each panel of columns and, within it, for each place in a square.
    weights: Arc<Buffer>,
}

/// The side of a square of results, where the layer is one for this way and it is the fastest. Sums and products are f32 whatever
/// the precision: direct products of bf16 are twice as fast where there are dot products of them, and many times with tiles.
pub(super) fn tile_side(features: Features, window: Window, precision: Precision) -> Option<usize> {
    let fits = (window.kernel, window.stride) == (3, 1)
        && window.input.is_multiple_of(LANES)
        && window.output.is_multiple_of(LANES);
    let side = if window.input * window.output <= WEIGHTS_OF_FOUR {
        4
    } else {
        2
    };
    let pays = match precision {
        Precision::F32 => true,
        Precision::Bf16 => !features.amx_bf16 && (side == 4 || !features.avx512_bf16),
    };
    (fits && pays).then_some(side)
}

/// Where the squares of a map lie.
struct Squares {
    extent: Extent,
    /// Squares in a row and in a column of one image.
    across: usize,
    down: usize,
}

/// Some squares, one behind the other, and the memory for what is computed of them.
struct Group {
    squares: Range<usize>,
    /// `[places, squares, in + GAP]`.
    left: Buffer,
    /// `[places, squares, COLUMNS]`: the products for a panel of columns.
    products: Buffer,
}

impl Winograd {
    /// `kernel` gives the nine weights of an output and an input channel; `memory` where they are kept.
    pub(super) fn new(
        side: usize,
        window: Window,
        memory: fn(usize) -> Buffer,
        kernel: impl Fn(usize, usize) -> [f32; 9] + Sync,
    ) -> Self {
        let Window { input, output, .. } = window;
        let transform = Transform::of_side(side);
        let places = transform.places();
        let panels = output.div_ceil(COLUMNS);
        let mut weights = memory(panels * places * input * COLUMNS);
        weights
            .par_chunks_exact_mut((places * input * COLUMNS).max(1))
            .enumerate()
            .for_each(|(panel, weights)| {
                let columns = panel * COLUMNS..((panel + 1) * COLUMNS).min(output);
                if columns.len() < COLUMNS {
                    weights.fill(0.0);
                }
                // Input channels outside: the cache lines that they write are those of all columns.
                for row in 0..input {
                    for (lane, column) in columns.clone().enumerate() {
                        let kernel = transform.kernel(&kernel(column, row));
                        for (place, value) in kernel[..places].iter().enumerate() {
                            weights[(place * input + row) * COLUMNS + lane] = *value;
                        }
                    }
                }
            });
        Self {
            transform,
            input,
            output,
            weights: Arc::new(weights),
        }
    }

    /// See `Convolution::compute`, which checks the lengths.
    pub(super) fn compute(
        &self,
        features: Features,
        map: &[f32],
        extent: Extent,
        finish: Finish<'_>,
        result: &mut [f32],
    ) {
        // One image at a time: what lies between the steps then stays in the caches.
        let image = Extent { batch: 1, ..extent };
        for index in 0..extent.batch {
            let pixels = image.pixels();
            let finish = Finish {
                residual: finish
                    .residual
                    .map(|all| &all[index * pixels * self.output..][..pixels * self.output]),
                ..finish
            };
            self.compute_image(
                features,
                &map[index * pixels * self.input..][..pixels * self.input],
                image,
                finish,
                &mut result[index * pixels * self.output..][..pixels * self.output],
            );
        }
    }

    fn compute_image(
        &self,
        features: Features,
        map: &[f32],
        extent: Extent,
        finish: Finish<'_>,
        result: &mut [f32],
    ) {
        let side = self.transform.side();
        let (across, down) = (extent.columns.div_ceil(side), extent.rows.div_ceil(side));
        let squares = Squares {
            extent,
            across,
            down,
        };
        let count = across * down;
        // As many groups as keep all threads busy to the end, of whole panels of rows where they are small.
        let (places, threads) = (self.transform.places(), rayon::current_num_threads());
        let most = (GROUP_NUMBERS / (places * self.input)).clamp(ROWS, 4 * ROWS);
        let groups = count.div_ceil(most).max(threads).next_multiple_of(threads);
        let size = count.div_ceil(groups);
        let target = Shared(result.as_mut_ptr());
        (0..count.div_ceil(size.max(1)))
            .into_par_iter()
            .with_max_len(1)
            .for_each(|index| {
                let mut group = Group {
                    squares: index * size..((index + 1) * size).min(count),
                    left: Buffer::take(places * size * (self.input + GAP)),
                    products: Buffer::take(places * size * COLUMNS),
                };
                self.transform_group(features, map, &squares, &mut group);
                for panel in 0..self.output.div_ceil(COLUMNS) {
                    self.multiply(features, panel, &mut group);
                    self.finish(features, panel, &squares, &group, finish, target);
                }
            });
    }

    /// Writes the transformed numbers of a group.
    fn transform_group(
        &self,
        features: Features,
        map: &[f32],
        squares: &Squares,
        group: &mut Group,
    ) {
        let (size, stride) = (self.transform.size(), self.input + GAP);
        let of_place = group.squares.len() * stride;
        for (row, square) in group.squares.clone().enumerate() {
            let (top, left) = squares.corner(square, self.transform.side());
            // A square begins one pixel above and before its results; what lies beyond the map is zero.
            let mut sources = [None; transform::MOST_PLACES];
            for (place, source) in sources[..size * size].iter_mut().enumerate() {
                let (y, x) = (
                    (top + place / size).wrapping_sub(1),
                    (left + place % size).wrapping_sub(1),
                );
                if y < squares.extent.rows && x < squares.extent.columns {
                    *source = Some((y * squares.extent.columns + x) * self.input);
                }
            }
            for channel in (0..self.input).step_by(LANES) {
                self.transform.input(
                    features,
                    &sources[..size * size],
                    &map[channel..],
                    &mut group.left[row * stride + channel..],
                    of_place,
                );
            }
        }
    }

    /// The products of a group with a panel of columns.
    fn multiply(&self, features: Features, panel: usize, group: &mut Group) {
        let tiles = f32_tiles(features);
        let (places, count, stride) = (
            self.transform.places(),
            group.squares.len(),
            self.input + GAP,
        );
        let rows = even_panels(count, ROWS);
        let parts = count.div_ceil(rows);
        let block = self.input * COLUMNS;
        let weights = |index: usize| &self.weights[index * block..][..block];
        for place in 0..places {
            let index = panel * places + place;
            let right = weights(index);
            let next = if (index + 1) * block < self.weights.len() {
                weights(index + 1)
            } else {
                weights(0)
            };
            for (part, first) in (0..count).step_by(rows).enumerate() {
                let row = place * count + first;
                let tile = Tile {
                    depth: self.input,
                    left: Left::whole(&group.left[row * stride..], stride),
                    right: right.as_ptr(),
                    target: group.products[row * COLUMNS..].as_mut_ptr(),
                    stride: COLUMNS,
                    columns: COLUMNS,
                    adds: false,
                    bias: None,
                    residual: None,
                    relu: false,
                    ahead: [
                        Ahead::part(next, part, parts, self.input),
                        Ahead::nothing(right),
                    ],
                };
                #[expect(unsafe_code, reason = "a tile is given by pointers")]
                // SAFETY: the group's numbers and products have so many rows, and the block of weights so many entries.
                unsafe {
                    tiles.compute(rows.min(count - first), &tile);
                }
            }
        }
    }

    /// Transforms a group's products for a panel of columns back and stores those that lie in the map.
    fn finish(
        &self,
        features: Features,
        panel: usize,
        squares: &Squares,
        group: &Group,
        finish: Finish<'_>,
        target: Shared,
    ) {
        let side = self.transform.side();
        let apart = group.squares.len() * COLUMNS;
        let channels = panel * COLUMNS..((panel + 1) * COLUMNS).min(self.output);
        for (row, square) in group.squares.clone().enumerate() {
            let (top, left) = squares.corner(square, side);
            let first = (top * squares.extent.columns + left) * self.output;
            for channel in channels.clone().step_by(LANES) {
                let start = first + channel;
                let place = Place {
                    target: target.get().wrapping_add(start),
                    residual: finish.residual.map(|all| all[start..].as_ptr()),
                    bias: finish.bias.map_or([0.0; LANES], |bias| {
                        std::array::from_fn(|lane| bias[channel + lane])
                    }),
                    relu: finish.activation == Activation::Relu,
                    rows: side.min(squares.extent.rows - top),
                    columns: side.min(squares.extent.columns - left),
                    line: squares.extent.columns * self.output,
                    pixel: self.output,
                };
                let products = &group.products[row * COLUMNS + channel % COLUMNS..];
                #[expect(
                    unsafe_code,
                    reason = "squares lie between each other in a shared result"
                )]
                // SAFETY: rows and columns lie within the map, whose length was checked, and no other square has them.
                unsafe {
                    self.transform.output(features, products, apart, &place);
                }
            }
        }
    }
}

impl Squares {
    /// Row and column of a square's first result.
    fn corner(&self, square: usize, side: usize) -> (usize, usize) {
        debug_assert!(square < self.across * self.down);
        (square / self.across * side, square % self.across * side)
    }
}
