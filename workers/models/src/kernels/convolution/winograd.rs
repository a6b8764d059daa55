//! 3 x 3 convolutions with stride 1 by Winograd's minimal filtering (Lavin and Gray, 2016): squares of the map are
//! transformed, multiplied with transformed weights, one product for each place in the square, and transformed back.
//! Squares of 2 x 2 results take 2.25 times fewer multiplications, those of 4 x 4 four times fewer, with larger weights.

use rayon::prelude::*;

use super::super::buffer::Buffer;
use super::super::cpu::Features;
use super::super::gemm::{
    Activation, COLUMNS, DEPTH, Finish, PackedMatrix, Precision, ROWS, STRIDE, Shared, Tile,
    f32_tiles,
};
use super::{Extent, Window};

mod transform;

use transform::{LANES, Transform};

/// Weights up to this number (in times out) are transformed for squares of 4 x 4 results: nine times as large as they were,
/// they still lie in the caches, which those of wider layers would not.
const WEIGHTS_OF_FOUR: usize = 128 * 128;
/// Squares that one thread transforms at a time.
const STRIPE: usize = 8;

/// Transformed weights. Clones share them.
#[derive(Clone, Debug)]
pub(super) struct Winograd {
    transform: Transform,
    input: usize,
    output: usize,
    /// `[in, out]` for each place in a square.
    weights: Vec<PackedMatrix>,
}

/// The side of a square of results, where the layer is one for this way.
pub(super) fn tile_side(window: Window, precision: Precision) -> Option<usize> {
    let fits = (window.kernel, window.stride) == (3, 1)
        && precision == Precision::F32
        && window.input.is_multiple_of(LANES)
        && window.output.is_multiple_of(LANES);
    fits.then_some(if window.input * window.output <= WEIGHTS_OF_FOUR {
        4
    } else {
        2
    })
}

/// Where the squares of a map lie.
struct Squares {
    extent: Extent,
    /// Squares in a row and in a column of one image.
    across: usize,
    down: usize,
    count: usize,
    /// Squares of a panel.
    panel: usize,
    panels: usize,
}

impl Winograd {
    pub(super) fn new(side: usize, window: Window, weight: &[f32]) -> Self {
        let Window { input, output, .. } = window;
        let transform = Transform::of_side(side);
        let places = transform.places();
        let mut transformed = vec![0f32; places * input * output];
        for column in 0..output {
            for row in 0..input {
                let kernel = &weight[(column * input + row) * 9..][..9];
                for (place, value) in transform.kernel(kernel).into_iter().enumerate() {
                    transformed[(place * input + row) * output + column] = value;
                }
            }
        }
        let weights = transformed
            .chunks_exact(input * output)
            .map(|values| {
                let entry = |row: usize, column: usize| values[row * output + column];
                PackedMatrix::new(input, output, Precision::F32, entry)
            })
            .collect();
        Self {
            transform,
            input,
            output,
            weights,
        }
    }

    /// See `Convolution::compute`, which checks the lengths.
    pub(super) fn compute(
        &self,
        map: &[f32],
        extent: Extent,
        finish: Finish<'_>,
        result: &mut [f32],
    ) {
        self.compute_with(Features::detected(), map, extent, finish, result);
    }

    pub(super) fn compute_with(
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
        let count = across * down;
        let panel = count.div_ceil(count.div_ceil(ROWS).max(1)).max(1);
        let squares = Squares {
            extent,
            across,
            down,
            count,
            panel,
            panels: count.div_ceil(panel),
        };
        let (places, blocks) = (self.transform.places(), self.input.div_ceil(DEPTH));
        let mut left = Buffer::take(places * blocks * squares.panels * panel * STRIDE);
        let mut products = Buffer::take(places * count * self.output);
        let (left_target, products_target) =
            (Shared(left.as_mut_ptr()), Shared(products.as_mut_ptr()));
        let stripes = count.div_ceil(STRIPE);
        let stripe = |index: usize| index * STRIPE..((index + 1) * STRIPE).min(count);
        (0..stripes).into_par_iter().for_each(|index| {
            for square in stripe(index) {
                self.transform_square(features, map, &squares, square, left_target);
            }
        });
        (0..places)
            .into_par_iter()
            .with_max_len(1)
            .for_each(|place| {
                self.multiply_place(features, &left, &squares, place, products_target);
            });
        let target = Shared(result.as_mut_ptr());
        (0..stripes).into_par_iter().for_each(|index| {
            for square in stripe(index) {
                self.finish_square(features, &products, &squares, square, finish, target);
            }
        });
    }

    /// Writes a square's transformed numbers into the panels.
    fn transform_square(
        &self,
        features: Features,
        map: &[f32],
        squares: &Squares,
        square: usize,
        panels: Shared,
    ) {
        let (top, left) = squares.corner(square, self.transform.side());
        let size = self.transform.size();
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
        let blocks = self.input.div_ceil(DEPTH);
        let of_place = blocks * squares.panels * squares.panel * STRIDE;
        for channel in (0..self.input).step_by(LANES) {
            let (block, entry) = (channel / DEPTH, channel % DEPTH);
            let (panel, row) = (square / squares.panel, square % squares.panel);
            let place =
                (block * squares.panels + panel) * squares.panel * STRIDE + row * STRIDE + entry;
            #[expect(
                unsafe_code,
                reason = "squares lie between each other in a shared buffer"
            )]
            // SAFETY: all places lie within the panels, and nobody else writes those of this square.
            unsafe {
                self.transform.input(
                    features,
                    &sources[..size * size],
                    &map[channel..],
                    panels.get().add(place),
                    of_place,
                );
            }
        }
    }

    /// The product for one place of all squares.
    fn multiply_place(
        &self,
        features: Features,
        left: &[f32],
        squares: &Squares,
        place: usize,
        products: Shared,
    ) {
        let tiles = f32_tiles(features);
        let blocks = self.input.div_ceil(DEPTH);
        let panel_size = squares.panel * STRIDE;
        let left = &left[place * blocks * squares.panels * panel_size..];
        let products = products
            .get()
            .wrapping_add(place * squares.count * self.output);
        for block in 0..blocks {
            let start = block * DEPTH;
            let count = DEPTH.min(self.input - start);
            for column_panel in 0..self.output.div_ceil(COLUMNS) {
                let column = column_panel * COLUMNS;
                let right = self.weights[place].block(start, count, column_panel);
                for panel in 0..squares.panels {
                    let first = panel * squares.panel;
                    let tile = Tile {
                        depth: count,
                        left: left[(block * squares.panels + panel) * panel_size..].as_ptr(),
                        right: right.as_ptr(),
                        target: products.wrapping_add(first * self.output + column),
                        stride: self.output,
                        columns: COLUMNS.min(self.output - column),
                        adds: block > 0,
                        bias: None,
                        residual: None,
                        relu: false,
                    };
                    #[expect(unsafe_code, reason = "a tile is given by pointers")]
                    // SAFETY: the panel, the block and the rows of the products are as large as the tile says, and nobody
                    // else writes the products of this place.
                    unsafe {
                        tiles.compute(squares.panel.min(squares.count - first), &tile);
                    }
                }
            }
        }
    }

    /// Transforms a square's products back and stores those that lie in the map.
    fn finish_square(
        &self,
        features: Features,
        products: &[f32],
        squares: &Squares,
        square: usize,
        finish: Finish<'_>,
        target: Shared,
    ) {
        let side = self.transform.side();
        let (top, left) = squares.corner(square, side);
        let rows = side.min(squares.extent.rows - top);
        let columns = side.min(squares.extent.columns - left);
        let mut results = [[0f32; LANES]; transform::MOST_RESULTS];
        for channel in (0..self.output).step_by(LANES) {
            let bias = finish.bias.map_or([0.0; LANES], |bias| {
                std::array::from_fn(|lane| bias[channel + lane])
            });
            let first = square * self.output + channel;
            self.transform.output(
                features,
                &products[first..],
                squares.count * self.output,
                &bias,
                &mut results,
            );
            for y in 0..rows {
                for x in 0..columns {
                    let place =
                        ((top + y) * squares.extent.columns + left + x) * self.output + channel;
                    let mut values = results[y * side + x];
                    if let Some(residual) = finish.residual {
                        for (value, residual) in values.iter_mut().zip(&residual[place..]) {
                            *value += residual;
                        }
                    }
                    if finish.activation == Activation::Relu {
                        values = values.map(|value| if value < 0.0 { 0.0 } else { value });
                    }
                    #[expect(
                        unsafe_code,
                        reason = "squares lie between each other in a shared result"
                    )]
                    // SAFETY: rows and columns lie within the map, and no other square has them.
                    unsafe {
                        target
                            .get()
                            .add(place)
                            .cast::<[f32; LANES]>()
                            .write_unaligned(values);
                    }
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
