//! The split table of MIMIC-CXR: which images train, validate and test.

use std::collections::HashMap;
use std::path::Path;

use radialog_schemas::table::split_name;

use super::table_file::TableFile;
use crate::error::TrainingError;

/// The split of each image (`mimic-cxr-2.0.0-split.csv`).
#[derive(Clone, Debug, Default)]
pub struct SplitTable {
    images: HashMap<String, String>,
}

impl SplitTable {
    /// Reads a CSV with the columns `dicom_id` and `split`.
    ///
    /// # Errors
    /// No such file or columns.
    pub fn read(path: &Path) -> Result<Self, TrainingError> {
        let mut table =
            TableFile::open(path)?.with_hint("name mimic-cxr-2.0.0-split.csv or .csv.gz");
        let (dicom, split) = (table.column("dicom_id")?, table.column("split")?);
        let mut images = HashMap::new();
        while let Some(row) = table.next_row()? {
            let side = split_name(row.cell(split).unwrap_or_default()).to_owned();
            images.insert(row.cell(dicom).unwrap_or_default().to_owned(), side);
        }
        Ok(Self { images })
    }

    /// The split of each image, by its plain name.
    pub fn into_images(self) -> HashMap<String, String> {
        self.images
    }

    /// Returns the split of an image, by its plain name, e.g. `validate` where the table says `val`.
    pub fn get(&self, dicom: &str) -> Option<&str> {
        self.images.get(dicom).map(String::as_str)
    }
}
