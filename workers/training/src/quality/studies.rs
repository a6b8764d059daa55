//! The tables that an evaluation reads: reports, and images with labels. Only rows of the split that is asked for leave
//! this file.

use std::path::{Path, PathBuf};

use radialog_schemas::{Finding, Label};

use super::agreement::{CLASSES, Flags, present};
use crate::error::TrainingError;
use crate::prepare::{LabelValue, label_value};
use crate::recipe::ImageTable;

/// One report.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Report {
    pub(super) id: String,
    pub(super) findings: String,
    pub(super) labels: LabelValue,
}

/// One image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Image {
    /// Images of one patient are drawn together.
    pub(super) patient: String,
    pub(super) path: PathBuf,
    /// Which of the tables it is from.
    pub(super) table: usize,
    pub(super) labels: LabelValue,
}

impl Report {
    /// What it says is there.
    pub(super) fn present(&self) -> Flags {
        present(&self.labels)
    }
}

impl Image {
    /// What is known: a blank cell is not.
    pub(super) fn truth(&self) -> [Option<bool>; CLASSES] {
        self.labels.map(|label| (label != Label::Blank).then_some(label == Label::Positive))
    }

    /// The file's name.
    pub(super) fn name(&self) -> String {
        self.path.file_name().unwrap_or_default().to_string_lossy().into_owned()
    }
}

/// A row of any of the tables, as far as it is known what it holds.
struct Cells<'a> {
    path: &'a Path,
    header: &'a csv::StringRecord,
    record: &'a csv::StringRecord,
}

impl Cells<'_> {
    fn optional(&self, name: &str) -> Option<&str> {
        let column = self.header.iter().position(|found| found == name)?;
        Some(self.record.get(column).unwrap_or_default())
    }

    fn required(&self, name: &str) -> Result<&str, TrainingError> {
        self.optional(name).ok_or_else(|| TrainingError::line(self.path, 1, format!("no column '{name}'")))
    }

    fn labels(&self) -> Result<LabelValue, TrainingError> {
        let mut labels = [Label::Blank; CLASSES];
        for (label, finding) in labels.iter_mut().zip(Finding::ALL) {
            let cell = self.required(finding.name())?;
            *label = label_value(cell).ok_or_else(|| {
                let line = self.record.position().map_or(0, csv::Position::line);
                TrainingError::line(self.path, line, format!("'{cell}' is not a label: use 1, 0, -1 or nothing"))
            })?;
        }
        Ok(labels)
    }
}

/// The rows of one split that `row` takes.
fn rows<T>(
    path: &Path,
    split: &str,
    row: impl Fn(&Cells<'_>) -> Result<Option<T>, TrainingError>,
) -> Result<Vec<T>, TrainingError> {
    let mut reader = csv::Reader::from_path(path).map_err(TrainingError::content(path))?;
    let header = reader.headers().map_err(TrainingError::content(path))?.clone();
    let mut rows = Vec::new();
    for record in reader.records() {
        let record = record.map_err(TrainingError::content(path))?;
        let cells = Cells { path, header: &header, record: &record };
        if cells.required("split")? == split {
            rows.extend(row(&cells)?);
        }
    }
    Ok(rows)
}

/// The reports of a split that have findings and any label, in the order of the table.
///
/// # Errors
/// A table without the columns `study_id`, `split`, `findings` and the 14 findings, or no report left.
pub(super) fn reports(path: &Path, split: &str) -> Result<Vec<Report>, TrainingError> {
    let reports = rows(path, split, |cells| {
        let (findings, labels) = (cells.required("findings")?.trim(), cells.labels()?);
        let counts = !findings.is_empty() && labels.iter().any(|&label| label != Label::Blank);
        let report = || Ok(Report { id: cells.required("study_id")?.into(), findings: findings.into(), labels });
        counts.then(report).transpose()
    })?;
    if reports.is_empty() {
        let reason = format!("'{}' has no labelled report with findings of the split '{split}'", path.display());
        return Err(TrainingError::Empty(reason));
    }
    Ok(reports)
}

/// The images of a split, in the order of the tables. Where a table has no column `patient_id`, each image is another
/// patient.
///
/// # Errors
/// A table without the columns `image`, `split` and the 14 findings, or without an image of the split.
pub(super) fn images(tables: &[ImageTable], split: &str) -> Result<Vec<Image>, TrainingError> {
    let mut images = Vec::new();
    for (table, ImageTable { labels: path, images: folder }) in tables.iter().enumerate() {
        let before = images.len();
        images.extend(rows(path, split, |cells| {
            let image = cells.required("image")?;
            let patient = cells.optional("patient_id").unwrap_or(image).to_owned();
            Ok(Some(Image { patient, path: folder.join(image), table, labels: cells.labels()? }))
        })?);
        if images.len() == before {
            let reason = format!("'{}' has no image of the split '{split}'", path.display());
            return Err(TrainingError::Empty(reason));
        }
    }
    Ok(images)
}

/// The image whose labels are nearest to those of a report, as far as they are known of images; of equally near ones
/// each report takes another, so that no single image stands for all of them.
pub(super) fn nearest_image(report: usize, flags: &Flags, images: &[Image]) -> Option<usize> {
    let distance = |image: &Image| {
        image.truth().iter().zip(flags).filter(|(truth, there)| truth.is_some_and(|truth| truth != **there)).count()
    };
    let least = images.iter().map(distance).min()?;
    let nearest: Vec<usize> = (0..images.len()).filter(|&index| distance(&images[index]) == least).collect();
    Some(nearest[report % nearest.len()])
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn table(rows: &[&str]) -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("table.csv");
        let names: Vec<_> = Finding::ALL.into_iter().map(Finding::name).collect();
        std::fs::write(&path, format!("study_id,split,findings,{}\n{}\n", names.join(","), rows.join("\n"))).unwrap();
        (dir, path)
    }

    #[test]
    fn only_labelled_reports_with_findings_of_the_split_are_taken() {
        let blank = ",".repeat(13);
        let (_dir, path) = table(&[
            &format!("a,test,Clear.,1{blank}"),
            &format!("b,train,Clear.,1{blank}"),
            &format!("c,test,,1{blank}"),
            &format!("d,test,Clear.,{blank}"),
        ]);
        let ids: Vec<String> = reports(&path, "test").unwrap().into_iter().map(|report| report.id).collect();
        assert_eq!(ids, ["a"]);
        assert!(reports(&path, "validate").unwrap_err().to_string().contains("split 'validate'"));
    }

    #[test]
    fn the_nearest_image_has_the_same_labels_and_equals_take_turns() {
        let image = |positive: &[Finding]| Image {
            patient: String::new(),
            path: PathBuf::new(),
            table: 0,
            labels: Finding::ALL.map(|f| if positive.contains(&f) { Label::Positive } else { Label::Negative }),
        };
        let images = [image(&[]), image(&[Finding::Edema]), image(&[Finding::Edema])];
        let flags = Finding::ALL.map(|finding| finding == Finding::Edema);
        assert_eq!([0, 1, 2].map(|report| nearest_image(report, &flags, &images)), [Some(1), Some(2), Some(1)]);
        assert_eq!(nearest_image(0, &flags, &[]), None);
    }
}
