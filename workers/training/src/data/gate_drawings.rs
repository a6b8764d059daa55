//! Pictures that are no X-rays, drawn at random: surfaces, patterns, noise, shapes, documents, photo-like scenes, limbs and slices.

use std::f64::consts::TAU;

use crate::data::gate_images::KEPT_SIDE;
use crate::random::Random;

const SIDE: f64 = KEPT_SIDE as f64;

/// What can be drawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Motif {
    Flat,
    Gradient,
    Noise,
    Clouds,
    Stripes,
    Checkerboard,
    Shapes,
    Document,
    Scene,
    Limb,
    Slice,
    Symmetric,
    Strokes,
}

const MOTIFS: [Motif; 13] = [
    Motif::Flat,
    Motif::Gradient,
    Motif::Noise,
    Motif::Clouds,
    Motif::Stripes,
    Motif::Checkerboard,
    Motif::Shapes,
    Motif::Document,
    Motif::Scene,
    Motif::Limb,
    Motif::Slice,
    Motif::Symmetric,
    Motif::Strokes,
];

/// A picture of the kept size in grey levels, which a random number of pictures has in common with no other.
pub(crate) fn drawing(random: &mut Random) -> Vec<u8> {
    let motif = *random.pick(&MOTIFS);
    let mut canvas = Canvas::drawn(motif, random);
    if motif != Motif::Flat && motif != Motif::Noise && random.unit() < 0.2 {
        let grain = random.between(2.0, 40.0);
        canvas.change(|level, _, _| level + grain * random.normal());
    }
    canvas.into_levels()
}

/// Levels of any range, row-major.
struct Canvas(Vec<f64>);

impl Canvas {
    fn drawn(motif: Motif, random: &mut Random) -> Self {
        let mut canvas = Self::flat(random.between(0.0, 255.0));
        match motif {
            Motif::Flat => {
                if random.unit() < 0.5 {
                    canvas.rectangle(random);
                }
                if random.unit() < 0.3 {
                    canvas = Self::flat(0.0);
                }
            }
            Motif::Gradient => canvas = Self::gradient(random),
            Motif::Noise => {
                let (spread, grain) = (random.between(5.0, 120.0), 1 << random.below(4));
                let noise: Vec<f64> = (0..KEPT_SIDE * KEPT_SIDE)
                    .map(|_| random.normal())
                    .collect();
                canvas.change(|level, x, y| {
                    level + spread * noise[y / grain * grain * KEPT_SIDE + x / grain * grain]
                });
            }
            Motif::Clouds => canvas = Self::clouds(random),
            Motif::Stripes => canvas.stripes(random),
            Motif::Checkerboard => {
                let (width, height) = (2 + random.below(40), 2 + random.below(40));
                let (dark, bright) = (random.between(0.0, 120.0), random.between(130.0, 255.0));
                canvas.change(|_, x, y| match (x / width + y / height) % 2 {
                    0 => dark,
                    _ => bright,
                });
            }
            Motif::Shapes => canvas.shapes(1 + random.below(12), random),
            Motif::Document => canvas.document(random),
            Motif::Scene => {
                let (ground, horizon) = (Self::clouds(random), random.between(0.3, 0.8) * SIDE);
                let sky = Self::gradient(random);
                canvas.change(|_, x, y| match (y as f64) < horizon {
                    true => sky.at(x, y),
                    false => ground.at(x, y),
                });
                canvas.shapes(1 + random.below(8), random);
            }
            Motif::Limb => canvas.limb(random),
            Motif::Slice => canvas.slice(random),
            Motif::Symmetric => {
                if random.unit() < 0.5 {
                    canvas = Self::clouds(random);
                }
                canvas.shapes(2 + random.below(8), random);
                let half = Self(canvas.0.clone());
                canvas.change(|_, x, y| half.at(x.min(KEPT_SIDE - 1 - x), y));
            }
            Motif::Strokes => {
                let level = random.between(0.0, 255.0);
                for _ in 0..1 + random.below(10) {
                    let (from, to) = (point(random), point(random));
                    canvas.capsule(from, to, random.between(0.5, 8.0), level);
                }
            }
        }
        canvas
    }

    fn flat(level: f64) -> Self {
        Self(vec![level; KEPT_SIDE * KEPT_SIDE])
    }

    fn at(&self, x: usize, y: usize) -> f64 {
        self.0[y * KEPT_SIDE + x]
    }

    fn change(&mut self, mut changed: impl FnMut(f64, usize, usize) -> f64) {
        for (place, level) in self.0.iter_mut().enumerate() {
            *level = changed(*level, place % KEPT_SIDE, place / KEPT_SIDE);
        }
    }

    /// A gradient along a line, or around a point.
    fn gradient(random: &mut Random) -> Self {
        let (turn, centre) = (random.between(0.0, TAU), point(random));
        let (from, to) = (random.between(0.0, 255.0), random.between(0.0, 255.0));
        let (is_round, power) = (random.unit() < 0.5, random.between(-1.0, 1.0).exp());
        let mut canvas = Self::flat(0.0);
        canvas.change(|_, x, y| {
            let (dx, dy) = (x as f64 - centre.0, y as f64 - centre.1);
            let way = match is_round {
                true => dx.hypot(dy) / SIDE,
                false => (turn.cos() * dx + turn.sin() * dy) / (2.0 * SIDE) + 0.5,
            };
            from + (to - from) * way.clamp(0.0, 1.0).powf(power)
        });
        canvas
    }

    /// Noise of several sizes over each other, as clouds, stone and grass are.
    fn clouds(random: &mut Random) -> Self {
        let mut canvas = Self::flat(0.0);
        let (finest, fading) = (1 + random.below(6), random.between(0.35, 1.0));
        let mut strength = 100.0;
        for octave in 0..finest {
            let cells = 2 << octave;
            let grid: Vec<f64> = (0..(cells + 1) * (cells + 1))
                .map(|_| random.normal())
                .collect();
            canvas.change(|level, x, y| {
                let place = |at: usize| {
                    let scaled = at as f64 * cells as f64 / SIDE;
                    (scaled as usize, scaled.fract())
                };
                let ((column, across), (row, down)) = (place(x), place(y));
                let node = |column: usize, row: usize| grid[row * (cells + 1) + column];
                let line = |row: usize| {
                    node(column, row) + across * (node(column + 1, row) - node(column, row))
                };
                level + strength * (line(row) + down * (line(row + 1) - line(row)))
            });
            strength *= fading;
        }
        canvas
    }

    fn stripes(&mut self, random: &mut Random) {
        let (turn, length) = (random.between(0.0, TAU), random.between(3.0, 60.0));
        let (is_sharp, is_grid) = (random.unit() < 0.5, random.unit() < 0.3);
        self.change(|_, x, y| {
            let (x, y) = (x as f64, y as f64);
            let wave = |along: f64| {
                let wave = (TAU * along / length).sin();
                if is_sharp { wave.signum() } else { wave }
            };
            let one = wave(turn.cos() * x + turn.sin() * y);
            let other = wave(turn.cos() * y - turn.sin() * x);
            128.0 + 100.0 * if is_grid { one.max(other) } else { one }
        });
    }

    fn shapes(&mut self, count: usize, random: &mut Random) {
        for _ in 0..count {
            match random.below(3) {
                0 => self.rectangle(random),
                1 => {
                    let radii = (random.between(3.0, 50.0), random.between(3.0, 50.0));
                    let (centre, turn) = (point(random), random.between(0.0, TAU));
                    let (soft, level) = (random.between(0.02, 0.6), random.between(0.0, 255.0));
                    self.ellipse(centre, radii, turn, soft, level);
                }
                _ => {
                    let (from, to) = (point(random), point(random));
                    let (radius, level) = (random.between(1.0, 14.0), random.between(0.0, 255.0));
                    self.capsule(from, to, radius, level);
                }
            }
        }
    }

    fn rectangle(&mut self, random: &mut Random) {
        let (one, other) = (point(random), point(random));
        let level = random.between(0.0, 255.0);
        let is_between = |at: usize, one: f64, other: f64| {
            (at as f64) >= one.min(other) && (at as f64) < one.max(other)
        };
        self.change(|below, x, y| {
            match is_between(x, one.0, other.0) && is_between(y, one.1, other.1) {
                true => level,
                false => below,
            }
        });
    }

    /// An ellipse whose edge is `soft` of its radius wide.
    fn ellipse(&mut self, centre: (f64, f64), radii: (f64, f64), turn: f64, soft: f64, level: f64) {
        let (sin, cos) = turn.sin_cos();
        self.change(|below, x, y| {
            let (dx, dy) = (x as f64 - centre.0, y as f64 - centre.1);
            let (along, across) = (
                (cos * dx + sin * dy) / radii.0,
                (cos * dy - sin * dx) / radii.1,
            );
            let share = ((1.0 - along.hypot(across)) / soft + 0.5).clamp(0.0, 1.0);
            below + share * (level - below)
        });
    }

    /// A line with round ends.
    fn capsule(&mut self, from: (f64, f64), to: (f64, f64), radius: f64, level: f64) {
        let (dx, dy) = (to.0 - from.0, to.1 - from.1);
        let square = (dx * dx + dy * dy).max(1e-9);
        self.change(|below, x, y| {
            let (x, y) = (x as f64 - from.0, y as f64 - from.1);
            let along = ((x * dx + y * dy) / square).clamp(0.0, 1.0);
            let distance = (x - along * dx).hypot(y - along * dy);
            let share = (radius - distance + 0.5).clamp(0.0, 1.0);
            below + share * (level - below)
        });
    }

    /// Lines of words on paper, or on a dark screen.
    fn document(&mut self, random: &mut Random) {
        let (paper, ink) = match random.unit() < 0.7 {
            true => (random.between(200.0, 255.0), random.between(0.0, 80.0)),
            false => (random.between(0.0, 50.0), random.between(150.0, 255.0)),
        };
        *self = Self::flat(paper);
        let height = random.between(2.0, 9.0);
        let margin = random.between(2.0, 24.0);
        let mut y = margin;
        while y < SIDE - margin {
            let end = SIDE - margin - random.below(2) as f64 * random.between(0.0, 60.0);
            let mut x = margin;
            let is_empty = random.unit() < 0.12;
            while x < end && !is_empty {
                let word = random.between(height, 6.0 * height).min(end - x);
                let level = ink + (paper - ink) * random.between(0.0, 0.3);
                self.capsule((x, y), (x + word, y), 0.28 * height, level);
                x += word + 0.8 * height;
            }
            y += 1.6 * height;
        }
        if random.unit() < 0.3 {
            self.rectangle(random);
        }
    }

    /// Bones in soft tissue, as in an X-ray of an arm, a hand or a leg.
    fn limb(&mut self, random: &mut Random) {
        *self = Self::flat(random.between(0.0, 30.0));
        let turn = random.between(0.0, TAU);
        let (tissue, bone) = (random.between(60.0, 130.0), random.between(150.0, 255.0));
        let (count, spread) = (1 + random.below(5), random.between(0.1, 0.5));
        let width = random.between(10.0, 40.0) / count as f64 + 3.0;
        for (radius, level) in [(width, tissue), (0.45 * width, bone)] {
            for index in 0..count {
                let offset = (index as f64 - (count as f64 - 1.0) / 2.0) * width * 1.7;
                let lean = turn + spread * (index as f64 - (count as f64 - 1.0) / 2.0) * 0.3;
                let middle = (
                    SIDE / 2.0 - offset * turn.sin(),
                    SIDE / 2.0 + offset * turn.cos(),
                );
                let reach = (lean.cos() * SIDE * 0.55, lean.sin() * SIDE * 0.55);
                let joint = 0.15 + 0.5 * (index % 3) as f64 / 3.0;
                let place = |share: f64| (middle.0 + share * reach.0, middle.1 + share * reach.1);
                self.capsule(place(-1.0), place(joint - 0.06), radius, level);
                self.capsule(place(joint + 0.06), place(1.0), radius, level);
            }
        }
    }

    /// A section through a head or a body: a bright ring or disc with organs on black.
    fn slice(&mut self, random: &mut Random) {
        *self = Self::flat(0.0);
        let middle = (SIDE / 2.0, SIDE / 2.0);
        let radii = (random.between(35.0, 60.0), random.between(28.0, 58.0));
        let (rim, inside) = (random.between(90.0, 255.0), random.between(40.0, 200.0));
        self.ellipse(middle, radii, 0.0, 0.06, rim);
        let inner = (radii.0 * 0.87, radii.1 * 0.87);
        self.ellipse(middle, inner, 0.0, 0.06, inside);
        for _ in 0..2 + random.below(9) {
            let centre = (
                middle.0 + random.between(-0.6, 0.6) * radii.0,
                middle.1 + random.between(-0.6, 0.6) * radii.1,
            );
            let organ = (random.between(3.0, 18.0), random.between(3.0, 18.0));
            let (turn, level) = (random.between(0.0, TAU), random.between(0.0, 255.0));
            self.ellipse(centre, organ, turn, 0.2, level);
        }
    }

    /// As a decoder gives them: from the darkest to the brightest.
    fn into_levels(self) -> Vec<u8> {
        let range = |(low, high): (f64, f64), level: &f64| (low.min(*level), high.max(*level));
        let clamped: Vec<f64> = self
            .0
            .iter()
            .map(|level| level.clamp(-400.0, 655.0))
            .collect();
        let (low, high) = clamped.iter().fold((f64::MAX, f64::MIN), range);
        let scale = 255.0 / (high - low).max(1e-6);
        let level = |level: &f64| ((level - low) * scale).min(255.0) as u8;
        match high - low < 0.5 {
            true => vec![0; clamped.len()],
            false => clamped.iter().map(level).collect(),
        }
    }
}

fn point(random: &mut Random) -> (f64, f64) {
    (random.between(0.0, SIDE), random.between(0.0, SIDE))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_motif_is_drawn_alike_from_the_same_stream_and_otherwise_from_another() {
        for motif in MOTIFS {
            let draw = |name: &str| {
                let canvas = Canvas::drawn(motif, &mut Random::stream(3, name));
                canvas.into_levels()
            };
            assert_eq!(draw("a"), draw("a"), "{motif:?}");
            let names = ["a", "b", "c", "d"].map(draw);
            assert!(
                names[1..].iter().any(|other| *other != names[0]),
                "{motif:?}"
            );
            assert_eq!(names[0].len(), KEPT_SIDE * KEPT_SIDE);
        }
    }
}
