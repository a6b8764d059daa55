//! Augmentation of training images, as the original's: turned by up to 30 degrees, sheared by up to 15, with black
//! corners; then brightness and contrast changed by up to a fifth, in random order. What is drawn follows from the seed
//! and the image's name alone, so that neither threads nor a resume change it.

use crate::random::Random;

const LARGEST_TURN: f64 = 30.0;
const LARGEST_SHEAR: f64 = 15.0;
const LIGHT: (f64, f64) = (0.8, 1.2);

/// What happens to one image.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Augmentation {
    turn: f64,
    shear: f64,
    brightness: f32,
    contrast: f32,
    brightness_first: bool,
}

impl Augmentation {
    pub(crate) fn draw(seed: u64, name: &str) -> Self {
        let mut random = Random::stream(seed, name);
        Self {
            turn: random.between(-LARGEST_TURN, LARGEST_TURN).to_radians(),
            shear: random.between(-LARGEST_SHEAR, LARGEST_SHEAR).to_radians(),
            brightness: random.between(LIGHT.0, LIGHT.1) as f32,
            contrast: random.between(LIGHT.0, LIGHT.1) as f32,
            brightness_first: random.unit() < 0.5,
        }
    }

    /// Pixels from 0 to 1 of a square image.
    pub(crate) fn apply(&self, pixels: &[f32], side: usize) -> Vec<f32> {
        let mut moved = self.moved(pixels, side);
        if self.brightness_first {
            self.brighten(&mut moved);
            self.stretch(&mut moved);
        } else {
            self.stretch(&mut moved);
            self.brighten(&mut moved);
        }
        moved
    }

    /// Each pixel is the nearest one of where it came from: the inverse of a shear along x and a turn around the centre.
    fn moved(&self, pixels: &[f32], side: usize) -> Vec<f32> {
        let centre = (side as f64 - 1.0) / 2.0;
        let (sin, cos) = self.turn.sin_cos();
        let slope = self.shear.tan();
        let source = |index: usize| {
            let (x, y) = (
                (index % side) as f64 - centre,
                (index / side) as f64 - centre,
            );
            let (turned_x, turned_y) = (cos * x + sin * y, cos * y - sin * x);
            let (from_x, from_y) = (
                (turned_x + slope * turned_y + centre).round(),
                (turned_y + centre).round(),
            );
            let inside = |at: f64| at >= 0.0 && at < side as f64;
            if inside(from_x) && inside(from_y) {
                pixels[from_y as usize * side + from_x as usize]
            } else {
                0.0
            }
        };
        (0..side * side).map(source).collect()
    }

    fn brighten(&self, pixels: &mut [f32]) {
        pixels
            .iter_mut()
            .for_each(|pixel| *pixel = (*pixel * self.brightness).clamp(0.0, 1.0));
    }

    /// Away from the mean, or towards it.
    fn stretch(&self, pixels: &mut [f32]) {
        let mean = (pixels.iter().copied().map(f64::from).sum::<f64>() / pixels.len().max(1) as f64)
            as f32;
        let stretched =
            |pixel: f32| (self.contrast * pixel + (1.0 - self.contrast) * mean).clamp(0.0, 1.0);
        pixels
            .iter_mut()
            .for_each(|pixel| *pixel = stretched(*pixel));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn still() -> Augmentation {
        Augmentation {
            turn: 0.0,
            shear: 0.0,
            brightness: 1.0,
            contrast: 1.0,
            brightness_first: true,
        }
    }

    #[test]
    fn nothing_drawn_changes_nothing_and_a_quarter_turn_moves_the_corner() {
        let pixels: Vec<f32> = (0..9).map(|value| value as f32 / 10.0).collect();
        assert_eq!(still().apply(&pixels, 3), pixels);
        let turned = Augmentation {
            turn: std::f64::consts::FRAC_PI_2,
            ..still()
        }
        .apply(&pixels, 3);
        assert_eq!((turned[0], turned[4]), (pixels[6], pixels[4]));
    }

    #[test]
    fn the_same_seed_and_name_draw_the_same_and_values_stay_within_bounds() {
        let pixels = vec![0.9; 64];
        let first = Augmentation::draw(1, "a.png");
        assert_eq!(first, Augmentation::draw(1, "a.png"));
        assert_ne!(first, Augmentation::draw(2, "a.png"));
        assert!(
            first
                .apply(&pixels, 8)
                .iter()
                .all(|value| (0.0..=1.0).contains(value))
        );
    }
}
