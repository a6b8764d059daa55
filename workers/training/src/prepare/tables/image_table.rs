//! The image table: one row an image, with its split and 14 labels. `prepare nih` writes it; the findings training, the
//! pairing and the evaluation read it.

use std::path::Path;

use super::finding_labels::FindingLabels;
use super::report_table::write;
use crate::error::TrainingError;

/// One row of an image table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageRow {
    /// Its file, below the folder of the images.
    pub image: String,
    /// The split that it belongs to.
    pub split: String,
    /// Its labels, in the published order.
    pub labels: FindingLabels,
}

/// Writes an image table.
///
/// # Errors
/// A file that cannot be written.
pub fn write_image_table(path: &Path, rows: &[ImageRow]) -> Result<(), TrainingError> {
    let rows = rows
        .iter()
        .map(|row| (vec![row.image.clone(), row.split.clone()], &row.labels));
    write(path, &["image", "split"], rows)
}
