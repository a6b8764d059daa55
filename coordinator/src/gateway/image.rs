//! What can be said about an uploaded image without decoding it: its format and its size. The rest is found by the workers,
//! who decode it: whether it is whole, too, since a file may lack its end marker and nothing else.

use bytes::Bytes;
use radialog_schemas::http::ProblemCode;
use radialog_schemas::{ContentHash, ConversationId, ImageFormat, ObjectKey, PngHeader};
use uuid::Uuid;

use super::body;
use super::config::GatewayConfig;
use super::problem::{ApiError, ApiResult};

/// The models see the shorter side at this size, so that a thin strip would become a huge image.
const SHORT_SIDE: u64 = 512;

/// An uploaded image that may be stored.
#[derive(Clone, Debug)]
pub(super) struct CheckedImage {
    pub(super) content: Bytes,
    hash: ContentHash,
    pub(super) media_type: &'static str,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct ImageHeader {
    width: u64,
    height: u64,
}

impl CheckedImage {
    /// Checks and hashes beside the async threads, since images are large.
    pub(super) async fn new(content: Bytes, config: &GatewayConfig) -> ApiResult<Self> {
        let (max_bytes, max_pixels) = (config.max_image_bytes, config.max_image_pixels);
        body::beside(move || {
            let media_type = check(&content, max_bytes, max_pixels)?;
            Ok(Self {
                hash: ContentHash::of(&content),
                content,
                media_type,
            })
        })
        .await
    }

    /// Where a conversation that begins now keeps it.
    pub(super) fn new_key(&self, conversation: &ConversationId) -> ObjectKey {
        let incarnation = Uuid::new_v4().simple().to_string();
        ObjectKey::conversation_image(conversation, &incarnation, &self.hash)
    }
}

/// Checks an image and gives its media type.
fn check(content: &[u8], max_bytes: u64, max_pixels: u64) -> ApiResult<&'static str> {
    if content.is_empty() {
        return Err(corrupt("it has no bytes"));
    }
    if content.len() as u64 > max_bytes {
        let detail = format!(
            "the image has {} bytes, the limit is {max_bytes} (gateway.max_image_mib); downsample it",
            content.len()
        );
        return Err(ApiError::new(ProblemCode::ImageTooLarge, detail));
    }
    let (header, media_type) = match ImageFormat::of(content) {
        Ok(ImageFormat::Png) => (png(content)?, "image/png"),
        Ok(ImageFormat::Jpeg) => (jpeg(content)?, "image/jpeg"),
        Err(what) => {
            let detail =
                format!("the file is {what}, whatever its name says; convert it to PNG or JPEG");
            return Err(ApiError::new(ProblemCode::ImageFormatUnsupported, detail));
        }
    };
    header.check(max_pixels)?;
    Ok(media_type)
}

impl ImageHeader {
    fn check(self, max_pixels: u64) -> ApiResult<()> {
        let Self { width, height } = self;
        let (short, long) = (width.min(height), width.max(height));
        if width.saturating_mul(height) > max_pixels {
            let detail = format!(
                "the image has {width} x {height} pixels, the limit is {max_pixels} (gateway.max_image_pixels); \
                 downsample it"
            );
            return Err(ApiError::new(ProblemCode::ImageTooLarge, detail));
        }
        if short < 2 || SHORT_SIDE * SHORT_SIDE * long / short > max_pixels {
            let detail = format!(
                "{width} x {height} pixels are no picture of a chest; send the whole image"
            );
            return Err(ApiError::new(ProblemCode::ImageDimensions, detail));
        }
        Ok(())
    }
}

fn png(content: &[u8]) -> ApiResult<ImageHeader> {
    let header = PngHeader::read(content).map_err(corrupt)?;
    Ok(ImageHeader {
        width: header.width.into(),
        height: header.height.into(),
    })
}

/// Follows the markers to the frame.
fn jpeg(content: &[u8]) -> ApiResult<ImageHeader> {
    if !content.starts_with(ImageFormat::Jpeg.signature()) {
        return Err(corrupt("its first bytes are damaged"));
    }
    let mut at = 2;
    loop {
        match next_marker(content, &mut at).ok_or_else(|| corrupt("it has no header"))? {
            0xD9 => return Err(corrupt("it has no header")),
            0x01 | 0xD0..=0xD8 => {}
            marker => {
                let length = content
                    .get(at..at + 2)
                    .map(|two| usize::from(u16::from_be_bytes([two[0], two[1]])));
                let length = length.ok_or_else(|| corrupt("it is cut"))?.max(2);
                let segment = content
                    .get(at + 2..at + length)
                    .ok_or_else(|| corrupt("it is cut"))?;
                // 0xF7 is the frame of JPEG-LS, which the workers refuse by its name.
                if matches!(marker, 0xC0..=0xCF | 0xF7) && !matches!(marker, 0xC4 | 0xC8 | 0xCC) {
                    return frame(segment);
                }
                at += length;
            }
        }
    }
}

/// Skips compressed data with its stuffed zeros.
fn next_marker(content: &[u8], at: &mut usize) -> Option<u8> {
    loop {
        *at += content.get(*at..)?.iter().position(|&byte| byte == 0xFF)?;
        *at += content[*at..].iter().position(|&byte| byte != 0xFF)?;
        *at += 1;
        match content[*at - 1] {
            0x00 => {}
            code => return Some(code),
        }
    }
}

fn frame(segment: &[u8]) -> ApiResult<ImageHeader> {
    let &[_, h1, h0, w1, w0, components, ref rest @ ..] = segment else {
        return Err(corrupt("its header is cut"));
    };
    if rest.len() != 3 * usize::from(components) {
        return Err(corrupt("its header is damaged"));
    }
    if !matches!(components, 1 | 3) {
        let detail =
            format!("the JPEG has {components} colour components; convert it to grey or RGB");
        return Err(ApiError::new(ProblemCode::ImageFormatUnsupported, detail));
    }
    Ok(ImageHeader {
        width: u16::from_be_bytes([w1, w0]).into(),
        height: u16::from_be_bytes([h1, h0]).into(),
    })
}

fn corrupt(what: &str) -> ApiError {
    ApiError::new(
        ProblemCode::ImageCorrupt,
        format!("the image is truncated or corrupt ({what}); copy it again"),
    )
}

#[cfg(test)]
mod tests {
    use flate2::Crc;

    use super::*;

    fn png_of(width: u32, height: u32) -> Vec<u8> {
        let mut file = [ImageFormat::Png.signature(), &[0, 0, 0, 13], b"IHDR"].concat();
        file.extend(width.to_be_bytes());
        file.extend(height.to_be_bytes());
        file.extend([8, 0, 0, 0, 0]);
        let mut checksum = Crc::new();
        checksum.update(&file[12..]);
        file.extend(checksum.sum().to_be_bytes());
        file
    }

    fn jpeg_of(width: u16, height: u16, components: u8) -> Vec<u8> {
        let mut file = vec![0xFF, 0xD8, 0xFF, 0xC0, 0, 8 + 3 * components, 8];
        file.extend(height.to_be_bytes());
        file.extend(width.to_be_bytes());
        file.push(components);
        file.extend((0..components).flat_map(|component| [component, 0x11, 0]));
        file.extend([0xFF, 0xD9]);
        file
    }

    fn code(content: &[u8]) -> ProblemCode {
        check(content, 1000, 1_000_000).unwrap_err().problem.code
    }

    #[test]
    fn formats_are_told_by_their_content() {
        assert_eq!(
            check(&png_of(600, 500), 1000, 1_000_000).unwrap(),
            "image/png"
        );
        assert_eq!(
            check(&jpeg_of(600, 500, 1), 1000, 1_000_000).unwrap(),
            "image/jpeg"
        );
        assert_eq!(code(b"GIF89a..."), ProblemCode::ImageFormatUnsupported);
        assert_eq!(
            code(&jpeg_of(600, 500, 4)),
            ProblemCode::ImageFormatUnsupported
        );
    }

    #[test]
    fn what_is_cut_in_its_header_is_corrupt() {
        assert_eq!(code(b""), ProblemCode::ImageCorrupt);
        for whole in [png_of(600, 500), jpeg_of(600, 500, 3)] {
            for length in [8, 11] {
                assert_eq!(
                    code(&whole[..length]),
                    ProblemCode::ImageCorrupt,
                    "{length} bytes"
                );
            }
        }
    }

    #[test]
    fn what_is_damaged_in_its_header_is_corrupt_whatever_it_says_of_its_size() {
        let png = png_of(600, 500);
        for at in 0..png.len() {
            let mut damaged = png.clone();
            damaged[at] ^= 0x80;
            assert_eq!(code(&damaged), ProblemCode::ImageCorrupt, "byte {at}");
        }
        let jpeg = jpeg_of(600, 500, 3);
        // The marker behind the first one, the number of colour components.
        for at in [2, 11] {
            let mut damaged = jpeg.clone();
            damaged[at] ^= 0x80;
            assert_eq!(code(&damaged), ProblemCode::ImageCorrupt, "byte {at}");
        }
    }

    #[test]
    fn bombs_and_strips_are_refused_by_their_header() {
        assert_eq!(code(&png_of(60_000, 60_000)), ProblemCode::ImageTooLarge);
        assert_eq!(
            code(&jpeg_of(60_000, 60_000, 1)),
            ProblemCode::ImageTooLarge
        );
        assert_eq!(code(&png_of(0, 500)), ProblemCode::ImageDimensions);
        assert_eq!(code(&png_of(2, 10_000)), ProblemCode::ImageDimensions);
        assert_eq!(
            code(&[png_of(600, 500), vec![0; 1000]].concat()),
            ProblemCode::ImageTooLarge
        );
    }

    #[test]
    fn what_is_too_large_names_the_setting_of_its_limit() {
        for (content, setting) in [
            (png_of(60_000, 60_000), "gateway.max_image_pixels"),
            (vec![0; 1001], "gateway.max_image_mib"),
        ] {
            let error = check(&content, 1000, 1_000_000).unwrap_err();
            let detail = error.problem.detail;
            assert!(detail.contains(setting), "{detail}");
        }
    }
}
