//! Rows of a table by study, whatever it calls studies: truths that are compared with a run's records.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};

use radialog_schemas::table::Row;
use radialog_schemas::{ContentHash, StudyRecord};

use crate::error::TrainingError;
use crate::evaluation::id_digest::IdDigest;
use crate::evaluation::patients;
use crate::prepare::TableFile;

/// The names of columns that identify a study, the first one that is there.
pub(super) const IDS: [&str; 2] = ["dicom_id", "study_id"];

/// Where a row of a table stands.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct RowPlace {
    /// The line on which it begins, from 1 on.
    pub line: u64,
    /// The id of the study.
    pub id: String,
}

/// What a table says of one study.
#[derive(Clone, Debug)]
struct StudyRow<T> {
    line: u64,
    value: T,
    patient: Option<Box<str>>,
}

/// What a table has of each study, and its patient where the table names patients.
#[derive(Clone, Debug)]
pub(super) struct StudyTable<T> {
    path: PathBuf,
    rows: HashMap<String, StudyRow<T>>,
    /// The lines of rows that were passed over, by id.
    passed_over: HashMap<String, u64>,
    /// Whose a row is, by its line.
    taken: HashMap<u64, Taken>,
    /// The hash of what was read, whatever else the file has.
    hash: ContentHash,
}

/// Whose a row is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Taken {
    /// A study's that has its id.
    OwnId,
    /// That of the one study whose name or image ends as its id.
    EndOfId(IdDigest),
    /// Nobody can say: several studies' names or images end so.
    Several,
}

impl<T> StudyTable<T> {
    /// Reads all rows. `cells` are the columns that `value` looks at, each with the name that it has for us; a row of which it makes
    /// nothing is passed over.
    ///
    /// # Errors
    /// A column of ids that is missing; with its line, a row without an id, an id that stands twice, or the reason for which `value`
    /// refuses a row.
    pub(super) fn read(
        table: &mut TableFile,
        cells: &[(&str, usize)],
        mut value: impl FnMut(&Row) -> Result<Option<T>, String>,
    ) -> Result<Self, TrainingError> {
        let id = first_of(table, &IDS)?;
        // The file may be a pipe, which cannot be read a second time.
        let mut hasher = ContentHash::hasher();
        let mut add = |text: &str| {
            hasher.update(&(text.len() as u64).to_le_bytes());
            hasher.update(text.as_bytes());
        };
        for (name, _) in cells {
            add(name);
        }
        let patient = table.patient_column()?;
        let (mut rows, mut passed_over) = (HashMap::new(), HashMap::new());
        while let Some(row) = table.next_row()? {
            let id = row
                .cell(id)
                .ok_or_else(|| table.fault(&row, "the row has no id"))?;
            add(id);
            for (_, column) in cells {
                add(row.text(*column));
            }
            let value =
                value(&row).map_err(|reason| table.fault(&row, format!("'{id}': {reason}")));
            let Some(value) = value? else {
                passed_over.insert(id.to_owned(), row.line);
                continue;
            };
            let patient = patient.and_then(|column| row.cell(column)).map(Box::from);
            let line = row.line;
            let told = StudyRow {
                line,
                value,
                patient,
            };
            if let Some(StudyRow { line: first, .. }) = rows.insert(id.to_owned(), told) {
                let reason = format!("a second row of '{id}', which line {first} has: keep one");
                return Err(table.fault(&row, reason));
            }
        }
        Ok(Self {
            path: table.path().to_owned(),
            rows,
            passed_over,
            taken: HashMap::new(),
            hash: hasher.finish(),
        })
    }

    /// What there is of a record's study: by its id; by the last part of it behind a slash, also without the `s` that folders of
    /// MIMIC-CXR write before the number that its tables have; or by its image, whose file is called as its `dicom_id`.
    ///
    /// Where only an end leads to a row, none that is another study's ([`StudyTable::note`]).
    pub(super) fn get(&self, record: &StudyRecord) -> Option<&T> {
        let row = names(record).find_map(|name| self.rows.get(name))?;
        (!self.is_of_another(record)).then_some(&row.value)
    }

    /// Notes whose the row is that a study of the run leads to. Before any was noted, all are everybody's.
    pub(super) fn note(&mut self, record: &StudyRecord) {
        let Some(RowPlace { line, id }) = self.place(record) else {
            return;
        };
        let study = Taken::EndOfId(IdDigest::of(record.study.as_str()));
        let taken = match (self.taken.get(&line), is_id(&id, record)) {
            (_, true) => Taken::OwnId,
            (None, false) => study,
            (Some(before), false) if *before == study => study,
            (Some(Taken::OwnId), false) => Taken::OwnId,
            (Some(_), false) => Taken::Several,
        };
        self.taken.insert(line, taken);
    }

    /// Whether the row that a study leads to by an end may be another's.
    pub(super) fn is_of_another(&self, record: &StudyRecord) -> bool {
        self.place(record).is_some_and(|RowPlace { line, id }| {
            let taken = self.taken.get(&line);
            let is_taken = matches!(taken, Some(Taken::OwnId | Taken::Several));
            is_taken && !is_id(&id, record)
        })
    }

    /// The patient of a record's study: as the table says, or by the folder of MIMIC-CXR that its image lies in.
    pub(super) fn patient<'a>(&'a self, record: &'a StudyRecord) -> Option<&'a str> {
        let row = names(record).find_map(|name| self.rows.get(name));
        let told = row.and_then(|row| row.patient.as_deref());
        told.or_else(|| patients::of_path(&record.file))
    }

    /// Where the row of a record's study stands, one that was passed over, too.
    pub(super) fn place(&self, record: &StudyRecord) -> Option<RowPlace> {
        let whole = names(record).find_map(|name| Some((name, self.rows.get(name)?.line)));
        let passed_over =
            || names(record).find_map(|name| Some((name, *self.passed_over.get(name)?)));
        whole.or_else(passed_over).map(|(id, line)| RowPlace {
            line,
            id: id.to_owned(),
        })
    }

    /// The rows that do not begin on one of these lines, in their order.
    pub(super) fn unused(&self, used: &HashSet<u64>) -> Vec<RowPlace> {
        let rows = self.rows.iter().map(|(id, row)| (id, row.line));
        let rows = rows.chain(self.passed_over.iter().map(|(id, line)| (id, *line)));
        in_order(rows.filter(|(_, line)| !used.contains(line)))
    }

    /// The rows that were passed over, in their order.
    pub(super) fn passed_over(&self) -> Vec<RowPlace> {
        in_order(self.passed_over.iter().map(|(id, line)| (id, *line)))
    }

    /// The file.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// The hash of the ids and of the cells that were read.
    pub(super) fn hash(&self) -> &ContentHash {
        &self.hash
    }
}

/// Whether a row's id is the study's own, with or without the `s` of MIMIC-CXR, and not only the end of a path.
fn is_id(id: &str, record: &StudyRecord) -> bool {
    let study = record.study.as_str();
    study == id || study.strip_prefix('s') == Some(id)
}

/// The names that a record's study may have in a table.
fn names(record: &StudyRecord) -> impl Iterator<Item = &str> {
    let study = record.study.as_str();
    let last = study.rsplit('/').next().unwrap_or(study);
    let is_number = |rest: &&str| !rest.is_empty() && rest.bytes().all(|b| b.is_ascii_digit());
    let number = last.strip_prefix('s').filter(is_number);
    let image = Path::new(&record.file).file_stem();
    let image = image.and_then(|name| name.to_str());
    [Some(study), Some(last), number, image]
        .into_iter()
        .flatten()
}

fn in_order<'a>(rows: impl Iterator<Item = (&'a String, u64)>) -> Vec<RowPlace> {
    let place = |(id, line): (&String, u64)| RowPlace {
        line,
        id: id.clone(),
    };
    let mut places: Vec<RowPlace> = rows.map(place).collect();
    places.sort_unstable();
    places
}

/// The column of the first of these names that is there; the last one is named where none is.
pub(super) fn first_of(table: &TableFile, names: &[&str]) -> Result<usize, TrainingError> {
    match table.first(names)? {
        Some(column) => Ok(column),
        None => table.column(names.last().copied().unwrap_or_default()),
    }
}

/// A record of this study and image, for tests.
#[cfg(test)]
pub(super) fn record(study: &str, file: &str) -> StudyRecord {
    let line = serde_json::json!({
        "study": study, "file": file, "status": "done", "bundle": ContentHash::of(b"bundle"),
    });
    serde_json::from_value(line).unwrap()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(content: &str) -> StudyTable<String> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("table.csv");
        std::fs::write(&path, content).unwrap();
        let mut table = TableFile::open(&path).unwrap();
        let column = table.column("view").unwrap();
        let value = |row: &Row| Ok(row.cell(column).map(str::to_owned));
        StudyTable::read(&mut table, &[("view", column)], value).unwrap()
    }

    #[test]
    fn studies_of_mimic_are_found_in_its_tables_by_number_and_by_image() {
        let record = record(
            "s50414267",
            "files/p10/p10000032/s50414267/02aa804e-bde0afdd.jpg",
        );
        let by_study = read("subject_id,study_id,view\n10000032,50414267,PA\n");
        assert_eq!(by_study.get(&record).map(String::as_str), Some("PA"));
        let by_image = read("dicom_id,study_id,view\n02aa804e-bde0afdd,50414267,LATERAL\n");
        assert_eq!(by_image.get(&record).map(String::as_str), Some("LATERAL"));
        // Its own id goes before all others.
        let both = read("study_id,view\n50414267,AP\ns50414267,PA\n");
        assert_eq!(both.get(&record).map(String::as_str), Some("PA"));
        let words = read("study_id,view\nample,AP\n");
        assert!(words.get(&super::record("sample", "x.png")).is_none());
    }

    #[test]
    fn rows_are_known_by_their_lines_and_those_that_nobody_asked_for_are_named() {
        let table = read("study_id,view\na,PA\nb,\nc,AP\n");
        let place = |line, id: &str| RowPlace {
            line,
            id: id.to_owned(),
        };
        let of = |study| table.place(&record(study, "x.png"));
        assert_eq!(of("p/a"), Some(place(2, "a")));
        assert_eq!((of("b"), of("d")), (Some(place(3, "b")), None));
        assert_eq!(table.passed_over(), [place(3, "b")]);
        assert_eq!(
            table.unused(&HashSet::from([2])),
            [place(3, "b"), place(4, "c")]
        );
    }

    #[test]
    fn a_row_that_only_the_ends_of_several_names_lead_to_is_nobodys() {
        let studies = [
            "p1/frontal",
            "p2/frontal",
            "p1/side",
            "p2/lateral",
            "lateral",
        ];
        let records = studies.map(|study| super::record(study, "x.png"));
        let mut table = read("study_id,view\nfrontal,PA\nside,AP\nlateral,LL\n");
        records.iter().for_each(|record| table.note(record));
        let found = records
            .each_ref()
            .map(|record| table.get(record).map(String::as_str));
        assert_eq!(found, [None, None, Some("AP"), None, Some("LL")]);
        let another = records.each_ref().map(|record| table.is_of_another(record));
        assert_eq!(another, [true, true, false, true, false]);
    }

    #[test]
    fn a_patient_is_as_the_table_says_or_as_the_folder_of_mimic_is_called() {
        let table = read("study_id,subject_id,view\na,7,PA\nb,,PA\n");
        let file = "files/p10/p10000032/s50414267/x.jpg";
        assert_eq!(table.patient(&record("a", file)), Some("7"));
        assert_eq!(table.patient(&record("b", file)), Some("10000032"));
        assert_eq!(table.patient(&record("b", "x.png")), None);
    }

    #[test]
    fn tables_of_the_same_cells_have_the_same_hash_and_others_have_not() {
        let table = read("study_id,view\na,PA\nb,AP\n");
        let more = read("study_id,age,view\na,50,PA\nb,60,AP\n");
        assert_eq!(table.hash(), more.hash());
        let other = read("study_id,view\na,AP\nb,AP\n");
        assert_ne!(table.hash(), other.hash());
    }
}
