//! Small pictures of the images that a page shows.

use std::fs;
use std::path::{Path, PathBuf};

use image::codecs::png::PngEncoder;
use image::{ExtendedColorType, ImageEncoder};
use radialog_models::preprocess::{ImageLimits, Preprocessed};
use radialog_schemas::RelativePath;

/// The shorter side of a picture, in pixels.
const SIDE: usize = 224;

/// The folder that the archive's names of images are relative to.
#[derive(Clone, Debug)]
pub struct ImageFolder(pub PathBuf);

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
    /// An image as a small PNG, or the reason why there is none. The name may not lead out of the folder; one that begins at the
    /// root, as a table may have it, must lead into it.
    pub(super) fn png(&self, name: &str) -> Result<Vec<u8>, String> {
        if name.is_empty() {
            return Err("the predictions name no image".to_owned());
        }
        let path = RelativePath::parse(self.inside(name)).map_err(|_| {
            let folder = self.0.display();
            format!("'{name}' does not lie in '{folder}': name its folder with --images")
        })?;
        let path = self.0.join(path.as_str());
        let bytes = fs::read(&path)
            .map_err(|error| format!("cannot read '{}': {error}", path.display()))?;
        thumbnail(&bytes, SIDE).map_err(|reason| format!("'{name}': {reason}"))
    }

    /// A name that begins at the root, as one in the folder; any other as it is.
    fn inside<'a>(&self, name: &'a str) -> &'a str {
        let folder = fs::canonicalize(&self.0).unwrap_or_else(|_| self.0.clone());
        let inside = Path::new(name).strip_prefix(folder).ok();
        inside.and_then(Path::to_str).unwrap_or(name)
    }
}
