//! From the bytes of an image file to what the two image networks see: remap to 8 bit, grey, shorter side to 512, centre
//! crop. Bit-exact with the published pipeline (scikit-image, Pillow, torchvision), because the trained weights have seen
//! nothing else; in particular there is no normalisation by mean and standard deviation.

use candle_core::{Device, Tensor};
use radialog_schemas::{ErrorCode, Failure, ImageFormat};
use serde::{Deserialize, Serialize};

use crate::error::ModelError;

mod gray;
mod jpeg;
mod png;
mod resize;

pub use gray::GrayImage;

/// The shorter side after the published resize, in pixels; no network sees more.
pub const SHORT_SIDE: usize = 512;

/// Limits of what an image file may cost. They are checked on its header, before any pixel is decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageLimits {
    /// Largest file, in bytes.
    pub max_bytes: u64,
    /// The largest number of pixels, in the file and after the resize. Decoding takes up to 12 bytes a pixel.
    pub max_pixels: u64,
    /// Whether they are those of a worker, whose settings messages name: elsewhere nothing raises them.
    pub are_settings: bool,
}

impl Default for ImageLimits {
    /// 128 MiB and 100 million pixels: a film of 35 x 43 cm scanned at 50 µm has 60.
    fn default() -> Self {
        Self {
            max_bytes: 128 << 20,
            max_pixels: 100_000_000,
            are_settings: false,
        }
    }
}

impl ImageLimits {
    /// The end of a message that names the setting, where there is one.
    fn or_raise(&self, setting: &str) -> String {
        match self.are_settings {
            true => format!(", or raise worker.{setting}"),
            false => String::new(),
        }
    }

    /// Refuses a width and height, in pixels, that cannot be decoded and resized within the limits.
    fn check(&self, width: u64, height: u64) -> Result<(), Failure> {
        let (short, long) = (width.min(height), width.max(height));
        if short < 2 {
            let message =
                format!("image of {width} x {height} pixels: both sides must be 2 or more");
            return Err(Failure::new(ErrorCode::ImageDimensions, message));
        }
        if width.saturating_mul(height) > self.max_pixels {
            let message = format!(
                "image of {width} x {height} pixels is over the limit of {} pixels: downsample it{}",
                self.max_pixels,
                self.or_raise("max_image_pixels")
            );
            return Err(Failure::new(ErrorCode::ImageTooLarge, message));
        }
        let side = SHORT_SIDE as u64;
        if side * side * long / short > self.max_pixels {
            let message = format!(
                "image of {width} x {height} pixels is too elongated to be resized: crop it{}",
                self.or_raise("max_image_pixels")
            );
            return Err(Failure::new(ErrorCode::ImageDimensions, message));
        }
        Ok(())
    }
}

/// The crop of an image that a network sees, in pixels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InputSize {
    /// The shorter side after the resize.
    pub short_side: usize,
    /// Side of the centre crop.
    pub side: usize,
}

/// An image file as read, before the resize.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DecodedImage {
    /// The remapped 8-bit grey image.
    pub image: GrayImage,
    /// What was wrong with the file and was tolerated, in words for people.
    pub warnings: Vec<String>,
}

/// An image after remap, grey conversion and resize; both networks' inputs are crops of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Preprocessed {
    resized: GrayImage,
    warnings: Vec<String>,
}

impl Preprocessed {
    /// Decodes a PNG or JPEG file and resizes it, its shorter side to `short_side` pixels.
    ///
    /// Fails with the image's [`ErrorCode`]; the message does not name the file, since only its content is known here.
    pub fn from_bytes(
        bytes: &[u8],
        limits: &ImageLimits,
        short_side: usize,
    ) -> Result<Self, Failure> {
        let DecodedImage { image, warnings } = decode(bytes, limits)?;
        Ok(Self {
            warnings,
            ..Self::from_gray(&image, short_side)
        })
    }

    /// Resizes a grey image of at least 1 x 1 pixels, its shorter side to `short_side` pixels.
    pub fn from_gray(image: &GrayImage, short_side: usize) -> Self {
        Self {
            resized: resize::shorter_side(image, short_side),
            warnings: Vec::new(),
        }
    }

    /// What was wrong with the file and was tolerated, in words for people.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// The resized image.
    pub fn resized(&self) -> &GrayImage {
        &self.resized
    }

    /// The centre crop of `side` x `side` pixels, at most the shorter side.
    pub fn crop(&self, side: usize) -> GrayImage {
        self.resized.centre_crop(side)
    }

    /// The centre crop as network input `[3, side, side]`, f32 from 0 to 1, three equal channels.
    pub fn tensor(&self, side: usize, device: &Device) -> Result<Tensor, ModelError> {
        let pixels: Vec<f32> = self
            .crop(side)
            .pixels()
            .iter()
            .map(|&pixel| f32::from(pixel) / 255.0)
            .collect();
        let plane = Tensor::from_vec(pixels, (1, side, side), device)?;
        Ok(plane.expand((3, side, side))?.contiguous()?)
    }
}

/// Decodes a PNG or JPEG file to the remapped 8-bit grey image, before the resize.
///
/// 8- and 16-bit grey, grey with alpha, RGB, RGBA and palette images are taken; alpha has no part in the picture. A file
/// that is complete but for its end marker is read, with a warning. Everything else fails with the image's [`ErrorCode`].
pub fn decode(bytes: &[u8], limits: &ImageLimits) -> Result<DecodedImage, Failure> {
    if bytes.is_empty() {
        return Err(Failure::new(
            ErrorCode::ImageEmpty,
            "image file has no bytes: copy it again",
        ));
    }
    if bytes.len() as u64 > limits.max_bytes {
        let message = format!(
            "image file of {} bytes is over the limit of {}: compress it{}",
            bytes.len(),
            limits.max_bytes,
            limits.or_raise("max_image_mib")
        );
        return Err(Failure::new(ErrorCode::ImageTooLarge, message));
    }
    match ImageFormat::of(bytes) {
        Ok(ImageFormat::Png) => png::decode(bytes, limits),
        Ok(ImageFormat::Jpeg) => jpeg::decode(bytes, limits),
        Err(what) => Err(Failure::new(
            ErrorCode::ImageFormatUnsupported,
            format!("{what}: convert it to PNG or JPEG"),
        )),
    }
}

fn corrupt(format: &str, detail: impl std::fmt::Display) -> Failure {
    Failure::new(
        ErrorCode::ImageCorrupt,
        format!("{format} file is truncated or corrupt ({detail}): copy it again"),
    )
}
