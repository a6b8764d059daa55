//! The label CSV: what CheXbert says about the findings section of each image.

use std::collections::HashMap;
use std::path::Path;

use radialog_schemas::{Finding, Label, Labels};

use super::csv_output::CsvOutput;
use super::finding_labels::FindingLabels;
use super::table_file::TableFile;
use crate::error::TrainingError;

/// The name of the column that identifies the image.
const DICOM_ID: &str = "dicom_id";

/// The labels of many images.
#[derive(Clone, Debug, Default)]
pub struct LabelTable {
    images: HashMap<String, FindingLabels>,
}

impl LabelTable {
    /// Reads a CSV with `dicom_id` and the 14 findings in any order, each 1, 0, -1 or empty. Other columns are ignored.
    ///
    /// # Errors
    /// A column that is missing, or another value, with its line.
    pub fn read(path: &Path) -> Result<Self, TrainingError> {
        let mut table =
            TableFile::open(path)?.with_hint(format!("it needs {DICOM_ID} and the 14 findings"));
        let (dicom, findings) = (table.column(DICOM_ID)?, table.findings()?);
        let mut images = HashMap::new();
        while let Some(row) = table.next_row()? {
            let labels = table.labels(&row, &findings)?;
            images.insert(row.cell(dicom).unwrap_or_default().to_owned(), labels);
        }
        Ok(Self { images })
    }

    /// Makes a table of these images.
    pub fn of(images: impl IntoIterator<Item = (String, FindingLabels)>) -> Self {
        Self {
            images: images.into_iter().collect(),
        }
    }

    /// Returns an image's labels; all blank where the table does not have it.
    pub fn get(&self, dicom: &str) -> FindingLabels {
        self.images
            .get(dicom)
            .copied()
            .unwrap_or([Label::Blank; Finding::ALL.len()])
    }

    /// Returns whether the table has an image.
    pub fn has(&self, dicom: &str) -> bool {
        self.images.contains_key(dicom)
    }

    /// Returns the number of images.
    pub fn len(&self) -> usize {
        self.images.len()
    }

    /// Returns whether there is no image.
    pub fn is_empty(&self) -> bool {
        self.images.is_empty()
    }
}

/// A label CSV in the making, row by row; it appears under its name when it is whole.
pub struct LabelTableWriter(CsvOutput);

impl LabelTableWriter {
    /// Begins a file.
    ///
    /// # Errors
    /// When it cannot be created.
    pub fn create(path: &Path) -> Result<Self, TrainingError> {
        let findings = Finding::ALL.into_iter().map(Finding::name);
        let names = [DICOM_ID].into_iter().chain(findings);
        Ok(Self(CsvOutput::create(path, names)?))
    }

    /// Adds an image's labels.
    ///
    /// # Errors
    /// When there is no room.
    pub fn add(&mut self, dicom: &str, labels: &Labels) -> Result<(), TrainingError> {
        let label = |finding| labels.get(&finding).copied().unwrap_or(Label::Blank);
        let cells = Finding::ALL.map(|finding| label(finding).csv_value());
        self.0.row([dicom].into_iter().chain(cells))
    }

    /// Puts the file in its place and tells how many images it has.
    ///
    /// # Errors
    /// When there is no room.
    pub fn finish(self) -> Result<u64, TrainingError> {
        self.0.finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_written_table_reads_back() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("labels.csv");
        let mut file = LabelTableWriter::create(&path).unwrap();
        let labels = [
            (Finding::Edema, Label::Positive),
            (Finding::Fracture, Label::Uncertain),
        ];
        file.add("d,1", &Labels::from(labels)).unwrap();
        assert_eq!(file.finish().unwrap(), 1);
        let read = LabelTable::read(&path).unwrap().get("d,1");
        for finding in Finding::ALL {
            let expected = labels
                .iter()
                .find(|(named, _)| *named == finding)
                .map_or(Label::Blank, |(_, label)| *label);
            assert_eq!(read[finding as usize], expected);
        }
    }

    #[test]
    fn another_value_is_refused_with_its_line() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("labels.csv");
        let names: Vec<_> = Finding::ALL.into_iter().map(Finding::name).collect();
        std::fs::write(
            &path,
            format!(
                "dicom_id,{}\na{}\nb,7{}\n",
                names.join(","),
                ",".repeat(14),
                ",".repeat(13)
            ),
        )
        .unwrap();
        let error = LabelTable::read(&path).unwrap_err().to_string();
        assert!(error.contains("line 3") && error.contains("'7'"), "{error}");
    }
}
