//! The split table of MIMIC-CXR: which images train, validate and test.

use std::collections::HashMap;
use std::path::Path;

use crate::error::TrainingError;

/// Which split each image belongs to (`mimic-cxr-2.0.0-split.csv`).
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
        let mut reader = csv::Reader::from_path(path).map_err(TrainingError::content(path))?;
        let header = reader
            .headers()
            .map_err(TrainingError::content(path))?
            .clone();
        let column = |name: &str| {
            let found = header.iter().position(|found| found == name);
            found.ok_or_else(|| {
                TrainingError::line(
                    path,
                    1,
                    format!("no column '{name}'; unzip the published table"),
                )
            })
        };
        let (dicom, split) = (column("dicom_id")?, column("split")?);
        let mut images = HashMap::new();
        for record in reader.records() {
            let record = record.map_err(TrainingError::content(path))?;
            let cell = |column: usize| record.get(column).unwrap_or_default().to_owned();
            images.insert(cell(dicom), cell(split));
        }
        Ok(Self { images })
    }

    /// The split of an image.
    pub fn get(&self, dicom: &str) -> Option<&str> {
        self.images.get(dicom).map(String::as_str)
    }
}
