//! PNG files, read as scikit-image and Pillow read them: 16-bit grey keeps its depth, 16-bit colour is cut to its high
//! bytes, a palette becomes RGB (RGBA when it has transparency), a transparent colour key is ignored.

use std::io::Cursor;

use png::{BitDepth, ColorType, Decoder, Info};
use radialog_schemas::{ErrorCode, Failure};

use super::gray::{GrayImage, Samples};
use super::{Limits, corrupt};

/// The first bytes of every PNG file.
pub(super) const SIGNATURE: [u8; 8] = *b"\x89PNG\r\n\x1a\n";

/// Bytes that the decoder may hold beside the pixels: palette, metadata, compression window.
const MAX_OVERHEAD: usize = 64 << 20;

pub(super) fn decode(bytes: &[u8], limits: &Limits) -> Result<GrayImage, Failure> {
    let (width, height) = header_size(bytes).ok_or_else(|| corrupt("PNG", "no image header"))?;
    limits.check(u64::from(width), u64::from(height))?;

    let mut decoder = Decoder::new_with_limits(Cursor::new(bytes), png::Limits { bytes: MAX_OVERHEAD });
    decoder.set_ignore_text_chunk(true);
    decoder.set_ignore_iccp_chunk(true);
    let mut reader = decoder.read_info().map_err(|error| corrupt("PNG", error))?;
    if reader.info().animation_control().is_some_and(|control| control.num_frames > 1) {
        return Err(Failure::new(ErrorCode::ImageAnimated, "animated PNG: give one frame"));
    }
    let size = reader.output_buffer_size().ok_or_else(|| corrupt("PNG", "impossible size"))?;
    let mut data = vec![0; size];
    reader.next_frame(&mut data).map_err(|error| corrupt("PNG", error))?;
    reader.finish().map_err(|error| corrupt("PNG", error))?;

    let samples = samples(reader.info(), data);
    Ok(GrayImage::remapped(width as usize, height as usize, &samples))
}

/// Width and height in the IHDR chunk, which comes first.
fn header_size(bytes: &[u8]) -> Option<(u32, u32)> {
    let header = bytes.get(SIGNATURE.len()..)?;
    let word = |offset: usize| header.get(offset..offset + 4)?.try_into().ok().map(u32::from_be_bytes);
    (header.get(4..8)? == b"IHDR").then_some((word(8)?, word(12)?))
}

fn samples(info: &Info<'_>, data: Vec<u8>) -> Samples {
    let channels = info.color_type.samples();
    match (info.color_type, info.bit_depth) {
        (ColorType::Grayscale, BitDepth::Sixteen) => {
            Samples::Sixteen(data.chunks_exact(2).map(|pair| u16::from_be_bytes([pair[0], pair[1]])).collect())
        }
        (_, BitDepth::Sixteen) => Samples::Eight(high_bytes(data), channels),
        (ColorType::Indexed, depth) => with_palette(info, &unpack(data, info.width as usize, depth)),
        (_, depth) => Samples::Eight(unpack(data, info.width as usize * channels, depth), channels),
    }
}

fn high_bytes(mut data: Vec<u8>) -> Vec<u8> {
    for index in 0..data.len() / 2 {
        data[index] = data[2 * index];
    }
    data.truncate(data.len() / 2);
    data
}

/// Samples of 1, 2 or 4 bit, packed high bits first in byte-aligned rows, to one byte each. They need no scaling, since
/// the remap divides by the range.
fn unpack(data: Vec<u8>, row: usize, depth: BitDepth) -> Vec<u8> {
    let bits = depth as usize;
    if bits == 8 {
        return data;
    }
    let per_byte = 8 / bits;
    let sample = |bytes: &[u8], x: usize| (bytes[x / per_byte] >> (8 - bits - x % per_byte * bits)) & ((1 << bits) - 1);
    data.chunks_exact(row.div_ceil(per_byte)).flat_map(|bytes| (0..row).map(move |x| sample(bytes, x))).collect()
}

/// Indices beyond the palette are black, as in Pillow.
fn with_palette(info: &Info<'_>, indices: &[u8]) -> Samples {
    let palette = info.palette.as_deref().unwrap_or_default();
    let colour = |index: u8| {
        let at = usize::from(index) * 3;
        palette.get(at..at + 3).map_or([0; 3], |rgb| [rgb[0], rgb[1], rgb[2]])
    };
    let Some(alpha) = info.trns.as_deref() else {
        return Samples::Eight(indices.iter().flat_map(|&index| colour(index)).collect(), 3);
    };
    let with_alpha = |index: u8| {
        let [red, green, blue] = colour(index);
        [red, green, blue, alpha.get(usize::from(index)).copied().unwrap_or(255)]
    };
    Samples::Eight(indices.iter().flat_map(|&index| with_alpha(index)).collect(), 4)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::preprocess::decode as decode_any;

    fn encode(color: ColorType, depth: BitDepth, (width, height): (u32, u32), data: &[u8]) -> Vec<u8> {
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
        encoder.write_header().unwrap().write_image_data(data).unwrap();
        bytes
    }

    fn pixels(bytes: &[u8]) -> Vec<u8> {
        decode_any(bytes, &Limits::default()).unwrap().pixels().to_vec()
    }

    fn code(bytes: &[u8]) -> ErrorCode {
        decode_any(bytes, &Limits::default()).unwrap_err().code
    }

    #[test]
    fn packed_grey_samples_are_unpacked_row_by_row() {
        let bytes = encode(ColorType::Grayscale, BitDepth::Four, (3, 2), &[0x05, 0xA0, 0xFA, 0x50]);
        assert_eq!(pixels(&bytes), [0, 85, 170, 255, 170, 85]);
    }

    #[test]
    fn sixteen_bit_colour_is_cut_to_its_high_bytes() {
        let dark = [0u8, 255, 0, 255, 0, 255];
        let bright = [10u8, 0, 10, 0, 10, 0];
        let data = [dark, bright, bright, dark].concat();
        assert_eq!(pixels(&encode(ColorType::Rgb, BitDepth::Sixteen, (2, 2), &data)), [0, 255, 255, 0]);
    }

    #[test]
    fn a_palette_with_transparency_counts_its_alpha_in_the_remap() {
        let indices = [0b0101_0000, 0b0101_0000];
        const PALETTE: &[u8] = &[10, 10, 10, 20, 20, 20];
        let draw = |alpha: Option<&'static [u8]>| {
            let bytes = encode_with(ColorType::Indexed, BitDepth::One, (4, 2), &indices, |encoder| {
                encoder.set_palette(PALETTE);
                if let Some(alpha) = alpha {
                    encoder.set_trns(alpha);
                }
            });
            pixels(&bytes)[..2].to_vec()
        };
        assert_eq!(draw(None), [0, 255]);
        assert_eq!(draw(Some(&[255, 255])), [0, 10]);
    }

    #[test]
    fn a_file_cut_anywhere_is_corrupt() {
        let data: Vec<u8> = (0..64 * 64).map(|i| (i % 251) as u8).collect();
        let bytes = encode(ColorType::Grayscale, BitDepth::Eight, (64, 64), &data);
        for length in [9, 20, 40, bytes.len() / 2, bytes.len() - 12, bytes.len() - 1] {
            assert_eq!(code(&bytes[..length]), ErrorCode::ImageCorrupt, "cut to {length} of {}", bytes.len());
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
        assert_eq!(code(&encode(ColorType::Grayscale, BitDepth::Eight, (1, 1), &[3])), ErrorCode::ImageDimensions);
        let strip = encode(ColorType::Grayscale, BitDepth::Eight, (2, 2000), &[3; 4000]);
        assert_eq!(code(&strip), ErrorCode::ImageDimensions);
    }

    #[test]
    fn an_animated_file_is_refused() {
        let bytes = encode_with(ColorType::Grayscale, BitDepth::Eight, (2, 2), &[0; 4], |encoder| {
            encoder.set_animated(2, 0).unwrap();
            encoder.validate_sequence(false);
        });
        assert_eq!(code(&bytes), ErrorCode::ImageAnimated);
    }

    #[test]
    fn other_files_are_named() {
        for (bytes, name) in [(&b"GIF89a.."[..], "GIF"), (b"RIFF....WEBPVP8 ", "WebP"), (b"hello", "not an image")] {
            let failure = decode_any(bytes, &Limits::default()).unwrap_err();
            assert_eq!(failure.code, ErrorCode::ImageFormatUnsupported);
            assert!(failure.message.contains(name), "{failure}");
        }
        assert_eq!(code(b""), ErrorCode::ImageEmpty);
    }
}
