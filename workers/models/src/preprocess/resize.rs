//! Pillow's BILINEAR resize of 8-bit images: a triangle filter with antialias in 22-bit fixed point, the horizontal pass
//! rounded to 8 bit before the vertical one.

use super::gray::GrayImage;

const FRACTION_BITS: u32 = 22;

/// The input pixels that make one output pixel.
struct FilterTaps {
    first: usize,
    weights: Vec<i32>,
}

/// Resizes so that the shorter side is `side`; the longer one is truncated. An image of that size stays as it is.
pub(super) fn shorter_side(image: &GrayImage, side: usize) -> GrayImage {
    let (width, height) = (image.width(), image.height());
    let longer = |long: usize, short: usize| ((side * long) as f64 / short as f64) as usize;
    let (new_width, new_height) = if width <= height {
        (side, longer(height, width))
    } else {
        (longer(width, height), side)
    };
    let image = if new_width == width {
        image.clone()
    } else {
        horizontal(image, new_width)
    };
    if new_height == height {
        image
    } else {
        vertical(&image, new_height)
    }
}

fn horizontal(image: &GrayImage, width: usize) -> GrayImage {
    let taps = taps(image.width(), width);
    let mut pixels = Vec::with_capacity(width * image.height());
    for row in image.pixels().chunks_exact(image.width()) {
        pixels.extend(taps.iter().map(|tap| {
            let window = &row[tap.first..tap.first + tap.weights.len()];
            let sum: i32 = window
                .iter()
                .zip(&tap.weights)
                .map(|(&pixel, weight)| i32::from(pixel) * weight)
                .sum();
            to_pixel(sum)
        }));
    }
    GrayImage::new(width, image.height(), pixels)
}

fn vertical(image: &GrayImage, height: usize) -> GrayImage {
    let width = image.width();
    let mut pixels = Vec::with_capacity(width * height);
    let mut sums = vec![0i32; width];
    for tap in taps(image.height(), height) {
        sums.fill(0);
        let rows = image.pixels()[tap.first * width..].chunks_exact(width);
        for (row, &weight) in rows.zip(&tap.weights) {
            for (sum, &pixel) in sums.iter_mut().zip(row) {
                *sum += i32::from(pixel) * weight;
            }
        }
        pixels.extend(sums.iter().map(|&sum| to_pixel(sum)));
    }
    GrayImage::new(width, height, pixels)
}

fn to_pixel(sum: i32) -> u8 {
    ((sum + (1 << (FRACTION_BITS - 1))) >> FRACTION_BITS).clamp(0, 255) as u8
}

fn taps(input: usize, output: usize) -> Vec<FilterTaps> {
    let scale = input as f64 / output as f64;
    let support = scale.max(1.0);
    let inverse = 1.0 / support;
    (0..output)
        .map(|index| {
            let centre = (index as f64 + 0.5) * scale;
            let first = (centre - support + 0.5).max(0.0) as usize;
            let last = ((centre + support + 0.5) as usize).min(input);
            let weights: Vec<f64> = (first..last)
                .map(|x| (1.0 - ((x as f64 - centre + 0.5) * inverse).abs()).max(0.0))
                .collect();
            let total: f64 = weights.iter().sum();
            let fixed =
                |weight: &f64| (weight / total * f64::from(1 << FRACTION_BITS) + 0.5) as i32;
            FilterTaps {
                first,
                weights: weights.iter().map(fixed).collect(),
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longer_side_is_truncated() {
        let image = GrayImage::new(61, 37, vec![7; 61 * 37]);
        let resized = shorter_side(&image, 512);
        assert_eq!((resized.width(), resized.height()), (844, 512));
        assert!(resized.pixels().iter().all(|&pixel| pixel == 7));
    }

    #[test]
    fn an_image_of_the_right_size_stays_as_it_is() {
        let image = GrayImage::new(512, 513, (0..512 * 513).map(|i| (i % 251) as u8).collect());
        assert_eq!(shorter_side(&image, 512), image);
    }
}
