//! The transformations of Winograd's filtering, for sixteen channels at a time.

use std::ops::{Add, Mul, Sub};

use super::Features;

/// Channels that are transformed together.
pub(super) const LANES: usize = 16;
/// Places of a square of 6 x 6.
pub(super) const MOST_PLACES: usize = 36;

/// Squares of 2 x 2 or 4 x 4 results, from 4 x 4 or 6 x 6 numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Transform {
    Two,
    Four,
}

/// Where the results of a square for sixteen channels lie, and what is done to them.
pub(super) struct Place {
    pub(super) target: *mut f32,
    /// Added before the ReLU.
    pub(super) residual: Option<*const f32>,
    pub(super) bias: [f32; LANES],
    pub(super) relu: bool,
    /// Rows and columns of the square that lie in the map.
    pub(super) rows: usize,
    pub(super) columns: usize,
    /// Numbers of a line and of a pixel of the map.
    pub(super) line: usize,
    pub(super) pixel: usize,
}

/// Numbers of sixteen channels.
#[derive(Clone, Copy)]
struct Lanes([f32; LANES]);

impl Lanes {
    const ZERO: Self = Self([0.0; LANES]);

    #[inline(always)]
    fn map(self, other: Self, of: impl Fn(f32, f32) -> f32) -> Self {
        let mut result = Self::ZERO;
        for lane in 0..LANES {
            result.0[lane] = of(self.0[lane], other.0[lane]);
        }
        result
    }
}

impl Add for Lanes {
    type Output = Self;

    #[inline(always)]
    fn add(self, other: Self) -> Self {
        self.map(other, |a, b| a + b)
    }
}

impl Sub for Lanes {
    type Output = Self;

    #[inline(always)]
    fn sub(self, other: Self) -> Self {
        self.map(other, |a, b| a - b)
    }
}

impl Mul<f32> for Lanes {
    type Output = Self;

    #[inline(always)]
    fn mul(self, factor: f32) -> Self {
        self.map(self, |a, _| a * factor)
    }
}

impl Transform {
    pub(super) fn of_side(side: usize) -> Self {
        if side == 4 { Self::Four } else { Self::Two }
    }

    /// Results in a row of a square.
    pub(super) fn side(self) -> usize {
        match self {
            Self::Two => 2,
            Self::Four => 4,
        }
    }

    /// Numbers in a row of a square.
    pub(super) fn size(self) -> usize {
        self.side() + 2
    }

    /// Numbers of a square.
    pub(super) fn places(self) -> usize {
        self.size() * self.size()
    }

    /// A kernel `[3, 3]`, transformed, of which as many numbers count as a square has; computed in f64, so that only the result
    /// is rounded.
    pub(super) fn kernel(self, kernel: &[f32; 9]) -> [f32; MOST_PLACES] {
        let rows: &[[f64; 3]] = match self {
            Self::Two => &[
                [1.0, 0.0, 0.0],
                [0.5, 0.5, 0.5],
                [0.5, -0.5, 0.5],
                [0.0, 0.0, 1.0],
            ],
            Self::Four => &[
                [1.0 / 4.0, 0.0, 0.0],
                [-1.0 / 6.0, -1.0 / 6.0, -1.0 / 6.0],
                [-1.0 / 6.0, 1.0 / 6.0, -1.0 / 6.0],
                [1.0 / 24.0, 1.0 / 12.0, 1.0 / 6.0],
                [1.0 / 24.0, -1.0 / 12.0, 1.0 / 6.0],
                [0.0, 0.0, 1.0],
            ],
        };
        let entry = |vertical: &[f64; 3], horizontal: &[f64; 3]| {
            let mut sum = 0.0;
            for (y, vertical) in vertical.iter().enumerate() {
                for (x, horizontal) in horizontal.iter().enumerate() {
                    sum += vertical * horizontal * f64::from(kernel[3 * y + x]);
                }
            }
            sum as f32
        };
        let mut result = [0.0; MOST_PLACES];
        let pairs = rows
            .iter()
            .flat_map(|vertical| rows.iter().map(move |horizontal| (vertical, horizontal)));
        for (result, (vertical, horizontal)) in result.iter_mut().zip(pairs) {
            *result = entry(vertical, horizontal);
        }
        result
    }

    /// Transforms a square of numbers, whose places in `map` are `sources`; the results are `apart` from each other.
    pub(super) fn input(
        self,
        features: Features,
        sources: &[Option<usize>],
        map: &[f32],
        target: &mut [f32],
        apart: usize,
    ) {
        #[cfg(target_arch = "x86_64")]
        if features.avx512 {
            #[expect(unsafe_code, reason = "instructions that were found at run time")]
            // SAFETY: the processor has them.
            unsafe {
                match self {
                    Self::Two => input_avx512::<4>(self, sources, map, target, apart),
                    Self::Four => input_avx512::<6>(self, sources, map, target, apart),
                }
            }
            return;
        }
        let _ = features;
        match self {
            Self::Two => input::<4>(self, sources, map, target, apart),
            Self::Four => input::<6>(self, sources, map, target, apart),
        }
    }

    /// Transforms products back, which are `apart` from each other, and stores the results.
    ///
    /// # Safety
    /// The place lies in a result, and in a residual of its size, which nobody else writes.
    #[expect(
        unsafe_code,
        reason = "squares lie between each other in a shared result"
    )]
    pub(super) unsafe fn output(
        self,
        features: Features,
        products: &[f32],
        apart: usize,
        place: &Place,
    ) {
        // SAFETY: the caller's; the instructions were found at run time.
        unsafe {
            #[cfg(target_arch = "x86_64")]
            if features.avx512 {
                match self {
                    Self::Two => output_avx512::<4, 2>(self, products, apart, place),
                    Self::Four => output_avx512::<6, 4>(self, products, apart, place),
                }
                return;
            }
            let _ = features;
            match self {
                Self::Two => output::<4, 2>(self, products, apart, place),
                Self::Four => output::<6, 4>(self, products, apart, place),
            }
        }
    }

    /// One row or column of a square of numbers.
    #[inline(always)]
    fn input_line<const SIZE: usize>(self, d: [Lanes; SIZE]) -> [Lanes; SIZE] {
        let mut t = [Lanes::ZERO; SIZE];
        match self {
            Self::Two => {
                t[0] = d[0] - d[2];
                t[1] = d[1] + d[2];
                t[2] = d[2] - d[1];
                t[3] = d[1] - d[3];
            }
            Self::Four => {
                let (even, odd) = (d[4] - d[2] * 4.0, d[3] - d[1] * 4.0);
                let (far, near) = (d[4] - d[2], (d[3] - d[1]) * 2.0);
                t[0] = d[0] * 4.0 - d[2] * 5.0 + d[4];
                t[1] = even + odd;
                t[2] = even - odd;
                t[3] = far + near;
                t[4] = far - near;
                t[5] = d[1] * 4.0 - d[3] * 5.0 + d[5];
            }
        }
        t
    }

    /// One row or column of a square of products.
    #[inline(always)]
    fn output_line<const SIZE: usize, const SIDE: usize>(self, m: [Lanes; SIZE]) -> [Lanes; SIDE] {
        let mut r = [Lanes::ZERO; SIDE];
        match self {
            Self::Two => {
                r[0] = m[0] + m[1] + m[2];
                r[1] = m[1] - m[2] - m[3];
            }
            Self::Four => {
                let (sum, difference) = (m[1] + m[2], m[1] - m[2]);
                let (far_sum, far_difference) = (m[3] + m[4], m[3] - m[4]);
                r[0] = m[0] + sum + far_sum;
                r[1] = difference + far_difference * 2.0;
                r[2] = sum + far_sum * 4.0;
                r[3] = difference + far_difference * 8.0 + m[5];
            }
        }
        r
    }
}

#[inline(always)]
fn input<const SIZE: usize>(
    transform: Transform,
    sources: &[Option<usize>],
    map: &[f32],
    target: &mut [f32],
    apart: usize,
) {
    let mut columns = [[Lanes::ZERO; SIZE]; SIZE];
    for (x, column) in columns.iter_mut().enumerate() {
        let mut line = [Lanes::ZERO; SIZE];
        for (y, lanes) in line.iter_mut().enumerate() {
            if let Some((numbers, _)) =
                sources[y * SIZE + x].and_then(|place| map[place..].split_first_chunk::<LANES>())
            {
                lanes.0 = *numbers;
            }
        }
        *column = transform.input_line(line);
    }
    for y in 0..SIZE {
        let line: [Lanes; SIZE] = transform.input_line(std::array::from_fn(|x| columns[x][y]));
        for (x, lanes) in line.into_iter().enumerate() {
            target[(y * SIZE + x) * apart..][..LANES].copy_from_slice(&lanes.0);
        }
    }
}

/// # Safety
/// As [`Transform::output`].
#[inline(always)]
#[expect(unsafe_code, reason = "as there")]
unsafe fn output<const SIZE: usize, const SIDE: usize>(
    transform: Transform,
    products: &[f32],
    apart: usize,
    place: &Place,
) {
    let mut columns = [[Lanes::ZERO; SIDE]; SIZE];
    for (x, column) in columns.iter_mut().enumerate() {
        let mut line = [Lanes::ZERO; SIZE];
        for (y, lanes) in line.iter_mut().enumerate() {
            if let Some((numbers, _)) =
                products[(y * SIZE + x) * apart..].split_first_chunk::<LANES>()
            {
                lanes.0 = *numbers;
            }
        }
        *column = transform.output_line(line);
    }
    let bias = Lanes(place.bias);
    let row = |y: usize| std::array::from_fn::<_, SIZE, _>(|x| columns[x][y]);
    for y in 0..SIDE.min(place.rows) {
        let line: [Lanes; SIDE] = transform.output_line(row(y));
        for (x, lanes) in line.into_iter().enumerate().take(place.columns) {
            let mut values = lanes + bias;
            let offset = y * place.line + x * place.pixel;
            // SAFETY: rows and columns lie within the map.
            unsafe {
                if let Some(residual) = place.residual {
                    let residual = residual.add(offset).cast::<[f32; LANES]>();
                    values = values + Lanes(residual.read_unaligned());
                }
                if place.relu {
                    values = values.map(values, |value, _| if value < 0.0 { 0.0 } else { value });
                }
                let target = place.target.add(offset).cast::<[f32; LANES]>();
                target.write_unaligned(values.0);
            }
        }
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
fn input_avx512<const SIZE: usize>(
    transform: Transform,
    sources: &[Option<usize>],
    map: &[f32],
    target: &mut [f32],
    apart: usize,
) {
    input::<SIZE>(transform, sources, map, target, apart);
}

/// # Safety
/// As [`Transform::output`].
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
#[expect(unsafe_code, reason = "as there")]
unsafe fn output_avx512<const SIZE: usize, const SIDE: usize>(
    transform: Transform,
    products: &[f32],
    apart: usize,
    place: &Place,
) {
    // SAFETY: the caller's.
    unsafe { output::<SIZE, SIDE>(transform, products, apart, place) }
}
