//! PNG files, read as scikit-image and Pillow read them: 16-bit grey keeps its depth, 16-bit colour is cut to its high
//! bytes, a palette becomes RGB; alpha, a transparent colour key and transparent palette entries have no part in the picture.

use std::borrow::Cow;
use std::io::Cursor;

use image::codecs::png::PngDecoder;
use image::{ColorType, ImageDecoder, ImageError};
use radialog_schemas::{ErrorCode, Failure, ImageFormat, PngHeader};

use super::gray::{GrayImage, PixelSamples};
use super::{DecodedImage, ImageLimits, corrupt};

/// Bytes that the decoder may hold beside the pixels: palette, metadata, compression window.
const MAX_OVERHEAD: u64 = 64 << 20;

/// The chunk that ends every PNG file: no data, its name, its checksum.
const END: [u8; 12] = *b"\0\0\0\0IEND\xaeB`\x82";

/// Bytes of a chunk beside its data: length, name, checksum.
const CHUNK_FRAME: usize = 12;

/// The colour type of a grey image without alpha.
const GREY: u8 = 0;

pub(super) fn decode(bytes: &[u8], limits: &ImageLimits) -> Result<DecodedImage, Failure> {
    let header = PngHeader::read(bytes).map_err(|what| corrupt("PNG", what))?;
    limits.check(u64::from(header.width), u64::from(header.height))?;
    let mut overhead = image::Limits::no_limits();
    overhead.max_alloc = Some(MAX_OVERHEAD);
    let whole = with_end(bytes);
    let decoder = PngDecoder::with_limits(Cursor::new(&*whole), overhead).map_err(undecodable)?;
    if decoder.is_apng().map_err(undecodable)? {
        return Err(Failure::new(
            ErrorCode::ImageAnimated,
            "animated PNG: give one frame",
        ));
    }
    let color = decoder.color_type();
    let size =
        usize::try_from(decoder.total_bytes()).map_err(|_| corrupt("PNG", "impossible size"))?;
    let mut data = vec![0; size];
    decoder.read_image(&mut data).map_err(undecodable)?;
    let samples = samples(header, color, data);
    let (width, height) = (header.width as usize, header.height as usize);
    let warning = "the PNG file has no end marker; its data are complete";
    Ok(DecodedImage {
        image: GrayImage::remapped(width, height, &samples),
        warnings: match whole {
            Cow::Borrowed(_) => Vec::new(),
            Cow::Owned(_) => vec![warning.to_owned()],
        },
    })
}

/// The failure of a file that the decoder refuses. Where its words show all that it knows of a chunk, they have the chunk's name.
fn undecodable(error: ImageError) -> Failure {
    let text = error.to_string();
    let with_name = text
        .split_once("ChunkType { type: ")
        .and_then(|(before, shown)| {
            let (name, shown) = shown.split_once(", critical: ")?;
            let (_, after) = shown.split_once(" }")?;
            Some(format!("{before}{name}{after}"))
        });
    corrupt("PNG", with_name.unwrap_or(text))
}

/// Bit depths below 8 come scaled to 8, which the remap undoes. Grey of 16 bits keeps them where the file has no alpha of its
/// own: a second channel is then the decoder's view of a colour key.
fn samples(header: PngHeader, color: ColorType, data: Vec<u8>) -> PixelSamples {
    let channels = usize::from(color.channel_count());
    let deep = usize::from(color.bytes_per_pixel()) == 2 * channels;
    if deep && header.color_type == GREY {
        return PixelSamples::Sixteen(words(&data).step_by(channels).collect());
    }
    let data = if deep {
        words(&data).map(|word| (word >> 8) as u8).collect()
    } else {
        data
    };
    PixelSamples::Eight(data, channels)
}

/// The file; one that ends before its end marker gets it behind its last whole chunk, since the decoder asks for it.
fn with_end(bytes: &[u8]) -> Cow<'_, [u8]> {
    let mut at = ImageFormat::Png.signature().len();
    while let Some(&[a, b, c, d, ref name @ ..]) = bytes.get(at..at + 8) {
        if name == b"IEND" && bytes.len() >= at + END.len() {
            return Cow::Borrowed(bytes);
        }
        let end = (u32::from_be_bytes([a, b, c, d]) as usize).saturating_add(at + CHUNK_FRAME);
        if end > bytes.len() {
            break;
        }
        at = end;
    }
    Cow::Owned([&bytes[..at.min(bytes.len())], &END].concat())
}

fn words(data: &[u8]) -> impl Iterator<Item = u16> + '_ {
    data.chunks_exact(2)
        .map(|pair| u16::from_ne_bytes([pair[0], pair[1]]))
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
            .image
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
    fn a_palette_with_transparency_is_read_as_one_without() {
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
        assert_eq!(draw(Some(&[255, 0])), [0, 255]);
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
    fn a_key_leaves_grey_of_16_bits_its_depth() {
        let data: Vec<u8> = [0x0100_u16, 0x01ff, 0x0180, 0x0100]
            .iter()
            .flat_map(|sample| sample.to_be_bytes())
            .collect();
        let key: &'static [u8] = &[1, 0x80];
        let (color, depth) = (ColorType::Grayscale, BitDepth::Sixteen);
        let bytes = encode_with(color, depth, (2, 2), &data, |encoder| encoder.set_trns(key));
        assert_eq!(pixels(&bytes), [0, 255, 128, 0]);
    }

    #[test]
    fn a_file_cut_in_its_data_is_corrupt_and_one_without_its_end_is_read_with_a_warning() {
        let data: Vec<u8> = (0..64 * 64).map(|i| (i % 251) as u8).collect();
        let bytes = encode(ColorType::Grayscale, BitDepth::Eight, (64, 64), &data);
        for length in [9, 20, 40, bytes.len() / 2] {
            assert_eq!(
                code(&bytes[..length]),
                ErrorCode::ImageCorrupt,
                "cut to {length} of {}",
                bytes.len()
            );
        }
        let limits = ImageLimits::default();
        let whole = decode_any(&bytes, &limits).unwrap();
        assert!(whole.warnings.is_empty());
        for missing in [1, 12] {
            let cut = decode_any(&bytes[..bytes.len() - missing], &limits).unwrap();
            assert_eq!(cut.image, whole.image);
            assert!(cut.warnings[0].contains("no end marker"), "{cut:?}");
        }
    }

    #[test]
    fn a_scanned_film_of_42_megapixels_is_read_within_the_usual_limits() {
        let (width, height) = (6000_usize, 7000_usize);
        let data: Vec<u8> = (0..width * height).map(|i| (i / width) as u8).collect();
        let size = (width as u32, height as u32);
        let bytes = encode(ColorType::Grayscale, BitDepth::Eight, size, &data);
        let film = decode_any(&bytes, &ImageLimits::default()).unwrap().image;
        assert_eq!((film.width(), film.height()), (width, height));
        // Not by `assert_eq`, which would print them.
        assert!(film.pixels() == data, "other pixels");
    }

    /// A file that says of itself that it has this size.
    fn of_size([width, height]: [u32; 2]) -> Vec<u8> {
        let mut bytes = encode(ColorType::Grayscale, BitDepth::Eight, (2, 2), &[0; 4]);
        bytes[16..20].copy_from_slice(&width.to_be_bytes());
        bytes[20..24].copy_from_slice(&height.to_be_bytes());
        let checksum = crc32fast::hash(&bytes[12..29]);
        bytes[29..33].copy_from_slice(&checksum.to_be_bytes());
        bytes
    }

    #[test]
    fn a_bomb_is_refused_from_its_header() {
        assert_eq!(code(&of_size([60_000, 60_000])), ErrorCode::ImageTooLarge);
    }

    #[test]
    fn damage_is_told_as_damage_in_the_words_of_people() {
        let whole = encode(ColorType::Grayscale, BitDepth::Eight, (2, 2), &[0; 4]);
        let damaged = |at: usize, byte: u8| {
            let mut bytes = whole.clone();
            bytes[at] = byte;
            decode_any(&bytes, &ImageLimits::default()).unwrap_err()
        };
        // Of the signature, the chunk's length and name, the size (a width of 2^24 + 2), the kind, the checksum.
        for (at, byte) in whole.iter().enumerate().take(33) {
            let header = damaged(at, byte ^ 1);
            assert_eq!(header.code, ErrorCode::ImageCorrupt, "byte {at}: {header}");
            assert!(header.message.contains("copy it again"), "{header}");
        }
        let data = whole.windows(4).position(|name| name == b"IDAT").unwrap();
        let chunk = damaged(data + 3, b'X');
        assert_eq!(chunk.code, ErrorCode::ImageCorrupt, "{chunk}");
        assert!(
            chunk.message.contains("IDAX") && !chunk.message.contains('{'),
            "{chunk}"
        );
    }

    #[test]
    fn sides_that_cannot_be_resized_are_refused() {
        assert_eq!(code(&of_size([0, 0])), ErrorCode::ImageDimensions);
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
