//! PNG files, read as scikit-image and Pillow read them: 16-bit grey keeps its depth, 16-bit colour is cut to its high
//! bytes, a palette becomes RGB (RGBA when it has transparency), a transparent colour key is ignored.

use std::io::Cursor;

use image::codecs::png::PngDecoder;
use image::{ColorType, ImageDecoder};
use radialog_schemas::{ErrorCode, Failure};

use super::gray::{GrayImage, PixelSamples};
use super::{ImageLimits, corrupt};

/// The first bytes of every PNG file.
pub(super) const SIGNATURE: [u8; 8] = *b"\x89PNG\r\n\x1a\n";

/// Bytes that the decoder may hold beside the pixels: palette, metadata, compression window.
const MAX_OVERHEAD: u64 = 64 << 20;

/// The chunk that ends every PNG file, with its checksum.
const END: [u8; 8] = *b"IEND\xaeB`\x82";

/// The IHDR chunk, which comes first.
struct PngHeader {
    width: u32,
    height: u32,
    color_type: u8,
}

pub(super) fn decode(bytes: &[u8], limits: &ImageLimits) -> Result<GrayImage, Failure> {
    let header = PngHeader::read(bytes).ok_or_else(|| corrupt("PNG", "no image header"))?;
    limits.check(u64::from(header.width), u64::from(header.height))?;
    // The decoder stops at the last pixel and would not miss the end.
    if !bytes.windows(END.len()).any(|window| window == END) {
        return Err(corrupt("PNG", "no end"));
    }
    let mut overhead = image::Limits::no_limits();
    overhead.max_alloc = Some(MAX_OVERHEAD);
    let decoder = PngDecoder::with_limits(Cursor::new(bytes), overhead)
        .map_err(|error| corrupt("PNG", error))?;
    if decoder.is_apng().map_err(|error| corrupt("PNG", error))? {
        return Err(Failure::new(
            ErrorCode::ImageAnimated,
            "animated PNG: give one frame",
        ));
    }
    let color = decoder.color_type();
    let size =
        usize::try_from(decoder.total_bytes()).map_err(|_| corrupt("PNG", "impossible size"))?;
    let mut data = vec![0; size];
    decoder
        .read_image(&mut data)
        .map_err(|error| corrupt("PNG", error))?;
    let samples = header.samples(color, data);
    Ok(GrayImage::remapped(
        header.width as usize,
        header.height as usize,
        &samples,
    ))
}

impl PngHeader {
    fn read(bytes: &[u8]) -> Option<Self> {
        let chunk = bytes.get(SIGNATURE.len()..)?;
        let word = |offset: usize| {
            chunk
                .get(offset..offset + 4)?
                .try_into()
                .ok()
                .map(u32::from_be_bytes)
        };
        let color_type = *chunk.get(17)?;
        (chunk.get(4..8)? == b"IHDR").then_some(Self {
            width: word(8)?,
            height: word(12)?,
            color_type,
        })
    }

    /// Bit depths below 8 come scaled to 8, which the remap undoes.
    fn samples(&self, color: ColorType, data: Vec<u8>) -> PixelSamples {
        let channels = usize::from(color.channel_count());
        let deep = usize::from(color.bytes_per_pixel()) == 2 * channels;
        if color == ColorType::L16 {
            return PixelSamples::Sixteen(words(&data).collect());
        }
        let data = if deep {
            words(&data).map(|word| (word >> 8) as u8).collect()
        } else {
            data
        };
        // Types 0 and 2 have no alpha of their own: where there is one, it is the decoder's view of a colour key.
        match (self.color_type, channels) {
            (0 | 2, 2 | 4) => PixelSamples::Eight(without_last(&data, channels), channels - 1),
            _ => PixelSamples::Eight(data, channels),
        }
    }
}

fn words(data: &[u8]) -> impl Iterator<Item = u16> + '_ {
    data.chunks_exact(2)
        .map(|pair| u16::from_ne_bytes([pair[0], pair[1]]))
}

fn without_last(data: &[u8], channels: usize) -> Vec<u8> {
    data.chunks_exact(channels)
        .flat_map(|pixel| &pixel[..channels - 1])
        .copied()
        .collect()
}

#[cfg(test)]
mod tests {
    use png::{BitDepth, ColorType};

    use super::{ErrorCode, ImageLimits};
    use crate::preprocess::decode as decode_any;

    fn encode(
        color: ColorType,
        depth: BitDepth,
        (width, height): (u32, u32),
        data: &[u8],
    ) -> Vec<u8> {
        encode_with(color, depth, (width, height), data, |_| ())
    }

    fn encode_with(
        color: ColorType,
        depth: BitDepth,
        (width, height): (u32, u32),
        data: &[u8],
        setup: impl FnOnce(&mut png::Encoder<'_, &mut Vec<u8>>),
    ) -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut encoder = png::Encoder::new(&mut bytes, width, height);
        encoder.set_color(color);
        encoder.set_depth(depth);
        setup(&mut encoder);
        encoder
            .write_header()
            .unwrap()
            .write_image_data(data)
            .unwrap();
        bytes
    }

    fn pixels(bytes: &[u8]) -> Vec<u8> {
        decode_any(bytes, &ImageLimits::default())
            .unwrap()
            .pixels()
            .to_vec()
    }

    fn code(bytes: &[u8]) -> ErrorCode {
        decode_any(bytes, &ImageLimits::default()).unwrap_err().code
    }

    #[test]
    fn packed_grey_samples_are_unpacked_row_by_row() {
        let bytes = encode(
            ColorType::Grayscale,
            BitDepth::Four,
            (3, 2),
            &[0x05, 0xA0, 0xFA, 0x50],
        );
        assert_eq!(pixels(&bytes), [0, 85, 170, 255, 170, 85]);
    }

    #[test]
    fn sixteen_bit_colour_is_cut_to_its_high_bytes() {
        let dark = [0u8, 255, 0, 255, 0, 255];
        let bright = [10u8, 0, 10, 0, 10, 0];
        let data = [dark, bright, bright, dark].concat();
        assert_eq!(
            pixels(&encode(ColorType::Rgb, BitDepth::Sixteen, (2, 2), &data)),
            [0, 255, 255, 0]
        );
    }

    #[test]
    fn a_palette_with_transparency_counts_its_alpha_in_the_remap() {
        let indices = [0b0101_0000, 0b0101_0000];
        const PALETTE: &[u8] = &[10, 10, 10, 20, 20, 20];
        let draw = |alpha: Option<&'static [u8]>| {
            let bytes = encode_with(
                ColorType::Indexed,
                BitDepth::One,
                (4, 2),
                &indices,
                |encoder| {
                    encoder.set_palette(PALETTE);
                    if let Some(alpha) = alpha {
                        encoder.set_trns(alpha);
                    }
                },
            );
            pixels(&bytes)[..2].to_vec()
        };
        assert_eq!(draw(None), [0, 255]);
        assert_eq!(draw(Some(&[255, 255])), [0, 10]);
    }

    #[test]
    fn a_transparent_colour_key_is_ignored() {
        let draw = |key: Option<&'static [u8]>| {
            let bytes = encode_with(
                ColorType::Grayscale,
                BitDepth::Eight,
                (2, 2),
                &[10, 20, 30, 20],
                |encoder| {
                    if let Some(key) = key {
                        encoder.set_trns(key);
                    }
                },
            );
            pixels(&bytes)
        };
        assert_eq!(draw(Some(&[0, 20])), draw(None));
    }

    #[test]
    fn a_file_cut_anywhere_is_corrupt() {
        let data: Vec<u8> = (0..64 * 64).map(|i| (i % 251) as u8).collect();
        let bytes = encode(ColorType::Grayscale, BitDepth::Eight, (64, 64), &data);
        for length in [
            9,
            20,
            40,
            bytes.len() / 2,
            bytes.len() - 12,
            bytes.len() - 1,
        ] {
            assert_eq!(
                code(&bytes[..length]),
                ErrorCode::ImageCorrupt,
                "cut to {length} of {}",
                bytes.len()
            );
        }
    }

    #[test]
    fn a_bomb_is_refused_from_its_header() {
        let mut bytes = encode(ColorType::Grayscale, BitDepth::Eight, (2, 2), &[0; 4]);
        bytes[16..24].copy_from_slice(&[0, 0, 0xEA, 0x60, 0, 0, 0xEA, 0x60]);
        assert_eq!(code(&bytes), ErrorCode::ImageTooLarge);
    }

    #[test]
    fn sides_that_cannot_be_resized_are_refused() {
        let mut empty = encode(ColorType::Grayscale, BitDepth::Eight, (2, 2), &[0; 4]);
        empty[16..24].fill(0);
        assert_eq!(code(&empty), ErrorCode::ImageDimensions);
        assert_eq!(
            code(&encode(ColorType::Grayscale, BitDepth::Eight, (1, 1), &[3])),
            ErrorCode::ImageDimensions
        );
        let strip = encode(ColorType::Grayscale, BitDepth::Eight, (2, 2000), &[3; 4000]);
        assert_eq!(code(&strip), ErrorCode::ImageDimensions);
    }

    #[test]
    fn an_animated_file_is_refused() {
        let bytes = encode_with(
            ColorType::Grayscale,
            BitDepth::Eight,
            (2, 2),
            &[0; 4],
            |encoder| {
                encoder.set_animated(2, 0).unwrap();
                encoder.validate_sequence(false);
            },
        );
        assert_eq!(code(&bytes), ErrorCode::ImageAnimated);
    }

    #[test]
    fn other_files_are_named() {
        for (bytes, name) in [
            (&b"GIF89a.."[..], "GIF"),
            (b"RIFF....WEBPVP8 ", "WebP"),
            (b"hello", "not an image"),
        ] {
            let failure = decode_any(bytes, &ImageLimits::default()).unwrap_err();
            assert_eq!(failure.code, ErrorCode::ImageFormatUnsupported);
            assert!(failure.message.contains(name), "{failure}");
        }
        assert_eq!(code(b""), ErrorCode::ImageEmpty);
    }
}
