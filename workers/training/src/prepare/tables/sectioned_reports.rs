//! The sectioned CSV: the original writes eight names over nine values, so that a reader must shift by one; a table with
//! as many names as values is read, too.

use std::path::Path;

use super::table_file::{IndexedRow, TableFile, text};
use crate::error::TrainingError;
use crate::prepare::sections::Report;

/// The names that the original writes. Its rows have the study in front of them.
pub const SECTIONED_COLUMNS: [&str; 8] = [
    "impression",
    "findings",
    "last_paragraph",
    "comparison",
    "dicom_id",
    "Img_Filename",
    "Img_Folder",
    "Note_file",
];

/// The name of the study in front of the others, where the file has one for every value.
pub(crate) const STUDY_COLUMN: &str = "study_id";

/// One row of a sectioned CSV: an image with the sections of its report.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SectionedRow {
    /// The study, e.g. `s50414267`.
    pub study: String,
    /// Sections.
    pub report: Report,
    /// Identifies the image everywhere.
    pub dicom_id: String,
    /// `{dicom_id}.jpg`.
    pub image_file: String,
    /// `files/pNN/pNNNNNNNN/sNNNNNNNN`.
    pub image_folder: String,
    /// `sNNNNNNNN.txt`.
    pub note_file: String,
    /// Where the row begins; 0 of one that is to be written.
    pub line: u64,
}

impl SectionedRow {
    /// The patient, `pNNNNNNNN`, as the folder of the image names it.
    pub fn patient(&self) -> Option<String> {
        let mut folders = self.image_folder.rsplit('/');
        let (_study, patient) = (folders.next()?, folders.next()?);
        Some(patient.to_owned()).filter(|patient| patient.starts_with('p'))
    }

    /// Returns the nine cells, in the original's order.
    pub fn cells(&self) -> [&str; 9] {
        [
            &self.study,
            &self.report.impression,
            &self.report.findings,
            &self.report.last_paragraph,
            &self.report.comparison,
            &self.dicom_id,
            &self.image_file,
            &self.image_folder,
            &self.note_file,
        ]
    }
}

/// Reads a sectioned CSV row by row.
pub struct SectionedReader {
    table: TableFile,
    /// The positions of [`SECTIONED_COLUMNS`].
    columns: [usize; SECTIONED_COLUMNS.len()],
    /// The position of [`STUDY_COLUMN`], where it has a name.
    study: Option<usize>,
}

impl SectionedReader {
    /// Opens the file and checks its names.
    ///
    /// # Errors
    /// No such file, or columns that are missing.
    pub fn open(path: &Path) -> Result<Self, TrainingError> {
        let table =
            TableFile::open(path)?.with_hint("write this file with `radialog prepare sections`");
        let mut columns = [0; SECTIONED_COLUMNS.len()];
        for (column, name) in columns.iter_mut().zip(SECTIONED_COLUMNS) {
            *column = table.column(name)?;
        }
        let study = table.optional(STUDY_COLUMN)?;
        Ok(Self {
            table,
            columns,
            study,
        })
    }

    fn row(&self, IndexedRow { index, row }: IndexedRow) -> SectionedRow {
        let [
            impression,
            findings,
            last_paragraph,
            comparison,
            dicom_id,
            image_file,
            image_folder,
            note_file,
        ] = self.columns;
        let section = |column: usize| text(&row, column).to_owned();
        let name = |column: usize| row.cell(column).unwrap_or_default().to_owned();
        let note_file = name(note_file);
        let study = index.or_else(|| Some(row.cell(self.study?)?.to_owned()));
        SectionedRow {
            line: row.line,
            study: study.unwrap_or_else(|| note_file.trim_end_matches(".txt").to_owned()),
            report: Report {
                impression: section(impression),
                findings: section(findings),
                last_paragraph: section(last_paragraph),
                comparison: section(comparison),
            },
            dicom_id: name(dicom_id),
            image_file: name(image_file),
            image_folder: name(image_folder),
            note_file,
        }
    }
}

impl Iterator for SectionedReader {
    type Item = Result<SectionedRow, TrainingError>;

    fn next(&mut self) -> Option<Self::Item> {
        // Where the study has a name, a value too many is a fault somewhere else in the row.
        let row = match self.study {
            Some(_) => {
                let row = self.table.next_row();
                row.map(|row| row.map(|row| IndexedRow { index: None, row }))
            }
            None => self.table.next_indexed_row(),
        };
        Some(row.transpose()?.map(|row| self.row(row)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(content: &str) -> Vec<Result<SectionedRow, TrainingError>> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("sectioned.csv");
        std::fs::write(&path, content).unwrap();
        match SectionedReader::open(&path) {
            Ok(reader) => reader.collect(),
            Err(error) => vec![Err(error)],
        }
    }

    #[test]
    fn nine_values_under_eight_names_are_shifted_by_one() {
        let names = SECTIONED_COLUMNS.join(",");
        let rows = read(&format!(
            "{names}\r\ns1,i,\"f\nf\",l,c,d,d.jpg,files/p10/p1/s1,s1.txt\r\n"
        ));
        let row = rows.into_iter().next().unwrap().unwrap();
        assert_eq!(
            (
                row.study.as_str(),
                row.report.findings.as_str(),
                row.dicom_id.as_str()
            ),
            ("s1", "f\nf", "d")
        );
    }

    #[test]
    fn a_table_with_as_many_names_as_values_is_read_by_name() {
        let names = SECTIONED_COLUMNS.join(",");
        let rows = read(&format!(
            "{names}\ni,f,l,c,d,d.jpg,files/p10/p1/s1,s1.txt\n"
        ));
        let row = rows.into_iter().next().unwrap().unwrap();
        assert_eq!(
            (row.study.as_str(), row.report.findings.as_str()),
            ("s1", "f")
        );
    }

    #[test]
    fn a_table_that_names_the_study_too_is_read_by_name() {
        let names = SECTIONED_COLUMNS.join(",");
        let rows = read(&format!(
            "{STUDY_COLUMN},{names}\ns7,i,f,l,c,d,d.jpg,files/p10/p1/s1,s1.txt\n"
        ));
        let row = rows.into_iter().next().unwrap().unwrap();
        assert_eq!((row.study.as_str(), row.line), ("s7", 2));
        assert_eq!(row.patient().as_deref(), Some("p1"));
    }

    #[test]
    fn a_value_too_many_is_no_study_where_that_has_a_name() {
        let names = SECTIONED_COLUMNS.join(",");
        let row = "s7,i,Clear, lungs,l,c,d,d.jpg,files/p10/p1/s1,s1.txt";
        let mut rows = read(&format!("{STUDY_COLUMN},{names}\n{row}\n"));
        let error = rows.remove(0).unwrap_err().to_string();
        assert!(error.contains("line 2: 10 values under 9 names"), "{error}");
    }

    #[test]
    fn a_value_too_many_is_no_study_either_where_other_rows_have_none() {
        let names = SECTIONED_COLUMNS.join(",");
        let rest = "l,c,d,d.jpg,files/p10/p1/s1,s1.txt";
        let mut rows = read(&format!(
            "{names}\ni,Clear.,{rest}\ni,Clear, lungs,{rest}\n"
        ));
        let error = rows.remove(1).unwrap_err().to_string();
        assert!(
            error.contains("line 3: 9 values, where rows before it have 8"),
            "{error}"
        );
    }

    #[test]
    fn a_row_that_is_cut_names_file_and_line() {
        let error = read(&format!("{}\ns1,i\n", SECTIONED_COLUMNS.join(",")))
            .remove(0)
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("sectioned.csv") && error.contains("line 2"),
            "{error}"
        );
    }

    #[test]
    fn a_table_without_findings_says_how_to_make_one() {
        let error = read("dicom_id\nd\n").remove(0).unwrap_err().to_string();
        assert!(error.contains("radialog prepare sections"), "{error}");
    }
}
