//! Where the files in `tests/fixtures` lie.

use std::path::{Path, PathBuf};

/// Returns the folder of the ten shipped chest X-rays.
pub fn xrays() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/xrays")
}

/// Returns the path of a shipped chest X-ray, e.g. `2cd63b76.jpg`.
pub fn xray(name: &str) -> PathBuf {
    xrays().join(name)
}

/// Returns the folder of the golden cases that every clone has.
pub fn golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/golden")
}

/// Returns the folder of the images that preprocessing is held to: every size, depth and colour model that is read.
pub fn preprocessing_images() -> PathBuf {
    golden().join("01_preprocess/images")
}

/// Returns the path of a picture that is no chest X-ray, e.g. `red-square.png`.
pub fn other_image(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("fixtures/other-images")
        .join(name)
}
