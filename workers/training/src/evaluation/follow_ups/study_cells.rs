//! Cells of a table by study, for truths that are no labels: views, and sections of reports.

use std::collections::HashMap;
use std::path::Path;

use crate::error::TrainingError;
use crate::prepare::TableFile;

/// The names of columns that identify a study, the first one that is there.
pub(super) const IDS: [&str; 2] = ["dicom_id", "study_id"];

/// `N` cells of each study that has all of them. Memory grows with their texts.
#[derive(Clone, Debug)]
pub struct StudyCells<const N: usize> {
    studies: HashMap<String, [String; N]>,
    /// Rows in which one of the cells is empty.
    empty: u64,
}

impl<const N: usize> StudyCells<N> {
    /// Reads a CSV with `dicom_id` or `study_id`, and for each cell a column of one of these names.
    ///
    /// # Errors
    /// A column that is missing; with its line, a row without an id, or an id that stands twice.
    pub fn read(path: &Path, columns: [&[&str]; N]) -> Result<Self, TrainingError> {
        let mut table = TableFile::open(path)?;
        let id = first_of(&table, &IDS)?;
        let mut places = [0; N];
        for (place, names) in places.iter_mut().zip(columns) {
            *place = first_of(&table, names)?;
        }
        let (mut studies, mut empty) = (HashMap::new(), 0);
        while let Some(row) = table.next_row()? {
            let id = row
                .cell(id)
                .ok_or_else(|| table.fault(&row, "the row has no id"))?;
            if places.iter().any(|place| row.cell(*place).is_none()) {
                empty += 1;
                continue;
            }
            let cells = places.map(|place| row.text(place).to_owned());
            if studies.insert(id.to_owned(), cells).is_some() {
                return Err(table.fault(&row, format!("a second row of '{id}': keep one")));
            }
        }
        Ok(Self { studies, empty })
    }

    /// The cells of a study: its id, or the last part of it behind a slash.
    pub fn get(&self, study: &str) -> Option<&[String; N]> {
        let last = || study.rsplit('/').next().unwrap_or(study);
        self.studies.get(study).or_else(|| self.studies.get(last()))
    }

    /// The number of rows that were passed over since one of their cells is empty.
    pub fn empty_rows(&self) -> u64 {
        self.empty
    }
}

/// The column of the first of these names that is there; the last one is named where none is.
fn first_of(table: &TableFile, names: &[&str]) -> Result<usize, TrainingError> {
    match names.iter().find_map(|name| table.optional(name)) {
        Some(column) => Ok(column),
        None => table.column(names.last().copied().unwrap_or_default()),
    }
}

#[cfg(test)]
mod tests {
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
        let cells = table.get("p1/a").unwrap();
        assert_eq!(cells, &[" Clear. ".to_owned(), "Normal.".to_owned()]);
        assert!(table.get("b").is_none());
        assert_eq!(table.empty_rows(), 1);
    }

    #[test]
    fn what_is_wrong_with_a_table_is_named() {
        let error = read("study_id,findings\na,b\n").unwrap_err().to_string();
        assert!(error.contains("no column 'conclusion'"), "{error}");
        let error = read("study_id,findings,impression\na,b,c\na,b,c\n").unwrap_err();
        assert!(error.to_string().contains("line 3"), "{error}");
    }
}
