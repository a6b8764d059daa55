//! Cells of a table by study, for truths that are no labels: views, and sections of reports.

use std::collections::HashSet;
use std::path::Path;

use radialog_schemas::{ContentHash, StudyRecord};

use super::study_table::{RowPlace, StudyTable, first_of};
use crate::error::TrainingError;
use crate::prepare::TableFile;

/// `N` cells of each study that has all of them. Memory grows with their texts.
#[derive(Clone, Debug)]
pub struct StudyCells<const N: usize> {
    studies: StudyTable<[String; N]>,
}

impl<const N: usize> StudyCells<N> {
    /// Reads a CSV with `dicom_id` or `study_id`, and for each cell a column of one of these names.
    ///
    /// # Errors
    /// A column that is missing; with its line, a row without an id, or an id that stands twice.
    pub fn read(path: &Path, columns: [&[&str]; N]) -> Result<Self, TrainingError> {
        let mut table = TableFile::open(path)?;
        let mut cells = [("", 0); N];
        for (cell, names) in cells.iter_mut().zip(columns) {
            let name = names.last().copied().unwrap_or_default();
            *cell = (name, first_of(&table, names)?);
        }
        let studies = StudyTable::read(&mut table, &cells, |row| {
            let is_whole = cells.iter().all(|(_, place)| row.cell(*place).is_some());
            Ok(is_whole.then(|| cells.map(|(_, place)| row.text(place).to_owned())))
        })?;
        Ok(Self { studies })
    }

    /// The cells of a record's study: by its id, or the last part of it behind a slash, without the `s` before the number of a
    /// study of MIMIC-CXR; or by its image, which is called as its `dicom_id`.
    pub fn get(&self, record: &StudyRecord) -> Option<&[String; N]> {
        self.studies.get(record)
    }

    /// The rows that were passed over since one of their cells is empty, in their order.
    pub fn empty_rows(&self) -> Vec<RowPlace> {
        self.studies.passed_over()
    }

    /// Notes whose the row is that a study of the run leads to: where only the end of a name or path does, it must lead no other there.
    pub fn note(&mut self, record: &StudyRecord) {
        self.studies.note(record);
    }

    /// Whether the row that a study leads to may be another's.
    pub fn is_of_another(&self, record: &StudyRecord) -> bool {
        self.studies.is_of_another(record)
    }

    /// Where the row of a record's study stands, one that says nothing, too.
    pub fn place(&self, record: &StudyRecord) -> Option<RowPlace> {
        self.studies.place(record)
    }

    /// The rows that do not begin on one of these lines, in their order.
    pub fn unused(&self, used: &HashSet<u64>) -> Vec<RowPlace> {
        self.studies.unused(used)
    }

    /// The patient of a record's study: as the table says, or by the folder of MIMIC-CXR that its image lies in.
    pub fn patient<'a>(&'a self, record: &'a StudyRecord) -> Option<&'a str> {
        self.studies.patient(record)
    }

    /// The file that was read.
    pub fn path(&self) -> &Path {
        self.studies.path()
    }

    /// The hash of what was read: ids and cells.
    pub fn hash(&self) -> &ContentHash {
        self.studies.hash()
    }
}

#[cfg(test)]
mod tests {
    use super::super::study_table::record;
    use super::*;

    fn read(content: &str) -> Result<StudyCells<2>, TrainingError> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("reports.csv");
        std::fs::write(&path, content).unwrap();
        StudyCells::read(&path, [&["findings"], &["impression", "conclusion"]])
    }

    #[test]
    fn rows_with_an_empty_cell_are_counted_and_the_rest_is_found_by_study() {
        let table = read("study_id,findings,conclusion\na, Clear. ,Normal.\nb,,Normal.\n").unwrap();
        let cells = table.get(&record("p1/a", "x.png")).unwrap();
        assert_eq!(cells, &[" Clear. ".to_owned(), "Normal.".to_owned()]);
        assert!(table.get(&record("b", "x.png")).is_none());
        let empty = RowPlace {
            line: 3,
            id: "b".to_owned(),
        };
        assert_eq!(table.empty_rows(), [empty]);
    }

    #[test]
    fn what_is_wrong_with_a_table_is_named() {
        let error = read("study_id,findings\na,b\n").unwrap_err().to_string();
        assert!(error.contains("no column 'conclusion'"), "{error}");
        let error = read("study_id,findings,impression\na,b,c\na,b,c\n").unwrap_err();
        assert!(error.to_string().contains("line 3"), "{error}");
    }
}
