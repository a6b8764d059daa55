//! Decoded samples, the remap to 8 bit over all of them, and the grey image that follows.

/// An 8-bit grey image, row-major.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GrayImage {
    width: usize,
    height: usize,
    pixels: Vec<u8>,
}

/// Samples as decoded, row-major with interleaved channels.
pub(super) enum PixelSamples {
    /// 1 (grey), 2 (grey, alpha), 3 (RGB) or 4 (RGBA) channels of 8 bit.
    Eight(Vec<u8>, usize),
    /// Grey, 16 bit.
    Sixteen(Vec<u16>),
}

impl GrayImage {
    /// An image of `height` rows of `width` pixels.
    ///
    /// # Panics
    /// If `pixels` does not hold exactly that many.
    pub fn new(width: usize, height: usize, pixels: Vec<u8>) -> Self {
        assert_eq!(
            pixels.len(),
            width * height,
            "a grey image holds one byte a pixel"
        );
        Self {
            width,
            height,
            pixels,
        }
    }

    /// The grey image of 8-bit samples with 1 (grey), 2 (grey, alpha), 3 (RGB) or 4 (RGBA) interleaved channels: all
    /// channels but alpha are remapped together to 0..=255, then converted to grey. It is held to the recordings of decoded pixels;
    /// stages decode files.
    ///
    /// # Panics
    /// If `samples` does not hold `channels` bytes a pixel.
    pub fn from_samples(width: usize, height: usize, channels: usize, samples: Vec<u8>) -> Self {
        Self::remapped(width, height, &PixelSamples::Eight(samples, channels))
    }

    /// Columns.
    pub fn width(&self) -> usize {
        self.width
    }

    /// Rows.
    pub fn height(&self) -> usize {
        self.height
    }

    /// All pixels, row-major.
    pub fn pixels(&self) -> &[u8] {
        &self.pixels
    }

    /// Remaps all channels but alpha together to 0..=255, then converts to grey.
    pub(super) fn remapped(width: usize, height: usize, samples: &PixelSamples) -> Self {
        let pixels = match samples {
            PixelSamples::Sixteen(samples) => {
                let table = Remap::of(samples.iter().copied());
                samples.iter().map(|&sample| table.apply(sample)).collect()
            }
            PixelSamples::Eight(samples, channels) => {
                // Grey with alpha has 2 channels, colour with alpha 4.
                let colors = channels - usize::from(channels % 2 == 0);
                let pixels = samples.chunks_exact(*channels);
                let counted = pixels.flat_map(|pixel| &pixel[..colors]);
                let table = Remap::of(counted.copied().map(u16::from));
                let remap = |sample: u8| table.apply(u16::from(sample));
                samples
                    .chunks_exact(*channels)
                    .map(|pixel| match *pixel {
                        [red, green, blue] | [red, green, blue, _] => {
                            luma(remap(red), remap(green), remap(blue))
                        }
                        _ => remap(pixel[0]),
                    })
                    .collect()
            }
        };
        Self::new(width, height, pixels)
    }

    /// The centre `side` x `side` pixels; offsets are rounded half to even, as the reference does.
    pub(super) fn centre_crop(&self, side: usize) -> Self {
        let (top, left) = (
            centre_offset(self.height, side),
            centre_offset(self.width, side),
        );
        let rows = self.pixels.chunks_exact(self.width).skip(top).take(side);
        Self::new(
            side,
            side,
            rows.flat_map(|row| &row[left..left + side])
                .copied()
                .collect(),
        )
    }
}

/// `v -> trunc((v - min) / (max - min) * 255)` in f64 and in this order, as a table. A constant image becomes 0.
struct Remap {
    min: u16,
    table: Vec<u8>,
}

impl Remap {
    fn of(samples: impl Iterator<Item = u16>) -> Self {
        let (min, max) = samples.fold((u16::MAX, 0), |(min, max), sample| {
            (min.min(sample), max.max(sample))
        });
        let range = max.saturating_sub(min);
        let table = (0..=range)
            .map(|value| (f64::from(value) / f64::from(range.max(1)) * 255.0) as u8)
            .collect();
        Self { min, table }
    }

    fn apply(&self, sample: u16) -> u8 {
        self.table[usize::from(sample - self.min)]
    }
}

/// Pillow's conversion of RGB to mode L.
fn luma(red: u8, green: u8, blue: u8) -> u8 {
    ((19595 * u32::from(red) + 38470 * u32::from(green) + 7471 * u32::from(blue) + 32768) >> 16)
        as u8
}

fn centre_offset(size: usize, crop: usize) -> usize {
    let margin = size - crop;
    let half = margin / 2;
    if margin % 2 == 1 && half % 2 == 1 {
        half + 1
    } else {
        half
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn alpha_has_no_part_in_the_picture() {
        let remapped = |samples: &[u8], channels| {
            let samples = PixelSamples::Eight(samples.to_vec(), channels);
            GrayImage::remapped(2, 1, &samples).pixels().to_vec()
        };
        assert_eq!(remapped(&[10, 20], 1), [0, 255]);
        assert_eq!(remapped(&[10, 255, 20, 0], 2), [0, 255]);
        assert_eq!(remapped(&[10, 10, 10, 255, 20, 20, 20, 0], 4), [0, 255]);
    }

    #[test]
    fn a_constant_image_becomes_black() {
        assert_eq!(
            GrayImage::remapped(2, 1, &PixelSamples::Sixteen(vec![700, 700])).pixels(),
            [0, 0]
        );
    }

    #[test]
    fn crop_offsets_round_half_to_even() {
        assert_eq!(centre_offset(615, 448), 84);
        assert_eq!(centre_offset(577, 448), 64);
        assert_eq!(centre_offset(512, 488), 12);
    }
}
