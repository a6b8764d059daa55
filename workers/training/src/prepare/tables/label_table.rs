//! The label CSV: what CheXbert says about the findings section of each image, or what MIMIC-CXR publishes about each study.

use std::collections::HashMap;
use std::path::Path;

use radialog_schemas::{Finding, Label, Labels};

use super::csv_output::CsvOutput;
use super::finding_labels::FindingLabels;
use super::table_file::TableFile;
use crate::error::TrainingError;

/// The name of the column that identifies the image.
const DICOM_ID: &str = "dicom_id";

/// The name of the column that identifies the study, in MIMIC-CXR's own tables.
const STUDY_ID: &str = "study_id";

/// The labels of many images, or of many studies.
#[derive(Clone, Debug, Default)]
pub struct LabelTable {
    rows: HashMap<String, FindingLabels>,
    by_study: bool,
}

/// What names an image in a table of labels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LabelKey<'a> {
    /// The image.
    pub dicom: &'a str,
    /// Its study, e.g. `s50414267`; MIMIC-CXR's tables leave the letter out.
    pub study: &'a str,
}

impl LabelTable {
    /// Reads a CSV (or `.csv.gz`) with `dicom_id`, or `study_id` as MIMIC-CXR's `chexpert` and `negbio` tables have it, and the 14
    /// findings in any order, each 1, 0, -1 or empty. Other columns are ignored.
    ///
    /// # Errors
    /// A column that is missing, or another value, with its line; an image or study in two rows that do not say the same.
    pub fn read(path: &Path) -> Result<Self, TrainingError> {
        let mut table = TableFile::open(path)?.with_hint(format!(
            "it needs {DICOM_ID} or {STUDY_ID}, and the 14 findings"
        ));
        let (id, by_study) = match (table.optional(DICOM_ID)?, table.optional(STUDY_ID)?) {
            (None, Some(study)) => (study, true),
            _ => (table.column(DICOM_ID)?, false),
        };
        let findings = table.findings()?;
        let mut rows = HashMap::new();
        while let Some(row) = table.next_row()? {
            let labels = table.labels(&row, &findings)?;
            let id = row.cell(id).unwrap_or_default();
            let key = if by_study { number(id) } else { id };
            let before = rows.insert(key.to_owned(), labels);
            if before.is_some_and(|before| before != labels) {
                return Err(
                    table.fault(&row, format!("'{id}' has other labels in an earlier line"))
                );
            }
        }
        Ok(Self { rows, by_study })
    }

    /// Makes a table of these images.
    pub fn of(images: impl IntoIterator<Item = (String, FindingLabels)>) -> Self {
        Self {
            rows: images.into_iter().collect(),
            by_study: false,
        }
    }

    /// Returns an image's labels, or its study's; all blank where the table has none.
    pub fn get(&self, key: LabelKey<'_>) -> FindingLabels {
        let labels = self.find(key).copied();
        labels.unwrap_or([Label::Blank; Finding::ALL.len()])
    }

    /// Returns whether the table has an image, or its study.
    pub fn has(&self, key: LabelKey<'_>) -> bool {
        self.find(key).is_some()
    }

    /// Returns the number of images or studies.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Returns whether there is none.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    fn find(&self, key: LabelKey<'_>) -> Option<&FindingLabels> {
        let key = match self.by_study {
            true => number(key.study),
            false => key.dicom,
        };
        self.rows.get(key)
    }
}

/// A study's number without the letter that MIMIC-CXR's folders and files have in front of it.
fn number(study: &str) -> &str {
    let number = study.strip_prefix(['s', 'S']);
    let is_one = |number: &&str| !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit());
    number.filter(is_one).unwrap_or(study)
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
        let key = LabelKey {
            dicom: "d,1",
            study: "",
        };
        let read = LabelTable::read(&path).unwrap().get(key);
        for finding in Finding::ALL {
            let expected = labels
                .iter()
                .find(|(named, _)| *named == finding)
                .map_or(Label::Blank, |(_, label)| *label);
            assert_eq!(read[finding as usize], expected);
        }
    }

    #[test]
    fn the_published_table_of_mimic_cxr_is_found_by_study_compressed_or_not() {
        let dir = tempfile::tempdir().unwrap();
        let mut names: Vec<_> = Finding::ALL.into_iter().map(Finding::name).collect();
        // In alphabetical order, as published.
        names.sort_unstable();
        let row = |study: &str, edema: &str| {
            let cells = names.iter().map(|name| match *name {
                "Edema" => edema,
                _ => "",
            });
            format!("10000032,{study},{}\n", cells.collect::<Vec<_>>().join(","))
        };
        let text = format!("subject_id,study_id,{}\n", names.join(","))
            + &row("50414267", "-1.0")
            + &row("53189527", "1.0");
        let (plain, packed) = (dir.path().join("c.csv"), dir.path().join("c.csv.gz"));
        std::fs::write(&plain, &text).unwrap();
        let file = std::fs::File::create(&packed).unwrap();
        let mut encoder = flate2::write::GzEncoder::new(file, flate2::Compression::fast());
        std::io::Write::write_all(&mut encoder, text.as_bytes()).unwrap();
        encoder.finish().unwrap();
        for path in [&plain, &packed] {
            let table = LabelTable::read(path).unwrap();
            let of = |study| {
                let key = LabelKey { dicom: "d", study };
                (table.has(key), table.get(key)[Finding::Edema as usize])
            };
            assert_eq!(of("s53189527"), (true, Label::Positive));
            assert_eq!(of("50414267"), (true, Label::Uncertain));
            assert_eq!(of("s1"), (false, Label::Blank));
        }
        std::fs::write(&plain, text.clone() + &row("50414267", "0.0")).unwrap();
        let error = LabelTable::read(&plain).unwrap_err().to_string();
        assert!(
            error.contains("line 4") && error.contains("50414267"),
            "{error}"
        );
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
