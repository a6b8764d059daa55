//! JPEG files: baseline and progressive, 8 bit, grey or three colours. The markers are walked first, since the decoder
//! would fill what a truncated file lacks with grey, and would turn CMYK into something the reference never saw.

use std::io::Cursor;

use image::codecs::jpeg::JpegDecoder;
use image::{ColorType, ImageDecoder};
use radialog_schemas::{ErrorCode, Failure};

use super::gray::{GrayImage, PixelSamples};
use super::{ImageLimits, corrupt};

/// The first bytes of every JPEG file.
pub(super) const SIGNATURE: [u8; 3] = [0xFF, 0xD8, 0xFF];

/// The start-of-frame segment.
#[derive(Clone, Copy)]
struct JpegFrame {
    marker: u8,
    precision: u8,
    width: u16,
    height: u16,
    components: u8,
}

pub(super) fn decode(bytes: &[u8], limits: &ImageLimits) -> Result<GrayImage, Failure> {
    let frame = walk(bytes).map_err(|detail| corrupt("JPEG", detail))?;
    limits.check(u64::from(frame.width), u64::from(frame.height))?;
    let (color, channels) = match frame.components {
        1 => (ColorType::L8, 1),
        3 => (ColorType::Rgb8, 3),
        count => {
            let message =
                format!("JPEG of {count} colour components (CMYK?): convert it to grey or RGB");
            return Err(Failure::new(ErrorCode::ImageColorUnsupported, message));
        }
    };
    if !matches!(frame.marker, 0xC0..=0xC2) || frame.precision != 8 {
        let message = format!(
            "JPEG process {:X}, {} bit: convert it to a baseline JPEG of 8 bit or to PNG",
            frame.marker, frame.precision
        );
        return Err(Failure::new(ErrorCode::ImageFormatUnsupported, message));
    }

    let decoder = JpegDecoder::new(Cursor::new(bytes)).map_err(|error| corrupt("JPEG", error))?;
    let (width, height) = (usize::from(frame.width), usize::from(frame.height));
    let size = width * height * channels;
    if decoder.color_type() != color || decoder.total_bytes() != size as u64 {
        return Err(corrupt("JPEG", "its headers contradict each other"));
    }
    let mut data = vec![0; size];
    decoder
        .read_image(&mut data)
        .map_err(|error| corrupt("JPEG", error))?;
    Ok(GrayImage::remapped(
        width,
        height,
        &PixelSamples::Eight(data, channels),
    ))
}

/// Follows the markers to the end of the image and returns the frame on the way.
fn walk(bytes: &[u8]) -> Result<JpegFrame, &'static str> {
    let mut frame = None;
    let mut at = 2;
    loop {
        let marker = next_marker(bytes, &mut at).ok_or("no end-of-image marker")?;
        match marker {
            0xD9 => return frame.ok_or("no frame header"),
            0x01 | 0xD0..=0xD8 => continue,
            _ => {}
        }
        let length = bytes.get(at..at + 2).ok_or("cut in a segment")?;
        let length = usize::from(u16::from_be_bytes([length[0], length[1]]));
        let segment = bytes
            .get(at + 2..at + length.max(2))
            .ok_or("cut in a segment")?;
        if matches!(marker, 0xC0..=0xCF) && !matches!(marker, 0xC4 | 0xC8 | 0xCC) && frame.is_none()
        {
            frame = Some(parse_frame(marker, segment).ok_or("bad frame header")?);
        }
        at += length.max(2);
    }
}

/// The next marker's code; skips entropy-coded data with its stuffed zeros, and stray bytes as libjpeg does.
fn next_marker(bytes: &[u8], at: &mut usize) -> Option<u8> {
    loop {
        *at += bytes.get(*at..)?.iter().position(|&byte| byte == 0xFF)?;
        *at += bytes[*at..].iter().position(|&byte| byte != 0xFF)?;
        *at += 1;
        match bytes[*at - 1] {
            0x00 => {}
            code => return Some(code),
        }
    }
}

fn parse_frame(marker: u8, segment: &[u8]) -> Option<JpegFrame> {
    let &[precision, h1, h0, w1, w0, components, ..] = segment else {
        return None;
    };
    let (height, width) = (u16::from_be_bytes([h1, h0]), u16::from_be_bytes([w1, w0]));
    Some(JpegFrame {
        marker,
        precision,
        width,
        height,
        components,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A frame header without any pixel, which is all that the refusals look at.
    fn header_only(width: u16, height: u16, components: u8) -> Vec<u8> {
        let mut bytes = vec![0xFF, 0xD8, 0xFF, 0xC0, 0, 8 + 3 * components, 8];
        bytes.extend(height.to_be_bytes());
        bytes.extend(width.to_be_bytes());
        bytes.push(components);
        bytes.extend((0..components).flat_map(|component| [component, 0x11, 0]));
        bytes.extend([0xFF, 0xD9]);
        bytes
    }

    fn code(bytes: &[u8]) -> ErrorCode {
        decode(bytes, &ImageLimits::default()).unwrap_err().code
    }

    #[test]
    fn four_components_are_refused_as_colour() {
        assert_eq!(
            code(&header_only(8, 8, 4)),
            ErrorCode::ImageColorUnsupported
        );
    }

    #[test]
    fn a_bomb_is_refused_from_its_header() {
        assert_eq!(
            code(&header_only(60_000, 60_000, 1)),
            ErrorCode::ImageTooLarge
        );
        assert_eq!(code(&header_only(0, 0, 1)), ErrorCode::ImageDimensions);
    }

    #[test]
    fn a_file_without_its_end_is_corrupt() {
        let bytes = header_only(8, 8, 1);
        assert_eq!(code(&bytes[..bytes.len() - 2]), ErrorCode::ImageCorrupt);
        assert_eq!(code(&bytes[..9]), ErrorCode::ImageCorrupt);
        assert_eq!(code(&bytes), ErrorCode::ImageCorrupt, "no pixels");
    }
}
