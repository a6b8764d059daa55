//! Small pictures of the images that a page shows.

use std::fmt::Display;
use std::fs;
use std::path::{Path, PathBuf};

use image::codecs::png::PngEncoder;
use image::{ExtendedColorType, ImageEncoder};
use radialog_models::preprocess::{ImageLimits, Preprocessed};
use radialog_schemas::RelativePath;

/// The shorter side of a picture, in pixels.
const SIDE: usize = 224;

/// Where the images that a page shows are read.
#[derive(Clone, Debug)]
pub struct ImageFolder {
    /// The folder that the archive's names of images are relative to.
    pub folder: PathBuf,
    /// Whether names and links may lead out of it; a person vouches for the reports that name them.
    pub allows_outside: bool,
}

/// An image file as a small PNG, as the models see it, whose shorter side has so many pixels.
///
/// # Errors
/// Why it cannot be drawn.
pub fn thumbnail(file: &[u8], side: usize) -> Result<Vec<u8>, String> {
    let image = Preprocessed::from_bytes(file, &ImageLimits::default(), side);
    let image = image.map_err(|failure| failure.to_string())?;
    let image = image.resized();
    let mut png = Vec::new();
    let (width, height) = (image.width() as u32, image.height() as u32);
    PngEncoder::new(&mut png)
        .write_image(image.pixels(), width, height, ExtendedColorType::L8)
        .map_err(|error| error.to_string())?;
    Ok(png)
}

impl ImageFolder {
    /// An image as a small PNG, or the reason why there is none.
    pub(super) fn png(&self, name: &str) -> Result<Vec<u8>, String> {
        if name.is_empty() {
            return Err("the predictions name no image".to_owned());
        }
        let path = self.find(name)?;
        let unreadable = |reason: &dyn Display| format!("cannot read '{name}': {reason}");
        // Opening a pipe or a device could wait for ever.
        let metadata = fs::metadata(&path).map_err(|error| unreadable(&error))?;
        if !metadata.is_file() {
            return Err(unreadable(&"it is not a regular file"));
        }
        let bytes = fs::read(&path).map_err(|error| unreadable(&error))?;
        thumbnail(&bytes, SIDE).map_err(|reason| format!("'{name}': {reason}"))
    }

    /// The file of this name. One that begins at the root, as a table may have it, is in the folder or outside like any other.
    fn find(&self, name: &str) -> Result<PathBuf, String> {
        let folder = self.folder.display();
        let outside = || {
            format!(
                "'{name}' lies outside of '{folder}', by its path or by a link; if that is meant, give --allow-outside, else name \
                 the folder of the images with --images"
            )
        };
        let is_inside = Path::new(name).is_absolute() || RelativePath::parse(name).is_ok();
        if !is_inside && !self.allows_outside {
            return Err(outside());
        }
        let path = self.folder.join(name);
        let unreadable = |error| format!("cannot read '{}': {error}", path.display());
        let file = fs::canonicalize(&path).map_err(unreadable)?;
        let root = fs::canonicalize(&self.folder).map_err(unreadable)?;
        match self.allows_outside || file.starts_with(root) {
            true => Ok(file),
            false => Err(outside()),
        }
    }
}
