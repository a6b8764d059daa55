//! The label CSV: what CheXbert says about the findings section of each image.

use std::collections::HashMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

use radialog_schemas::{Finding, Label, Labels};

use crate::error::TrainingError;

/// The name of the column that identifies the image.
const DICOM_ID: &str = "dicom_id";

/// Labels in the published order.
pub type FindingLabels = [Label; Finding::ALL.len()];

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
        let mut reader = csv::Reader::from_path(path).map_err(TrainingError::content(path))?;
        let header = reader
            .headers()
            .map_err(TrainingError::content(path))?
            .clone();
        let column = |name: &str| {
            header
                .iter()
                .position(|found| found == name)
                .ok_or_else(|| {
                    TrainingError::line(
                        path,
                        1,
                        format!("no column '{name}': it needs {DICOM_ID} and the 14 findings"),
                    )
                })
        };
        let dicom = column(DICOM_ID)?;
        let columns = Finding::ALL
            .into_iter()
            .map(|finding| column(finding.name()))
            .collect::<Result<Vec<_>, _>>()?;
        let mut images = HashMap::new();
        for record in reader.records() {
            let record = record.map_err(TrainingError::content(path))?;
            let line = record.position().map_or(0, csv::Position::line);
            let mut labels = [Label::Blank; Finding::ALL.len()];
            for (label, (finding, &column)) in labels
                .iter_mut()
                .zip(Finding::ALL.into_iter().zip(&columns))
            {
                let cell = record.get(column).unwrap_or_default();
                *label = value(cell).ok_or_else(|| {
                    TrainingError::line(
                        path,
                        line,
                        format!("'{cell}' is not a label of {finding}: use 1, 0, -1 or nothing"),
                    )
                })?;
            }
            images.insert(record.get(dicom).unwrap_or_default().to_owned(), labels);
        }
        Ok(Self { images })
    }

    /// A table of these images.
    pub fn of(images: impl IntoIterator<Item = (String, FindingLabels)>) -> Self {
        Self {
            images: images.into_iter().collect(),
        }
    }

    /// An image's labels; all blank where the table does not have it.
    pub fn get(&self, dicom: &str) -> FindingLabels {
        self.images
            .get(dicom)
            .copied()
            .unwrap_or([Label::Blank; Finding::ALL.len()])
    }

    /// Number of images.
    pub fn len(&self) -> usize {
        self.images.len()
    }

    /// True where there is none.
    pub fn is_empty(&self) -> bool {
        self.images.is_empty()
    }
}

/// A label CSV in the making, row by row; it appears under its name when it is whole.
pub struct LabelTableWriter {
    path: PathBuf,
    partial: PathBuf,
    writer: csv::Writer<File>,
    count: u64,
}

impl LabelTableWriter {
    /// Begins a file.
    ///
    /// # Errors
    /// When it cannot be created.
    pub fn create(path: &Path) -> Result<Self, TrainingError> {
        let mut partial = path.as_os_str().to_owned();
        partial.push(".partial");
        let partial = PathBuf::from(partial);
        let mut writer =
            csv::Writer::from_path(&partial).map_err(TrainingError::content(&partial))?;
        let header = [DICOM_ID]
            .into_iter()
            .chain(Finding::ALL.into_iter().map(Finding::name));
        writer
            .write_record(header)
            .map_err(TrainingError::content(&partial))?;
        Ok(Self {
            path: path.to_owned(),
            partial,
            writer,
            count: 0,
        })
    }

    /// Adds an image's labels.
    ///
    /// # Errors
    /// When there is no room.
    pub fn add(&mut self, dicom: &str, labels: &Labels) -> Result<(), TrainingError> {
        let cell = |finding| {
            labels
                .get(&finding)
                .copied()
                .unwrap_or(Label::Blank)
                .csv_value()
        };
        let row = [dicom]
            .into_iter()
            .chain(Finding::ALL.into_iter().map(cell));
        self.count += 1;
        self.writer
            .write_record(row)
            .map_err(TrainingError::content(&self.partial))
    }

    /// Puts the file in its place and tells how many images it has.
    ///
    /// # Errors
    /// When there is no room.
    pub fn finish(self) -> Result<u64, TrainingError> {
        let file = self.writer.into_inner();
        let file =
            file.map_err(|error| TrainingError::io("write", &self.partial)(error.into_error()))?;
        file.sync_all()
            .map_err(TrainingError::io("write", &self.partial))?;
        fs::rename(&self.partial, &self.path).map_err(TrainingError::io("replace", &self.path))?;
        Ok(self.count)
    }
}

/// The label that a cell stands for. pandas writes integers as floats where a column has blanks.
pub(crate) fn value(cell: &str) -> Option<Label> {
    let cell = cell.trim();
    if cell.is_empty() {
        return Some(Label::Blank);
    }
    let number: f64 = cell.parse().ok()?;
    [
        (1.0, Label::Positive),
        (0.0, Label::Negative),
        (-1.0, Label::Uncertain),
    ]
    .into_iter()
    .find(|&(value, _)| value == number)
    .map(|(_, label)| label)
}

/// The findings that are present for certain, in the published order.
pub(crate) fn positives(labels: &FindingLabels) -> Vec<Finding> {
    let present = Finding::ALL
        .into_iter()
        .zip(labels)
        .filter(|(_, label)| **label == Label::Positive);
    present.map(|(finding, _)| finding).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_1_0_minus_1_and_nothing_are_labels() {
        assert_eq!(
            ["1", "1.0", "0", "-1.0", ""].map(|cell| value(cell).is_some()),
            [true; 5]
        );
        assert_eq!(
            ["2", "yes", "0.5", "nan"].map(|cell| value(cell).is_some()),
            [false; 4]
        );
    }

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
