//! A CSV file as every reader of this crate opens it: columns, missing cells and labels are those of
//! [`radialog_schemas::table`], and errors name the file and the line.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};

use flate2::bufread::MultiGzDecoder;
use radialog_schemas::Finding;
use radialog_schemas::table::{
    Header, MalformedRow, MissingColumn, Row, TableError, TableReader, gzip_fault,
};

use super::finding_labels::FindingLabels;
use crate::error::TrainingError;

/// Columns that name a row's patient as programs spell them, the best first.
const PATIENT_COLUMNS: [&str; 3] = ["patient_id", "subject_id", "patient"];
/// The same by plain names, whatever their case, spaces and underscores.
const PLAIN_PATIENT_COLUMNS: [&str; 3] = ["patientid", "subjectid", "patient"];

/// A CSV file that is read row by row, by the names of its columns.
pub(crate) struct TableFile {
    path: PathBuf,
    rows: TableReader<Box<dyn BufRead + Send>>,
    /// Whether rows begin with pandas' index, once a row was read.
    is_indexed: Option<bool>,
    /// What a user is told beside the name of a column that is missing.
    hint: Option<String>,
}

/// A row whose first cell is pandas' index, which has no name in the header.
pub(crate) struct IndexedRow {
    /// The index; `None` where the row has as many cells as the header has names.
    pub(crate) index: Option<String>,
    /// The cells under the names.
    pub(crate) row: Row,
}

impl TableFile {
    /// Opens a file, which may be compressed with gzip (`.gz`), and reads its header.
    ///
    /// # Errors
    /// No such file, or a first line that is no header.
    pub(crate) fn open(path: &Path) -> Result<Self, TrainingError> {
        let file = File::open(path).map_err(TrainingError::io("open", path))?;
        let file = BufReader::new(file);
        let lines: Box<dyn BufRead + Send> = if is_compressed(path) {
            Box::new(BufReader::new(MultiGzDecoder::new(file)))
        } else {
            Box::new(file)
        };
        let rows = TableReader::new(lines).map_err(|error| fault(path, error))?;
        Ok(Self {
            path: path.to_owned(),
            rows,
            is_indexed: None,
            hint: None,
        })
    }

    /// The same table, whose errors about missing columns end with this hint.
    pub(crate) fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// The names of the columns.
    pub(crate) fn header(&self) -> &Header {
        self.rows.header()
    }

    /// The position of a column that must be there.
    ///
    /// # Errors
    /// It is missing, or as [`TableFile::optional`].
    pub(crate) fn column(&self, name: &str) -> Result<usize, TrainingError> {
        self.optional(name)?;
        self.rows
            .header()
            .required(name)
            .map_err(|missing| self.missing(&missing))
    }

    /// The position of a column that may be left out.
    ///
    /// # Errors
    /// Several are called so: which of them is meant, nobody can say.
    pub(crate) fn optional(&self, name: &str) -> Result<Option<usize>, TrainingError> {
        let header = self.rows.header();
        let namesakes = header.namesakes(name);
        if namesakes.is_empty() {
            return Ok(header.column(name));
        }
        Err(self.doubled(name, &namesakes))
    }

    /// The position of the first of these columns that is there, by plain names, whatever their case, spaces and underscores.
    ///
    /// # Errors
    /// As [`TableFile::optional`].
    pub(crate) fn recognised(&self, known: &[&str]) -> Result<Option<usize>, TrainingError> {
        for name in known {
            let alike = self.header().alike(name);
            match alike.as_slice() {
                [] => {}
                [column] => return Ok(Some(*column)),
                several => {
                    let names = several.iter().map(|column| self.names()[*column].as_str());
                    let mut names: Vec<&str> = names.collect();
                    names.dedup();
                    return Err(self.doubled(&names.join("' and '"), several));
                }
            }
        }
        Ok(None)
    }

    /// The position of the column of patients, where there is one: `patient_id`, `subject_id` or `patient`, else one that is
    /// called so but for case, spaces and underscores, as `Patient ID`. A program that takes names away may leave its `PatientID`
    /// empty beside the column that is meant.
    ///
    /// # Errors
    /// As [`TableFile::optional`].
    pub(crate) fn patient_column(&self) -> Result<Option<usize>, TrainingError> {
        match self.first(&PATIENT_COLUMNS)? {
            Some(column) => Ok(Some(column)),
            None => self.recognised(&PLAIN_PATIENT_COLUMNS),
        }
    }

    /// The position of the first of these columns that is there.
    ///
    /// # Errors
    /// As [`TableFile::optional`].
    pub(crate) fn first(&self, names: &[&str]) -> Result<Option<usize>, TrainingError> {
        for name in names {
            if let Some(column) = self.optional(name)? {
                return Ok(Some(column));
            }
        }
        Ok(None)
    }

    /// The positions of the 14 findings, which must all be there.
    ///
    /// # Errors
    /// As [`TableFile::column`].
    pub(crate) fn findings(&self) -> Result<[usize; Finding::ALL.len()], TrainingError> {
        for finding in Finding::ALL {
            self.optional(finding.name())?;
        }
        self.rows
            .header()
            .findings()
            .map_err(|missing| self.missing(&missing))
    }

    /// The next row; `None` behind the last one.
    ///
    /// # Errors
    /// A row that is none, or has another number of cells than the header.
    pub(crate) fn next_row(&mut self) -> Result<Option<Row>, TrainingError> {
        let Some(row) = self.next_of_any_width()? else {
            return Ok(None);
        };
        if row.cells.len() != self.rows.header().width() {
            return Err(self.wrong_width(&row));
        }
        Ok(Some(row))
    }

    /// The next row of a table that pandas may have written with its index and without a name for it. All rows have an index, or
    /// none.
    ///
    /// # Errors
    /// A row that is none, has neither as many cells as the header nor one more, or not as many as the first.
    pub(crate) fn next_indexed_row(&mut self) -> Result<Option<IndexedRow>, TrainingError> {
        let Some(mut row) = self.next_of_any_width()? else {
            return Ok(None);
        };
        let (cells, names) = (row.cells.len(), self.rows.header().width());
        let begins_with_index = match cells.checked_sub(names) {
            Some(0) => false,
            Some(1) => true,
            _ => return Err(self.wrong_width(&row)),
        };
        let is_indexed = *self.is_indexed.get_or_insert(begins_with_index);
        if begins_with_index != is_indexed {
            let others = names + usize::from(is_indexed);
            let reason = format!(
                "{cells} values, where rows before it have {others}: a comma of a text is outside of quotation marks, or the \
                 file is cut or edited"
            );
            return Err(self.fault(&row, reason));
        }
        let index = is_indexed.then(|| row.cells.remove(0));
        Ok(Some(IndexedRow { index, row }))
    }

    /// The next row of any table, pandas' index apart; a row that is none is given as what is wrong with it, and reading goes on
    /// behind it.
    ///
    /// # Errors
    /// The file cannot be read.
    pub(crate) fn try_row(
        &mut self,
    ) -> Result<Option<Result<IndexedRow, MalformedRow>>, TrainingError> {
        let mut row = match self.rows.next() {
            None => return Ok(None),
            Some(Ok(row)) => row,
            Some(Err(TableError::Row(malformed))) => return Ok(Some(Err(malformed))),
            Some(Err(error)) => return Err(fault(&self.path, error)),
        };
        let (cells, names) = (row.cells.len(), self.rows.header().width());
        // All rows have an index, or none, and it counts rows or is an id: one cell too many is a fault elsewhere.
        let begins_with_index =
            || cells == names + 1 && row.cells[0].trim().bytes().all(|b| b.is_ascii_digit());
        let is_indexed = *self.is_indexed.get_or_insert_with(begins_with_index);
        if cells != names + usize::from(is_indexed) {
            return Ok(Some(Err(MalformedRow {
                line: row.line,
                reason: format!("{cells} values under {names} names"),
            })));
        }
        let index = is_indexed.then(|| row.cells.remove(0));
        Ok(Some(Ok(IndexedRow { index, row })))
    }

    /// The file.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The names of the columns.
    pub(crate) fn names(&self) -> &[String] {
        self.rows.header().names()
    }

    /// The labels of a row, from the columns of [`TableFile::findings`].
    ///
    /// # Errors
    /// A cell that is no label.
    pub(crate) fn labels(
        &self,
        row: &Row,
        columns: &[usize; Finding::ALL.len()],
    ) -> Result<FindingLabels, TrainingError> {
        row.labels(columns)
            .map_err(|malformed| fault(&self.path, malformed.into()))
    }

    /// An error about a row.
    pub(crate) fn fault(&self, row: &Row, reason: impl Into<String>) -> TrainingError {
        TrainingError::line(&self.path, row.line, reason)
    }

    fn next_of_any_width(&mut self) -> Result<Option<Row>, TrainingError> {
        let row = self.rows.next().transpose();
        row.map_err(|error| fault(&self.path, error))
    }

    fn wrong_width(&self, row: &Row) -> TrainingError {
        let (cells, names) = (row.cells.len(), self.rows.header().width());
        self.fault(
            row,
            format!("{cells} values under {names} names: the file is cut or edited"),
        )
    }

    fn doubled(&self, name: &str, columns: &[usize]) -> TrainingError {
        let places: Vec<String> = columns
            .iter()
            .map(|position| (position + 1).to_string())
            .collect();
        TrainingError::DoubledColumn {
            path: self.path.clone(),
            column: name.to_owned(),
            places: places.join(" and "),
        }
    }

    fn missing(&self, missing: &MissingColumn) -> TrainingError {
        let hint = self
            .hint
            .as_ref()
            .map_or_else(String::new, |hint| format!(": {hint}"));
        TrainingError::MissingColumn {
            path: self.path.clone(),
            reason: format!("{missing}{hint}"),
        }
    }
}

/// A cell as it stands, white space included, since texts keep theirs; empty where it is missing.
pub(crate) fn text(row: &Row, column: usize) -> &str {
    row.cell(column).map_or("", |_| row.text(column))
}

fn is_compressed(path: &Path) -> bool {
    let end = path.extension();
    end.is_some_and(|end| end.eq_ignore_ascii_case("gz"))
}

fn fault(path: &Path, error: TableError) -> TrainingError {
    match error {
        TableError::Io(error) if is_compressed(path) => {
            TrainingError::io("read", path)(gzip_fault(error))
        }
        TableError::Io(error) => TrainingError::io("read", path)(error),
        TableError::Row(row) => TrainingError::line(path, row.line, row.reason),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(dir: &Path, content: &str) -> TableFile {
        let path = dir.join("table.csv");
        std::fs::write(&path, content).unwrap();
        TableFile::open(&path).unwrap()
    }

    #[test]
    fn texts_keep_their_white_space_and_missing_cells_are_empty() {
        let dir = tempfile::tempdir().unwrap();
        let mut table = table(dir.path(), "\u{feff}Image,TEXT\na.png, two\n lines \n");
        assert!(table.next_row().is_ok_and(|row| row.is_some()));
        let error = table.next_row().unwrap_err().to_string();
        assert!(
            error.contains("table.csv' line 3: 1 values under 2 names"),
            "{error}"
        );
        let mut table = self::table(
            dir.path(),
            "Image,TEXT\n a.png ,\" two\n lines \"\nb.png,nan\n",
        );
        let (image, column) = (
            table.column("image").unwrap(),
            table.column("text").unwrap(),
        );
        let row = table.next_row().unwrap().unwrap();
        assert_eq!(
            (row.cell(image), text(&row, column)),
            (Some("a.png"), " two\n lines ")
        );
        let row = table.next_row().unwrap().unwrap();
        assert_eq!((row.line, text(&row, column)), (4, ""));
    }

    #[test]
    fn a_missing_column_is_named_with_those_that_are_there_and_the_hint() {
        let dir = tempfile::tempdir().unwrap();
        let table = table(dir.path(), "dicom,text\n").with_hint("unzip the published table");
        let error = table.column("split").unwrap_err().to_string();
        assert!(
            error.ends_with(
                "line 1: no column 'split'; it has dicom, text: unzip the published table"
            ),
            "{error}"
        );
    }

    #[test]
    fn two_columns_of_one_name_are_refused_where_they_are_read() {
        let dir = tempfile::tempdir().unwrap();
        let table = table(
            dir.path(),
            "image,text,Text,edema,Edema,FRACTURE,fracture,id,id\n",
        );
        let error = table.column("id").unwrap_err().to_string();
        assert!(
            error.contains("table.csv' has several columns 'id', 8 and 9"),
            "{error}"
        );
        assert!(table.optional("id").is_err() && table.first(&["study_id", "id"]).is_err());
        // One that is spelled as asked for is meant.
        assert_eq!(table.first(&["study_id", "text"]).unwrap(), Some(1));
        assert_eq!(table.column("Edema").unwrap(), 4);
        assert_eq!(table.recognised(&["study", "image"]).unwrap(), Some(0));
        let error = table.recognised(&["study", "text"]).unwrap_err();
        let error = error.to_string();
        assert!(
            error.contains("several columns 'text' and 'Text', 2 and 3"),
            "{error}"
        );
        let error = table.findings().unwrap_err().to_string();
        assert!(
            error.contains("several columns 'Fracture', 6 and 7"),
            "{error}"
        );
    }

    #[test]
    fn the_column_of_patients_is_the_one_spelled_as_programs_do_before_any_other_spelling() {
        let dir = tempfile::tempdir().unwrap();
        let column = |header: &str| table(dir.path(), &format!("{header}\n")).patient_column();
        for (header, found) in [
            ("PatientID,subject_id", Some(1)),
            ("PatientID,patient_id", Some(1)),
            ("Patient ID,image", Some(0)),
            ("image,Subject ID,PATIENT", Some(2)),
            ("image,study_id", None),
        ] {
            assert_eq!(column(header).unwrap(), found, "{header}");
        }
        let error = column("PatientID,image,Patient ID").unwrap_err();
        let error = error.to_string();
        assert!(
            error.contains("several columns 'PatientID' and 'Patient ID', 1 and 3"),
            "{error}"
        );
    }

    #[test]
    fn an_index_without_a_name_is_kept_apart() {
        let dir = tempfile::tempdir().unwrap();
        let mut indexed = table(dir.path(), "a,b\n7,1,2\n1,2\n1\n");
        let row = indexed.next_indexed_row().unwrap().unwrap();
        assert_eq!((row.index.as_deref(), row.row.text(0)), (Some("7"), "1"));
        for _ in 0..2 {
            assert!(indexed.next_indexed_row().is_err());
        }
        let mut plain = table(dir.path(), "a,b\n1,2\n7,1,2\n");
        let row = plain.next_indexed_row().unwrap().unwrap();
        assert_eq!((row.index, row.row.text(1)), (None, "2"));
        assert!(plain.next_indexed_row().is_err());
    }
}
