//! JPEG files: baseline, extended and progressive, 8 bit, grey or three colours, decoded by libjpeg-turbo's own code, since
//! the published weights have seen nothing else. The markers are walked first: the decoder would fill what a truncated
//! file lacks with grey, and would turn CMYK into something the networks never saw.

use std::panic::{AssertUnwindSafe, catch_unwind};

use radialog_schemas::{ErrorCode, Failure, ImageFormat};

use super::gray::{GrayImage, PixelSamples};
use super::{DecodedImage, ImageLimits, corrupt};

mod libjpeg;
mod markers;

use markers::{Frame, Markers};

/// Progressive files of real encoders have about ten scans. Each costs a pass over the whole image, however few bytes it
/// has.
const MAX_SCANS: usize = 200;

pub(super) fn decode(bytes: &[u8], limits: &ImageLimits) -> Result<DecodedImage, Failure> {
    let signature = ImageFormat::Jpeg.signature();
    if !bytes.starts_with(signature) {
        return Err(corrupt("JPEG", "its first bytes are damaged"));
    }
    let markers =
        Markers::read(&bytes[signature.len() - 1..]).map_err(|detail| corrupt("JPEG", detail))?;
    let Frame {
        width,
        height,
        components,
        ..
    } = markers.frame;
    limits.check(u64::from(width), u64::from(height))?;
    check_kind(&markers)?;
    if markers.scans == 0 {
        return Err(corrupt("JPEG", "no picture data"));
    }
    if !markers.has_end && !markers.has_all_scans {
        return Err(corrupt("JPEG", "scans are missing"));
    }
    let channels = usize::from(components);
    let decoded = catch_unwind(AssertUnwindSafe(|| libjpeg::decode(bytes, channels)))
        .unwrap_or_else(|panic| Err(libjpeg::message(&*panic)));
    let libjpeg::Decoded {
        width,
        height,
        samples,
        mut warnings,
    } = decoded.map_err(|detail| corrupt("JPEG", detail))?;
    if (width, height)
        != (
            usize::from(markers.frame.width),
            usize::from(markers.frame.height),
        )
    {
        return Err(corrupt("JPEG", "its headers contradict each other"));
    }
    if !markers.has_end {
        if warnings
            .iter()
            .any(|warning| warning == libjpeg::DATA_MISSING)
        {
            return Err(corrupt("JPEG", "it is cut in its data"));
        }
        warnings = vec!["the JPEG file has no end marker; its data are complete".to_owned()];
    }
    Ok(DecodedImage {
        image: GrayImage::remapped(width, height, &PixelSamples::Eight(samples, channels)),
        warnings,
    })
}

/// Refuses what the published system reads otherwise, or not at all.
fn check_kind(markers: &Markers) -> Result<(), Failure> {
    let Frame {
        process,
        precision,
        components,
        ..
    } = markers.frame;
    if !matches!(components, 1 | 3) {
        let message = format!(
            "a JPEG file of {components} colour components (CMYK?) is not supported: convert it to grey or RGB"
        );
        return Err(Failure::new(ErrorCode::ImageColorUnsupported, message));
    }
    if !matches!(process, 0xC0..=0xC2) || precision != 8 {
        let message = format!(
            "a JPEG file of {} and {precision} bit is not supported: convert it to a baseline JPEG of 8 bit or to PNG",
            markers::process_name(process)
        );
        return Err(Failure::new(ErrorCode::ImageFormatUnsupported, message));
    }
    if markers.scans > MAX_SCANS {
        let message = format!(
            "a JPEG file of {} scans is not supported ({MAX_SCANS} are): convert it to PNG",
            markers.scans
        );
        return Err(Failure::new(ErrorCode::ImageFormatUnsupported, message));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::preprocess::decode as decode_any;

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

    fn failure(bytes: &[u8]) -> Failure {
        decode(bytes, &ImageLimits::default()).unwrap_err()
    }

    #[test]
    fn four_components_are_refused_as_colour() {
        assert_eq!(
            failure(&header_only(8, 8, 4)).code,
            ErrorCode::ImageColorUnsupported
        );
    }

    #[test]
    fn what_is_not_supported_is_not_called_corrupt() {
        for (at, byte, word) in [
            (6, 12, "12 bit"),
            (3, 0xC3, "lossless"),
            (3, 0xC9, "arithmetic"),
            (3, 0xF7, "JPEG-LS"),
        ] {
            let mut bytes = header_only(8, 8, 1);
            bytes[at] = byte;
            let failure = failure(&bytes);
            assert_eq!(failure.code, ErrorCode::ImageFormatUnsupported);
            assert!(failure.message.contains(word), "{failure}");
        }
    }

    #[test]
    fn what_is_damaged_is_not_called_unsupported() {
        let whole = header_only(8, 8, 3);
        // The first three bytes, the number of components, the number of bits.
        let named = [&whole[..2], b"\xff\xe0\0\x07JFIF\0", &whole[2..]].concat();
        for (of, at, byte) in [
            (&named, 0, 0xFE),
            (&named, 1, 0xD9),
            (&named, 2, 0xFE),
            (&whole, 11, 2),
            (&whole, 11, 131),
            (&whole, 6, 9),
        ] {
            let mut bytes = of.clone();
            bytes[at] = byte;
            let failure = decode_any(&bytes, &ImageLimits::default()).unwrap_err();
            assert_eq!(failure.code, ErrorCode::ImageCorrupt, "{at}: {failure}");
        }
    }

    #[test]
    fn a_bomb_is_refused_from_its_header() {
        assert_eq!(
            failure(&header_only(60_000, 60_000, 1)).code,
            ErrorCode::ImageTooLarge
        );
        assert_eq!(
            failure(&header_only(0, 0, 1)).code,
            ErrorCode::ImageDimensions
        );
        let mut scans = header_only(8, 8, 1);
        scans.truncate(scans.len() - 2);
        for _ in 0..=MAX_SCANS {
            scans.extend([0xFF, 0xDA, 0, 8, 1, 0, 0, 0, 0, 0]);
        }
        scans.extend([0xFF, 0xD9]);
        assert_eq!(failure(&scans).code, ErrorCode::ImageFormatUnsupported);
    }

    #[test]
    fn a_file_without_pixels_is_corrupt() {
        let bytes = header_only(8, 8, 1);
        for length in [bytes.len(), bytes.len() - 2, 9] {
            assert_eq!(
                failure(&bytes[..length]).code,
                ErrorCode::ImageCorrupt,
                "{length}"
            );
        }
    }
}
