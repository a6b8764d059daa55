//! Views of an image for the input gate: moved, turned, relit as X-rays of other machines and hospitals are; and what is made of frontal
//! X-rays to stand for what is none.

use radialog_models::input_gate::{SIDE, standardised};

use crate::data::gate_images::KEPT_SIDE;
use crate::random::Random;

/// The way in which an image is seen.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct View {
    /// Quarter turns, clockwise.
    quarters: usize,
    /// Whether black and white are exchanged.
    inverted: bool,
    /// A small turn, in radians.
    angle: f64,
    /// Parts of the image's sides that are seen, over 1 with what is `outside`.
    seen: (f64, f64),
    /// How far the middle of what is seen lies from the image's, in sides of the image.
    shift: (f64, f64),
    flipped: bool,
    /// Exponent of the grey levels.
    gamma: f64,
    /// The level beside the image; none where its edge goes on.
    outside: Option<f32>,
    /// Deviation of the noise, in grey levels.
    noise: f64,
    blurred: bool,
}

impl View {
    /// The image as it is, as the gate sees it at inference.
    pub(crate) const PLAIN: Self = Self {
        quarters: 0,
        inverted: false,
        angle: 0.0,
        seen: (1.0, 1.0),
        shift: (0.0, 0.0),
        flipped: false,
        gamma: 1.0,
        outside: None,
        noise: 0.0,
        blurred: false,
    };

    /// A view that leaves a frontal X-ray an upright one: of another machine, patient or crop.
    pub(crate) fn draw(random: &mut Random) -> Self {
        let seen = random.between(0.78, 1.18);
        let stretch = random.between(-0.12, 0.12).exp();
        Self {
            angle: random.between(-10.0, 10.0).to_radians(),
            seen: (seen * stretch, seen / stretch),
            shift: (random.between(-0.08, 0.08), random.between(-0.08, 0.08)),
            flipped: random.unit() < 0.5,
            gamma: random.between(-0.6, 0.6).exp(),
            outside: match random.below(8) {
                0..=3 => Some(0.0),
                4 => Some(255.0),
                _ => None,
            },
            noise: random.between(-8.0, 8.0).max(0.0),
            blurred: random.unit() < 0.25,
            ..Self::PLAIN
        }
    }

    /// A view of a small part of the image.
    pub(crate) fn draw_part(random: &mut Random) -> Self {
        let part = random.between(0.15, 0.35);
        let free = (1.0 - part) / 2.0;
        Self {
            seen: (part, part * random.between(-0.2, 0.2).exp()),
            shift: (random.between(-free, free), random.between(-free, free)),
            ..Self::draw(random)
        }
    }

    /// The same, turned clockwise by so many quarters.
    pub(crate) fn turned(self, quarters: usize) -> Self {
        Self { quarters, ..self }
    }

    /// The same with black and white exchanged, where that is so.
    pub(crate) fn inverted(self, inverted: bool) -> Self {
        Self { inverted, ..self }
    }

    /// The picture that the gate sees of 128 x 128 grey levels, 64 x 64.
    pub(crate) fn of(&self, levels: &[u8], random: &mut Random) -> Vec<f32> {
        let mut picture = Vec::with_capacity(SIDE * SIDE);
        for place in 0..SIDE * SIDE {
            let (x, y) = (2 * (place % SIDE), 2 * (place / SIDE));
            let sum: f32 = [(x, y), (x + 1, y), (x, y + 1), (x + 1, y + 1)]
                .map(|(x, y)| self.level(levels, x, y))
                .iter()
                .sum();
            picture.push(sum / 4.0);
        }
        if self.blurred {
            picture = blurred(&picture);
        }
        for level in &mut picture {
            if self.inverted {
                *level = 255.0 - *level;
            }
            if self.gamma != 1.0 {
                *level = (255.0 * (f64::from(*level) / 255.0).powf(self.gamma)) as f32;
            }
            if self.noise > 0.0 {
                *level += (self.noise * random.normal()) as f32;
            }
        }
        standardised(picture)
    }

    /// The level that is seen at a pixel of the kept size.
    fn level(&self, levels: &[u8], x: usize, y: usize) -> f32 {
        let side = KEPT_SIDE as f64;
        let centred = |place: usize| (place as f64 + 0.5) / side - 0.5;
        let (mut x, mut y) = (centred(x), centred(y));
        for _ in 0..self.quarters {
            (x, y) = (y, -x);
        }
        if self.flipped {
            x = -x;
        }
        let (sin, cos) = self.angle.sin_cos();
        let (turned_x, turned_y) = (cos * x + sin * y, cos * y - sin * x);
        let (x, y) = (
            (turned_x * self.seen.0 + self.shift.0 + 0.5) * side - 0.5,
            (turned_y * self.seen.1 + self.shift.1 + 0.5) * side - 0.5,
        );
        let last = side - 1.0;
        let is_inside = (-0.5..=last + 0.5).contains(&x) && (-0.5..=last + 0.5).contains(&y);
        match self.outside {
            Some(level) if !is_inside => level,
            _ => between(levels, x.clamp(0.0, last), y.clamp(0.0, last)),
        }
    }
}

/// The level between four pixels.
fn between(levels: &[u8], x: f64, y: f64) -> f32 {
    let (left, top) = (x as usize, y as usize);
    let (right, bottom) = ((left + 1).min(KEPT_SIDE - 1), (top + 1).min(KEPT_SIDE - 1));
    let (across, down) = ((x - left as f64) as f32, (y - top as f64) as f32);
    let at = |x: usize, y: usize| f32::from(levels[y * KEPT_SIDE + x]);
    let row = |y: usize| at(left, y) + across * (at(right, y) - at(left, y));
    row(top) + down * (row(bottom) - row(top))
}

/// Each pixel as the mean of its neighbours and itself.
fn blurred(picture: &[f32]) -> Vec<f32> {
    let near = |place: usize| place.saturating_sub(1)..(place + 2).min(SIDE);
    let mean = |place: usize| {
        let (x, y) = (place % SIDE, place / SIDE);
        let (mut sum, mut count) = (0.0, 0.0);
        for y in near(y) {
            for x in near(x) {
                sum += picture[y * SIDE + x];
                count += 1.0;
            }
        }
        sum / count
    };
    (0..SIDE * SIDE).map(mean).collect()
}

/// The image cut into tiles that have changed their places: all of its light, and none of its anatomy.
pub(crate) fn scrambled(levels: &[u8], random: &mut Random) -> Vec<u8> {
    let tiles = *random.pick(&[2usize, 4, 8]);
    let side = KEPT_SIDE / tiles;
    let mut order: Vec<usize> = (0..tiles * tiles).collect();
    // Two tiles that changed places are hardly seen.
    while (order.iter().enumerate())
        .filter(|(place, tile)| place == *tile)
        .count()
        > tiles * tiles / 4
    {
        random.shuffle(&mut order);
    }
    let pixel = |place: usize| {
        let (x, y) = (place % KEPT_SIDE, place / KEPT_SIDE);
        let tile = order[y / side * tiles + x / side];
        let (from_x, from_y) = (
            tile % tiles * side + x % side,
            tile / tiles * side + y % side,
        );
        levels[from_y * KEPT_SIDE + from_x]
    };
    (0..KEPT_SIDE * KEPT_SIDE).map(pixel).collect()
}

#[cfg(test)]
mod tests {
    use radialog_models::input_gate::sampled;
    use radialog_models::preprocess::GrayImage;

    use super::*;

    fn ramp() -> Vec<u8> {
        let level = |place: usize| (place % KEPT_SIDE + place / KEPT_SIDE / 2) as u8;
        (0..KEPT_SIDE * KEPT_SIDE).map(level).collect()
    }

    #[test]
    fn the_plain_view_is_what_inference_sees() {
        let image = GrayImage::new(KEPT_SIDE, KEPT_SIDE, ramp());
        let seen = View::PLAIN.of(&ramp(), &mut Random::stream(1, "x"));
        assert_eq!(seen, standardised(sampled(&image, SIDE)));
    }

    #[test]
    fn four_quarter_turns_are_none_and_two_put_the_last_pixel_first() {
        let seen = |quarters| {
            let view = View::PLAIN.turned(quarters);
            view.of(&ramp(), &mut Random::stream(1, "x"))
        };
        let close = |a: &[f32], b: &[f32]| a.iter().zip(b).all(|(a, b)| (a - b).abs() < 1e-4);
        let mut reversed = seen(0);
        reversed.reverse();
        assert!(close(&seen(4), &seen(0)) && close(&seen(2), &reversed));
        // A picture that is brightest at its right lower corner, turned clockwise, is so at its left lower one.
        let brightest = |picture: Vec<f32>| {
            let place = (0..SIDE * SIDE).max_by(|a, b| picture[*a].total_cmp(&picture[*b]));
            place.map(|place| (place % SIDE, place / SIDE))
        };
        assert_eq!(brightest(seen(1)), Some((0, SIDE - 1)));
    }

    #[test]
    fn tiles_that_changed_places_have_the_same_pixels_and_the_same_draw_is_the_same() {
        let scramble = || scrambled(&ramp(), &mut Random::stream(1, "x"));
        let (these, those) = (scramble(), scramble());
        assert_eq!(these, those);
        assert_ne!(these, ramp());
        let sorted = |mut levels: Vec<u8>| {
            levels.sort_unstable();
            levels
        };
        assert_eq!(sorted(these), sorted(ramp()));
    }
}
